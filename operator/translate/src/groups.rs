//! Groups of pods, and the inbound unit of each: which routes its ports serve.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use sluice_snapshot::{
    MAX_UNIT_BYTES, UnitName,
    hash::hex,
    unit::{
        backend::BackendProtocol,
        inbound::{Inbound, InboundPort, ListenerUse, RouteUse},
    },
};

use crate::{
    finding::{Finding, FindingReason},
    gateway_api::{
        attach::{self, Routes},
        gateway, listeners, table,
    },
    resolve::{self, api_route::conflicts, ports, seal, service},
    view::View,
    world::{ANY_HOST, Claim, Kind, Part, PodFacts, PodKey, Sidecar, SliceFacts},
};

/// The longest group name written out; a unit's name has room for no more.
const LONGEST_NAME: usize = 200;

/// Before the name of a Gateway among a group's parents; no Service's name has a slash.
const GATEWAY_PREFIX: &str = "gateway/";

/// The pods of one namespace that have the same parents: a set of Services, or one Gateway. A pod without any belongs to
/// the group of no Services.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    namespace: Arc<str>,
    parents: Arc<[String]>,
}

impl GroupId {
    /// The group of these Services.
    pub fn new(namespace: &str, services: BTreeSet<String>) -> Self {
        Self {
            namespace: namespace.into(),
            parents: services.into_iter().collect(),
        }
    }

    /// The group of a Gateway's edges.
    pub fn gateway(namespace: &str, name: &str) -> Self {
        Self::new(
            namespace,
            BTreeSet::from([format!("{GATEWAY_PREFIX}{name}")]),
        )
    }

    /// The Gateway whose edges these are.
    pub fn of_gateway(&self) -> Option<&str> {
        self.parents.first()?.strip_prefix(GATEWAY_PREFIX)
    }

    /// What makes the group, for one who makes the same group of it by [`GroupId::new`].
    pub fn parents(&self) -> &[String] {
        &self.parents
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its Services, sorted; none where it is a Gateway's.
    pub fn services(&self) -> &[String] {
        match self.of_gateway() {
            Some(_) => &[],
            None => &self.parents,
        }
    }

    /// Its name: the Services joined by `+`, `-` for none, or `gateway/` and the Gateway. What is too long is cut and told
    /// apart by a hash.
    pub fn name(&self) -> String {
        if self.parents.is_empty() {
            return "-".into();
        }
        let joined = self.parents.join("+");
        if joined.len() <= LONGEST_NAME {
            return joined;
        }
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, joined.as_bytes());
        let cut: String = joined.chars().take(LONGEST_NAME - 17).collect();
        format!("{cut}~{}", hex(&digest.as_ref()[..8]))
    }

    /// The name of its root unit.
    pub fn inbound(&self) -> UnitName {
        UnitName::inbound(&self.namespace, &self.name())
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name())
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A pod as identity and status know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The account it runs under.
    pub service_account: String,
    /// Whether status counts it: not terminating, and ready now or once.
    pub counts: bool,
    /// Whether it has no sidecar though its namespace asks for one: it was made while the webhook was not there, or before
    /// the namespace asked. Only a new pod in its place gets one.
    pub bare: bool,
    /// Whether it stands for several sidecars that share one proof: the edges of a Gateway, where there are no Pods.
    pub shared: bool,
}

impl PodRef {
    /// `injects`: whether its namespace asks for sidecars.
    pub(crate) fn from_pod(pod: &PodFacts, injects: bool) -> Self {
        Self {
            namespace: pod.id.namespace.to_string(),
            name: pod.id.name.to_string(),
            uid: pod.uid.clone(),
            service_account: pod.service_account.clone(),
            counts: !pod.terminating && pod.was_ready,
            bare: injects && !pod.terminating && pod.sidecar == Sidecar::Absent,
            shared: false,
        }
    }

