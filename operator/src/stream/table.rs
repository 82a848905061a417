//! Who is connected and what each sidecar holds: the table behind "live on n of m pods", fleet facts and moves. Only an
//! Ack says what a sidecar holds. A lost session is *unknown* for [`UNKNOWN_FOR`], not gone.
//!
//! Readers take values out; whoever wants to know when to look again follows [`SessionTable::changes`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sluice_snapshot::{Hash, UnitName, Version, stream::Report};
use sluice_translate::{GroupId, PodKey, PodRef};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    published::{Manifest, Snapshot},
    update::Denial,
};
use crate::identity::Principal;

/// How long a lost session counts as unknown.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(15);
/// Held shard maps that a session's `Settled` is remembered for.
const MAX_SETTLED: usize = 256;

/// What a sidecar acknowledged last.
#[derive(Debug, Clone)]
pub struct Acked {
    /// The version.
    pub version: Version,
    /// What it holds by it.
    pub manifest: Arc<Manifest>,
    /// What it holds as denied.
    pub denied: BTreeMap<UnitName, Denial>,
    /// When the Ack came.
    pub at: Instant,
}

/// What a sidecar refused last.
#[derive(Debug, Clone)]
pub struct Nacked {
    /// The version.
    pub version: String,
    /// The unit it named.
    pub unit: String,
    /// Its words, bounded.
    pub reason: String,
}

/// One sidecar, as of now.
#[derive(Debug, Clone)]
pub struct Record {
    /// The pod.
    pub principal: Principal,
    /// Its group.
    pub group: GroupId,
    /// Its build, in its own words, bounded; for people.
    pub build: String,
    /// When it connected.
    pub connected_at: Instant,
    /// When the session was lost; `None` while it is connected.
    pub lost_at: Option<Instant>,
    /// What it holds.
    pub acked: Option<Acked>,
    /// What it refused, unless it acknowledged something since.
    pub nacked: Option<Nacked>,
    /// Its latest load report.
    pub report: Option<Report>,
    /// Shard maps under a hold whose last earlier request has ended: unit -> epoch and the hash that carried the hold.
    pub settled: BTreeMap<UnitName, (u64, Hash)>,
    /// How long each policy unit took to be acknowledged, from its publication or the connection, milliseconds.
    latencies: HashMap<UnitName, (Hash, u64)>,
}

#[derive(Debug)]
struct Seat {
    session: u64,
    end: CancellationToken,
    record: Record,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: u64,
    by_pod: HashMap<PodKey, Seat>,
}

/// The table.
#[derive(Debug)]
pub struct SessionTable {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    started: Instant,
    /// Whether it was told that pods are not unknown any more merely because the operator started.
    starting: AtomicBool,
}

/// A session's own row; dropping it marks the session lost.
#[derive(Debug)]
pub struct Row {
    table: Arc<SessionTable>,
    key: PodKey,
    session: u64,
    /// Cancelled when the pod connects again: the newer session counts.
    pub replaced: CancellationToken,
}

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
    /// Those that do not, by name.
    pub missing: Vec<Missing>,
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

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotConnected(Some(since)) => write!(f, "not connected for {}s", since.as_secs()),
            Self::NotConnected(None) => write!(f, "not connected"),
            Self::Pending => write!(f, "pending"),
            Self::TooOld { lacks } => {
                write!(f, "SidecarTooOld (lacks {}): restart it", lacks.join(", "))
            }
            Self::Refused { unit, reason } => write!(f, "refused {unit}: {reason}"),
        }
    }
}

