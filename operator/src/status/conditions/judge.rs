//! What an object's conditions say, as a pure function of what is known of it.
//!
//! `Accepted`, `ResolvedRefs` and `Programmed` are the facts; `Ready`, `Reconciling` and `Stalled` sum them up as kstatus
//! reads them.

use std::time::Duration;

use sluice_crds::shard_set::{MovePhase, MoveStatus};
use sluice_translate::{Condition as Concern, Finding, FindingReason};

use super::{Kind, Reason, Verdict, truncated};
use crate::stream::{
    Live,
    table::{Missing, Why},
};

/// Findings and pods that a message names; the rest are counted.
const NAMED: usize = 3;
/// The longest message; the API allows 32768, a person reads less.
const MAX_MESSAGE: usize = 2048;
/// How long an unresolved reference counts as on its way: objects applied together arrive one by one.
pub const REFS_PATIENCE: Duration = Duration::from_secs(10);

/// How far the HorizontalPodAutoscaler of a route has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scaling {
    /// Written, or of another route that speaks for the workload.
    Applied,
    /// Not tried yet.
    Pending,
    /// Somebody else's object is in the way.
    Taken(String),
    /// The API server refused it.
    Failed(String),
    /// Written, and without metrics: somebody else serves the metrics API, or nobody does.
    MetricsElsewhere(String),
    /// File mode: nobody scales.
    NoCluster,
}

/// What is known of an object.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What is wrong with it.
    pub findings: &'a [Finding],
    /// Where it is live.
    pub live: &'a Live,
    /// The move of a ShardSet's slots.
    pub moving: Option<&'a MoveStatus>,
    /// The HorizontalPodAutoscaler, of a route that asks for one.
    pub scaling: Option<&'a Scaling>,
    /// For how long a reference has been unresolved, as far as its status says.
    pub unresolved_for: Duration,
}

/// The conditions of an object.
pub fn judge(facts: &Facts<'_>) -> Vec<Verdict> {
    let accepted = by_findings(Kind::Accepted, Concern::Accepted, facts.findings);
    let resolved = by_findings(Kind::ResolvedRefs, Concern::ResolvedRefs, facts.findings);
    let programmed = programmed(facts, accepted.holds);
    let ready = ready([&accepted, &resolved, &programmed]);
    let stalled = stalled(facts, &accepted, &resolved);
    let reconciling = reconciling(facts, &ready, &stalled, &programmed);
    let scaling = facts.scaling.map(|state| scaling(facts.findings, state));
    let accepted = with_warnings(accepted, facts.findings);
    [accepted, resolved, programmed, ready, reconciling, stalled]
        .into_iter()
        .chain(scaling)
        .collect()
}

fn verdict(kind: Kind, holds: bool, reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict {
        kind,
        holds,
        reason,
        message: message.into(),
    }
}

fn good(kind: Kind) -> Verdict {
    verdict(kind, true, Reason::Good(kind), "")
}

fn by_findings(kind: Kind, concern: Concern, findings: &[Finding]) -> Verdict {
    let of: Vec<_> = about(concern, findings).collect();
    match of.first() {
        None => good(kind),
        Some(first) => {
            let messages = of.iter().map(|finding| finding.message.as_str());
            verdict(kind, false, Reason::Finding(first.reason), listed(messages))
        }
    }
}

fn about(concern: Concern, findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings
        .iter()
        .filter(move |finding| finding.reason.condition() == concern)
}

/// Warnings touch no condition; this is where their owner finds them.
fn with_warnings(accepted: Verdict, findings: &[Finding]) -> Verdict {
    let warnings = about(Concern::Warning, findings);
    let texts: Vec<_> = warnings
        .map(|finding| format!("{}: {}", finding.reason.as_str(), finding.message))
        .collect();
    match accepted.holds && !texts.is_empty() {
        true => verdict(
            accepted.kind,
            true,
            accepted.reason,
            listed(texts.iter().map(String::as_str)),
        ),
        false => accepted,
    }
}

fn programmed(facts: &Facts<'_>, accepted: bool) -> Verdict {
    let Live {
        pods, of, missing, ..
    } = facts.live;
    if let Some(moving) = facts.moving {
        return verdict(
            Kind::Programmed,
            false,
            Reason::MovePending,
            move_message(moving),
        );
    }
    if *of == 0 {
        return match accepted {
            true => verdict(
                Kind::Programmed,
                true,
                Reason::NoPods,
                "no pod is there yet to be configured",
            ),
            false => verdict(
                Kind::Programmed,
                false,
                Reason::NotAccepted,
                "given to no pod, see Accepted",
            ),
        };
    }
    match missing.is_empty() {
        true => good(Kind::Programmed),
        false => {
            let live = format!("live on {pods} of {of} pods");
            let missing = missing.iter().map(pod_text).collect::<Vec<_>>();
            let text = listed(
                [live.as_str()]
                    .into_iter()
                    .chain(missing.iter().map(String::as_str)),
            );
            verdict(Kind::Programmed, false, Reason::PodsPending, text)
        }
    }
}

