//! What an object's conditions say, as a pure function of what is known of it. Writing them is the writer's.
//!
//! `Accepted`, `ResolvedRefs` and `Programmed` are the facts; `Ready`, `Reconciling` and `Stalled` sum them up as kstatus
//! reads them. A condition that says the same keeps its transition time, so that saying it again changes nothing.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sluice_crds::{
    common::Condition,
    shard_set::{MovePhase, MoveStatus},
};
use sluice_translate::{Condition as Concern, Finding, FindingReason};

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

/// The conditions, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the reference page of conditions has what each means
pub enum Kind {
    Accepted,
    ResolvedRefs,
    Programmed,
    Ready,
    Reconciling,
    Stalled,
    Scaling,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::ResolvedRefs,
        Self::Programmed,
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::Scaling,
    ];

    /// The condition's `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Scaling => "Scaling",
        }
    }
}

/// Why a condition is as it is. Where a finding is the cause, the reason is the finding's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing speaks against it.
    Good(Kind),
    /// A finding.
    Finding(FindingReason),
    /// There is no pod to be configured.
    NoPods,
    /// The object is given to no pod, because it is not accepted.
    NotAccepted,
    /// Some pods have not acknowledged it.
    PodsPending,
    /// A sidecar is too old for it, and waiting does not mend that.
    SidecarTooOld,
    /// A sidecar refused it.
    SidecarRefused,
    /// Slots have yet to move.
    MovePending,
    /// Nothing is on its way.
    Settled,
    /// Nothing is stuck.
    Progressing,
    /// The HorizontalPodAutoscaler could not be written.
    ApplyFailed,
    /// There is no cluster that could scale.
    NoCluster,
    /// Nobody tried yet.
    Pending,
}

impl Reason {
    /// The condition's `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good(kind) => kind.as_str(),
            Self::Finding(reason) => reason.as_str(),
            Self::NoPods => "NoPods",
            Self::NotAccepted => "NotAccepted",
            Self::PodsPending => "PodsPending",
            Self::SidecarTooOld => "SidecarTooOld",
            Self::SidecarRefused => "SidecarRefused",
            Self::MovePending => "MovePending",
            Self::Settled => "Settled",
            Self::Progressing => "Progressing",
            Self::ApplyFailed => "ApplyFailed",
            Self::NoCluster => "NoCluster",
            Self::Pending => "Pending",
        }
    }
}

/// One condition, without times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which condition.
    pub kind: Kind,
    /// Whether it holds.
    pub holds: bool,
    /// Why.
    pub reason: Reason,
    /// What, where and what mends it; empty where there is nothing to say.
    pub message: String,
}

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