impl SessionTable {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            changes: watch::Sender::new(0),
            started: Instant::now(),
            starting: AtomicBool::new(true),
        })
    }

    /// Ticks when a session came, was lost or forgotten, acknowledged, refused or settled, and when the time after a start
    /// is over in which everybody is unknown. Reports do not tick.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Seats a session of `principal`; an earlier one of the pod ends. What the same pod held before it still holds.
    pub fn seat(
        self: &Arc<Self>,
        principal: Principal,
        group: GroupId,
        build: String,
        now: Instant,
    ) -> Row {
        let key = PodKey::new(&principal.namespace, &principal.pod);
        let replaced = CancellationToken::new();
        let mut inner = self.lock();
        inner.sessions += 1;
        let session = inner.sessions;
        let former = inner.by_pod.remove(&key);
        let mut record = Record {
            principal,
            group,
            build,
            connected_at: now,
            lost_at: None,
            acked: None,
            nacked: None,
            report: None,
            settled: BTreeMap::new(),
            latencies: HashMap::new(),
        };
        if let Some(former) = former {
            former.end.cancel();
            if former.record.principal == record.principal {
                record.acked = former.record.acked;
                record.settled = former.record.settled;
                record.latencies = former.record.latencies;
            }
        }
        let seat = Seat {
            session,
            end: replaced.clone(),
            record,
        };
        inner.by_pod.insert(key.clone(), seat);
        drop(inner);
        self.tick();
        Row {
            table: self.clone(),
            key,
            session,
            replaced,
        }
    }

    /// The session of a pod, connected or unknown.
    pub fn record(&self, namespace: &str, pod: &str) -> Option<Record> {
        let inner = self.lock();
        let seat = inner.by_pod.get(&PodKey::new(namespace, pod))?;
        Some(seat.record.clone())
    }

    /// Every session, connected or unknown.
    pub fn records(&self) -> Vec<Record> {
        let inner = self.lock();
        inner
            .by_pod
            .values()
            .map(|seat| seat.record.clone())
            .collect()
    }

    /// Where an object is live.
    pub fn live(&self, required: &[Required], now: Instant) -> Live {
        let inner = self.lock();
        let mut live = Live::default();
        for Required { units, pods } in required {
            for pod in pods.iter().filter(|pod| pod.counts) {
                live.of += 1;
                let key = PodKey::new(&pod.namespace, &pod.name);
                let record = inner
                    .by_pod
                    .get(&key)
                    .map(|seat| &seat.record)
                    .filter(|record| record.principal.uid == pod.uid);
                match holds(record, units, now) {
                    Ok(latency) => {
                        live.pods += 1;
                        live.slowest_ms = live.slowest_ms.max(Some(latency));
                    }
                    Err(why) => live.missing.push(Missing {
                        namespace: pod.namespace.clone(),
                        pod: pod.name.clone(),
                        why,
                    }),
                }
            }
        }
        live.missing
            .sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        live
    }

    /// Pods, by name, whose session is connected or unknown. In the first [`UNKNOWN_FOR`] of this process every pod of
    /// `pods` is unknown: the operator restarted, not the fleet.
    pub fn alive<'a>(&self, pods: &'a [PodRef], now: Instant) -> BTreeSet<&'a str> {
        let inner = self.lock();
        let all_unknown = now.duration_since(self.started) < UNKNOWN_FOR;
        pods.iter()
            .filter(|pod| {
                all_unknown
                    || inner
                        .by_pod
                        .get(&PodKey::new(&pod.namespace, &pod.name))
                        .is_some_and(|seat| seat.record.principal.uid == pod.uid)
            })
            .map(|pod| pod.name.as_str())
            .collect()
    }

    /// How many sessions are connected, and how many are unknown.
    pub fn count(&self) -> (usize, usize) {
        let inner = self.lock();
        let lost = inner
            .by_pod
            .values()
            .filter(|seat| seat.record.lost_at.is_some())
            .count();
        (inner.by_pod.len() - lost, lost)
    }

    /// Forgets sessions that have been unknown for long enough; to be called about once a second.
    pub fn prune(&self, now: Instant) {
        let mut inner = self.lock();
        let before = inner.by_pod.len();
        inner.by_pod.retain(|_, seat| {
            seat.record
                .lost_at
                .is_none_or(|lost| now.duration_since(lost) < UNKNOWN_FOR)
        });
        let pruned = inner.by_pod.len() != before;
        drop(inner);
        let started = now.duration_since(self.started) >= UNKNOWN_FOR
            && self.starting.swap(false, Ordering::Relaxed);
        if pruned || started {
            self.tick();
        }
    }

    fn tick(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long it took, or why not.
fn holds(record: Option<&Record>, units: &[(UnitName, Hash)], now: Instant) -> Result<u64, Why> {
    let Some(record) = record else {
        return Err(Why::NotConnected(None));
    };
    if let Some(lost) = record.lost_at {
        return Err(Why::NotConnected(Some(now.duration_since(lost))));
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
    let Some(acked) = &record.acked else {
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
        if let Some((of, latency)) = record.latencies.get(name)
            && of == hash
        {
            slowest = slowest.max(*latency);
        }
    }
    Ok(slowest)
}

impl Row {
    /// The sidecar holds what it was sent.
    pub fn acked(&self, acked: Acked, snapshot: &Snapshot) {
        self.update(|record| {
            for (name, hash) in acked
                .manifest
                .iter()
                .filter(|(name, _)| name.kind().is_policy())
            {
                if record
                    .latencies
                    .get(name)
                    .is_some_and(|(known, _)| known == hash)
                {
                    continue;
                }
                let since = snapshot
                    .units
                    .get(name)
                    .map_or(snapshot.published, |entry| entry.since)
                    .max(record.connected_at);
                let latency = acked.at.saturating_duration_since(since).as_millis();
                let latency = u64::try_from(latency).unwrap_or(u64::MAX);
                record
                    .latencies
                    .insert(name.clone(), (hash.clone(), latency));
            }
            record
                .latencies
                .retain(|name, _| acked.manifest.contains_key(name));
            // A hold that is over needs no memory.
            record
                .settled
                .retain(|name, (_, hash)| acked.manifest.get(name) == Some(&*hash));
            record.nacked = None;
            record.acked = Some(acked);
        });
    }

    /// The sidecar refused what it was sent.
    pub fn nacked(&self, nacked: Nacked) {
        self.update(|record| record.nacked = Some(nacked));
    }

    /// The last request from before a hold has ended. Only a unit that the sidecar holds can settle.
    pub fn settled(&self, unit: UnitName, epoch: u64, hash: Hash) {
        let mut new = false;
        self.quietly(|record| {
            let held = record
                .acked
                .as_ref()
                .is_some_and(|acked| acked.manifest.get(&unit) == Some(&hash));
            if held && record.settled.len() < MAX_SETTLED {
                let settled = (epoch, hash);
                new = record.settled.insert(unit, settled.clone()) != Some(settled);
            }
        });
        if new {
            self.table.tick();
        }
    }

    /// The pod moved to another group.
    pub fn moved(&self, group: GroupId) {
        self.update(|record| record.group = group);
    }

    /// A load report; readers look when they want to.
    pub fn reported(&self, report: Report) {
        self.quietly(|record| record.report = Some(report));
    }

    fn update(&self, change: impl FnOnce(&mut Record)) {
        self.quietly(change);
        self.table.tick();
    }

    fn quietly(&self, change: impl FnOnce(&mut Record)) {
        let mut inner = self.table.lock();
        if let Some(seat) = inner.by_pod.get_mut(&self.key)
            && seat.session == self.session
        {
            change(&mut seat.record);
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.update(|record| record.lost_at = Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests;
