//! The sessions that other replicas have, and which of several records of one pod counts. Pure.
//!
//! A pod has one session at a time. Where two replicas each know of one, a connected one counts before a lost one, and
//! of two the newer. Times of another replica come as ages, so no clock is compared with another's.

use std::{
    collections::{HashMap, HashSet},
    iter,
};

use sluice_translate::PodKey;
use tokio::time::Instant;

use super::record::{Lost, LostBy, Record};
use crate::load::Load;

/// What a pod's sidecar is known to be and to hold.
#[derive(Debug, Clone, Copy)]
pub struct Merged<'t> {
    /// The session that counts.
    pub record: &'t Record,
    /// Where what it acknowledged last is written: its own record, or one of the session before, at another replica.
    pub held: &'t Record,
}

impl<'t> Merged<'t> {
    /// The best of a pod's records; with `uid`, of that very pod.
    pub fn of(records: impl Iterator<Item = &'t Record>, uid: Option<&str>) -> Option<Self> {
        let mut best: Option<&Record> = None;
        let mut held: Option<&Record> = None;
        for record in records.filter(|it| uid.is_none_or(|uid| it.principal.uid == uid)) {
            if best.is_none_or(|best| rank(best) < rank(record)) {
                best = Some(record);
            }
            let acked_at = |it: &Record| it.acked.as_ref().map(|acked| acked.at);
            if held.is_none_or(|held| acked_at(held) < acked_at(record)) {
                held = Some(record);
            }
        }
        let record = best?;
        let held = match held {
            Some(held) if record.acked.is_none() && held.principal == record.principal => held,
            _ => record,
        };
        Some(Self { record, held })
    }

    /// As one record.
    pub fn to_record(self) -> Record {
        let mut record = self.record.clone();
        if record.acked.is_none() {
            record.inherit(self.held);
        }
        record
    }
}

/// Connected before lost, then the newer.
fn rank(record: &Record) -> (bool, Instant) {
    let since = match record.lost {
        None => record.connected_at,
        // A replica's own end says nothing about when the sidecar was seen last.
        Some(Lost {
            by: LostBy::Replica,
            ..
        }) => record.connected_at,
        Some(Lost { at, .. }) => at,
    };
    (record.lost.is_none(), since)
}

/// A session of another replica: its number and its state's version, both of that replica's counting.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The session.
    pub id: u64,
    /// Grows with each change of it.
    pub version: u64,
    /// Its state.
    pub record: Record,
}

/// What another replica told at once.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// Whether it is everything, rather than what changed.
    pub whole: bool,
    /// Sessions that it has forgotten.
    pub gone: Vec<u64>,
    /// Sessions that are new or changed.
    pub changed: Vec<Remote>,
    /// Loads of sessions that it has.
    pub loads: Vec<(u64, Load)>,
}

/// The sessions of one other replica, in one life of its.
#[derive(Debug, Default)]
pub(super) struct Replica {
    connected: bool,
    by_pod: HashMap<PodKey, Remote>,
    by_id: HashMap<u64, PodKey>,
}

impl Replica {
    /// Takes a turn in; whether a session came, changed or went.
    pub(super) fn take(&mut self, turn: Turn) -> bool {
        let Turn {
            whole,
            gone,
            changed,
            loads,
        } = turn;
        self.connected = true;
        if whole {
            self.by_pod.clear();
            self.by_id.clear();
        }
        let news = whole || !gone.is_empty() || !changed.is_empty();
        for id in gone {
            self.forget(id);
        }
        for remote in changed {
            self.put(remote);
        }
        for (id, load) in loads {
            if let Some(remote) = self.by_id.get(&id).and_then(|key| self.by_pod.get_mut(key)) {
                remote.record.load = Some(load);
            }
        }
        news
    }

    /// A session's state, unless a newer one is known. Of two sessions of a pod the later number counts.
    fn put(&mut self, mut remote: Remote) {
        let principal = &remote.record.principal;
        let key = PodKey::new(&principal.namespace, &principal.pod);
        if let Some(known) = self.by_pod.get(&key) {
            if (known.id, known.version) > (remote.id, remote.version) {
                return;
            }
            remote.record.load = remote.record.load.or(known.record.load);
            self.by_id.remove(&known.id);
        }
        self.by_id.insert(remote.id, key.clone());
        self.by_pod.insert(key, remote);
    }

    fn forget(&mut self, id: u64) {
        if let Some(key) = self.by_id.remove(&id) {
            self.by_pod.remove(&key);
        }
    }

    /// The replica is lost: its sessions are unknown from now on.
    pub(super) fn lost(&mut self, now: Instant) {
        self.connected = false;
        for remote in self.by_pod.values_mut() {
            remote.record.lost.get_or_insert(Lost {
                at: now,
                by: LostBy::Replica,
            });
        }
    }

    /// Forgets what has been unknown for long enough; whether there was any.
    pub(super) fn prune(&mut self, now: Instant) -> bool {
        let gone: HashSet<u64> = self
            .by_pod
            .values()
            .filter(|remote| remote.record.is_gone(now))
            .map(|remote| remote.id)
            .collect();
        gone.iter().for_each(|id| self.forget(*id));
        !gone.is_empty()
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_over(&self) -> bool {
        !self.connected && self.by_pod.is_empty()
    }

    pub(super) fn get(&self, key: &PodKey) -> Option<&Record> {
        self.by_pod.get(key).map(|remote| &remote.record)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PodKey, &Record)> {
        iter::zip(self.by_pod.keys(), self.by_pod.values())
            .map(|(key, remote)| (key, &remote.record))
    }

    /// How many sidecars are connected to it, while it is followed.
    pub(super) fn share(&self) -> Option<usize> {
        let records = self.by_pod.values().map(|remote| &remote.record);
        self.connected
            .then(|| records.filter(|record| record.is_connected()).count())
    }

    pub(super) fn len(&self) -> usize {
        self.by_pod.len()
    }
}
