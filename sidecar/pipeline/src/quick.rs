//! A hash for look-ups whose keys only the configuration puts there: who asks may choose what is looked for, never what is
//! found. Where strangers put keys, std's own hash is right: this one is no defence against chosen ones.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A map by [`Quick`].
pub type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;

/// Multiplies and rotates, eight bytes at a time.
#[derive(Debug, Default, Clone, Copy)]
pub struct Quick(u64);

/// 2^64 divided by the golden ratio: odd, and its bits look like chance.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Quick {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.add(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.add(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn finish(&self) -> u64 {
        // A product's upper bits are the better ones; tables look at both ends.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        hash::{BuildHasher, BuildHasherDefault},
    };

    use super::Quick;

    #[test]
    fn names_that_are_alike_spread_over_a_table() {
        let hash = |name: &str| BuildHasherDefault::<Quick>::default().hash_one(name);
        let hashes = || (0..4096).map(|number| hash(&format!("/v1/orders-{number}")));
        let whole: BTreeSet<u64> = hashes().collect();
        assert_eq!(whole.len(), 4096);
        // 4,096 balls in 4,096 bins leave 63 % of them used.
        let low: BTreeSet<u64> = hashes().map(|hash| hash % 4096).collect();
        let high: BTreeSet<u64> = hashes().map(|hash| hash >> 57).collect();
        assert!(low.len() > 2_300, "{}", low.len());
        assert_eq!(high.len(), 128);
    }
}