    /// The pod that stands for the edges of a Gateway, where there are no Pods.
    pub(crate) fn of_gateway(key: &PodKey) -> Self {
        Self {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: invented_uid(key),
            service_account: "default".into(),
            counts: true,
            bare: false,
            shared: true,
        }
    }

    /// The pod that `targetRef`s name; `None` where none does.
    pub(crate) fn from_slices<'a>(
        key: &PodKey,
        slices: impl Iterator<Item = &'a SliceFacts>,
    ) -> Option<Self> {
        let mut named = slices
            .flat_map(|slice| &slice.endpoints)
            .filter_map(|endpoint| {
                let (name, uid) = endpoint.pod.as_ref()?;
                (**name == *key.name).then_some((endpoint, uid))
            })
            .peekable();
        named.peek()?;
        let (mut uids, mut counts) = (BTreeSet::new(), false);
        for (endpoint, uid) in named {
            uids.insert(uid);
            counts |= !endpoint.terminating;
        }
        let uid = uids.into_iter().find(|uid| !uid.is_empty());
        Some(Self {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: uid.cloned().unwrap_or_else(|| invented_uid(key)),
            service_account: "default".into(),
            counts,
            // Nobody injects here.
            bare: false,
            shared: false,
        })
    }
}

/// The uid of a pod that nobody gave one: always the same for the same name.
fn invented_uid(key: &PodKey) -> String {
    let text = format!("{}/{}", key.namespace, key.name);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hex(&digest.as_ref()[..16])
}

/// What one place serves: a targetPort, or a listener.
#[derive(Default)]
pub(crate) struct Served {
    /// What the own app speaks there; a listener has none.
    protocol: BackendProtocol,
    /// Elder first.
    pub(crate) routes: Routes,
}

/// By targetPort, or by the key of a listener.
pub(crate) struct Tables<K>(pub(crate) BTreeMap<K, Served>);

impl<K: Ord> Tables<K> {
    /// Of listeners.
    pub(crate) fn of(routes: BTreeMap<K, Routes>) -> Self {
        let served = |routes| Served {
            routes,
            ..Served::default()
        };
        let tables = routes.into_iter();
        Self(tables.map(|(key, routes)| (key, served(routes))).collect())
    }
}

/// The root unit of a group, and findings on routes that found no room in it.
pub fn inbound(view: &View<'_>, group: &GroupId) -> (Inbound, Vec<Finding>) {
    let empty = Inbound {
        namespace: group.namespace().to_owned(),
        services: group.services().to_vec(),
        trust_domain: view.trust_domain(),
        settings: view.settings_unit(),
        ports: Vec::new(),
        listeners: Vec::new(),
        tables: Vec::new(),
    };
    match group.of_gateway() {
        Some(gateway) => edge(view, group, gateway, &empty),
        None => fitted(&of(group), tables(view, group), fits, |tables| Inbound {
            ports: tables.0.iter().map(port).collect(),
            ..empty.clone()
        }),
    }
}

/// The routes of each targetPort.
fn tables(view: &View<'_>, group: &GroupId) -> Tables<u16> {
    let mut tables: BTreeMap<u16, Served> = BTreeMap::new();
    for service in group.services() {
        let Some(facts) = view.service(group.namespace(), service) else {
            continue;
        };
        for claim in view.routes_of_parent(group.namespace(), service) {
            if conflicts::elder(view, &claim).is_some() {
                continue;
            }
            for port in facts
                .ports
                .iter()
                .filter(|port| claim.attaches(service, port.port))
            {
                for target in ports::targets(view, &facts, port) {
                    let table = tables.entry(target).or_default();
                    table.routes.insert(claim.age.clone(), claim.clone());
                    // One Service that knows what its pods speak is enough.
                    if table.protocol.is_http1() {
                        table.protocol = service::protocol(port);
                    }
                }
            }
        }
    }
    Tables(tables)
}

/// A group, where it is told what it has too much of.
fn of(group: &GroupId) -> String {
    format!("group {group}")
}

