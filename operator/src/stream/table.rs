//! Who is connected and what each sidecar holds: the table behind "live on n of m pods", fleet facts, loads and moves.
//! Only an Ack says what a sidecar holds. A lost session is *unknown* for [`UNKNOWN_FOR`], not gone.
//!
//! It holds this replica's own sessions, and, merged with them for every reader, those that other replicas told of; how
//! those travel is `peers`'. Readers take values out; whoever wants to know when to look again follows
//! [`SessionTable::changes`].

mod instance;
pub mod limits;
pub mod live;
pub mod merged;
pub mod record;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sluice_process::build;
use sluice_snapshot::{Hash, UnitName};
use sluice_translate::{GroupId, PodKey, PodRef};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::published::Snapshot;
use crate::{
    identity::Principal,
    load::{Load, Meter, Sample},
};
pub use instance::{Instance, MAX_INSTANCES};
use limits::LimitSeen;
use live::holds;
pub use live::{Live, Missing, Required, Why};
use merged::Replica;
pub use merged::{Merged, Remote, Turn};
pub use record::{Acked, Build, Lost, LostBy, Nacked, Record};

/// How long a lost session counts as unknown.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(15);
/// Held shard maps that a session's `Settled` is remembered for.
pub const MAX_SETTLED: usize = 256;

/// A session of this replica's.
#[derive(Debug)]
struct Seat {
    session: u64,
    /// Grows with each change of the record, over all seats.
    version: u64,
    /// Grows when the pod's group is set.
    placed: u64,
    end: CancellationToken,
    elsewhere: CancellationToken,
    meter: Meter,
    /// Shared with those who tell other replicas of it; copied when it changes meanwhile.
    record: Arc<Record>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: u64,
    versions: u64,
    by_pod: HashMap<PodKey, Seat>,
    /// Other replicas, by the name of one life of theirs.
    replicas: HashMap<String, Replica>,
}

/// The table.
#[derive(Debug)]
pub struct SessionTable {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    /// Ticks with each `Settled` of this replica's sessions: requests wait for what follows from it.
    settlings: watch::Sender<u64>,
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
    lost_by: LostBy,
    /// Cancelled when the pod connects again: the newer session counts.
    pub replaced: CancellationToken,
    /// Cancelled when the sidecar is to look for another replica.
    pub elsewhere: CancellationToken,
}

/// A session of this replica's, for those who tell others of it.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its number.
    pub id: u64,
    /// Grows with each change of it, but for its load.
    pub version: u64,
    /// Grows when the pod's group is set.
    pub placed: u64,
    /// Its state.
    pub record: Arc<Record>,
}

