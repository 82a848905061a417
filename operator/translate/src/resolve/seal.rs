//! The last step before a unit leaves: it compiles and it fits, or what denies exactly its requests stands in its place.

use sluice_pipeline::compile_unit;
use sluice_snapshot::{
    ConfigError, ConfigReason, MAX_UNIT_BYTES, Unit, UnitName,
    unit::{
        Inbound, LimitPolicy, Route, ShardMap,
        auth::{Method, Provider},
        inbound::{InboundPort, RouteUse},
        route::{Action, HeaderEdits, Match, PathMatch, Rule, Target, Timeouts, WeightedTarget},
    },
};

use super::{Resolved, report::Report};
use crate::finding::clipped;

/// Why a unit may not leave.
fn flaw(name: &UnitName, unit: &Unit) -> Option<ConfigError> {
    if let Err(error) = compile_unit(name, unit) {
        return Some(ConfigError::new(
            ConfigReason::Invalid,
            clipped(&error.reason),
        ));
    }
    let bytes = unit.encode().len();
    (bytes > MAX_UNIT_BYTES).then(|| {
        let what = format!("its configuration takes {bytes} bytes of at most {MAX_UNIT_BYTES}");
        ConfigError::new(ConfigReason::TooLarge, what)
    })
}

/// Whether a table may list a hostname. One that no request can carry must not take the whole table down.
pub(crate) fn hostname(host: &str) -> Result<(), ConfigError> {
    let probe = Inbound {
        namespace: String::new(),
        services: Vec::new(),
        trust_domain: String::new(),
        settings: None,
        listeners: Vec::new(),
        tables: Vec::new(),
        ports: vec![InboundPort {
            port: 1,
            protocol: Default::default(),
            routes: vec![RouteUse {
                unit: UnitName::route("-", "-"),
                hostnames: vec![host.to_owned()],
            }],
        }],
    };
    match flaw(&UnitName::inbound("-", "-"), &Unit::Inbound(probe)) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// A route. Only what is wrong denies: a provider, a rule, or where not even its matches can be told the whole route.
pub(crate) fn route(name: &UnitName, mut route: Route, report: &mut Report) -> Unit {
    let Some(error) = flaw(name, &Unit::Route(route.clone())) else {
        return Unit::Route(route);
    };
    if error.reason != ConfigReason::Invalid {
        report.error("", &error);
        return Unit::Route(broken_route(route, error));
    }
    let alone = |providers: Vec<Provider>, rules: Vec<Rule>| {
        let part = Route {
            providers,
            rules,
            broken: None,
            ..route.clone()
        };
        flaw(name, &Unit::Route(part))
    };
    let mut providers = route.providers.clone();
    for provider in &mut providers {
        if let Some(error) = alone(vec![provider.clone()], vec![plain_rule()]) {
            report.error("spec.auth", &error);
            provider.method = Method::Broken(error);
        }
    }
    let mut rules = route.rules.clone();
    for (index, rule) in rules.iter_mut().enumerate() {
        let Some(error) = alone(providers.clone(), vec![rule.clone()]) else {
            continue;
        };
        report.error(&format!("spec.rules[{index}]"), &error);
        let denying = broken_rule(rule.clone(), error.clone());
        if alone(Vec::new(), vec![denying.clone()]).is_some() {
            // Nobody can say which requests this rule was for: another rule must not get them.
            return Unit::Route(broken_route(route, error));
        }
        *rule = denying;
    }
    route.providers = providers;
    route.rules = rules;
    match flaw(name, &Unit::Route(route.clone())) {
        None => Unit::Route(route),
        Some(error) => {
            report.error("", &error);
            Unit::Route(broken_route(route, error))
        }
    }
}

/// A route that refuses everything it would get.
pub(crate) fn broken_route(route: Route, error: ConfigError) -> Route {
    Route {
        providers: Vec::new(),
        rules: Vec::new(),
        broken: Some(error),
        ..route
    }
}

/// A rule that refuses what it matches.
pub(crate) fn broken_rule(rule: Rule, error: ConfigError) -> Rule {
    Rule {
        broken: Some(error),
        name: rule.name,
        matches: rule.matches,
        ..plain_rule()
    }
}

/// Everything to the own app.
pub(crate) fn plain_rule() -> Rule {
    Rule {
        name: "rule-0".into(),
        matches: vec![any_match()],
        auth: None,
        policies: Vec::new(),
        cache: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        rewrite: None,
        mirrors: Vec::new(),
        cors: None,
        timeouts: Timeouts::default(),
        action: Action::Backends(vec![WeightedTarget::plain(1, Target::App)]),
        broken: None,
    }
}

/// Every request.
pub(crate) fn any_match() -> Match {
    Match {
        path: PathMatch::Prefix("/".into()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        cookies: Vec::new(),
    }
}

/// A policy; one that does not compile refuses what it covers.
pub(crate) fn policy(name: &UnitName, policy: LimitPolicy, report: &mut Report) -> Unit {
    let unit = Unit::Policy(policy.clone());
    let Some(error) = flaw(name, &unit) else {
        return unit;
    };
    report.error("spec", &error);
    Unit::Policy(LimitPolicy {
        limits: Vec::new(),
        broken: Some(error),
        ..policy
    })
}

/// A shard map; one that does not compile refuses what it gets.
pub(crate) fn shard_map(name: &UnitName, map: ShardMap, report: &mut Report) -> Unit {
    let unit = Unit::ShardMap(map.clone());
    let Some(error) = flaw(name, &unit) else {
        return unit;
    };
    report.error("spec", &error);
    Unit::ShardMap(broken_map(map, error))
}

/// A map that refuses everything.
pub(crate) fn broken_map(map: ShardMap, error: ConfigError) -> ShardMap {
    ShardMap {
        key: Vec::new(),
        slots: Vec::new(),
        hold: Vec::new(),
        pins: Vec::new(),
        shards: Vec::new(),
        replica_methods: Vec::new(),
        broken: Some(error),
        ..map
    }
}

/// A unit that nothing can stand in for: whoever needs it refuses while it is missing.
pub(crate) fn other(name: UnitName, unit: Unit, resolved: &mut Resolved, report: &mut Report) {
    match flaw(&name, &unit) {
        None => drop(resolved.units.insert(name, unit)),
        Some(error) => {
            let what = format!("{name}: {}", error.message);
            report.error("", &ConfigError::new(error.reason, what));
        }
    }
}
