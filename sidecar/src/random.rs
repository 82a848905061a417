//! Numbers that nobody can guess from outside and nothing secret hangs on: seeds and jitter. They come from std's keys of
//! hash maps: the TLS library's generator collects entropy for some 25 ms before its first number, and a sidecar that
//! restarts has requests waiting.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// 64 bits, other ones each time.
pub fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::seed;

    #[test]
    fn no_two_are_alike() {
        let seeds: std::collections::BTreeSet<u64> = (0..1000).map(|_| seed()).collect();
        assert_eq!(seeds.len(), 1000);
    }
}