impl SessionTable {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            changes: watch::Sender::new(0),
            settlings: watch::Sender::new(0),
            started: Instant::now(),
            starting: AtomicBool::new(true),
        })
    }

    /// Ticks when a session came, was lost or forgotten, acknowledged, refused or settled, and when the time after a start
    /// is over in which everybody is unknown. Reports do not tick.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Ticks when a session of this replica's settled.
    pub fn settlings(&self) -> watch::Receiver<u64> {
        self.settlings.subscribe()
    }

    /// Until when a pod without a session may merely not have come back yet, because this operator started.
    pub fn unknown_until(&self) -> Instant {
        self.started + UNKNOWN_FOR
    }

    /// Seats a session of `principal`; an earlier one of the pod ends. What the same pod held before it still holds.
    pub fn seat(
        self: &Arc<Self>,
        principal: Principal,
        group: GroupId,
        build: Build,
        now: Instant,
    ) -> Row {
        let key = PodKey::new(&principal.namespace, &principal.pod);
        self.seat_at(self.lock(), key, principal, group, build, now)
    }

    fn seat_at(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        key: PodKey,
        principal: Principal,
        group: GroupId,
        build: Build,
        now: Instant,
    ) -> Row {
        let (replaced, elsewhere) = (CancellationToken::new(), CancellationToken::new());
        inner.sessions += 1;
        inner.versions += 1;
        let (session, version) = (inner.sessions, inner.versions);
        let mut record = Record::new(principal, group, build, now);
        let mut meter = Meter::default();
        if let Some(former) = inner.by_pod.remove(&key) {
            former.end.cancel();
            if former.record.principal == record.principal {
                record.inherit(&former.record);
                record.load = former.record.load;
                meter = former.meter;
                meter.new_stream();
            }
        }
        let seat = Seat {
            session,
            version,
            placed: 0,
            end: replaced.clone(),
            elsewhere: elsewhere.clone(),
            meter,
            record: Arc::new(record),
        };
        inner.by_pod.insert(key.clone(), seat);
        drop(inner);
        self.tick();
        Row {
            table: self.clone(),
            key,
            session,
            lost_by: LostBy::Sidecar,
            replaced,
            elsewhere,
        }
    }

    /// The session of a pod of that name, connected or unknown, at any replica.
    pub fn record(&self, namespace: &str, pod: &str) -> Option<Record> {
        let inner = self.lock();
        let merged = inner.merged(&PodKey::new(namespace, pod), None)?;
        Some(merged.to_record())
    }

    /// The session of this very pod, connected or unknown, at any replica; of a shared one each session.
    pub fn records_of(&self, pod: &PodRef) -> Vec<Record> {
        let inner = self.lock();
        let sessions = inner.sessions_of(pod).into_iter();
        sessions.map(Merged::to_record).collect()
    }

    /// Every session of every replica, connected or unknown: one for each pod.
    pub fn records(&self) -> Vec<Record> {
        let inner = self.lock();
        let keys: BTreeSet<&PodKey> = inner.all().map(|(key, _)| key).collect();
        keys.into_iter()
            .filter_map(|key| Some(inner.merged(key, None)?.to_record()))
            .collect()
    }

    /// Where an object is live.
    pub fn live(&self, required: &[Required], now: Instant) -> Live {
        let inner = self.lock();
        let mut live = Live::default();
        let today = build::describe();
        for Required { units, pods } in required {
            for pod in pods.iter().filter(|pod| pod.counts) {
                for merged in inner.expected_of(pod) {
                    live.of += 1;
                    let outdated = merged.is_some_and(|merged| merged.record.is_outdated(&today));
                    live.outdated += usize::from(outdated);
                    let of_the_object =
                        |seen: &&LimitSeen| units.iter().any(|(name, _)| *name == seen.policy);
                    if let Some(merged) = merged {
                        let seen = merged.record.limits.iter().filter(of_the_object);
                        live.limits.extend(seen.cloned());
                    }
                    match holds(merged, units, now) {
                        Ok(latency) => {
                            live.pods += 1;
                            live.slowest_ms = live.slowest_ms.max(Some(latency));
                        }
                        Err(why) => live.missing.push(Missing {
                            namespace: pod.namespace.clone(),
                            pod: pod.name.clone(),
                            why: match why {
                                Why::NotConnected(_) if pod.bare => Why::Bare,
                                why => why,
                            },
                        }),
                    }
                }
            }
        }
        live.missing
            .sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        live
    }

    /// How many connected sidecars, at any replica, are of another build than this operator.
    pub fn outdated(&self) -> usize {
        let inner = self.lock();
        let today = build::describe();
        let keys: BTreeSet<&PodKey> = inner.all().map(|(key, _)| key).collect();
        let merged = keys.into_iter().filter_map(|key| inner.merged(key, None));
        merged
            .filter(|merged| merged.record.is_outdated(&today))
            .count()
    }

    /// How many sessions of these pods are connected or unknown, at any replica. In the first [`UNKNOWN_FOR`] of this
    /// process every pod of `pods` is unknown: the operator restarted, not the fleet.
    pub fn alive(&self, pods: &[PodRef], now: Instant) -> usize {
        let inner = self.lock();
        let least = usize::from(now < self.unknown_until());
        let sessions = pods.iter().map(|pod| inner.sessions_of(pod).len());
        sessions.map(|known| known.max(least)).sum()
    }

    /// How many sessions of this replica are connected, and how many are unknown.
    pub fn count(&self) -> (usize, usize) {
        let inner = self.lock();
        let connected = inner
            .by_pod
            .values()
            .filter(|seat| seat.record.is_connected())
            .count();
        (connected, inner.by_pod.len() - connected)
    }

    /// How many sessions other replicas told of.
    pub fn count_of_others(&self) -> usize {
        self.lock().replicas.values().map(Replica::len).sum()
    }

    /// How many sidecars are connected to this replica, and to each of those that it follows.
    pub fn shares(&self) -> (usize, Vec<usize>) {
        let inner = self.lock();
        let connected = inner
            .by_pod
            .values()
            .filter(|seat| seat.record.is_connected());
        let others = inner.replicas.values().filter_map(Replica::share);
        (connected.count(), others.collect())
    }

    /// Has so many of this replica's sidecars look for another one, those first that have been here longest: whoever came
    /// back is not asked again at once. How many there were.
    pub fn send_elsewhere(&self, count: usize) -> usize {
        let inner = self.lock();
        let stays = |seat: &&Seat| seat.record.is_connected() && !seat.elsewhere.is_cancelled();
        let mut seats: Vec<_> = inner.by_pod.values().filter(stays).collect();
        seats.sort_by_key(|seat| seat.record.connected_at);
        seats.truncate(count);
        seats.iter().for_each(|seat| seat.elsewhere.cancel());
        seats.len()
    }

    /// Shows the newest load of each pod that reported to any replica, however old it is.
    pub fn each_load(&self, mut look: impl FnMut(&Principal, &Load)) {
        let inner = self.lock();
        let mut newest: HashMap<&PodKey, (&Principal, &Load)> = HashMap::new();
        for (key, record) in inner.all() {
            let Some(load) = &record.load else { continue };
            let entry = newest.entry(key).or_insert((&record.principal, load));
            if entry.1.at < load.at {
                *entry = (&record.principal, load);
            }
        }
        for (principal, load) in newest.into_values() {
            look(principal, load);
        }
    }

    /// Each session of this replica's.
    pub fn own(&self) -> Vec<Own> {
        let inner = self.lock();
        let own = inner.by_pod.values().map(|seat| Own {
            id: seat.session,
            version: seat.version,
            placed: seat.placed,
            record: seat.record.clone(),
        });
        own.collect()
    }

    /// Takes in what another replica told, in this life of its.
    pub fn merge(&self, replica: &str, turn: Turn) {
        let mut inner = self.lock();
        let news = match inner.replicas.get_mut(replica) {
            Some(known) => known.take(turn),
            None => inner
                .replicas
                .entry(replica.to_owned())
                .or_default()
                .take(turn),
        };
        drop(inner);
        if news {
            self.tick();
        }
    }

    /// Another replica is lost: its sessions are unknown from now on.
    pub fn replica_lost(&self, replica: &str, now: Instant) {
        let mut inner = self.lock();
        if let Some(replica) = inner.replicas.get_mut(replica) {
            replica.lost(now);
        }
        drop(inner);
        self.tick();
    }

    /// Forgets sessions that have been unknown for long enough; to be called about once a second.
    pub fn prune(&self, now: Instant) {
        let mut inner = self.lock();
        let before = inner.by_pod.len();
        inner.by_pod.retain(|_, seat| !seat.record.is_gone(now));
        let mut pruned = inner.by_pod.len() != before;
        inner.replicas.retain(|_, replica| {
            pruned |= replica.prune(now);
            !replica.is_over()
        });
        drop(inner);
        let started = now >= self.unknown_until() && self.starting.swap(false, Ordering::Relaxed);
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

impl Inner {
    fn merged(&self, key: &PodKey, uid: Option<&str>) -> Option<Merged<'_>> {
        let own = self.by_pod.get(key).map(|seat| &*seat.record);
        let others = self.replicas.values().filter_map(|other| other.get(key));
        Merged::of(own.into_iter().chain(others), uid)
    }

    /// The sessions of this very pod, connected or unknown: at most one, but for a shared one.
    fn sessions_of(&self, pod: &PodRef) -> Vec<Merged<'_>> {
        if !pod.shared {
            let key = PodKey::new(&pod.namespace, &pod.name);
            return self.merged(&key, Some(&pod.uid)).into_iter().collect();
        }
        let of_it = |record: &Principal| {
            (&record.namespace, &record.pod, &record.uid) == (&pod.namespace, &pod.name, &pod.uid)
        };
        let all = self.all().filter(|(_, record)| of_it(&record.principal));
        let keys: BTreeSet<&PodKey> = all.map(|(key, _)| key).collect();
        let merged = keys.into_iter().map(|key| self.merged(key, Some(&pod.uid)));
        merged.flatten().collect()
    }

    /// Of whom it is asked whether they hold what this pod should: its session, or that it has none. Of those that share
    /// a pod, whoever went away is not missed while another is there: nobody said how many there are to be.
    fn expected_of(&self, pod: &PodRef) -> Vec<Option<Merged<'_>>> {
        let mut sessions = self.sessions_of(pod);
        sessions.sort_by_key(|merged| !merged.record.is_connected());
        let connected = sessions
            .iter()
            .filter(|it| it.record.is_connected())
            .count();
        sessions.truncate(connected.max(1));
        match sessions.is_empty() {
            true => vec![None],
            false => sessions.into_iter().map(Some).collect(),
        }
    }

    /// Every record; of one pod there may be several.
    fn all(&self) -> impl Iterator<Item = (&PodKey, &Record)> {
        let own = self.by_pod.iter().map(|(key, seat)| (key, &*seat.record));
        own.chain(self.replicas.values().flat_map(Replica::iter))
    }
}

