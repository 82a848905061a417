//! What the control thread and the data threads share: the program in force, live state that outlives programs, and the
//! few messages between them. It holds no I/O and decides nothing.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use sluice_pipeline::{Program, UnitSet};
use tokio::sync::{mpsc, watch};

use crate::{
    cache::CacheStore,
    limits::Limits,
    metrics::Metrics,
    nonces::Nonces,
    shards::{Flights, Settled},
    store_api::{StoreCall, StoreHandle},
};

/// Everything that more than one thread sees.
pub struct Shared {
    /// The program in force and the units it was compiled from.
    pub live: Live,
    /// Buckets and slices of rate limits.
    pub limits: Limits,
    /// Nonces this sidecar has seen.
    pub nonces: Nonces,
    /// Stored answers.
    pub cache: CacheStore,
    /// Requests in flight by shard slot, and the holds that wait for them.
    pub flights: Flights,
    /// Counters.
    pub metrics: Metrics,
    /// The way to the stores.
    pub stores: StoreHandle,
    /// Whether traffic should come.
    pub readiness: Readiness,
}

/// What the control thread takes from: one of each exists.
pub struct Inbox {
    /// Holds whose last earlier request has ended: each becomes a `Settled` of the stream. After a reconnect,
    /// [`Flights::settled`] says which still stand.
    pub settled: mpsc::UnboundedReceiver<Settled>,
    /// Calls for the store task.
    pub store_calls: mpsc::Receiver<StoreCall>,
}

impl Shared {
    /// Shared state with the empty program: every port refuses until [`Live::publish`] was called.
    pub fn new(limits: SharedLimits) -> (Arc<Self>, Inbox) {
        let SharedLimits { max_buckets, max_nonces, max_cache_bytes } = limits;
        let (stores, store_calls) = StoreHandle::new();
        let (flights, settled) = Flights::new();
        let shared = Self {
            live: Live::new(),
            limits: Limits::new(max_buckets),
            nonces: Nonces::new(max_nonces),
            cache: CacheStore::new(max_cache_bytes),
            flights,
            metrics: Metrics::default(),
            stores,
            readiness: Readiness::default(),
        };
        (Arc::new(shared), Inbox { settled, store_calls })
    }

    /// Puts a snapshot in force: what the control thread calls for the last-known-good and for every update that
    /// compiled. The swap is whole; requests that run keep the program they loaded.
    pub fn publish(&self, units: Arc<UnitSet>, program: Program) {
        self.live.publish(Arc::clone(&units), program);
        // After the swap: a request that still chose by the old program is counted or sees the new one (see Flights).
        self.flights.observe(&units);
        self.live.wake();
        self.readiness.set_applied();
    }
}

/// Bounds of the shared state.
#[derive(Debug, Clone, Copy)]
pub struct SharedLimits {
    /// Rate limit buckets.
    pub max_buckets: usize,
    /// Remembered nonces.
    pub max_nonces: usize,
    /// Bytes of all stored answers.
    pub max_cache_bytes: u64,
}

impl Default for SharedLimits {
    fn default() -> Self {
        Self { max_buckets: 100_000, max_nonces: 200_000, max_cache_bytes: 256 << 20 }
    }
}

/// The program in force.
pub struct Live {
    program: ArcSwap<Program>,
    units: ArcSwap<UnitSet>,
    changes: watch::Sender<u64>,
}

impl Live {
    fn new() -> Self {
        Self {
            program: ArcSwap::from_pointee(Program::empty()),
            units: ArcSwap::from_pointee(UnitSet::default()),
            changes: watch::Sender::new(0),
        }
    }

    /// The program, to be kept for one request.
    pub fn program(&self) -> Arc<Program> {
        self.program.load_full()
    }

    /// A short look at the program, cheaper than [`Live::program`].
    pub fn peek(&self) -> arc_swap::Guard<Arc<Program>> {
        self.program.load()
    }

    /// The units in force, for the debug endpoint and the next `Hello`.
    pub fn units(&self) -> Arc<UnitSet> {
        self.units.load_full()
    }

    /// Changes of the program, for those who wait for one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn publish(&self, units: Arc<UnitSet>, program: Program) {
        self.program.store(Arc::new(program));
        self.units.store(units);
    }

    fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Whether traffic should come: listeners bound, a snapshot applied, and not draining.
#[derive(Debug, Default)]
pub struct Readiness {
    bound: AtomicBool,
    applied: AtomicBool,
    draining: AtomicBool,
    restarts: AtomicU64,
}

impl Readiness {
    /// All listeners are bound.
    pub fn set_bound(&self) {
        self.bound.store(true, Ordering::Release);
    }

    /// A snapshot is in force.
    pub fn set_applied(&self) {
        self.applied.store(true, Ordering::Release);
    }

    /// The process is going away: for good.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether a snapshot is in force.
    pub fn is_applied(&self) -> bool {
        self.applied.load(Ordering::Acquire)
    }

    /// Whether the process is going away.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why traffic should not come; none: it should.
    pub fn missing(&self) -> Option<&'static str> {
        if self.is_draining() {
            Some("draining")
        } else if !self.bound.load(Ordering::Acquire) {
            Some("listeners are not bound")
        } else if !self.is_applied() {
            Some("no configuration has been applied")
        } else {
            None
        }
    }

    /// Counts a control task that had to be restarted.
    pub fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Control tasks that had to be restarted.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_bound_and_applied_and_not_draining() {
        let readiness = Readiness::default();
        readiness.set_bound();
        assert_eq!(readiness.missing(), Some("no configuration has been applied"));
        readiness.set_applied();
        assert_eq!(readiness.missing(), None);
        readiness.set_draining();
        assert_eq!(readiness.missing(), Some("draining"));
    }
}
