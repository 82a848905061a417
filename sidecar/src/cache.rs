//! Stored answers, shared by the data threads and bounded in bytes: for each rule and for all. What may be stored and
//! given is the pipeline's to say; here are the places, the eviction, and the collapsing of equal misses into one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use sluice_pipeline::{
    cache::{Hashes, PrimaryKey, Stored, UriKey},
    quick::QuickMap,
};
use tokio::sync::watch;

use crate::random;

/// Parts with a lock of their own.
const SHARDS: usize = 16;
/// What an entry takes beside its bytes, roughly.
const OVERHEAD: u64 = 512;
/// Variants of one key (RFC 9111 section 4.1); the oldest goes.
const MAX_VARIANTS: usize = 16;

/// One stored answer.
#[derive(Debug)]
pub struct Entry {
    /// What decides when it may be given.
    pub stored: Stored,
    /// Its status.
    pub status: StatusCode,
    /// Its header, ready to be given.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    id: u64,
    size: u64,
    usage: Arc<AtomicU64>,
    /// Given since eviction last came by.
    used: AtomicBool,
}

/// An answer to be stored.
#[derive(Debug)]
pub struct NewEntry {
    /// See [`Entry::stored`].
    pub stored: Stored,
    /// See [`Entry::status`].
    pub status: StatusCode,
    /// See [`Entry::headers`].
    pub headers: HeaderMap,
    /// See [`Entry::body`].
    pub body: Bytes,
}

/// Whose memory an answer counts against.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    /// `namespace/route/rule`.
    pub rule: &'a str,
    /// Bytes that the rule's answers may take.
    pub max_bytes: u64,
}

/// The store.
#[derive(Debug)]
pub struct CacheStore {
    hashes: Hashes,
    shards: Vec<RwLock<Shard>>,
    max_bytes: u64,
    bytes: AtomicU64,
    next_id: AtomicU64,
    rules: Mutex<HashMap<Box<str>, Arc<AtomicU64>>>,
    /// Misses that are being fetched.
    fetching: Mutex<HashMap<[u8; 16], watch::Receiver<()>>>,
}

#[derive(Debug, Default)]
struct Shard {
    /// By hashes that nobody can choose.
    entries: QuickMap<UriKey, QuickMap<[u8; 16], Vec<Arc<Entry>>>>,
    /// Every entry once, and some that are gone: eviction takes from the front and spares what was used (CLOCK).
    clock: VecDeque<(PrimaryKey, u64)>,
}

/// Who fetches a miss.
pub enum Turn {
    /// This request does; the others wait until this is dropped.
    Fetch(Fetching),
    /// Another does; it is over when the receiver sees the sender gone.
    Wait(watch::Receiver<()>),
}

/// A miss that is being fetched by whoever holds this.
pub struct Fetching {
    shared: Arc<crate::shared::Shared>,
    key: [u8; 16],
    _over: watch::Sender<()>,
}

impl Fetching {
    /// Takes the turn of fetching `key`, or tells whom to wait for.
    pub fn turn(shared: &Arc<crate::shared::Shared>, key: &PrimaryKey) -> Turn {
        let mut fetching = lock(&shared.cache.fetching);
        if let Some(other) = fetching.get(&key.full) {
            return Turn::Wait(other.clone());
        }
        let (over, receiver) = watch::channel(());
        fetching.insert(key.full, receiver);
        Turn::Fetch(Self {
            shared: Arc::clone(shared),
            key: key.full,
            _over: over,
        })
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        lock(&self.shared.cache.fetching).remove(&self.key);
    }
}

