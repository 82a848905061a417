//! What HTTPRoutes and GRPCRoutes have in common: parents, rules with everything looked up, the unit and how the route stands.

use std::{collections::BTreeSet, sync::Arc};

use sluice_crds::{
    gateway_api::{BackendRef, ParentReference, RouteFilter},
    rate_limit_policy::TargetKind,
};
use sluice_snapshot::{
    ConfigError, ConfigReason, UnitName,
    unit::{
        Route,
        route::{self, Action, Match, Rule, Timeouts},
    },
};

use super::{attach, backends, filters, listeners::Served, policies, shadow};
use crate::{
    finding::{Condition, FindingReason},
    resolve::{
        self, Resolved,
        api_route::{
            auth::{self, Providers},
            cache, rules,
        },
        report::Report,
        seal,
    },
    standing::{Outcome, ReferenceStanding, Standing},
    view::View,
    world::{
        ANY_HOST, Claim, Custom, GatewayApiSpec, GatewayRef, Kind, ObjectId, RouteFacts, Routed,
    },
};

/// A rule as its kind of route writes it, with what is said in the same way by all kinds.
pub(super) struct RuleSpec<'a> {
    /// Its name.
    pub(super) name: Option<&'a str>,
    /// What it matches, or why that cannot be told, in a clause.
    pub(super) matches: Result<Vec<Match>, String>,
    /// What is changed on the way.
    pub(super) filters: &'a [RouteFilter],
    /// Where it leads.
    pub(super) backends: &'a [BackendRef],
    /// How long it may take, or what is wrong with that; none: whatever a profile says.
    pub(super) timeouts: Option<Result<Timeouts, String>>,
    /// Fields that change nothing here.
    pub(super) ignored: Vec<&'static str>,
}

/// The parents of a route that are ours.
pub(super) struct Parents<'a> {
    view: &'a View<'a>,
    claim: &'a Claim,
    ours: Vec<(&'a GatewayRef, &'a ParentReference, Served)>,
}

impl<'a> Parents<'a> {
    /// `None`: the route is none of ours, and nobody may say a word about it.
    pub(super) fn of<S: GatewayApiSpec>(view: &'a View<'a>, facts: &'a Routed<S>) -> Option<Self> {
        let spec = facts.custom.spec.as_ref()?;
        let ours: Vec<_> = facts
            .claim
            .gateways
            .iter()
            .filter_map(|parent| {
                let written = spec.parent_refs().get(parent.index)?;
                Some((parent, written, attach::served(view, parent).ok()?))
            })
            .collect();
        (!ours.is_empty()).then_some(Self {
            view,
            claim: &facts.claim,
            ours,
        })
    }

    /// How the route stands. What `report` has so far is about the route itself; what is wrong with its parents is added.
    pub(super) fn standing(&self, report: &mut Report) -> Standing {
        let own = report.outcome(Condition::Accepted, "Accepted");
        let resolved_refs = report.outcome(Condition::ResolvedRefs, "ResolvedRefs");
        let mut outside = self.claim.hostnames.clone();
        let mut attached = false;
        let mut parents = Vec::new();
        for (parent, written, served) in &self.ours {
            let accepted = match attach::attach(self.view, served, self.claim, parent) {
                Ok(keys) => {
                    attached = true;
                    let listeners = served.listeners.iter();
                    for listener in
                        listeners.filter(|listener| keys.contains(listener.key.as_str()))
                    {
                        let hostname = listener.hostname.as_deref();
                        outside.retain(|host| !attach::meet(host, hostname));
                    }
                    own.clone()
                }
                Err((reason, what)) => {
                    let path = format!("spec.parentRefs[{}]", parent.index);
                    report.add(reason, &path, &what);
                    Outcome::bad(reason.gateway_api(), report.last_message())
                }
            };
            parents.push(ReferenceStanding {
                reference: serde_json::to_value(written).unwrap_or_default(),
                accepted,
                resolved_refs: resolved_refs.clone(),
            });
        }
        for host in outside.iter().filter(|host| attached && *host != ANY_HOST) {
            let what = format!("{host} is outside every listener that the route attaches to");
            report.add(FindingReason::HostnameIgnored, "spec.hostnames", &what);
        }
        let warnings = report.warnings();
        for parent in parents.iter_mut().filter(|parent| parent.accepted.status) {
            parent.accepted.message.clone_from(&warnings);
        }
        Standing::Route { parents }
    }
}

