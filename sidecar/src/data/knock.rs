//! The own application that refuses connections may be about to listen, or be between two lives: it is asked again for a
//! while. Not while the sidecar drains: then it is about to end.

use std::{future::pending, io};

use super::thread::Thread;
use crate::metrics::UpstreamFailure;

/// How long a refused connection is tried again, in milliseconds.
const LONGEST_MS: u64 = 1_000;
/// The shortest pause between two tries, in milliseconds.
const PAUSE_MS: u64 = 20;
/// By how much a pause may be longer: those who wait do not come back all at once.
const SPREAD_MS: u32 = 31;

/// The tries of one connection.
#[derive(Debug)]
pub struct Knock {
    deadline_ms: u64,
    refused_at_ms: Option<u64>,
}

impl Knock {
    /// None yet; `deadline_ms` on the monotonic clock ends them, if not before.
    pub fn until(deadline_ms: u64) -> Self {
        Self {
            deadline_ms,
            refused_at_ms: None,
        }
    }

    /// Whether to try again after `error`; comes back when it is time to.
    pub async fn again(&mut self, thread: &Thread, error: &io::Error) -> bool {
        if error.kind() != io::ErrorKind::ConnectionRefused || thread.shutdown.draining() {
            return false;
        }
        let now_ms = thread.clock().now_ms();
        let first_ms = *self.refused_at_ms.get_or_insert(now_ms);
        let next_ms = now_ms + PAUSE_MS + u64::from(thread.dice.roll32() % SPREAD_MS);
        if next_ms >= self.deadline_ms.min(first_ms + LONGEST_MS) {
            return false;
        }
        // It always elapses.
        let _ = thread.ticker.within(next_ms, pending::<()>()).await;
        let again = !thread.shutdown.draining();
        if again {
            thread.tally.upstream(UpstreamFailure::Retried);
        }
        again
    }
}
