//! The token bucket as GCRA (ITU-T I.371 annex A): one number, the theoretical arrival time, is the whole state, so
//! that a bucket is one atomic and data threads share it without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use sluice_snapshot::unit::policy as unit;

/// The most time a full bucket may stand for, in nanoseconds: 73 years.
const MAX_CAPACITY_NS: u64 = 1 << 61;
/// Where clocks end, in microseconds: 292 years. Sums of a clock and twice a capacity stay in a `u64`.
const MAX_NOW_US: u64 = (1 << 63) / 1000;

/// The numbers of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Nanoseconds that one token stands for, rounded up: a bucket admits at most what was asked for, and less by one
    /// part in a billion of the rate per second.
    interval_ns: u64,
    /// Nanoseconds that all tokens of a full bucket stand for.
    capacity_ns: u64,
    burst: u64,
}

/// Numbers that make no bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// No tokens would ever come.
    #[error("requests, per and burst of a token bucket must be more than zero")]
    Zero,
    /// More than a token each nanosecond.
    #[error("a token bucket fills with at most one billion requests each second")]
    TooFast,
    /// The bucket would take longer to fill than the arithmetic reaches.
    #[error("the bucket takes too long to fill: make burst or per smaller, or requests larger")]
    TooSlow,
}

/// What a bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The tokens are there.
    Admit {
        /// The state afterwards.
        tat: u64,
        /// Whole tokens left.
        remaining: u64,
        /// Microseconds until the bucket is full.
        reset_us: u64,
    },
    /// They are not; the state is as it was.
    Refuse {
        /// Microseconds until the same cost would be admitted. A cost above the burst never is; for it, until the
        /// bucket is full.
        retry_after_us: u64,
        /// Whole tokens left.
        remaining: u64,
        /// Microseconds until the bucket is full.
        reset_us: u64,
    },
}

impl Decision {
    /// Whether the tokens are there.
    pub fn admitted(&self) -> bool {
        matches!(self, Self::Admit { .. })
    }
}

impl Bucket {
    /// Checks and converts the numbers of a unit.
    pub fn new(unit: &unit::TokenBucket) -> Result<Self, BucketError> {
        let unit::TokenBucket {
            requests,
            per_ms,
            burst,
        } = *unit;
        if requests == 0 || per_ms == 0 || burst == 0 {
            return Err(BucketError::Zero);
        }
        let per_ns = per_ms.checked_mul(1_000_000).ok_or(BucketError::TooSlow)?;
        if requests > per_ns {
            return Err(BucketError::TooFast);
        }
        Self::from_interval(per_ns.div_ceil(requests), burst)
    }

    fn from_interval(interval_ns: u64, burst: u64) -> Result<Self, BucketError> {
        match interval_ns.checked_mul(burst) {
            Some(capacity_ns) if capacity_ns <= MAX_CAPACITY_NS => Ok(Self {
                interval_ns,
                capacity_ns,
                burst,
            }),
            _ => Err(BucketError::TooSlow),
        }
    }

    /// One sidecar's share while the store that all share is away: the rate and the burst divided, but never less than
    /// one request at a time.
    #[must_use]
    pub fn share(&self, sessions: u32) -> Self {
        let sessions = u64::from(sessions.max(1));
        let interval_ns = self
            .interval_ns
            .saturating_mul(sessions)
            .min(MAX_CAPACITY_NS);
        let burst = (self.burst / sessions).max(1);
        // burst / n tokens of n times the interval take no longer than the whole; one token is cut off above.
        let capacity_ns = interval_ns.saturating_mul(burst).min(MAX_CAPACITY_NS);
        Self {
            interval_ns,
            capacity_ns,
            burst,
        }
    }

    /// Tokens of a full bucket.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// Seconds that an empty bucket takes to fill, rounded up; not for the part of a nanosecond by which each interval
    /// was rounded up, so that 30 in 10 s says 10.
    pub fn fill_s(&self) -> u64 {
        self.capacity_ns
            .saturating_sub(self.burst - 1)
            .div_ceil(1_000_000_000)
    }

    /// The state of a bucket from which `cost` was taken by mistake, for instance for a request that another limit then
    /// refused. Only right after the taking: later, the tokens have come back by themselves.
    #[must_use]
    pub fn give_back(&self, tat: u64, cost: u64) -> u64 {
        tat.saturating_sub(self.interval_ns.saturating_mul(cost))
    }
}

/// Decides about `cost` tokens at `now_us` (microseconds of a monotonic clock). `tat` is the bucket's state: zero for a
/// new one, which is full; else what the last [`Decision::Admit`] said (nanoseconds of the same clock).
pub fn decide(tat: u64, bucket: &Bucket, cost: u64, now_us: u64) -> Decision {
    let Bucket {
        interval_ns,
        capacity_ns,
        burst: _,
    } = *bucket;
    let now = now_us.min(MAX_NOW_US) * 1000;
    // A state from beyond a full bucket comes from larger numbers before: forget what they granted beyond these.
    let base = tat.clamp(now, now + capacity_ns);
    let taken = |until: u64| until - now;
    let price = interval_ns.saturating_mul(cost);
    let next = base + price.min(capacity_ns);
    if price <= capacity_ns && taken(next) <= capacity_ns {
        return Decision::Admit {
            tat: next,
            remaining: (capacity_ns - taken(next)) / interval_ns,
            reset_us: taken(next).div_ceil(1000),
        };
    }
    let reset_us = taken(base).div_ceil(1000);
    Decision::Refuse {
        retry_after_us: (taken(next) - capacity_ns).div_ceil(1000).min(reset_us),
        remaining: (capacity_ns - taken(base)) / interval_ns,
        reset_us,
    }
}

