//! What is known of one sidecar.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use sluice_snapshot::{Hash, UnitName, Version};
use sluice_translate::GroupId;
use tokio::time::Instant;

use super::{
    super::{published::Manifest, update::Denial},
    UNKNOWN_FOR,
    limits::LimitSeen,
};
use crate::{identity::Principal, load::Load};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nacked {
    /// The version.
    pub version: String,
    /// The unit it named.
    pub unit: String,
    /// Its words, bounded.
    pub reason: String,
}

/// What a sidecar says of itself; for people and for `outdated`, never for what it is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// Version and commit, bounded.
    pub name: String,
    /// The features it knows, sorted.
    pub features: Arc<[String]>,
}

/// Whose end ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostBy {
    /// The sidecar's, or the network between: whether it still runs is not known.
    Sidecar,
    /// The replica that had it: it shut down, or was lost itself. The sidecar is on its way to another one.
    Replica,
}

/// A session that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// When.
    pub at: Instant,
    /// At whose end.
    pub by: LostBy,
}

/// One sidecar, as of now.
#[derive(Debug, Clone)]
pub struct Record {
    /// The pod.
    pub principal: Principal,
    /// Its group.
    pub group: GroupId,
    /// Its build, in its own words.
    pub build: Build,
    /// When it connected.
    pub connected_at: Instant,
    /// How the session was lost; `None` while it is connected.
    pub lost: Option<Lost>,
    /// What it holds.
    pub acked: Option<Acked>,
    /// What it refused, unless it acknowledged something since.
    pub nacked: Option<Nacked>,
    /// Its load, as of its last report; it may be old.
    pub load: Option<Load>,
    /// What it says of the limits it enforces.
    pub limits: Vec<LimitSeen>,
    /// Shard maps under a hold whose last earlier request has ended: unit -> epoch and the hash that carried the hold.
    pub settled: BTreeMap<UnitName, (u64, Hash)>,
    /// How long each policy unit took to be acknowledged, from its publication or the connection, milliseconds.
    pub(crate) latencies: HashMap<UnitName, (Hash, u64)>,
}

impl Record {
    /// A sidecar that has said Hello and nothing else.
    pub fn new(principal: Principal, group: GroupId, build: Build, connected_at: Instant) -> Self {
        Self {
            principal,
            group,
            build,
            connected_at,
            lost: None,
            acked: None,
            nacked: None,
            load: None,
            limits: Vec::new(),
            settled: BTreeMap::new(),
            latencies: HashMap::new(),
        }
    }

    /// Whether its session stands.
    pub fn is_connected(&self) -> bool {
        self.lost.is_none()
    }

    /// Whether it is connected and not of the build `today`, the operator's own: a restart of its pod brings another.
    pub fn is_outdated(&self, today: &str) -> bool {
        self.is_connected() && self.build.name != today
    }

    /// Whether it has been lost for so long that it is not unknown any more, but gone.
    pub fn is_gone(&self, now: Instant) -> bool {
        self.lost
            .is_some_and(|lost| now.saturating_duration_since(lost.at) >= UNKNOWN_FOR)
    }

    /// What the same pod held in an earlier session it still holds, as far as is known.
    pub(super) fn inherit(&mut self, former: &Self) {
        self.acked.clone_from(&former.acked);
        self.limits.clone_from(&former.limits);
        self.settled.clone_from(&former.settled);
        self.latencies.clone_from(&former.latencies);
    }
}
