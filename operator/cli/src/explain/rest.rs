//! Why the others have a request not: the matches of the same table, and the routes that are not in it.

use sluice_pipeline::{
    facts::StaticFacts,
    program::Route,
    route::{self, Before, Standing, Trace},
    target::Target,
};
use sluice_snapshot::{UnitName, unit::inbound::RouteUse};
use sluice_translate::{GroupId, ObjectId, resolve};

use super::{
    answer::{Answer, Elsewhere, Other},
    known::{At, Known},
    words,
};

/// A match that is no other, whatever hostnames it has.
fn identity_of<'t>(trace: &'t Trace<'_>) -> (&'t Route, usize, usize) {
    let candidate = trace.candidate;
    (
        &candidate.route,
        candidate.rule.index,
        candidate.match_index,
    )
}

/// Every match but the one that decides, each once, the nearest first.
pub(super) fn others(traces: &[Trace<'_>], facts: &StaticFacts, target: &Target) -> Vec<Other> {
    let same = |one: &Trace<'_>, other: &Trace<'_>| {
        let (one, other) = (identity_of(one), identity_of(other));
        std::ptr::eq(one.0, other.0) && (one.1, one.2) == (other.1, other.2)
    };
    let decides = traces
        .iter()
        .find(|trace| matches!(trace.standing, Standing::Decides));
    let mut seen: Vec<&Trace<'_>> = decides.into_iter().collect();
    let mut others: Vec<(u8, Other)> = Vec::new();
    for trace in traces {
        if seen.iter().any(|known| same(known, trace)) {
            continue;
        }
        seen.push(trace);
        let (fails, why) = match &trace.standing {
            Standing::Decides => continue,
            Standing::Shadowed(before) => ("shadowed", shadow(*before, decides)),
            Standing::Fails(condition) => words::failure(condition, facts, target),
            Standing::OtherHost => {
                let own = trace.hostname.as_deref().unwrap_or("*");
                let host = route::hostname(facts);
                ("hostname", format!("the host {host} is not {own}"))
            }
        };
        let rule = &trace.candidate.rule;
        let other = Other {
            route: rule.object.clone(),
            rule: rule.name.clone(),
            hostname: trace.hostname.as_ref().map(ToString::to_string),
            spec: words::spec(trace.spec()),
            fails,
            why,
        };
        others.push((distance(fails), other));
    }
    others.sort_by_key(|(distance, _)| *distance);
    others.into_iter().map(|(_, other)| other).collect()
}

/// How far a request is from a match, by what fails first.
fn distance(fails: &str) -> u8 {
    match fails {
        "shadowed" => 0,
        "cookie" => 1,
        "query" => 2,
        "header" => 3,
        "method" => 4,
        "path" => 5,
        _ => 6,
    }
}

fn shadow(before: Before, decides: Option<&Trace<'_>>) -> String {
    let by = decides.map_or("another".to_owned(), |trace| {
        let rule = &trace.candidate.rule;
        format!("{}, rule {}", words::object(&rule.object), rule.name)
    });
    match before {
        Before::Hostname => format!("shadowed by {by}: its hostname is more specific"),
        Before::Match => format!("shadowed by {by}: its match is more specific"),
        Before::Order => {
            format!(
                "shadowed by {by}: of equal matches the elder route, then the first rule goes before"
            )
        }
        Before::Denial => {
            "refused with its whole hostname, of which a route cannot serve".to_owned()
        }
    }
}

/// What is closest to having the request.
pub(super) fn nearest(other: &Other) -> String {
    let Other { rule, why, .. } = other;
    format!(
        "the nearest is {}, rule {rule}: {why}",
        words::object(&other.route)
    )
}

/// Routes that have no part in what was asked.
pub(super) fn elsewhere(
    known: &Known,
    group: &GroupId,
    at: &At,
    port: u16,
    answer: &Answer,
) -> Vec<Elsewhere> {
    let Some(inbound) = known.inbound(group) else {
        return Vec::new();
    };
    let listeners: Vec<(String, &[RouteUse])> = inbound
        .listeners
        .iter()
        .map(|used| (known.listener(&used.unit), used.routes.as_slice()))
        .collect();
    let target = known.target_port(at, port);
    let mut all = Vec::new();
    for id in &known.routes {
        let Some(unit) = resolve::unit_of(id) else {
            continue;
        };
        let uses = |routes: &[RouteUse]| routes.iter().any(|used| used.unit == unit);
        let own: Vec<&str> = listeners
            .iter()
            .filter(|(_, routes)| uses(routes))
            .map(|(name, _)| name.as_str())
            .collect();
        let here = match (at.gateway, &answer.listener) {
            (true, Some(listener)) => own.contains(&listener.as_str()),
            (true, None) => false,
            (false, _) => inbound
                .ports
                .iter()
                .any(|port| Some(port.port) == target && uses(&port.routes)),
        };
        if !here {
            all.push(Elsewhere {
                route: id.reference(),
                why: absent(known, id, &unit, group, &own),
            });
        }
    }
    all
}

fn absent(
    known: &Known,
    id: &ObjectId,
    unit: &UnitName,
    group: &GroupId,
    own: &[&str],
) -> Vec<String> {
    let mut why = known.findings(id);
    if !own.is_empty() {
        why.push(format!("it is attached to {}", own.join(", ")));
    }
    let holders = known.holders(id);
    let others = holders.iter().filter(|holder| *holder != group);
    let others: Vec<String> = others.map(GroupId::to_string).collect();
    if !others.is_empty() {
        why.push(format!("it is in force at {}", others.join(", ")));
    }
    if why.is_empty() {
        why.push(match unit.kind() {
            _ if holders.contains(group) => "it is on another port".to_owned(),
            _ => "it has no parent that serves: a profile, or parentRefs to what is not there"
                .to_owned(),
        });
    }
    why
}
