//! The buckets of this sidecar, shared by its data threads: found under a read lock of one part in many, changed as
//! atomics. Their number is bounded. A bucket is forgotten only when it is full, which is as if it had never been; when
//! none can be forgotten, new keys of a limit share one bucket, which is stricter than a bucket each.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
};

use siphasher::sip128::SipHasher13;
use sluice_pipeline::ratelimit::{BucketKey, Charge, LimitId, slice};
use tokio::sync::Notify;

use crate::{random, store_api::StoreError};

/// Parts with a lock of their own.
const SHARDS: usize = 64;

/// The buckets.
#[derive(Debug)]
pub struct Limits {
    /// Buckets are found by 128 bits over their keys. The hash is keyed, and nobody learns it: who chooses keys cannot
    /// choose two that share a bucket, or that crowd one place of the table.
    hasher: SipHasher13,
    shards: Vec<RwLock<Shard>>,
    max_per_shard: usize,
    /// One for each limit whose new keys found no room.
    overflow: RwLock<HashMap<LimitId, Arc<LiveBucket>>>,
    observed: RwLock<HashMap<LimitId, Observed>>,
}

/// What is known of one limit, over all its buckets.
#[derive(Debug)]
struct Observed {
    by: AtomicU8,
    /// The highest so far, in parts of a million of the burst.
    overshoot_ppm: AtomicU64,
}

type Shard = HashMap<u128, Arc<LiveBucket>, BuildHasherDefault<Prehashed>>;

/// One bucket.
#[derive(Debug, Default)]
pub(super) struct LiveBucket {
    /// Of a local bucket, or of the local share of a global one: the theoretical arrival time.
    pub tat: AtomicU64,
    /// Of a global one: what is leased.
    lease: OnceLock<Box<Mutex<slice::Lease>>>,
    failures: AtomicU64,
    /// Somebody has waited for the store as long as is allowed: nobody else waits before it answers.
    overdue: AtomicBool,
    /// Wakes those who wait for the store's answer.
    pub heard: Notify,
}

impl LiveBucket {
    /// What is leased. The lock is held for a few instructions at a time, and never while waiting.
    pub fn lease(&self) -> MutexGuard<'_, slice::Lease> {
        self.lease
            .get_or_init(Box::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's answer.
    pub fn hear(&self, ask: &slice::Ask, result: Result<slice::Reply, StoreError>, now_us: u64) {
        match result {
            Ok(reply) => {
                self.lease().answered(ask, &reply, now_us);
                self.overdue.store(false, Ordering::Release);
            }
            Err(_) => {
                self.lease().lost(ask);
                self.failures.fetch_add(1, Ordering::Release);
            }
        }
        self.heard.notify_waiters();
    }

    /// Notes that the store was waited for in vain.
    pub fn set_overdue(&self) {
        self.overdue.store(true, Ordering::Release);
    }

    /// Whether the store was waited for in vain, and has not answered since.
    pub fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Acquire)
    }

    /// How often the store has failed this bucket.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// Whether nothing is lost if it is forgotten.
    fn is_idle(&self, now_us: u64) -> bool {
        // A full bucket's theoretical arrival time, in nanoseconds, is not ahead.
        self.tat.load(Ordering::Relaxed) <= now_us.saturating_mul(1000)
            && self.lease.get().is_none_or(|lease| {
                lease
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .idle(now_us)
            })
    }
}

/// Who answers for a limit at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Answering {
    /// This sidecar's own bucket.
    Local,
    /// Slices of the store's bucket.
    Leased,
    /// The store, for each request.
    Strict,
    /// The store is away: this sidecar's share.
    LocalShare,
    /// The store is away: everything passes.
    Allow,
    /// The store is away: nothing passes.
    Deny,
}

impl Answering {
    const ALL: [Self; 6] = [
        Self::Local,
        Self::Leased,
        Self::Strict,
        Self::LocalShare,
        Self::Allow,
        Self::Deny,
    ];

    /// As the status of the policy has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "Local",
            Self::Leased => "Leased",
            Self::Strict => "Strict",
            Self::LocalShare => "LocalShare",
            Self::Allow => "Allow",
            Self::Deny => "Deny",
        }
    }
}

impl Limits {
    /// Room for `max` buckets.
    pub fn new(max: usize) -> Self {
        Self {
            hasher: SipHasher13::new_with_keys(random::seed(), random::seed()),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            max_per_shard: max.div_ceil(SHARDS),
            overflow: RwLock::default(),
            observed: RwLock::default(),
        }
    }

    /// Buckets in memory.
    pub fn buckets(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len() as u64)
            .sum()
    }

    /// The bucket of a charge.
    pub(super) fn bucket(&self, charge: &Charge<'_>, now_us: u64) -> Arc<LiveBucket> {
        let key = self.place(&charge.key);
        // The table of a shard looks at the lower half.
        let shard = &self.shards[(key >> 64) as usize % SHARDS];
        if let Some(found) = shard
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
        {
            return Arc::clone(found);
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= self.max_per_shard && !shard.contains_key(&key) {
            // In use elsewhere at this moment: about to change.
            shard.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_idle(now_us));
            if shard.len() >= self.max_per_shard {
                drop(shard);
                return self.overflow(&charge.limit.id);
            }
        }
        Arc::clone(shard.entry(key).or_default())
    }

    fn place(&self, key: &BucketKey) -> u128 {
        self.hasher.hash(key.as_bytes()).as_u128()
    }

    fn overflow(&self, limit: &LimitId) -> Arc<LiveBucket> {
        let mut overflow = self
            .overflow
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(overflow.entry(limit.clone()).or_default())
    }

    /// Notes who answers for a limit, and how far beyond it that was.
    pub(super) fn note(&self, limit: &LimitId, by: Answering, overshoot_ppm: u64) {
        let known = self.observed.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(observed) = known.get(limit) {
            observed.by.store(by as u8, Ordering::Relaxed);
            // Most requests overshoot by nothing: no write to what all threads share.
            if overshoot_ppm > observed.overshoot_ppm.load(Ordering::Relaxed) {
                observed
                    .overshoot_ppm
                    .fetch_max(overshoot_ppm, Ordering::Relaxed);
            }
            return;
        }
        drop(known);
        let mut known = self
            .observed
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let observed = Observed {
            by: AtomicU8::new(by as u8),
            overshoot_ppm: AtomicU64::new(overshoot_ppm),
        };
        known.insert(limit.clone(), observed);
    }

    /// Who answers for the limit `namespace/policy/limit`, and how far beyond it this sidecar has gone at most, in parts of
    /// a million of the burst.
    pub fn observed(&self, limit: &str) -> (Answering, u64) {
        let known = self.observed.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(id, _)| id.as_str() == limit);
        found.map_or((Answering::Local, 0), |(_, observed)| {
            let by = usize::from(observed.by.load(Ordering::Relaxed));
            let by = Answering::ALL.get(by).copied();
            let overshoot_ppm = observed.overshoot_ppm.load(Ordering::Relaxed);
            (by.unwrap_or(Answering::Local), overshoot_ppm)
        })
    }
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