/// Takes from a shared bucket.
pub fn take(state: &AtomicU64, bucket: &Bucket, cost: u64, now_us: u64) -> Decision {
    let mut tat = state.load(Ordering::Relaxed);
    loop {
        let decision = decide(tat, bucket, cost, now_us);
        let Decision::Admit { tat: next, .. } = decision else {
            return decision;
        };
        match state.compare_exchange_weak(tat, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return decision,
            Err(found) => tat = found,
        }
    }
}

/// Undoes a [`take`] of this very moment.
pub fn give_back(state: &AtomicU64, bucket: &Bucket, cost: u64) {
    // The closure always gives a state, so the update cannot fail.
    let _ = state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tat| {
        Some(bucket.give_back(tat, cost))
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(requests: u64, per_ms: u64, burst: u64) -> Bucket {
        Bucket::new(&unit::TokenBucket {
            requests,
            per_ms,
            burst,
        })
        .expect("numbers")
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_one_for_each_interval() {
        let (bucket, state) = (bucket(10, 1000, 5), AtomicU64::new(0));
        let at = |now_us| take(&state, &bucket, 1, now_us);
        for left in (0..5).rev() {
            assert!(matches!(at(7), Decision::Admit { remaining, .. } if remaining == left));
        }
        assert_eq!(
            at(7),
            Decision::Refuse {
                retry_after_us: 100_000,
                remaining: 0,
                reset_us: 500_000
            }
        );
        assert!(!at(100_006).admitted());
        assert!(at(100_007).admitted());
        assert!(!at(100_007).admitted());
    }

    #[test]
    fn an_interval_that_is_no_whole_number_is_rounded_against_the_caller() {
        for (requests, per_ms) in [(3, 1), (7, 1000), (999_983, 1000), (1, 1)] {
            let tokens = bucket(requests, per_ms, 1).interval_ns * requests;
            let per_ns = per_ms * 1_000_000;
            assert!(
                (per_ns..per_ns + requests).contains(&tokens),
                "{requests} in {per_ms} ms"
            );
        }
    }

    #[test]
    fn a_cost_above_the_burst_is_never_admitted() {
        let bucket = bucket(1, 1000, 3);
        assert_eq!(
            decide(0, &bucket, 4, 1),
            Decision::Refuse {
                retry_after_us: 0,
                remaining: 3,
                reset_us: 0
            }
        );
        assert!(!decide(0, &bucket, u64::MAX, u64::MAX).admitted());
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let (bucket, state) = (bucket(1, 60_000, 1), AtomicU64::new(0));
        assert!(take(&state, &bucket, 1, 50).admitted());
        give_back(&state, &bucket, 1);
        assert!(take(&state, &bucket, 1, 50).admitted());
        assert!(!take(&state, &bucket, 1, 50).admitted());
    }

    #[test]
    fn a_smaller_bucket_forgets_what_a_larger_one_owed() {
        let (large, small) = (bucket(1, 60_000, 100), bucket(1, 1000, 1));
        let Decision::Admit { tat, .. } = decide(0, &large, 100, 0) else {
            panic!("full")
        };
        assert!(
            decide(tat, &small, 1, 1_000_000).admitted() || !decide(tat, &small, 1, 0).admitted()
        );
        let Decision::Refuse { retry_after_us, .. } = decide(tat, &small, 1, 0) else {
            panic!("empty")
        };
        assert_eq!(retry_after_us, 1_000_000);
    }

    #[test]
    fn a_share_is_never_nothing() {
        let whole = bucket(100, 1000, 10);
        assert_eq!(
            whole.share(4),
            Bucket {
                interval_ns: 40_000_000,
                capacity_ns: 80_000_000,
                burst: 2
            }
        );
        assert!(decide(0, &whole.share(1000), 1, 1).admitted());
        assert!(decide(0, &bucket(1, 1 << 40, 1).share(u32::MAX), 1, 1).admitted());
    }

    #[test]
    fn numbers_that_make_no_bucket_are_refused() {
        let new = |requests, per_ms, burst| {
            Bucket::new(&unit::TokenBucket {
                requests,
                per_ms,
                burst,
            })
        };
        assert_eq!(new(0, 1, 1), Err(BucketError::Zero));
        assert_eq!(new(1, 0, 1), Err(BucketError::Zero));
        assert_eq!(new(1, 1, 0), Err(BucketError::Zero));
        assert_eq!(new(1_000_001, 1, 1), Err(BucketError::TooFast));
        assert_eq!(new(1, u64::MAX, 1), Err(BucketError::TooSlow));
        assert_eq!(new(1, 86_400_000, 1 << 40), Err(BucketError::TooSlow));
    }

    /// The bucket as one thinks of it: tokens that drip in, as exact fractions (in `1 / per_ns` of a token).
    struct Naive {
        tokens: u128,
        last_us: u64,
    }

    impl Naive {
        fn take(
            &mut self,
            (requests, per_ms, burst): (u64, u64, u64),
            cost: u64,
            now_us: u64,
        ) -> bool {
            let token = u128::from(per_ms) * 1_000_000;
            let dripped = u128::from(now_us - self.last_us) * 1000 * u128::from(requests);
            self.tokens = (self.tokens + dripped).min(token * u128::from(burst));
            self.last_us = now_us;
            let admitted = self.tokens >= token * u128::from(cost);
            if admitted {
                self.tokens -= token * u128::from(cost);
            }
            admitted
        }
    }

    #[test]
    fn the_time_to_fill_is_told_in_whole_seconds_of_the_policy() {
        for (requests, per_ms, burst, seconds) in [
            (30, 10_000, 30, 10),
            (7, 1_000, 7, 1),
            (3, 1_000, 4, 2),
            (1, 60_000, 1, 60),
        ] {
            let bucket = Bucket::new(&unit::TokenBucket {
                requests,
                per_ms,
                burst,
            })
            .expect("sound numbers");
            assert_eq!(
                bucket.fill_s(),
                seconds,
                "{requests} in {per_ms} ms, burst {burst}"
            );
        }
    }

    proptest! {
        /// Wherever a token is a whole number of nanoseconds, GCRA and the naive bucket say the same.
        #[test]
        fn it_equals_the_naive_bucket(
            interval_ns in 1_000u64..2_000_000_000, burst in 1u64..50,
            steps in proptest::collection::vec((0u64..3_000_000, 0u64..6), 1..200),
        ) {
            let bucket = Bucket::from_interval(interval_ns, burst).expect("numbers");
            let numbers = (1_000_000, interval_ns, burst); // a million tokens in as many milliseconds: the same interval
            let (mut tat, mut now) = (0, 5_000_000_000);
            let mut naive = Naive { tokens: u128::MAX / 4, last_us: now };
            for (wait, cost) in steps {
                now += wait;
                let decision = decide(tat, &bucket, cost, now);
                prop_assert_eq!(decision.admitted(), naive.take(numbers, cost, now));
                if let Decision::Admit { tat: next, .. } = decision { tat = next; }
            }
        }

        /// In no window is more admitted than burst + rate x time, whatever the numbers.
        #[test]
        fn no_window_admits_too_much(
            requests in 1u64..100_000, per_ms in 1u64..100_000, burst in 1u64..100,
            waits in proptest::collection::vec(0u64..200_000, 1..150),
        ) {
            prop_assume!(requests <= per_ms * 1_000_000);
            let bucket = bucket(requests, per_ms, burst);
            let (mut tat, mut now, mut admitted) = (0, 0u64, Vec::new());
            for wait in waits {
                now += wait;
                if let Decision::Admit { tat: next, .. } = decide(tat, &bucket, 1, now) {
                    tat = next;
                    admitted.push(now);
                }
            }
            for (first, start) in admitted.iter().enumerate() {
                for (last, end) in admitted.iter().enumerate().skip(first) {
                    let dripped = u128::from(end - start) * u128::from(requests) / (u128::from(per_ms) * 1000);
                    prop_assert!((last - first + 1) as u128 <= u128::from(burst) + dripped);
                }
            }
        }

        /// After the time it names, and not before, a refused cost is admitted.
        #[test]
        fn retry_after_is_exact(
            interval_us in 1u64..10_000_000,
            (burst, spent, cost) in (1u64..50).prop_flat_map(|burst| (Just(burst), 1..=burst, 1..=burst)),
        ) {
            let bucket = Bucket::from_interval(interval_us * 1000, burst).expect("numbers");
            let now = 1_000_000;
            let Decision::Admit { tat, .. } = decide(0, &bucket, spent, now) else { panic!("full") };
            if let Decision::Refuse { retry_after_us, .. } = decide(tat, &bucket, cost, now) {
                prop_assert!(decide(tat, &bucket, cost, now + retry_after_us).admitted());
                prop_assert!(!decide(tat, &bucket, cost, now + retry_after_us - 1).admitted());
            }
        }

        #[test]
        fn no_numbers_make_it_overflow(
            requests: u64, per_ms: u64, burst: u64, tat: u64, cost: u64, now: u64, sessions: u32,
        ) {
            if let Ok(bucket) = Bucket::new(&unit::TokenBucket { requests, per_ms, burst }) {
                let _ = decide(tat, &bucket, cost, now);
                let _ = decide(tat, &bucket.share(sessions), cost, now);
                let _ = (bucket.give_back(tat, cost), bucket.fill_s());
            }
        }
    }
}