impl CacheStore {
    /// An empty store for `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            hashes: Hashes::new([random::seed(), random::seed()]),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            max_bytes,
            bytes: AtomicU64::new(0),
            next_id: AtomicU64::new(0),
            rules: Mutex::default(),
            fetching: Mutex::default(),
        }
    }

    /// What turns requests into its keys.
    pub fn hashes(&self) -> &Hashes {
        &self.hashes
    }

    /// Bytes that stored answers take.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Lets `choose` look at the variants of a key. What it returns as an index is marked as used and returned.
    pub fn find<T>(
        &self,
        key: &PrimaryKey,
        choose: impl FnOnce(&[Arc<Entry>]) -> (T, Option<usize>),
    ) -> (T, Option<Arc<Entry>>) {
        let shard = read(&self.shards[index(&key.uri)]);
        let variants = shard
            .entries
            .get(&key.uri)
            .and_then(|keys| keys.get(&key.full));
        let variants = variants.map_or(&[][..], Vec::as_slice);
        let (said, chosen) = choose(variants);
        let entry = chosen
            .and_then(|chosen| variants.get(chosen))
            .map(Arc::clone);
        if let Some(entry) = &entry {
            entry.used.store(true, Ordering::Relaxed);
        }
        (said, entry)
    }

    /// Stores an answer, in the place of one for the same header values. One that is too large is left out.
    pub fn put(&self, key: PrimaryKey, account: Account<'_>, new: NewEntry) {
        let NewEntry {
            stored,
            status,
            headers,
            body,
        } = new;
        let fields: usize = stored
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        // Once in `stored`, once in `headers`.
        let size = OVERHEAD + body.len() as u64 + 2 * fields as u64;
        if size > account.max_bytes || size > self.max_bytes {
            return;
        }
        let usage = self.usage(account.rule);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let home = index(&key.uri);
        {
            let mut shard = write(&self.shards[home]);
            let variants = shard
                .entries
                .entry(key.uri)
                .or_default()
                .entry(key.full)
                .or_default();
            let mut gone: Vec<_> = variants
                .extract_if(.., |other| other.stored.vary == stored.vary)
                .collect();
            if variants.len() >= MAX_VARIANTS {
                gone.push(variants.remove(0));
            }
            let used = AtomicBool::new(false);
            let usage = Arc::clone(&usage);
            variants.push(Arc::new(Entry {
                stored,
                status,
                headers,
                body,
                id,
                size,
                usage: Arc::clone(&usage),
                used,
            }));
            shard.clock.push_back((key, id));
            usage.fetch_add(size, Ordering::Relaxed);
            self.bytes.fetch_add(size, Ordering::Relaxed);
            gone.iter().for_each(|entry| self.uncount(entry));
        }
        self.shrink(home, account.max_bytes, &usage, |entry| {
            Arc::ptr_eq(&entry.usage, &usage)
        });
        self.shrink(home, self.max_bytes, &self.bytes, |_| true);
    }

    /// Forgets all answers of a URI.
    pub fn invalidate(&self, uri: &UriKey) {
        let gone = write(&self.shards[index(uri)]).entries.remove(uri);
        gone.iter()
            .flat_map(HashMap::values)
            .flatten()
            .for_each(|entry| self.uncount(entry));
    }

    /// Evicts until `bytes` is at most `max`, beginning in the shard that grew.
    fn shrink(
        &self,
        home: usize,
        max: u64,
        bytes: &AtomicU64,
        of_interest: impl Fn(&Entry) -> bool,
    ) {
        for step in 0..SHARDS {
            if bytes.load(Ordering::Relaxed) <= max {
                return;
            }
            let mut shard = write(&self.shards[(home + step) % SHARDS]);
            // Twice around: the first round only takes the marks of use away.
            for _ in 0..2 * shard.clock.len() {
                if bytes.load(Ordering::Relaxed) <= max {
                    return;
                }
                if let Some(entry) = shard.evict(&of_interest) {
                    self.uncount(&entry);
                }
            }
        }
    }

    fn uncount(&self, entry: &Entry) {
        entry.usage.fetch_sub(entry.size, Ordering::Relaxed);
        self.bytes.fetch_sub(entry.size, Ordering::Relaxed);
    }

    fn usage(&self, rule: &str) -> Arc<AtomicU64> {
        let mut rules = lock(&self.rules);
        if let Some(usage) = rules.get(rule) {
            return Arc::clone(usage);
        }
        Arc::clone(rules.entry(rule.into()).or_default())
    }
}

