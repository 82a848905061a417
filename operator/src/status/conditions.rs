//! The conditions of an object: which there are, why one is as it is, and how they are written. What they say of an
//! object is [`judge`]'s to decide; writing them is the writer's.
//!
//! A condition that says the same keeps its transition time, so that saying it again changes nothing.

mod judge;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sluice_crds::common::Condition;
use sluice_translate::FindingReason;

pub use judge::{Facts, REFS_PATIENCE, Scaling, judge};

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
    /// A pod has no sidecar, and only a new pod in its place gets one.
    SidecarMissing,
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
    /// Nobody gives the HorizontalPodAutoscaler its metrics: the metrics API is not ours.
    MetricsElsewhere,
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
            Self::SidecarMissing => "SidecarMissing",
            Self::SidecarTooOld => "SidecarTooOld",
            Self::SidecarRefused => "SidecarRefused",
            Self::MovePending => "MovePending",
            Self::Settled => "Settled",
            Self::Progressing => "Progressing",
            Self::ApplyFailed => "ApplyFailed",
            Self::MetricsElsewhere => "MetricsElsewhere",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(truncated("ééé".into(), 100), "ééé");
        assert_eq!(truncated("éééé".into(), 6), "é…");
    }
}
