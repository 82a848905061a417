//! One rule with everything looked up: profile, requirement, policies, targets.

use std::{collections::BTreeSet, sync::Arc};

use sluice_crds::{
    ApiRouteSpec,
    api_route::{Cache, RouteRule, Timeouts, filters::FilterAction},
    rate_limit_policy::TargetKind,
};
use sluice_snapshot::{
    ConfigError, ConfigReason, UnitName,
    unit::route::{self, Action, HeaderEdits, Rule},
};

use super::{
    auth::{self, Providers, millis},
    backends::{self, Giver},
    cache, matches,
};
use crate::{
    finding::FindingReason,
    gateway_api::policies,
    resolve::{report::Report, seal},
    view::{Target, View},
    world::{Claim, ObjectId, RouteFacts},
};

/// What "without end" (0s) becomes: longer than any request of ours.
const WITHOUT_END_MS: u64 = 24 * 60 * 60 * 1000;

/// What the rules of a route have in common.
pub(super) struct Common<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) route: &'a RouteFacts,
    pub(super) spec: &'a ApiRouteSpec,
    pub(super) claim: &'a Claim,
}

/// The filters of a rule, sorted by what they do.
#[derive(Default)]
struct Filters {
    request: HeaderEdits,
    response: HeaderEdits,
    redirect: Option<route::Redirect>,
    profiles: Vec<Arc<RouteFacts>>,
}

/// One rule. What cannot be looked up breaks the rule, which then refuses what it matches.
pub(super) fn rule(
    common: &Common<'_>,
    index: usize,
    spec: &RouteRule,
    providers: &mut Providers<'_>,
    report: &mut Report,
) -> Rule {
    let path = format!("spec.rules[{index}]");
    let mut broken: Option<ConfigError> = None;
    let mut fault = |report: &mut Report, path: &str, error: ConfigError| {
        report.error(path, &error);
        broken.get_or_insert(error);
    };
    let filters = filters(common, spec, &path, &mut |path, error| {
        fault(report, path, error)
    });
    let nearest = auth::nearest(common.spec, spec, &filters.profiles);
    let requirement = nearest.map(|wanted| providers.requirement(wanted, &filters.profiles));
    let requirement = requirement.transpose().unwrap_or_else(|error| {
        let place = match spec.auth {
            Some(_) => format!("{path}.auth"),
            None => "spec.auth".into(),
        };
        fault(report, &place, error);
        None
    });
    let matched = matches::matches(&spec.matches);
    let giver = Giver {
        claim: common.claim,
        matches: &matched,
        authenticates: nearest.is_some(),
    };
    let action = match filters.redirect {
        Some(redirect) => Action::Redirect(redirect),
        None => {
            let refs = &spec.backend_refs;
            let targets = backends::targets(common.view, &giver, &path, refs, report);
            if targets.iter().all(|target| target.weight == 0) {
                let what = "every weight is 0: nobody takes the requests";
                let error = ConfigError::new(ConfigReason::Invalid, what);
                fault(report, &format!("{path}.backendRefs"), error);
            }
            Action::Backends(targets)
        }
    };
    let (profile_cache, profile_timeouts) = profile_blocks(&filters.profiles);
    let rule = Rule {
        name: spec.name.to_string(),
        matches: matched,
        auth: requirement.flatten(),
        policies: policies(common, &spec.name, &filters.profiles),
        cache: spec
            .cache
            .as_ref()
            .or(profile_cache.as_ref())
            .and_then(cache::rule),
        request_headers: filters.request,
        response_headers: filters.response,
        rewrite: None,
        mirrors: Vec::new(),
        cors: None,
        timeouts: timeouts(spec.timeouts.as_ref().or(profile_timeouts.as_ref())),
        action,
        broken: None,
    };
    match broken {
        None => rule,
        Some(error) => seal::broken_rule(rule, error),
    }
}

/// The one rule of a route that has none: everything to the own app, under the route's own requirement.
pub(super) fn implied(
    common: &Common<'_>,
    providers: &mut Providers<'_>,
    report: &mut Report,
) -> Rule {
    let spec = RouteRule {
        name: seal::plain_rule().name.into(),
        matches: Vec::new(),
        filters: Vec::new(),
        auth: None,
        timeouts: None,
        cache: None,
        backend_refs: Vec::new(),
    };
    rule(common, 0, &spec, providers, report)
}

fn filters(
    common: &Common<'_>,
    spec: &RouteRule,
    path: &str,
    fault: &mut impl FnMut(&str, ConfigError),
) -> Filters {
    let mut found = Filters::default();
    for (index, filter) in spec.filters.iter().enumerate() {
        let path = format!("{path}.filters[{index}]");
        let invalid = |what: String| ConfigError::new(ConfigReason::Invalid, what);
        match filter.get() {
            Ok(FilterAction::RequestHeaderModifier(edits)) => {
                matches::edit(&mut found.request, edits);
            }
            Ok(FilterAction::ResponseHeaderModifier(edits)) => {
                matches::edit(&mut found.response, edits);
            }
            Ok(FilterAction::RequestRedirect(_)) if found.redirect.is_some() => {
                fault(&path, invalid("the rule redirects twice".into()));
            }
            Ok(FilterAction::RequestRedirect(_)) if !spec.backend_refs.is_empty() => {
                fault(&path, invalid("the rule redirects and forwards".into()));
            }
            Ok(FilterAction::RequestRedirect(redirect)) => match matches::redirect(redirect) {
                Ok(redirect) => found.redirect = Some(redirect),
                Err(error) => fault(&path, invalid(error.to_string())),
            },
            Ok(FilterAction::ExtensionRef(profile)) => {
                match self::profile(common.view, &common.route.id.namespace, &profile.name) {
                    Ok(profile) => found.profiles.push(profile),
                    Err(error) => fault(&format!("{path}.extensionRef"), error),
                }
            }
            Err(error) => fault(&path, invalid(error.to_string())),
        }
    }
    found
}

