//! What every pod has to do at present, as its sidecar reports it: what scaling is computed from. It scales nothing, and
//! names no metric.
//!
//! A load is counted in requests, not in CPU, so what the sidecar itself costs is no part of it. Reports go to one
//! replica; loads are part of the session table that replicas exchange, so each of them answers for every pod.

pub mod meter;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub use meter::{Load, Meter, Sample};

use crate::stream::SessionTable;

/// How long a pod may be silent before its load is unknown: whoever computes a mean leaves it out then.
pub const SILENCE: Duration = Duration::from_secs(10);

/// The load of one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodLoad {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Requests that ended, per second, over [`meter::WINDOW`].
    pub requests_per_second: f64,
    /// Requests that ran, on average over the same.
    pub in_flight: f64,
    /// The worst 95th percentile of its intervals, microseconds.
    pub latency_p95_us: u64,
    /// When its sidecar reported last, to any replica.
    pub at: Instant,
}

/// The loads of all pods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Loads {
    table: Arc<SessionTable>,
}

impl Loads {
    /// The loads in `table`.
    pub fn new(table: Arc<SessionTable>) -> Self {
        Self { table }
    }

    /// The loads of a namespace's pods that `pick` says yes to, by name; pods that have been silent for [`SILENCE`] are
    /// not among them. It looks at the whole table: for questions that come every few seconds.
    pub fn of_pods(&self, namespace: &str, pick: impl Fn(&PodLoad) -> bool) -> Vec<PodLoad> {
        self.of_pods_at(namespace, pick, Instant::now())
    }

    /// [`Loads::of_pods`] as of `now`.
    pub fn of_pods_at(
        &self,
        namespace: &str,
        pick: impl Fn(&PodLoad) -> bool,
        now: Instant,
    ) -> Vec<PodLoad> {
        let mut loads = Vec::new();
        self.table.each_load(|principal, load| {
            if principal.namespace != namespace || now.duration_since(load.at) >= SILENCE {
                return;
            }
            let Load {
                requests_per_second,
                in_flight,
                latency_p95_us,
                at,
            } = *load;
            let load = PodLoad {
                namespace: principal.namespace.clone(),
                pod: principal.pod.clone(),
                uid: principal.uid.clone(),
                requests_per_second,
                in_flight,
                latency_p95_us,
                at,
            };
            if pick(&load) {
                loads.push(load);
            }
        });
        loads.sort_by(|a, b| a.pod.cmp(&b.pod));
        loads
    }
}