/// The root unit of a Gateway's edges. A listener without routes is there too: it answers that nothing is served.
fn edge(view: &View<'_>, group: &GroupId, name: &str, empty: &Inbound) -> (Inbound, Vec<Finding>) {
    let Ok(gateway) = listeners::served(view, group.namespace(), name) else {
        return (empty.clone(), Vec::new());
    };
    let (mut routes, mut elsewhere) = (BTreeMap::new(), Vec::new());
    for owner in attach::owners(&gateway) {
        let parts = view.parts_of_gateway(owner.namespace, owner.name, owner.set);
        match parts.as_slice() {
            [] => {}
            [Part::WHOLE] => routes.extend(attach::routes(view, &gateway, owner, Part::WHOLE)),
            parts => elsewhere.extend(parts.iter().map(|part| owner.table(*part))),
        }
    }
    fitted(&of(group), Tables::of(routes), fits, |tables| Inbound {
        listeners: gateway
            .listeners
            .iter()
            .map(|listener| ListenerUse {
                unit: gateway::unit_of(&gateway.gateway, listener),
                port: listener.port,
                hostname: listener.hostname.clone(),
                routes: tables
                    .0
                    .get(&listener.key)
                    .into_iter()
                    .flat_map(|table| table.routes.values())
                    .filter_map(|claim| table::used(claim, listener))
                    .collect(),
            })
            .collect(),
        tables: elsewhere.clone(),
        ..empty.clone()
    })
}

/// The unit that `made` makes of the tables, without the youngest routes where all of them are more than the stream
/// carries.
pub(crate) fn fitted<K: Ord, U>(
    whose: &str,
    mut tables: Tables<K>,
    fits: impl Fn(&U) -> bool,
    made: impl Fn(&Tables<K>) -> U,
) -> (U, Vec<Finding>) {
    let mut findings = Vec::new();
    loop {
        let unit = made(&tables);
        if fits(&unit) {
            return (unit, findings);
        }
        let Some(youngest) = tables
            .0
            .values()
            .filter_map(|table| table.routes.keys().next_back())
            .max()
            .cloned()
        else {
            return (unit, findings);
        };
        for table in tables.0.values_mut() {
            if let Some(claim) = table.routes.remove(&youngest) {
                let what = format!(
                    "{whose} has more hostnames than one unit holds, and this route is its youngest"
                );
                findings.push(Finding::new(
                    &claim.id,
                    FindingReason::TooLarge,
                    None,
                    &what,
                ));
            }
        }
        findings.dedup();
    }
}

/// Whether one unit holds it; the body of a unit is its JSON. What is far from the bound is not encoded to see that.
fn fits(unit: &Inbound) -> bool {
    at_most(unit) <= MAX_UNIT_BYTES
        || serde_json::to_vec(unit).is_ok_and(|body| body.len() <= MAX_UNIT_BYTES)
}

/// No fewer bytes than the body has: of every name its letters, which JSON writes as they are, and enough for what stands
/// around them.
fn at_most(unit: &Inbound) -> usize {
    const AROUND_A_NAME: usize = 3;
    const AROUND_A_ROUTE: usize = 32;
    const AROUND_A_PLACE: usize = 128;
    let names = |names: &[String]| -> usize {
        let names = names.iter();
        names.map(|name| name.len() + AROUND_A_NAME).sum()
    };
    let names_of = |units: &[UnitName]| -> usize {
        let units = units.iter();
        units.map(|name| name.as_str().len() + AROUND_A_NAME).sum()
    };
    let routes = |routes: &[RouteUse]| -> usize {
        let routes = routes.iter();
        let routes = routes
            .map(|route| route.unit.as_str().len() + AROUND_A_ROUTE + names(&route.hostnames));
        AROUND_A_PLACE + routes.sum::<usize>()
    };
    let ports = unit.ports.iter().map(|port| routes(&port.routes));
    let listeners = unit.listeners.iter().map(|listener| {
        let hostname = listener.hostname.as_ref().map_or(0, String::len);
        listener.unit.as_str().len() + hostname + routes(&listener.routes)
    });
    let settings = unit.settings.as_ref().map_or(0, |name| name.as_str().len());
    let head = unit.namespace.len() + names(&unit.services) + unit.trust_domain.len() + settings;
    let tables = names_of(&unit.tables);
    2 * AROUND_A_PLACE + head + tables + ports.chain(listeners).sum::<usize>()
}

