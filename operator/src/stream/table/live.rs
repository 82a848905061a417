//! Where an object is live, by what sidecars have acknowledged. Pure.

use std::{fmt, time::Duration};

use sluice_snapshot::{Hash, UnitName};
use sluice_translate::PodRef;
use tokio::time::Instant;

use super::{
    super::update::Denial,
    limits::LimitSeen,
    merged::Merged,
    record::{Lost, LostBy},
};

/// What the pods of one group must have acknowledged for an object to be live there.
#[derive(Debug, Clone, Default)]
pub struct Required {
    /// The object's policy units in this group.
    pub units: Vec<(UnitName, Hash)>,
    /// The group's pods.
    pub pods: Vec<PodRef>,
}

/// Where an object is live.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Pods that hold it.
    pub pods: usize,
    /// Pods that should.
    pub of: usize,
    /// The slowest of those that hold it, from publication to Ack, milliseconds.
    pub slowest_ms: Option<u64>,
    /// Pods that should, whose sidecar is connected and of another build than this operator.
    pub outdated: usize,
    /// Those that do not, by name.
    pub missing: Vec<Missing>,
    /// What sidecars say of the limits of a policy, each by itself.
    pub limits: Vec<LimitSeen>,
}

/// A pod that does not hold an object yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Why.
    pub why: Why,
}

/// Why a pod does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It has no session; for how long, where the operator saw one.
    NotConnected(Option<Duration>),
    /// It has no sidecar that could connect, though its namespace asks for one: restart its workload.
    Bare,
    /// It is connected and has not acknowledged this yet.
    Pending,
    /// Its build cannot honour a unit: restart it.
    TooOld {
        /// The features it lacks.
        lacks: Vec<&'static str>,
    },
    /// It refused a unit.
    Refused {
        /// The unit.
        unit: String,
        /// Its words.
        reason: String,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected(Some(since)) => write!(f, "not connected for {}s", since.as_secs()),
            Self::NotConnected(None) => write!(f, "not connected"),
            Self::Bare => write!(f, "no sidecar: restart its workload"),
            Self::Pending => write!(f, "pending"),
            Self::TooOld { lacks } => {
                write!(f, "SidecarTooOld (lacks {}): restart it", lacks.join(", "))
            }
            Self::Refused { unit, reason } => write!(f, "refused {unit}: {reason}"),
        }
    }
}

/// How long it took, or why not. A sidecar whose replica was lost goes on holding what it acknowledged while it looks for
/// another: its session is unknown, and nothing says that it serves anything else.
pub(super) fn holds(
    merged: Option<Merged<'_>>,
    units: &[(UnitName, Hash)],
    now: Instant,
) -> Result<u64, Why> {
    let Some(Merged { record, held }) = merged else {
        return Err(Why::NotConnected(None));
    };
    if let Some(Lost { at, by }) = record.lost
        && (by == LostBy::Sidecar || record.is_gone(now))
    {
        let since = now.saturating_duration_since(at);
        return Err(Why::NotConnected(Some(since)));
    }
    let nacked = record.nacked.as_ref();
    if let Some(nacked) =
        nacked.filter(|nacked| units.iter().any(|(name, _)| name.as_str() == nacked.unit))
    {
        return Err(Why::Refused {
            unit: nacked.unit.clone(),
            reason: nacked.reason.clone(),
        });
    }
    let Some(acked) = &held.acked else {
        return Err(Why::Pending);
    };
    let mut slowest = 0;
    for (name, hash) in units {
        match acked.denied.get(name) {
            Some(Denial::TooOld { lacks }) => {
                return Err(Why::TooOld {
                    lacks: lacks.clone(),
                });
            }
            Some(Denial::Refused { reason }) => {
                return Err(Why::Refused {
                    unit: name.to_string(),
                    reason: reason.clone(),
                });
            }
            None => {}
        }
        if acked.manifest.get(name) != Some(hash) {
            return Err(Why::Pending);
        }
        if let Some((of, latency)) = held.latencies.get(name)
            && of == hash
        {
            slowest = slowest.max(*latency);
        }
    }
    Ok(slowest)
}
