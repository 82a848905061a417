//! Cheap randomness for balancing and trace ids: SplitMix64, seeded from the system. Never for secrets.

use std::cell::Cell;

/// A generator of one data thread.
#[derive(Debug)]
pub struct Dice {
    state: Cell<u64>,
    /// Where the even sequence is.
    even: Cell<u32>,
}

impl Dice {
    /// A generator with a seed of its own.
    pub fn new() -> Self {
        Self::seeded(crate::random::seed())
    }

    /// A generator whose numbers are known, for tests.
    pub fn seeded(seed: u64) -> Self {
        Self {
            state: Cell::new(seed),
            even: Cell::new((seed >> 32) as u32),
        }
    }

    /// The next 64 bits.
    pub fn roll(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next 32 bits.
    pub fn roll32(&self) -> u32 {
        (self.roll() >> 32) as u32
    }

    /// The next of 32 bits that fall as evenly as they can: shares by weight are right after few requests, not only after
    /// many. The additive recurrence of the golden ratio; its order can be foreseen, so it decides nothing else.
    pub fn even32(&self) -> u32 {
        let next = self.even.get().wrapping_add(0x9e37_79b9);
        self.even.set(next);
        next
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_right_after_few_draws() {
        for seed in [0, 1 << 40, u64::MAX] {
            let dice = Dice::seeded(seed);
            let low = (0..1_000).filter(|_| dice.even32() < u32::MAX / 2).count();
            assert!((497..=503).contains(&low), "{low}");
        }
    }

    #[test]
    fn the_numbers_are_splitmix64() {
        // First output for seed 0 in the reference implementation.
        assert_eq!(Dice::seeded(0).roll(), 0xe220_a839_7b1d_cdaf);
        let dice = Dice::new();
        assert_ne!(dice.roll(), dice.roll());
    }
}
