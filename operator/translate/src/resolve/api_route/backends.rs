//! Where a rule leads: the own app, a forward, a ShardSet.

use std::{collections::BTreeSet, sync::Arc};

use regex::Regex;
use sluice_crds::{
    api_route::{BackendRef, BackendTarget},
    rate_limit_policy::TargetKind,
    shard_set::ShardKeyPartUse,
};
use sluice_snapshot::{
    ConfigError, ConfigReason, UnitName,
    unit::route::{Match, PathMatch, Target, WeightedTarget},
};

use super::conflicts;
use crate::{
    finding::FindingReason,
    resolve::{ports, report::Report, service},
    view::View,
    world::{Claim, ObjectId, ServiceFacts, ServicePort, ShardSetFacts},
};

/// What a rule gives to its targets: the matches and whether it knows who asks.
pub(super) struct Giver<'a> {
    pub(super) claim: &'a Claim,
    pub(super) matches: &'a [Match],
    pub(super) authenticates: bool,
}

/// The targets of a rule. One that cannot serve refuses its own share.
pub(super) fn targets(
    view: &View<'_>,
    giver: &Giver<'_>,
    path: &str,
    refs: &[BackendRef],
    report: &mut Report,
) -> Vec<WeightedTarget> {
    if refs.is_empty() && !giver.claim.gateways.is_empty() {
        let what = "a Gateway has no application of its own";
        let error = ConfigError::new(ConfigReason::Invalid, what);
        report.error(&format!("{path}.backendRefs"), &error);
        return vec![WeightedTarget::plain(1, Target::Broken(error))];
    }
    if refs.is_empty() {
        return vec![WeightedTarget::plain(1, Target::App)];
    }
    let target = |(index, backend): (usize, &BackendRef)| {
        let path = format!("{path}.backendRefs[{index}]");
        let target = match one(view, giver, backend) {
            Ok(target) => target,
            Err((reason, error)) => {
                report.add(reason, &path, &error.message);
                Target::Broken(error)
            }
        };
        WeightedTarget::plain(backend.effective_weight(), target)
    };
    refs.iter().enumerate().map(target).collect()
}

/// What stands in the unit, and the reason that stands in the status.
type Fault = (FindingReason, ConfigError);

fn fault(reason: ConfigReason, what: String) -> Fault {
    (reason.into(), ConfigError::new(reason, what))
}

fn one(view: &View<'_>, giver: &Giver<'_>, backend: &BackendRef) -> Result<Target, Fault> {
    let namespace = &*giver.claim.id.namespace;
    match backend.target() {
        Err(error) => Err(fault(ConfigReason::Invalid, error.to_string())),
        Ok(BackendTarget::ShardSet { name }) => {
            let Some(set) = view.shard_set(namespace, name) else {
                let what = format!("ShardSet {namespace}/{name} does not exist");
                return Err(fault(ConfigReason::BackendNotFound, what));
            };
            yields_key(giver, &set)?;
            Ok(Target::Shards(UnitName::shard_map(namespace, name)))
        }
        Ok(BackendTarget::Service { name, port }) => {
            if giver.claim.attaches(name, port) {
                return own_app(view, giver.claim, name);
            }
            // What an edge forwards, the pods' own route meets in full: only a sidecar's forward would run twice.
            let takes = match giver.claim.gateways.is_empty() {
                true => plain(view, namespace, name, port),
                false => exists(view, namespace, name, port).map(drop),
            };
            takes
                .map_err(|error| (error.reason.into(), error))
                .map(|()| Target::Backend(UnitName::backend(namespace, name, port)))
        }
    }
}

/// The parent means this pod's own app, and it must mean that on every pod of the route.
fn own_app(view: &View<'_>, claim: &Claim, service: &str) -> Result<Target, Fault> {
    let namespace = &*claim.id.namespace;
    let parents: BTreeSet<&str> = claim.parents.iter().map(|parent| &*parent.name).collect();
    for parent in parents.into_iter().filter(|parent| *parent != service) {
        let groups = view.groups_with(namespace, parent);
        let stranger = groups
            .iter()
            .find(|group| !group.services().iter().any(|own| own == service));
        if let Some(group) = stranger {
            let what = format!(
                "Service {service} is the parent on some pods only: on those of group {group} it would be a forward to pods that enforce this route again"
            );
            return Err(fault(ConfigReason::TargetEnforces, what));
        }
    }
    Ok(Target::App)
}

