//! The clock of a process. Everything that decides takes numbers; this is where they come from.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock that starts at zero, and the wall clock. Copies agree with each other.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at zero now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Monotonic microseconds since the start.
    pub fn now_us(&self) -> u64 {
        saturating(self.start.elapsed().as_micros())
    }

    /// Monotonic milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        saturating(self.start.elapsed().as_millis())
    }

    /// Seconds since the Unix epoch; 0 where the wall clock is before it.
    pub fn wall_s(&self) -> i64 {
        i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
    }

    /// Milliseconds since the Unix epoch; 0 where the wall clock is before it.
    pub fn wall_ms(&self) -> u64 {
        saturating(since_epoch().as_millis())
    }
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn saturating(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_agree_and_units_fit() {
        let clock = Clock::start();
        let copy = clock;
        let before = clock.now_us();
        assert!(copy.now_us() >= before);
        assert!(clock.now_ms() <= clock.now_us() / 1_000 + 1);
        assert!(clock.wall_ms().abs_diff(clock.wall_s() as u64 * 1_000) < 2_000);
    }
}
