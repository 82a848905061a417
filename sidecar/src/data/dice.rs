//! Cheap randomness for balancing and trace ids: SplitMix64, seeded from the system. Never for secrets.

use std::cell::Cell;

/// A generator of one data thread.
#[derive(Debug)]
pub struct Dice(Cell<u64>);

impl Dice {
    /// A generator with a seed of its own.
    pub fn new() -> Self {
        let mut seed = [0; 8];
        if aws_lc_rs::rand::fill(&mut seed).is_err() {
            // Nothing secret hangs on it: an address of this thread's stack tells threads apart.
            seed = (&raw const seed as usize as u64).to_le_bytes();
        }
        Self::seeded(u64::from_le_bytes(seed))
    }

    /// A generator whose numbers are known, for tests.
    pub fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// The next 64 bits.
    pub fn roll(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next 32 bits.
    pub fn roll32(&self) -> u32 {
        (self.roll() >> 32) as u32
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
    fn the_numbers_are_splitmix64() {
        // First output for seed 0 in the reference implementation.
        assert_eq!(Dice::seeded(0).roll(), 0xe220_a839_7b1d_cdaf);
        let dice = Dice::new();
        assert_ne!(dice.roll(), dice.roll());
    }
}