/// A port of a Service.
pub(crate) fn exists(
    view: &View<'_>,
    namespace: &str,
    service: &str,
    port: u16,
) -> Result<(Arc<ServiceFacts>, ServicePort), ConfigError> {
    let missing = |what: String| ConfigError::new(ConfigReason::BackendNotFound, what);
    let Some(facts) = view.service(namespace, service) else {
        return Err(missing(format!(
            "Service {namespace}/{service} does not exist"
        )));
    };
    let Some(found) = facts.ports.iter().find(|found| found.port == port) else {
        return Err(missing(format!(
            "Service {namespace}/{service} has no TCP port {port}"
        )));
    };
    let found = found.clone();
    Ok((facts, found))
}

/// A port of a Service that takes forwards: it exists, and its pods ask nothing of their own, or are told by a hop what was
/// asked before.
pub(crate) fn plain(
    view: &View<'_>,
    namespace: &str,
    service: &str,
    port: u16,
) -> Result<(), ConfigError> {
    let (facts, found) = exists(view, namespace, service, port)?;
    match enforcer(view, &facts, &found) {
        None => Ok(()),
        Some(_) if takes_hops(view, namespace, service) => Ok(()),
        Some(route) => {
            let what = format!(
                "port {port} of Service {namespace}/{service} has auth, limits or a cache of its own, by {route}"
            );
            Err(ConfigError::new(ConfigReason::TargetEnforces, what))
        }
    }
}

/// Whether every pod behind a Service has a sidecar that takes hops.
fn takes_hops(view: &View<'_>, namespace: &str, service: &str) -> bool {
    let names = view.slices_of(namespace, service);
    let slices = names.iter().filter_map(|name| view.slice(namespace, name));
    let mut any = false;
    for slice in slices {
        for endpoint in slice.endpoints.iter().filter(|one| one.address.is_some()) {
            any = true;
            if service::hop(view, &slice, endpoint).is_none() {
                return false;
            }
        }
    }
    any
}

/// The route that would enforce something on requests forwarded to this port.
fn enforcer(view: &View<'_>, service: &ServiceFacts, port: &ServicePort) -> Option<ObjectId> {
    let (namespace, own) = (&*service.id.namespace, &*service.id.name);
    let targets = ports::targets(view, service, port);
    for name in ports::sharing_pods(view, namespace, own) {
        let Some(facts) = view.service(namespace, &name) else {
            continue;
        };
        for claim in view.routes_of_parent(namespace, &name) {
            let direct = name == own && claim.attaches(own, port.port);
            let meets = direct || !ports::claimed(view, &claim, &facts).is_disjoint(&targets);
            if meets && enforces(view, &claim) && conflicts::elder(view, &claim).is_none() {
                return Some(claim.id.clone());
            }
        }
    }
    None
}

fn enforces(view: &View<'_>, claim: &Claim) -> bool {
    let namespace = &*claim.id.namespace;
    let limited = |route: &str| {
        !view
            .policies_of(TargetKind::ApiRoute, namespace, route)
            .is_empty()
    };
    let profile = |name: &String| {
        let profile = view.route(namespace, name);
        limited(name) || profile.is_some_and(|profile| Claim::of(&profile).enforces)
    };
    claim.enforces || limited(&claim.id.name) || claim.profiles.iter().any(profile)
}

/// Whether each match of the rule can yield the key that the set asks for.
fn yields_key(giver: &Giver<'_>, set: &ShardSetFacts) -> Result<(), Fault> {
    // What cannot be read says so itself, and its map refuses.
    let Some(spec) = set.custom.sound() else {
        return Ok(());
    };
    for (index, one) in giver.matches.iter().enumerate() {
        let groups = named_groups(&one.path);
        let yields = spec.key.from.iter().any(|source| match source.get() {
            Ok(ShardKeyPartUse::PathParameter(part)) => groups.contains(&*part.name),
            Ok(ShardKeyPartUse::Claim(_)) => giver.authenticates,
            Ok(
                ShardKeyPartUse::Header(_)
                | ShardKeyPartUse::Query(_)
                | ShardKeyPartUse::PathSegment(_),
            ) => true,
            Err(_) => true,
        });
        if !yields {
            let what = format!(
                "match {index} cannot yield the key of {}: it has no such path parameter, or nobody authenticates",
                set.custom.id
            );
            let error = ConfigError::new(ConfigReason::Invalid, what);
            return Err((FindingReason::ShardKeyMissing, error));
        }
    }
    Ok(())
}

/// The named groups of an expression. One that does not compile is reported as a whole, not here.
fn named_groups(path: &PathMatch) -> BTreeSet<String> {
    match path {
        PathMatch::Exact(_) | PathMatch::Prefix(_) => BTreeSet::new(),
        PathMatch::Regex(text) => Regex::new(text)
            .map(|regex| regex.capture_names().flatten().map(str::to_owned).collect())
            .unwrap_or_default(),
    }
}
