//! What the control thread and the data threads share: the program in force, live state that outlives programs, and the
//! few messages between them. It holds no I/O and decides nothing.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use http::HeaderValue;
use sluice_pipeline::{
    Program, UnitSet,
    dispatch::{VIA_EDGE, VIA_FORWARD},
};
use sluice_process::{Clock, Condition, Readiness};
use sluice_snapshot::{Hash, UnitKind, stream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::CacheStore,
    control,
    data::OpenConnections,
    data::hop::credentials::{Credentials, Issued},
    data::tls::server::Terminators,
    drain::Apps,
    limits::Limits,
    metrics::{Metrics, Told},
    nonces::Nonces,
    shards::Flights,
    store_api::{StoreCall, StoreHandle},
};

/// Everything that more than one thread sees.
pub struct Shared {
    /// The program in force.
    pub live: Live,
    /// Buckets and slices of rate limits.
    pub limits: Limits,
    /// Nonces this sidecar has seen.
    pub nonces: Nonces,
    /// Stored answers.
    pub cache: CacheStore,
    /// Requests in flight by shard slot, and the holds that wait for them.
    pub flights: Flights,
    /// What proves this sidecar on hops; none: it has no certificate yet.
    pub credentials: ArcSwapOption<Credentials>,
    /// Counters.
    pub metrics: Metrics,
    /// How many clients are connected.
    pub connections: Arc<OpenConnections>,
    /// The application's ports.
    pub apps: Apps,
    /// The way to the stores.
    pub stores: StoreHandle,
    /// Whether traffic should come: listeners bound, a snapshot applied, not draining.
    pub readiness: Readiness,
    /// The clock of everything that decides.
    pub clock: Clock,
    applied: Condition,
    restored: CancellationToken,
}

/// What the control thread takes from: one of each exists.
pub struct Inbox {
    /// Holds whose last earlier request has ended, for the stream.
    pub settled: mpsc::Receiver<stream::Settled>,
    /// Calls for the store task.
    pub store_calls: mpsc::Receiver<StoreCall>,
}

impl Shared {
    /// Shared state with the empty program: every port refuses until a snapshot is installed.
    pub fn new(limits: SharedLimits) -> (Arc<Self>, Inbox) {
        let SharedLimits {
            max_buckets,
            max_nonces,
            max_cache_bytes,
        } = limits;
        let (stores, store_calls) = StoreHandle::new();
        let (flights, settled) = Flights::new();
        let readiness = Readiness::default();
        let applied = readiness.condition("snapshot");
        let shared = Self {
            live: Live::new(),
            limits: Limits::new(max_buckets),
            nonces: Nonces::new(max_nonces),
            cache: CacheStore::new(max_cache_bytes),
            flights,
            credentials: ArcSwapOption::empty(),
            metrics: Metrics::default(),
            connections: Arc::default(),
            apps: Apps::default(),
            stores,
            readiness,
            clock: Clock::start(),
            applied,
            restored: CancellationToken::new(),
        };
        (
            Arc::new(shared),
            Inbox {
                settled,
                store_calls,
            },
        )
    }
}

impl Shared {
    /// Waits until a last-known-good is in force, or there is none.
    pub async fn restored(&self) {
        self.restored.cancelled().await;
    }
}

impl control::DataPlane for Shared {
    fn current(&self) -> Arc<Program> {
        Arc::clone(&self.live.peek().program)
    }

    /// The swap is whole; requests that run keep the program they loaded.
    fn install(&self, program: Program, set: &UnitSet) {
        self.live.replace(program, set);
        // After the swap: a request that still chose by the old program is counted or sees the new one (see Flights).
        self.flights.observe(set, self.clock.now_ms());
        self.live.wake();
        self.applied.met();
    }

    fn identify(&self, issued: Issued) {
        match Credentials::new(issued) {
            Ok(credentials) => self.credentials.store(Some(Arc::new(credentials))),
            Err(error) => tracing::error!(%error, "the certificate is of no use for hops"),
        }
    }

    fn restored(&self) {
        self.restored.cancel();
    }

    fn report(&self, told: &mut Told) -> stream::Report {
        self.metrics.report(told, |limit| {
            let (by, overshoot_ppm) = self.limits.observed(limit);
            (by.name(), overshoot_ppm)
        })
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
        Self {
            max_buckets: 100_000,
            max_nonces: 200_000,
            max_cache_bytes: 256 << 20,
        }
    }
}

/// What is in force; replaced whole. A request keeps it to its end.
pub struct InForce {
    /// The program.
    pub program: Arc<Program>,
    /// The units it was compiled from.
    pub units: Arc<UnitSet>,
    /// What a forward of this group says in `Via`.
    pub via_forward: HeaderValue,
    /// What the listeners of an edge show to clients.
    pub terminators: Terminators,
}

/// The way to what is in force, and news of its changes.
pub struct Live {
    current: ArcSwap<InForce>,
    changes: watch::Sender<u64>,
}

impl InForce {
    fn new(program: Program, units: UnitSet, former: &Terminators) -> Self {
        let group = units
            .units
            .keys()
            .find(|name| name.kind() == UnitKind::Inbound);
        let hash = Hash::of(group.map_or("", |name| name.as_str()).as_bytes());
        let is_edge = group.is_some_and(|name| name.rest().starts_with("gateway/"));
        let role = if is_edge { VIA_EDGE } else { VIA_FORWARD };
        let via = format!("1.1 {role}{}", &hash.as_str()[..16]);
        Self {
            terminators: Terminators::new(&program, former),
            program: Arc::new(program),
            units: Arc::new(units),
            via_forward: HeaderValue::from_str(&via)
                .expect("hexadecimal digits are a header value"),
        }
    }
}

impl Live {
    fn new() -> Self {
        let none = Terminators::default();
        let nothing = InForce::new(Program::empty(), UnitSet::default(), &none);
        Self {
            current: ArcSwap::from_pointee(nothing),
            changes: watch::Sender::new(0),
        }
    }

    /// What is in force, to be kept for one request.
    pub fn load(&self) -> Arc<InForce> {
        self.current.load_full()
    }

    /// A short look, cheaper than [`Live::load`].
    pub fn peek(&self) -> Guard<Arc<InForce>> {
        self.current.load()
    }

    /// The units in force.
    pub fn units(&self) -> Arc<UnitSet> {
        Arc::clone(&self.peek().units)
    }

    /// Changes of what is in force, for those who wait for one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn replace(&self, program: Program, units: &UnitSet) {
        let force = InForce::new(program, units.clone(), &self.peek().terminators);
        self.current.store(Arc::new(force));
    }

    fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::DataPlane;

    #[test]
    fn ready_needs_an_applied_snapshot_and_whoever_waits_hears_of_it() {
        let (shared, _inbox) = Shared::new(SharedLimits::default());
        let mut changes = shared.live.subscribe();
        assert!(!shared.readiness.is_ready());
        shared.install(Program::empty(), &UnitSet::default());
        assert!(shared.readiness.is_ready());
        assert!(changes.has_changed().expect("the sender lives"));
        changes.mark_unchanged();
        assert!(
            shared
                .live
                .load()
                .via_forward
                .to_str()
                .expect("text")
                .starts_with("1.1 sluice-fwd-")
        );
    }
}
