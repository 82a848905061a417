//! Which of two routes that want the same requests gets them: the elder, always.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    gateway_api::attach,
    resolve::ports,
    view::View,
    world::{Age, Claim, ObjectId},
};

/// Two routes that want the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// The elder route, which serves them.
    pub elder: ObjectId,
    /// The hostname both claim.
    pub hostname: String,
    /// The port both claim, in words.
    pub place: String,
}

/// The elder route that keeps this one from serving, if any. One that is itself kept from serving keeps nobody.
pub fn elder(view: &View<'_>, claim: &Arc<Claim>) -> Option<Clash> {
    // Not recursive: a chain of routes, each in conflict with the next, must not be able to exhaust the stack.
    let mut decided: BTreeMap<Age, Option<Clash>> = BTreeMap::new();
    let mut open = vec![Candidate::new(view, claim)];
    while let Some(candidate) = open.last() {
        match candidate.step(&decided) {
            Step::Wait(elder) => open.push(Candidate::new(view, &elder)),
            Step::Decided(clash) => {
                decided.insert(candidate.age.clone(), clash);
                open.pop();
            }
        }
    }
    decided.remove(&claim.age).flatten()
}

/// A route under decision and the elders it clashes with, eldest first.
struct Candidate {
    age: Age,
    elders: BTreeMap<Age, (Arc<Claim>, Clash)>,
}

enum Step {
    /// First this one must be decided.
    Wait(Arc<Claim>),
    /// The verdict.
    Decided(Option<Clash>),
}

impl Candidate {
    fn new(view: &View<'_>, claim: &Claim) -> Self {
        Self {
            age: claim.age.clone(),
            elders: elders(view, claim),
        }
    }

    fn step(&self, decided: &BTreeMap<Age, Option<Clash>>) -> Step {
        for (age, (elder, clash)) in &self.elders {
            match decided.get(age) {
                None => return Step::Wait(elder.clone()),
                Some(None) => return Step::Decided(Some(clash.clone())),
                Some(Some(_)) => {}
            }
        }
        Step::Decided(None)
    }
}

fn elders(view: &View<'_>, claim: &Claim) -> BTreeMap<Age, (Arc<Claim>, Clash)> {
    let namespace = &*claim.id.namespace;
    let mut found = on_gateways(view, claim);
    let parents: BTreeSet<&str> = claim.parents.iter().map(|parent| &*parent.name).collect();
    for parent in parents {
        for service in ports::sharing_pods(view, namespace, parent) {
            for host in &claim.hostnames {
                for rival in view.routes_of_host(namespace, &service, host) {
                    // A candidate of admission may meet its own stored form, which has an age already.
                    let itself = rival.id == claim.id;
                    if itself || rival.age >= claim.age || found.contains_key(&rival.age) {
                        continue;
                    }
                    if let Some(place) = meet(view, claim, parent, &rival, &service) {
                        let clash = Clash {
                            elder: rival.id.clone(),
                            hostname: host.clone(),
                            place,
                        };
                        found.insert(rival.age.clone(), (rival, clash));
                    }
                }
            }
        }
    }
    found
}

/// Elders that want the same hostname on a listener of the same Gateway, of whatever namespace.
fn on_gateways(view: &View<'_>, claim: &Claim) -> BTreeMap<Age, (Arc<Claim>, Clash)> {
    let mut found = BTreeMap::new();
    let gateways: BTreeSet<(&str, &str)> = claim
        .gateways
        .iter()
        .map(|gateway| (gateway.namespace.as_str(), gateway.name.as_str()))
        .collect();
    for (namespace, name) in gateways {
        let ours = attach::listeners(view, claim, namespace, name);
        for host in &claim.hostnames {
            for rival in view.routes_of_gateway_host(namespace, name, host) {
                let itself = rival.id == claim.id;
                if itself || rival.age >= claim.age || found.contains_key(&rival.age) {
                    continue;
                }
                let theirs = attach::listeners(view, &rival, namespace, name);
                if let Some(listener) = ours.intersection(&theirs).next() {
                    let clash = Clash {
                        elder: rival.id.clone(),
                        hostname: host.clone(),
                        place: format!("listener {listener} of Gateway {namespace}/{name}"),
                    };
                    found.insert(rival.age.clone(), (rival, clash));
                }
            }
        }
    }
    found
}

/// The port that both claim, where there is one.
fn meet(
    view: &View<'_>,
    claim: &Claim,
    parent: &str,
    rival: &Claim,
    service: &str,
) -> Option<String> {
    let namespace = &*claim.id.namespace;
    if parent == service
        && let Some(port) = same_port(claim, rival, service)
    {
        return Some(match port {
            Some(port) => format!("port {port} of Service {service}"),
            None => format!("Service {service}"),
        });
    }
    let ours = ports::claimed(view, claim, &*view.service(namespace, parent)?);
    let theirs = ports::claimed(view, rival, &*view.service(namespace, service)?);
    let port = ours.intersection(&theirs).next()?;
    Some(format!(
        "targetPort {port} of pods behind Services {parent} and {service}"
    ))
}

/// A port of one Service that both name; `Some(None)`: every port.
fn same_port(a: &Claim, b: &Claim, service: &str) -> Option<Option<u16>> {
    let of = |claim: &Claim| {
        let parents = claim.parents.iter().filter(|parent| parent.name == service);
        parents.map(|parent| parent.port).collect::<Vec<_>>()
    };
    let (a, b) = (of(a), of(b));
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    pairs
        .filter_map(|pair| match pair {
            (Some(a), Some(b)) => (a == b).then_some(Some(*a)),
            (Some(port), None) | (None, Some(port)) => Some(Some(*port)),
            (None, None) => Some(None),
        })
        .next()
}
