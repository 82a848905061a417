//! Matches that never get a request: an elder route of the same listener has the same match for the same host. Both
//! routes serve as they are; the younger's owners should know.

use sluice_snapshot::unit::route::Match;

use super::{attach, matches};
use crate::{finding::FindingReason, resolve::report::Report, view::View, world::Claim};

/// Reports the shadowed matches of one rule.
pub(super) fn report(
    view: &View<'_>,
    claim: &Claim,
    rule: usize,
    matched: &[Match],
    report: &mut Report,
) {
    for (index, one) in matched.iter().enumerate() {
        if let Some(what) = elder(view, claim, &matches::text(one)) {
            let path = format!("spec.rules[{rule}].matches[{index}]");
            report.add(FindingReason::MatchShadowed, &path, &what);
        }
    }
}

/// The eldest route that gets what a match asks for, in a clause.
fn elder(view: &View<'_>, claim: &Claim, one: &str) -> Option<String> {
    for host in &claim.hostnames {
        for parent in &claim.gateways {
            let rivals = view.routes_of_match(parent, host, one);
            let mut elders: Vec<_> = rivals
                .into_iter()
                .filter(|rival| rival.id != claim.id && rival.age < claim.age)
                .collect();
            elders.sort_by(|a, b| a.age.cmp(&b.age));
            if elders.is_empty() {
                continue;
            }
            let Ok(ours) = attach::attached(view, claim, parent) else {
                continue;
            };
            let Some((namespace, name)) = attach::gateway_of(view, parent) else {
                continue;
            };
            let shadows = elders.into_iter().find(|rival| {
                let theirs = attach::listeners(view, rival, &namespace, &name);
                ours.is_subset(&theirs)
            });
            if let Some(rival) = shadows {
                return Some(format!(
                    "{} is elder and has this match for host {host} on Gateway {namespace}/{name}",
                    rival.id
                ));
            }
        }
    }
    None
}