/// At most `max` bytes of a text, cut between characters.
pub fn truncated(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max.saturating_sub(3))
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// The conditions as they are written: each with its generation, and with the time since which it has been so.
pub fn stamped(
    verdicts: &[Verdict],
    known: &[Condition],
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let stamp = |verdict: &Verdict| {
        let Verdict {
            kind,
            holds,
            reason,
            message,
        } = verdict;
        let status = if *holds { "True" } else { "False" };
        let former = known
            .iter()
            .find(|known| known.type_ == kind.as_str() && known.status == status);
        Condition {
            type_: kind.as_str().to_owned(),
            status: status.to_owned(),
            reason: reason.as_str().to_owned(),
            message: message.clone(),
            observed_generation: generation,
            last_transition_time: former
                .map_or_else(|| now.clone(), |former| former.last_transition_time.clone()),
        }
    };
    verdicts.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use sluice_translate::{Kind as ObjectKind, ObjectId};

    use super::*;

    fn finding(reason: FindingReason, what: &str) -> Finding {
        let id = ObjectId::new(ObjectKind::ApiRoute, "shop", "orders");
        Finding::new(&id, reason, Some("spec.rules[0]"), what)
    }

    fn live(pods: usize, missing: &[(&str, Why)]) -> Live {
        Live {
            pods,
            of: pods + missing.len(),
            slowest_ms: Some(7),
            missing: missing
                .iter()
                .map(|(pod, why)| Missing {
                    namespace: "shop".into(),
                    pod: (*pod).into(),
                    why: why.clone(),
                })
                .collect(),
        }
    }

    fn moving(phase: MovePhase, message: &str) -> MoveStatus {
        MoveStatus {
            phase,
            epoch: 3,
            slots: vec!["0-100".into(), "7".into()],
            placement: Vec::new(),
            since: Time(Timestamp::UNIX_EPOCH),
            attempts: 2,
            message: message.into(),
        }
    }

    fn text(facts: &Facts<'_>) -> String {
        let line = |verdict: &Verdict| {
            let Verdict {
                kind,
                holds,
                reason,
                message,
            } = verdict;
            format!(
                "{:<12} {:<5} {:<14} {message}",
                kind.as_str(),
                holds,
                reason.as_str()
            )
            .trim_end()
            .to_owned()
        };
        judge(facts).iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn facts<'a>(findings: &'a [Finding], live: &'a Live) -> Facts<'a> {
        Facts {
            findings,
            live,
            moving: None,
            scaling: None,
            unresolved_for: Duration::ZERO,
        }
    }

    /// Everything that a status can say, side by side: a change of words or of logic shows here.
    #[test]
    fn what_conditions_say() {
        let gone = |seconds| Why::NotConnected(Some(Duration::from_secs(seconds)));
        let old = Why::TooOld {
            lacks: vec!["cache"],
        };
        let refused = Why::Refused {
            unit: "route/shop/orders".into(),
            reason: "regex".into(),
        };
        let many: Vec<_> = (0..9).map(|_| ("p", Why::Pending)).collect();
        let (all, none) = (live(2, &[]), live(0, &[]));
        let invalid = [finding(
            FindingReason::Invalid,
            "the regular expression does not compile",
        )];
        let missing = [finding(
            FindingReason::BackendNotFound,
            "no Service shop/stock",
        )];
        let warned = [finding(
            FindingReason::DuplicateKeyId,
            "key k1 stands in two Secrets",
        )];
        let taken = [finding(
            FindingReason::TargetTaken,
            "HorizontalPodAutoscaler shop/mine scales it already",
        )];
        let patient = REFS_PATIENCE;
        let cases: Vec<(&str, Facts<'_>)> = vec![
            ("good", facts(&[], &all)),
            ("no pods", facts(&[], &none)),
            (
                "pending",
                facts(
                    &[],
                    live_ref(live(
                        118,
                        &[("a", gone(41)), ("b", old.clone()), ("c", gone(2))],
                    )),
                ),
            ),
            ("many pending", facts(&[], live_ref(live(1, &many)))),
            ("too old only", facts(&[], live_ref(live(1, &[("b", old)])))),
            ("refused", facts(&[], live_ref(live(1, &[("b", refused)])))),
            ("invalid, its denial is live", facts(&invalid, &all)),
            ("invalid, given to nobody", facts(&invalid, &none)),
            ("reference missing, just now", facts(&missing, &all)),
            (
                "reference missing, still",
                Facts {
                    unresolved_for: patient,
                    ..facts(&missing, &all)
                },
            ),
            ("warned", facts(&warned, &all)),
            (
                "move waits",
                Facts {
                    moving: Some(move_ref(MovePhase::Waiting, "waits for b")),
                    ..facts(&[], &all)
                },
            ),
            (
                "move holds",
                Facts {
                    moving: Some(move_ref(MovePhase::Holding, "")),
                    ..facts(&[], &all)
                },
            ),
            (
                "move given up",
                Facts {
                    moving: Some(move_ref(MovePhase::BackingOff, "b froze")),
                    ..facts(&[], &all)
                },
            ),
            (
                "scaled",
                Facts {
                    scaling: Some(&Scaling::Applied),
                    ..facts(&[], &all)
                },
            ),
            (
                "target taken",
                Facts {
                    scaling: Some(&Scaling::Pending),
                    ..facts(&taken, &all)
                },
            ),
        ];
        let text: String = cases
            .iter()
            .map(|(name, facts)| format!("# {name}\n{}\n\n", text(facts)))
            .collect();
        insta::assert_snapshot!(text);
    }

    fn live_ref(live: Live) -> &'static Live {
        Box::leak(Box::new(live))
    }

    fn move_ref(phase: MovePhase, message: &str) -> &'static MoveStatus {
        Box::leak(Box::new(moving(phase, message)))
    }

    #[test]
    fn a_condition_that_says_the_same_keeps_its_time_and_every_one_names_its_generation() {
        let at = |second| Time(Timestamp::from_second(second).expect("a time"));
        let all = live(2, &[]);
        let first = stamped(&judge(&facts(&[], &all)), &[], Some(1), &at(10));
        let again = stamped(&judge(&facts(&[], &all)), &first, Some(2), &at(20));
        assert!(
            again
                .iter()
                .all(|condition| condition.last_transition_time == at(10))
        );
        assert!(
            again
                .iter()
                .all(|condition| condition.observed_generation == Some(2))
        );

        let invalid = [finding(FindingReason::Invalid, "x")];
        let broken = stamped(&judge(&facts(&invalid, &all)), &again, Some(3), &at(30));
        let time = |kind: Kind| {
            let found = broken
                .iter()
                .find(|condition| condition.type_ == kind.as_str());
            found.expect("written").last_transition_time.clone()
        };
        assert_eq!(
            (time(Kind::Accepted), time(Kind::Programmed)),
            (at(30), at(10))
        );
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(truncated("ééé".into(), 100), "ééé");
        assert_eq!(truncated("éééé".into(), 6), "é…");
    }
}