fn pod_text(missing: &Missing) -> String {
    let Missing { pod, why, .. } = missing;
    match why {
        Why::NotConnected(since) => {
            format!("{pod} not connected{}", coarse(since.unwrap_or_default()))
        }
        Why::Bare => format!(
            "{pod} has no sidecar, it was made without the injecting webhook: restart its workload"
        ),
        Why::Pending => format!("{pod} has not acknowledged it"),
        Why::TooOld { .. } => format!("{pod} SidecarTooOld: restart it"),
        Why::Refused { reason, .. } => {
            format!("{pod} refused it ({reason}): restart it, and report this")
        }
    }
}

/// ` for 30s`: rounded down to few steps, because every other text is another write.
fn coarse(elapsed: Duration) -> String {
    let steps = [
        (86_400, "1d"),
        (3600, "1h"),
        (900, "15m"),
        (300, "5m"),
        (60, "1m"),
        (30, "30s"),
        (10, "10s"),
    ];
    let step = steps
        .iter()
        .find(|(seconds, _)| elapsed.as_secs() >= *seconds);
    step.map(|(_, text)| format!(" for {text}"))
        .unwrap_or_default()
}

fn move_message(moving: &MoveStatus) -> String {
    let MoveStatus {
        phase,
        slots,
        attempts,
        message,
        ..
    } = moving;
    let slots = listed_by(", ", slots.iter().map(|range| range.as_str()));
    match phase {
        MovePhase::Waiting => format!("the move of slots {slots} {message}"),
        MovePhase::Holding => {
            format!("requests for slots {slots} are held until every pod has settled")
        }
        MovePhase::BackingOff => {
            format!(
                "the move of slots {slots} was given up {attempts} times and will be tried again: {message}"
            )
        }
    }
}

/// The first that does not hold speaks for all.
fn ready(parts: [&Verdict; 3]) -> Verdict {
    match parts.into_iter().find(|part| !part.holds) {
        None => good(Kind::Ready),
        Some(part) => verdict(Kind::Ready, false, part.reason, part.message.clone()),
    }
}

fn stalled(facts: &Facts<'_>, accepted: &Verdict, resolved: &Verdict) -> Verdict {
    let by = |verdict: &Verdict| {
        self::verdict(Kind::Stalled, true, verdict.reason, verdict.message.clone())
    };
    if !accepted.holds {
        return by(accepted);
    }
    if !resolved.holds && facts.unresolved_for >= REFS_PATIENCE {
        return by(resolved);
    }
    let stuck = facts
        .live
        .missing
        .iter()
        .find_map(|missing| Some((stuck(&missing.why)?, pod_text(missing))));
    match stuck {
        Some((reason, text)) => verdict(Kind::Stalled, true, reason, text),
        None => verdict(Kind::Stalled, false, Reason::Progressing, ""),
    }
}

/// What waiting does not mend about a pod.
fn stuck(why: &Why) -> Option<Reason> {
    match why {
        Why::Bare => Some(Reason::SidecarMissing),
        Why::TooOld { .. } => Some(Reason::SidecarTooOld),
        Why::Refused { .. } => Some(Reason::SidecarRefused),
        Why::NotConnected(_) | Why::Pending => None,
    }
}

fn reconciling(
    facts: &Facts<'_>,
    ready: &Verdict,
    stalled: &Verdict,
    programmed: &Verdict,
) -> Verdict {
    let waits = facts.moving.is_some()
        || facts
            .live
            .missing
            .iter()
            .any(|missing| stuck(&missing.why).is_none());
    let on_its_way = !ready.holds && (!stalled.holds || waits);
    match on_its_way {
        true if !programmed.holds => verdict(Kind::Reconciling, true, programmed.reason, ""),
        true => verdict(Kind::Reconciling, true, ready.reason, ""),
        false => verdict(Kind::Reconciling, false, Reason::Settled, ""),
    }
}

fn scaling(findings: &[Finding], state: &Scaling) -> Verdict {
    let found = by_findings(Kind::Scaling, Concern::Scaling, findings);
    if !found.holds {
        return found;
    }
    let broken = |reason, message: &str| verdict(Kind::Scaling, false, reason, message);
    match state {
        Scaling::Applied => good(Kind::Scaling),
        Scaling::Pending => broken(
            Reason::Pending,
            "the HorizontalPodAutoscaler is not written yet",
        ),
        Scaling::Taken(what) => broken(Reason::Finding(FindingReason::TargetTaken), what),
        Scaling::Failed(what) => broken(Reason::ApplyFailed, what),
        Scaling::MetricsElsewhere(what) => broken(Reason::MetricsElsewhere, what),
        Scaling::NoCluster => broken(
            Reason::NoCluster,
            "manifests of a directory are scaled by nobody",
        ),
    }
}

/// The first few texts, and how many more there are.
fn listed<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    listed_by("; ", texts)
}

fn listed_by<'a>(separator: &str, texts: impl Iterator<Item = &'a str>) -> String {
    let texts: Vec<_> = texts.collect();
    // One more than named pods, for the count in front of them.
    let mut message = texts
        .iter()
        .take(NAMED + 1)
        .copied()
        .collect::<Vec<_>>()
        .join(separator);
    if let Some(more @ 1..) = texts.len().checked_sub(NAMED + 1) {
        message.push_str(&format!("{separator}and {more} more"));
    }
    truncated(message, MAX_MESSAGE)
}

#[cfg(test)]
mod tests;