/// Says that a stored object does not decode.
pub(super) fn undecodable<S>(facts: &Custom<S>, report: &mut Report) {
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
}

/// Says which hostnames no request can carry.
pub(super) fn hostnames(hosts: &[String], report: &mut Report) {
    for (index, host) in hosts.iter().enumerate() {
        if let Err(error) = seal::hostname(&host.to_ascii_lowercase()) {
            report.error(&format!("spec.hostnames[{index}]"), &error);
        }
    }
}

/// The unit of a HTTPRoute or GRPCRoute and how it stands.
pub(super) fn resolve<S: GatewayApiSpec>(
    view: &View<'_>,
    facts: &Routed<S>,
    rules_of: impl for<'s> Fn(&'s S) -> Vec<RuleSpec<'s>>,
) -> Resolved {
    let Some(parents) = Parents::of(view, facts) else {
        return Resolved::default();
    };
    let id = &facts.custom.id;
    let mut report = Report::of(id);
    undecodable(&facts.custom, &mut report);
    let unit = match facts.custom.sound() {
        Some(spec) => {
            hostnames(spec.hostnames(), &mut report);
            made(view, id, &facts.claim, rules_of(spec), &mut report)
        }
        None => {
            let error =
                ConfigError::new(ConfigReason::Invalid, "the stored object does not decode");
            seal::broken_route(empty(id), error)
        }
    };
    let mut resolved = Resolved::default();
    if let Some(name) = resolve::unit_of(id) {
        let unit = seal::route(&name, unit, &mut report);
        resolved.units.insert(name, unit);
    }
    resolved.standing = Some(parents.standing(&mut report));
    resolved.findings = report.into_findings();
    resolved
}

fn empty(id: &ObjectId) -> Route {
    Route {
        object: id.reference(),
        request_limits: route::RequestLimits::default(),
        providers: Vec::new(),
        rules: Vec::new(),
        broken: None,
    }
}

fn made(
    view: &View<'_>,
    id: &ObjectId,
    claim: &Claim,
    specs: Vec<RuleSpec<'_>>,
    report: &mut Report,
) -> Route {
    let mut providers = Providers::of_profiles(view);
    let of_gateways = policies::of_gateways(view, claim);
    let mut made = Vec::new();
    for (index, spec) in specs.into_iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let matched = match &spec.matches {
            Ok(matched) => matched.clone(),
            Err(what) => {
                // Nobody can say which requests this rule was for: another rule must not get them.
                report.add(
                    FindingReason::UnsupportedValue,
                    &format!("{path}.matches"),
                    what,
                );
                let error = ConfigError::new(ConfigReason::Invalid, what);
                return seal::broken_route(empty(id), error);
            }
        };
        shadow::report(view, claim, index, &matched, report);
        made.push(rule(
            &Common {
                view,
                id,
                of_gateways: &of_gateways,
            },
            index,
            spec,
            matched,
            &mut providers,
            report,
        ));
    }
    for error in providers.broken_elsewhere() {
        report.error("spec.rules", error);
    }
    if made.is_empty() {
        let error = ConfigError::new(ConfigReason::Invalid, "the route has no rules");
        report.error("spec.rules", &error);
        return seal::broken_route(empty(id), error);
    }
    Route {
        providers: providers.into_units(),
        rules: made,
        ..empty(id)
    }
}

/// What the rules of a route have in common.
struct Common<'a> {
    view: &'a View<'a>,
    id: &'a ObjectId,
    of_gateways: &'a [UnitName],
}

