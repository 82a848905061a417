//! Where a request goes once it has a rule: each share, by the pipeline's own choice.

use sluice_pipeline::{
    Identity, RejectReason,
    dispatch::{self, Dispatch},
    facts::StaticFacts,
    order::Phase,
    program::{Action, TargetEdits, WeightedTarget},
    route::Matched,
    target::Target,
};

use super::{
    answer::{Destination, Refusal},
    known::Known,
    words,
};

pub(super) fn refused(percent: f64, refusal: Refusal) -> Destination {
    Destination {
        percent,
        upstream: None,
        to: "nowhere".to_owned(),
        endpoints: None,
        refusal: Some(refusal),
    }
}

pub(super) fn any_serves(destinations: &[Destination]) -> bool {
    destinations
        .iter()
        .any(|destination| destination.percent > 0.0 && destination.refusal.is_none())
}

pub(super) fn share(weighted: &WeightedTarget, total: u64) -> f64 {
    match total {
        0 => 0.0,
        total => f64::from(weighted.weight) * 100.0 / total as f64,
    }
}

/// Where each share goes, as [`dispatch::choose`] says at the beginning of its interval of the draw.
pub(super) fn destinations(
    known: &Known,
    matched: &Matched<'_>,
    facts: &StaticFacts,
    target: &Target,
    identity: Option<&Identity>,
) -> Vec<Destination> {
    let at = |random: u32, percent: f64| {
        let chosen = dispatch::choose(matched, facts, target, identity, random);
        chosen.map_or_else(
            |reject| refused(percent, Refusal::of(&reject, Phase::Dispatch)),
            |dispatch| destination(known, matched, facts, &dispatch, percent),
        )
    };
    match &matched.rule.action {
        Action::Redirect(_) => vec![at(0, 100.0)],
        Action::Backends { targets, total } => {
            let mut before = 0_u64;
            let mut all = Vec::new();
            for weighted in targets.iter().filter(|weighted| weighted.weight > 0) {
                let draw = (u128::from(before) << 32).div_ceil(u128::from(*total));
                // Below 2^32: what is before a target is less than the total.
                let draw = u32::try_from(draw).unwrap_or(u32::MAX);
                all.push(at(draw, share(weighted, *total)));
                before += u64::from(weighted.weight);
            }
            if all.is_empty() {
                all.push(at(0, 100.0));
            }
            all
        }
    }
}

fn destination(
    known: &Known,
    matched: &Matched<'_>,
    facts: &StaticFacts,
    dispatch: &Dispatch<'_>,
    percent: f64,
) -> Destination {
    let (backend, prefix, edits) = match dispatch {
        Dispatch::Redirect { status, location } => {
            return Destination {
                percent,
                upstream: None,
                to: format!("{status}, Location: {location}"),
                endpoints: None,
                refusal: None,
            };
        }
        Dispatch::App { edits } => {
            return Destination {
                percent,
                upstream: Some("app".to_owned()),
                to: with_edits("the own app".to_owned(), edits.map(AsRef::as_ref)),
                endpoints: None,
                refusal: None,
            };
        }
        Dispatch::Forward { backend, edits } => (*backend, String::new(), *edits),
        Dispatch::Shard(choice) => {
            let prefix = format!("shard {} (slot {}) at ", choice.shard, choice.slot);
            (choice.backend, prefix, None)
        }
    };
    let name = format!("{}/{}:{}", backend.namespace, backend.service, backend.port);
    let endpoints = (!known.assumed_pods).then(|| backend.endpoints().len());
    let reject = match endpoints {
        Some(0) => Some(
            matched
                .reject(RejectReason::NoEndpoint)
                .detail(format!("no endpoint of {}", backend.name)),
        ),
        _ => dispatch::may_forward(matched, facts).err(),
    };
    Destination {
        percent,
        upstream: Some(backend.service.clone()),
        to: with_edits(format!("{prefix}{name}"), edits.map(AsRef::as_ref)),
        endpoints,
        refusal: reject.map(|reject| Refusal::of(&reject, Phase::Dispatch)),
    }
}

fn with_edits(name: String, edits: Option<&TargetEdits>) -> String {
    let edits = edits.map(words::target_edits).unwrap_or_default();
    match edits.as_slice() {
        [] => name,
        some => format!("{name} ({})", some.join("; ")),
    }
}