impl Shard {
    /// Looks at the next entry of the clock; removes it if it is of interest and was not used.
    fn evict(&mut self, of_interest: &impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        let (key, id) = self.clock.pop_front()?;
        let keys = self.entries.get_mut(&key.uri)?;
        let variants = keys.get_mut(&key.full)?;
        let place = variants.iter().position(|entry| entry.id == id)?;
        let entry = &variants[place];
        if !of_interest(entry) || entry.used.swap(false, Ordering::Relaxed) {
            self.clock.push_back((key, id));
            return None;
        }
        let entry = variants.remove(place);
        if variants.is_empty() {
            keys.remove(&key.full);
        }
        if keys.is_empty() {
            self.entries.remove(&key.uri);
        }
        Some(entry)
    }
}

fn index(uri: &UriKey) -> usize {
    usize::from(uri.0[0]) % SHARDS
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PrimaryKey {
        PrimaryKey {
            uri: UriKey([number; 16]),
            full: [number; 16],
        }
    }

    fn hash(text: &str) -> [u8; 16] {
        let mut hash = [0; 16];
        hash[..text.len()].copy_from_slice(text.as_bytes());
        hash
    }

    fn entry(vary: &str, body: usize) -> NewEntry {
        NewEntry {
            stored: Stored {
                status: 200,
                headers: Vec::new(),
                vary: vec![("accept".into(), Some(hash(vary)))],
                stored_ms: 0,
                initial_age_s: 0,
                lifetime_s: 60,
                etag: None,
                last_modified_s: None,
                must_revalidate: false,
                for_authorized: false,
            },
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from(vec![0; body]),
        }
    }

    fn account(max_bytes: u64) -> Account<'static> {
        Account {
            rule: "shop/orders/read",
            max_bytes,
        }
    }

    fn count(cache: &CacheStore, key: &PrimaryKey) -> usize {
        cache.find(key, |variants| (variants.len(), None)).0
    }

    #[test]
    fn a_variant_replaces_its_like_and_invalidation_forgets_all() {
        let cache = CacheStore::new(1 << 20);
        cache.put(key(1), account(1 << 20), entry("json", 10));
        cache.put(key(1), account(1 << 20), entry("json", 20));
        cache.put(key(1), account(1 << 20), entry("html", 30));
        assert_eq!(count(&cache, &key(1)), 2);
        assert_eq!(cache.bytes(), 2 * OVERHEAD + 50);
        cache.invalidate(&key(1).uri);
        assert_eq!((count(&cache, &key(1)), cache.bytes()), (0, 0));
    }

    #[test]
    fn a_rule_keeps_to_its_bytes_and_what_is_used_stays_longest() {
        let cache = CacheStore::new(1 << 30);
        let room = account(4 * (OVERHEAD + 1000));
        for number in 0..100 {
            cache.put(key(number), room, entry("", 1000));
            let used = cache
                .find(&key(0), |variants| {
                    ((), (!variants.is_empty()).then_some(0))
                })
                .1;
            assert!(used.is_some(), "the answer in use, after {number}");
            assert!(cache.bytes() <= room.max_bytes);
        }
        // Another rule is not touched.
        cache.put(
            key(200),
            Account {
                rule: "other",
                max_bytes: 1 << 20,
            },
            entry("", 1000),
        );
        cache.put(key(201), room, entry("", 1000));
        assert_eq!(count(&cache, &key(200)), 1);
    }

    #[test]
    fn all_rules_keep_to_the_whole_and_what_is_too_large_is_left_out() {
        let cache = CacheStore::new(3 * (OVERHEAD + 100));
        for number in 0..50 {
            let rule = format!("rule-{number}");
            cache.put(
                key(number),
                Account {
                    rule: &rule,
                    max_bytes: 1 << 20,
                },
                entry("", 100),
            );
            assert!(cache.bytes() <= 3 * (OVERHEAD + 100));
        }
        cache.put(key(60), account(1 << 20), entry("", 10_000));
        assert_eq!(count(&cache, &key(60)), 0);
    }
}