fn rule(
    common: &Common<'_>,
    index: usize,
    spec: RuleSpec<'_>,
    matched: Vec<Match>,
    providers: &mut Providers<'_>,
    report: &mut Report,
) -> Rule {
    let Common {
        view,
        id,
        of_gateways,
    } = *common;
    let path = format!("spec.rules[{index}]");
    for field in &spec.ignored {
        let what = format!("{field} is not served");
        report.add(
            FindingReason::FieldIgnored,
            &format!("{path}.{field}"),
            &what,
        );
    }
    // A mirror that leads nowhere is no reason to refuse the request: its owner hears of it, its client does not.
    let mut unresolved = Vec::new();
    let mut faults: Vec<(String, filters::Fault)> = Vec::new();
    let filters = filters::of_rule(
        view,
        id,
        spec.filters,
        &path,
        &mut |backend, path| {
            let mut found = Report::of(id);
            let target = backends::target(view, id, backend, path, &mut found);
            unresolved.push(found);
            target
        },
        &mut |path, fault| faults.push((path.to_owned(), fault)),
    );
    for found in unresolved {
        report.merge(found);
    }
    let profiles = &filters.profiles;
    let nearest = auth::of_profiles(profiles);
    let requirement = nearest.map(|wanted| providers.requirement(wanted, profiles));
    let requirement = requirement.transpose().unwrap_or_else(|error| {
        faults.push((path.clone(), (error.reason.into(), error)));
        None
    });
    let action = match filters.redirect {
        Some(redirect) => {
            if !spec.backends.is_empty() {
                let what = "a rule redirects or forwards, not both";
                let fault = filters::fault(FindingReason::IncompatibleFilters, what);
                faults.push((format!("{path}.filters"), fault));
            }
            Action::Redirect(redirect)
        }
        None => Action::Backends(backends::targets(view, id, &path, spec.backends, report)),
    };
    let (profile_cache, profile_timeouts) = rules::profile_blocks(profiles);
    let timeouts = match spec.timeouts {
        None => rules::timeouts(profile_timeouts.as_ref()),
        Some(Ok(timeouts)) => timeouts,
        Some(Err(what)) => {
            let fault = filters::fault(FindingReason::UnsupportedValue, what);
            faults.push((format!("{path}.timeouts"), fault));
            Timeouts::default()
        }
    };
    let name = spec.name.filter(|name| !name.is_empty());
    let name = name.map_or_else(|| format!("rule-{index}"), str::to_owned);
    let rule = Rule {
        matches: matched,
        auth: requirement.flatten(),
        policies: policies_of(view, id, &name, profiles, of_gateways),
        cache: profile_cache.as_ref().and_then(cache::rule),
        request_headers: filters.request,
        response_headers: filters.response,
        rewrite: filters.rewrite,
        mirrors: filters.mirrors,
        cors: filters.cors,
        timeouts,
        action,
        broken: None,
        name,
    };
    let mut broken = None;
    for (path, (reason, error)) in faults {
        report.add(reason, &path, &error.message);
        broken.get_or_insert(error);
    }
    match broken {
        None => rule,
        Some(error) => seal::broken_rule(rule, error),
    }
}

/// The policies that target the rule, its route as a whole, a profile it takes over, or a Gateway.
fn policies_of(
    view: &View<'_>,
    id: &ObjectId,
    rule: &str,
    profiles: &[Arc<RouteFacts>],
    of_gateways: &[UnitName],
) -> Vec<UnitName> {
    let kind = match id.kind {
        Kind::HttpRoute => Some(TargetKind::HttpRoute),
        _ => None,
    };
    let own = kind.map(|kind| view.policies_of(kind, &id.namespace, &id.name));
    rules::policy_units(view, own.unwrap_or_default(), &id.namespace, rule, profiles)
        .into_iter()
        .chain(of_gateways.iter().cloned())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