fn port((port, table): (&u16, &Served)) -> InboundPort {
    InboundPort {
        port: *port,
        protocol: table.protocol,
        routes: table
            .routes
            .values()
            .filter_map(|claim| route_use(claim, None))
            .collect(),
    }
}

/// Nothing where no request can carry any of its hostnames: without them it would answer to all.
/// On a listener with a hostname only those count that have a host in common with it.
pub(crate) fn route_use(claim: &Claim, listener: Option<&str>) -> Option<RouteUse> {
    let unit = resolve::unit_of(&claim.id)?;
    if claim.hostnames.contains(ANY_HOST) {
        return Some(RouteUse {
            unit,
            hostnames: Vec::new(),
        });
    }
    let hostnames = claim
        .hostnames
        .iter()
        .filter(|host| attach::meet(host, listener))
        // Those of other kinds were looked at when the route came.
        .filter(|host| claim.id.kind != Kind::ApiRoute || seal::hostname(host).is_ok());
    let hostnames: Vec<String> = hostnames.cloned().collect();
    (!hostnames.is_empty()).then_some(RouteUse { unit, hostnames })
}

/// A route of connections, with the server names that it and the listener have in common; none means any.
pub(crate) fn stream_use(claim: &Claim, listener: Option<&str>) -> Option<RouteUse> {
    let hosts = claim.hostnames.iter();
    let hostnames: BTreeSet<String> = hosts
        .filter_map(|host| attach::common(host, listener))
        .collect();
    if hostnames.is_empty() {
        return None;
    }
    Some(RouteUse {
        unit: resolve::unit_of(&claim.id)?,
        hostnames: match hostnames.contains(ANY_HOST) {
            true => Vec::new(),
            false => hostnames.into_iter().collect(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_fit_without_being_encoded_does() {
        let long = |letter: &str| letter.repeat(60);
        let routes = |count: usize| -> Vec<RouteUse> {
            let route = |n: usize| RouteUse {
                unit: UnitName::route("shop", &format!("route-{n}")),
                hostnames: (0..n % 3).map(|_| long("h")).collect(),
            };
            (0..count).map(route).collect()
        };
        for count in [0, 1, 50] {
            let unit = Inbound {
                namespace: long("n"),
                services: vec![long("s"); count],
                trust_domain: long("t"),
                settings: Some(UnitName::settings()),
                ports: (0..count)
                    .map(|_| InboundPort {
                        port: u16::MAX,
                        protocol: BackendProtocol::H2c,
                        routes: routes(count),
                    })
                    .collect(),
                tables: vec![UnitName::table("shop", "gateway/public", "01"); count],
                listeners: (0..count)
                    .map(|_| ListenerUse {
                        unit: UnitName::listener("shop", "public", &long("l")),
                        port: u16::MAX,
                        hostname: Some(long("h")),
                        routes: routes(count),
                    })
                    .collect(),
            };
            let body = serde_json::to_vec(&unit).unwrap().len();
            assert!(body <= at_most(&unit), "{body} of {}", at_most(&unit));
            assert!(at_most(&unit) < body + body / 2 + 512, "far above {body}");
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let group = |last: &str| {
            let many = (0..50).map(|n| format!("service-with-a-long-name-{n:02}"));
            GroupId::new("shop", many.chain([last.to_owned()]).collect())
        };
        let (a, b) = (group("zz-a").name(), group("zz-b").name());
        assert_ne!(a, b);
        assert!(a.len() <= LONGEST_NAME && b.len() <= LONGEST_NAME);
        assert_eq!(GroupId::new("shop", BTreeSet::new()).name(), "-");
    }
}