/// A profile: readable, and without parents.
pub(crate) fn profile(
    view: &View<'_>,
    namespace: &str,
    name: &str,
) -> Result<Arc<RouteFacts>, ConfigError> {
    let missing = |why: &str| {
        let what = format!("profile {namespace}/{name} {why}");
        ConfigError::new(ConfigReason::ReferenceNotFound, what)
    };
    let profile = view
        .route(namespace, name)
        .ok_or_else(|| missing("does not exist"))?;
    match profile.sound() {
        None => Err(missing("cannot be read")),
        Some(spec) if !spec.is_profile() => Err(missing("is no profile: it has parentRefs")),
        Some(_) => Ok(profile),
    }
}

/// Cache and timeouts of the first profile that has them: those of its only rule.
pub(crate) fn profile_blocks(profiles: &[Arc<RouteFacts>]) -> (Option<Cache>, Option<Timeouts>) {
    let rules = || {
        let specs = profiles.iter().filter_map(|profile| profile.sound());
        specs.filter_map(|spec| match spec.rules.as_slice() {
            [only] => Some(only),
            _ => None,
        })
    };
    let cache = rules().find_map(|rule| rule.cache.clone());
    let timeouts = rules().find_map(|rule| rule.timeouts.clone());
    (cache, timeouts)
}

/// The policies that target the rule, its route as a whole, a profile it takes over, or a Gateway of its.
fn policies(common: &Common<'_>, rule: &str, profiles: &[Arc<RouteFacts>]) -> Vec<UnitName> {
    let Common { view, claim, .. } = common;
    let ObjectId {
        namespace, name, ..
    } = &common.route.id;
    let own = view.policies_of(TargetKind::ApiRoute, namespace, name);
    let mut names = policy_units(view, own, namespace, rule, profiles);
    names.extend(policies::of_gateways(view, claim));
    names.into_iter().collect()
}

/// The units of policies that target the rule, by `own` those of its route, or a profile it takes over.
pub(crate) fn policy_units(
    view: &View<'_>,
    own: Vec<Target>,
    namespace: &str,
    rule: &str,
    profiles: &[Arc<RouteFacts>],
) -> BTreeSet<UnitName> {
    let own = own.into_iter().filter(|target| {
        target
            .section
            .as_ref()
            .is_none_or(|section| section == rule)
    });
    let of_profiles = profiles
        .iter()
        .flat_map(|profile| view.policies_of(TargetKind::ApiRoute, namespace, &profile.id.name));
    own.chain(of_profiles)
        .map(|target| UnitName::policy(&target.policy.namespace, &target.policy.name))
        .collect()
}

pub(crate) fn timeouts(spec: Option<&Timeouts>) -> route::Timeouts {
    let defaults = route::Timeouts::default();
    let Some(spec) = spec else {
        return defaults;
    };
    // `Some` of zero is "without end"; absent takes the default.
    let request_ms = match (spec.request, spec.effective_request()) {
        (None, _) => defaults.request_ms,
        (Some(_), None) => WITHOUT_END_MS,
        (Some(_), Some(request)) => millis(request),
    };
    let backend = spec.effective_backend_request().map_or(request_ms, millis);
    route::Timeouts {
        request_ms,
        backend_request_ms: backend.min(request_ms),
    }
}

/// Blocks of a profile that no rule takes over.
pub(super) fn ignored_in_profile(spec: &ApiRouteSpec, report: &mut Report) {
    let mut ignored = |path: &str, what: &str| report.add(FindingReason::BlockIgnored, path, what);
    if !spec.hostnames.is_empty() {
        ignored("spec.hostnames", "a profile answers to nobody");
    }
    if spec.request_limits.is_some() {
        ignored("spec.requestLimits", "sizes are the route's own");
    }
    if spec.rules.len() > 1 {
        ignored(
            "spec.rules",
            "of several rules nobody can tell which is meant",
        );
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let blocks = [
            ("matches", rule.matches.is_empty()),
            ("filters", rule.filters.is_empty()),
            ("auth", rule.auth.is_none()),
            ("backendRefs", rule.backend_refs.is_empty()),
        ];
        for (block, _) in blocks.into_iter().filter(|(_, empty)| !empty) {
            let what = "a profile gives its auth, and cache and timeouts of its only rule";
            ignored(&format!("spec.rules[{index}].{block}"), what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: serde_json::Value) -> route::Timeouts {
        timeouts(Some(&serde_json::from_value(value).expect("decodes")))
    }

    #[test]
    fn zero_switches_a_timeout_off_and_absence_does_not() {
        assert_eq!(
            of(serde_json::json!({"request": "0s"})).request_ms,
            WITHOUT_END_MS
        );
        let absent = of(serde_json::json!({"backendRequest": "800ms"}));
        assert_eq!(
            (absent.request_ms, absent.backend_request_ms),
            (15_000, 800)
        );
        let bounded = of(serde_json::json!({"request": "2s"}));
        assert_eq!(
            (bounded.request_ms, bounded.backend_request_ms),
            (2_000, 2_000)
        );
    }
}
