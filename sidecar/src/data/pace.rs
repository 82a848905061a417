//! Whether a client sends its request's body fast enough, for as long as it is what everybody waits for. Only the time in
//! which the body was waited for counts: an upstream that reads slowly is not the client's fault.

use std::task::Waker;

use sluice_process::Clock;

use super::{
    connection::ConnectionLimits,
    deadline::{Registration, Ticker},
};

/// The pace of one body.
#[derive(Debug)]
pub struct Pace {
    clock: Clock,
    alarm: Registration<Ticker>,
    stall_ms: u64,
    /// What must come in that time.
    least: u64,
    /// Since when it is waited for; none: it is not.
    since_ms: Option<u64>,
    /// How long it was waited for in this window.
    waited_ms: u64,
    /// What came in this window.
    came: u64,
}

impl Pace {
    /// By the bounds of connections.
    pub fn new(clock: Clock, ticker: &Ticker, limits: &ConnectionLimits) -> Self {
        Self {
            clock,
            alarm: Registration::new(ticker.clone()),
            stall_ms: limits.body_stall_ms,
            least: (limits.min_rate.saturating_mul(limits.body_stall_ms) / 1000).max(1),
            since_ms: None,
            waited_ms: 0,
            came: 0,
        }
    }

    /// Bytes came.
    pub fn came(&mut self, bytes: usize) {
        self.came = self.came.saturating_add(bytes as u64);
        if let Some(since_ms) = self.since_ms.take() {
            self.waited_ms += self.clock.now_ms().saturating_sub(since_ms);
            self.alarm.disarm();
        }
    }

    /// Nothing is there; `waker` is called when that has gone on for too long. True: it has.
    pub fn waits(&mut self, waker: &Waker) -> bool {
        let now_ms = match self.since_ms {
            // Woken for another reason, or for this one.
            Some(_) if !self.alarm.passed() => {
                self.alarm.renew(waker);
                return false;
            }
            _ => self.clock.now_ms(),
        };
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        let waited_ms = self.waited_ms + now_ms.saturating_sub(since_ms);
        if waited_ms >= self.stall_ms {
            if self.came < self.least {
                return true;
            }
            // Another window begins.
            (self.waited_ms, self.came, self.since_ms) = (0, 0, Some(now_ms));
        }
        self.alarm.disarm();
        self.alarm
            .arm(now_ms + self.stall_ms.saturating_sub(self.waited_ms), waker)
    }

    /// Whether it is waited for now.
    pub fn is_waited_for(&self) -> bool {
        self.since_ms.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll, time::Duration};

    use tokio::{
        task::LocalSet,
        time::{sleep, timeout},
    };

    use super::*;

    const LIMITS: fn() -> ConnectionLimits = || ConnectionLimits {
        body_stall_ms: 100,
        min_rate: 1_000,
        ..ConnectionLimits::default()
    };

    /// Gives a body `bytes` every 20 ms, and waits in between; how long until it is too slow.
    async fn stalls(bytes: usize, times: usize) -> Option<Duration> {
        let clock = Clock::start();
        let ticker = Ticker::new(clock);
        let local = LocalSet::new();
        local.spawn_local(ticker.clone().run());
        local
            .run_until(async {
                let mut pace = Pace::new(clock, &ticker, &LIMITS());
                let began_ms = clock.now_ms();
                for _ in 0..times {
                    let stalled = poll_fn(|context| {
                        if pace.waits(context.waker()) {
                            Poll::Ready(())
                        } else {
                            Poll::Pending
                        }
                    });
                    if timeout(Duration::from_millis(20), stalled).await.is_ok() {
                        return Some(Duration::from_millis(clock.now_ms() - began_ms));
                    }
                    pace.came(bytes);
                }
                None
            })
            .await
    }

    #[tokio::test]
    async fn a_body_that_drips_is_as_one_that_stands() {
        for bytes in [0, 1] {
            let stalled = stalls(bytes, 1_000).await.expect("stalls");
            assert!(stalled >= Duration::from_millis(95), "{stalled:?}");
        }
        assert_eq!(stalls(400, 30).await, None, "20 bytes a millisecond");
    }

    #[tokio::test]
    async fn time_in_which_nobody_waited_does_not_count() {
        let clock = Clock::start();
        let ticker = Ticker::new(clock);
        let mut pace = Pace::new(clock, &ticker, &LIMITS());
        let waker = Waker::noop();
        for _ in 0..5 {
            assert!(!pace.waits(waker));
            pace.came(1);
            assert!(!pace.is_waited_for());
            sleep(Duration::from_millis(40)).await;
        }
        assert!(!pace.waits(waker));
    }
}
