//! An ApiRoute: its route unit, the keys of its providers, and what is wrong with it.

pub(crate) mod auth;
pub(crate) mod backends;
pub(crate) mod cache;
pub mod conflicts;
mod matches;
pub(crate) mod rules;

use std::{collections::BTreeMap, sync::Arc};

use sluice_crds::{ApiRouteSpec, api_route::RequestLimits, common::Quantity};
use sluice_snapshot::{
    ConfigError, ConfigReason, Unit, UnitName,
    unit::{Route, route},
};

use super::{Resolved, report::Report, seal};
use crate::{
    finding::FindingReason,
    gateway_api::attach,
    scaling,
    view::View,
    world::{Claim, RouteFacts},
};

pub(super) fn resolve(view: &View<'_>, facts: &RouteFacts) -> Resolved {
    let mut report = Report::of(&facts.id);
    if let Some(defect) = &facts.defect {
        let kept = match defect.outline {
            true => "nothing it covers is served",
            false => "its last good form stays in force",
        };
        let what = format!(
            "the stored object does not decode ({}); {kept}",
            defect.message
        );
        report.add(FindingReason::Undecodable, "", &what);
    }
    let mut resolved = match facts.sound() {
        Some(spec) if spec.is_profile() => profile(view, facts, spec, &mut report),
        Some(spec) => serving(view, facts, spec, &mut report),
        None => unreadable(facts),
    };
    let (hpa, findings) = scaling::resolve(view, facts);
    resolved.hpa = hpa;
    resolved.findings = report.into_findings();
    resolved.findings.extend(findings);
    resolved
}

/// A route of which only hostnames and parents are known refuses what they get.
fn unreadable(facts: &RouteFacts) -> Resolved {
    let error = ConfigError::new(ConfigReason::Invalid, "the stored ApiRoute does not decode");
    let name = UnitName::route(&facts.id.namespace, &facts.id.name);
    let unit = seal::broken_route(empty(facts), error);
    Resolved {
        units: BTreeMap::from([(name, Unit::Route(unit))]),
        ..Resolved::default()
    }
}

fn empty(facts: &RouteFacts) -> Route {
    Route {
        object: facts.id.reference(),
        request_limits: route::RequestLimits::default(),
        providers: Vec::new(),
        rules: Vec::new(),
        broken: None,
    }
}

/// A profile serves nothing; the keys of its providers are its own.
fn profile(
    view: &View<'_>,
    facts: &RouteFacts,
    spec: &ApiRouteSpec,
    report: &mut Report,
) -> Resolved {
    rules::ignored_in_profile(spec, report);
    let mut resolved = Resolved::default();
    keys(view, facts, spec, &mut resolved, report);
    resolved
}

fn serving(
    view: &View<'_>,
    facts: &RouteFacts,
    spec: &ApiRouteSpec,
    report: &mut Report,
) -> Resolved {
    let claim = Arc::new(Claim::of(facts));
    let mut resolved = Resolved::default();
    parents(view, facts, &claim, report);
    for (index, host) in spec.hostnames.iter().enumerate() {
        if let Err(error) = seal::hostname(&host.to_ascii_lowercase()) {
            report.error(&format!("spec.hostnames[{index}]"), &error);
        }
    }
    keys(view, facts, spec, &mut resolved, report);
    let common = rules::Common {
        view,
        route: facts,
        spec,
        claim: &claim,
    };
    let mut providers = auth::Providers::new(view, facts);
    let rules = match spec.rules.as_slice() {
        [] => vec![rules::implied(&common, &mut providers, report)],
        rules => {
            let rules = rules.iter().enumerate();
            rules
                .map(|(index, rule)| rules::rule(&common, index, rule, &mut providers, report))
                .collect()
        }
    };
    for error in providers.broken_elsewhere() {
        report.error("spec.auth", error);
    }
    let unit = Route {
        request_limits: request_limits(spec.request_limits.as_ref()),
        providers: providers.into_units(),
        rules,
        ..empty(facts)
    };
    let name = UnitName::route(&facts.id.namespace, &facts.id.name);
    let unit = seal::route(&name, unit, report);
    match conflicts::elder(view, &claim) {
        None => drop(resolved.units.insert(name, unit)),
        Some(conflicts::Clash {
            elder,
            hostname,
            place,
        }) => {
            let what = format!(
                "hostname {hostname} on {place} belongs to {elder}, which is elder; this route serves nothing"
            );
            report.add(FindingReason::Conflicted, "spec.hostnames", &what);
            resolved.units.clear();
        }
    }
    resolved
}

/// Whether the parents exist and have pods.
fn parents(view: &View<'_>, facts: &RouteFacts, claim: &Claim, report: &mut Report) {
    let namespace = &*facts.id.namespace;
    for gateway in &claim.gateways {
        let path = format!("spec.parentRefs[{}]", gateway.index);
        if let Err((reason, what)) = attach::attached(view, claim, gateway) {
            report.add(reason, &path, &what);
        }
    }
    // Parents are all of one kind: the place among Services is the place among all.
    for (index, parent) in claim.parents.iter().enumerate() {
        let path = format!("spec.parentRefs[{index}]");
        let name = &parent.name;
        let Some(service) = view.service(namespace, name) else {
            let what = format!("Service {namespace}/{name} does not exist");
            report.add(FindingReason::ParentNotFound, &path, &what);
            continue;
        };
        if let Some(port) = parent.port
            && !service.ports.iter().any(|found| found.port == port)
        {
            let what = format!("Service {namespace}/{name} has no TCP port {port}");
            report.add(FindingReason::ParentNotFound, &path, &what);
        }
        if view.groups_with(namespace, name).is_empty() {
            let what = format!("Service {namespace}/{name} has no pods");
            report.add(FindingReason::NoPods, &path, &what);
        }
    }
}

/// The keys units of the providers that the route declares, and what is wrong with those providers.
fn keys(
    view: &View<'_>,
    facts: &RouteFacts,
    spec: &ApiRouteSpec,
    resolved: &mut Resolved,
    report: &mut Report,
) {
    let owner = auth::Owner::route(&facts.id.namespace, &facts.id.name);
    let providers = spec.auth.iter().flat_map(|auth| &auth.providers);
    for (index, provider) in providers.enumerate() {
        let made = auth::provider(view, &owner, provider);
        for (reason, what) in made.problems {
            let path = format!("spec.auth.providers[{index}]");
            report.add(
                reason,
                &path,
                &format!("provider {}: {what}", provider.name),
            );
        }
        if let Some((name, keys)) = made.keys {
            seal::other(name, Unit::Keys(keys), resolved, report);
        }
    }
}

/// Sizes that no 32-bit count holds are as good as none.
fn request_limits(spec: Option<&RequestLimits>) -> route::RequestLimits {
    let defaults = route::RequestLimits::default();
    let Some(RequestLimits {
        max_body_size,
        max_headers_size,
        max_target_length,
    }) = spec
    else {
        return defaults;
    };
    let bytes = |quantity: &Option<Quantity>, default: u32| {
        let value = quantity
            .as_ref()
            .map_or(u64::from(default), Quantity::value);
        u32::try_from(value).unwrap_or(u32::MAX)
    };
    route::RequestLimits {
        max_body: max_body_size
            .as_ref()
            .map_or(defaults.max_body, Quantity::value),
        max_headers: bytes(max_headers_size, defaults.max_headers),
        max_target: bytes(max_target_length, defaults.max_target),
    }
}
