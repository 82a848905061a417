//! How long to wait before the next worker: not at all, unless they die one after the other at their start.

use std::time::Duration;

/// A worker that lived this long had started.
const STARTED: Duration = Duration::from_secs(1);
/// The first wait of a crash loop; it doubles each time.
const FIRST: Duration = Duration::from_millis(50);
/// The longest: a mended cause is noticed soon, and a loop costs one start a second.
const LONGEST: Duration = Duration::from_secs(1);

/// What is remembered of the workers before.
#[derive(Debug, Default)]
pub struct Pacing {
    /// Workers that died at their start since one did not.
    quick: u32,
}

impl Pacing {
    /// The wait after a worker that lived this long. The first that dies young is no loop yet.
    pub fn after(&mut self, lived: Duration) -> Duration {
        if lived >= STARTED {
            self.quick = 0;
        } else {
            self.quick = self.quick.saturating_add(1);
        }
        match self.quick {
            0 | 1 => Duration::ZERO,
            quick => (FIRST * 2_u32.saturating_pow(quick - 2)).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loop_is_slowed_and_a_single_crash_is_not() {
        let (young, old) = (Duration::from_millis(30), Duration::from_millis(1200));
        let mut pacing = Pacing::default();
        assert!((0..5).all(|_| pacing.after(old).is_zero()));
        let waits: Vec<u128> = (0..40).map(|_| pacing.after(young).as_millis()).collect();
        assert_eq!(waits[..7], [0, 50, 100, 200, 400, 800, 1000]);
        assert!(waits[7..].iter().all(|wait| *wait == 1000));
        assert!(pacing.after(old).is_zero() && pacing.after(young).is_zero());
    }
}
