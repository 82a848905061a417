//! Nonces this sidecar has seen. A nonce is never forgotten before its time: when the memory is full, new ones are
//! refused.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// What became of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was new, and is remembered now.
    Fresh,
    /// It was seen before: a replay.
    Replayed,
    /// It cannot be remembered, so it must not be accepted.
    Full,
}

/// The set.
#[derive(Debug)]
pub struct Nonces {
    shards: [Mutex<Shard>; SHARDS],
    max_per_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    /// Key -> when it may be forgotten, in monotonic milliseconds.
    until: HashMap<[u8; 32], u64>,
    order: BTreeSet<(u64, [u8; 32])>,
}

impl Nonces {
    /// A set of at most `max` nonces.
    pub fn new(max: usize) -> Self {
        Self {
            shards: Default::default(),
            max_per_shard: max.div_ceil(SHARDS),
        }
    }

    /// Remembers `key` for `ttl_ms`.
    pub fn claim(&self, key: [u8; 32], ttl_ms: u64, now_ms: u64) -> Seen {
        // Keys are hashes: any byte spreads them evenly.
        let mut shard = self.shards[usize::from(key[31]) % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while let Some(&(until, expired)) =
            shard.order.first().filter(|(until, _)| *until <= now_ms)
        {
            shard.order.remove(&(until, expired));
            shard.until.remove(&expired);
        }
        if shard.until.contains_key(&key) {
            return Seen::Replayed;
        }
        if shard.until.len() >= self.max_per_shard {
            return Seen::Full;
        }
        let until = now_ms.saturating_add(ttl_ms);
        shard.until.insert(key, until);
        shard.order.insert((until, key));
        Seen::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once_until_it_expires() {
        let nonces = Nonces::new(100);
        assert_eq!(nonces.claim([1; 32], 1000, 0), Seen::Fresh);
        assert_eq!(nonces.claim([1; 32], 1000, 999), Seen::Replayed);
        assert_eq!(nonces.claim([1; 32], 1000, 1000), Seen::Fresh);
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_nothing_early() {
        let nonces = Nonces::new(SHARDS);
        let key = |byte: u8| {
            let mut key = [byte; 32];
            key[31] = 0;
            key
        };
        assert_eq!(nonces.claim(key(1), 1000, 0), Seen::Fresh);
        assert_eq!(nonces.claim(key(2), 1000, 0), Seen::Full);
        assert_eq!(nonces.claim(key(1), 1000, 1), Seen::Replayed);
        assert_eq!(nonces.claim(key(2), 1000, 1000), Seen::Fresh);
    }
}