impl Row {
    /// The sidecar holds what it was sent.
    pub fn acked(&self, acked: Acked, snapshot: &Snapshot) {
        self.update(|record| {
            let former = record.acked.as_ref().map(|former| former.manifest.clone());
            // The thousands that stay as they are have their latencies.
            for name in acked.manifest.changed_since(&former.unwrap_or_default()) {
                let Some(hash) = acked.manifest.get(&name) else {
                    record.latencies.remove(&name);
                    continue;
                };
                let known = record.latencies.get(&name);
                if !name.kind().is_policy() || known.is_some_and(|(known, _)| known == hash) {
                    continue;
                }
                let since = snapshot
                    .unit(&name)
                    .map_or(snapshot.published, |entry| entry.since)
                    .max(record.connected_at);
                let latency = acked.at.saturating_duration_since(since).as_millis();
                let latency = u64::try_from(latency).unwrap_or(u64::MAX);
                record.latencies.insert(name, (hash.clone(), latency));
            }
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
        let settled = self.quietly(|seat| {
            let held = seat
                .record
                .acked
                .as_ref()
                .is_some_and(|acked| acked.manifest.get(&unit) == Some(&hash));
            let settled = (epoch, hash);
            if !held
                || seat.record.settled.len() >= MAX_SETTLED
                || seat.record.settled.get(&unit) == Some(&settled)
            {
                return false;
            }
            Arc::make_mut(&mut seat.record)
                .settled
                .insert(unit, settled);
            true
        });
        if settled {
            self.table.tick();
            self.table.settlings.send_modify(|count| *count += 1);
        }
    }

    /// The pod moved to another group.
    pub fn moved(&self, group: GroupId) {
        self.quietly(|seat| {
            Arc::make_mut(&mut seat.record).group = group;
            seat.placed += 1;
            true
        });
        self.table.tick();
    }

    /// A load report; readers look when they want to.
    pub fn reported(&self, sample: Sample) {
        self.quietly(|seat| {
            seat.meter.take(sample);
            if let Some(load) = seat.meter.load() {
                Arc::make_mut(&mut seat.record).load = Some(load);
            }
            false
        });
    }

    /// What the sidecar says of its limits.
    pub fn limits(&self, limits: Vec<LimitSeen>) {
        let changed = self.quietly(|seat| {
            let changed = seat.record.limits != limits;
            if changed {
                Arc::make_mut(&mut seat.record).limits = limits;
            }
            changed
        });
        if changed {
            self.table.tick();
        }
    }

    /// At whose end the session is about to end, where it is not the sidecar's.
    pub fn will_be_lost_by(&mut self, by: LostBy) {
        self.lost_by = by;
    }

    fn update(&self, change: impl FnOnce(&mut Record)) {
        self.quietly(|seat| {
            change(Arc::make_mut(&mut seat.record));
            true
        });
        self.table.tick();
    }

    /// Changes the seat, if it still is this session's; the change says whether it is to be told to other replicas.
    fn quietly(&self, change: impl FnOnce(&mut Seat) -> bool) -> bool {
        let mut inner = self.table.lock();
        let version = inner.versions + 1;
        let Some(seat) = inner
            .by_pod
            .get_mut(&self.key)
            .filter(|seat| seat.session == self.session)
        else {
            return false;
        };
        let changed = change(seat);
        if changed {
            seat.version = version;
            inner.versions = version;
        }
        changed
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let lost = Lost {
            at: Instant::now(),
            by: self.lost_by,
        };
        self.update(|record| record.lost = Some(lost));
    }
}

#[cfg(test)]
mod tests;
