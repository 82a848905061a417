//! The own application that refuses connections may be about to listen, or be between two lives: it is asked again for a
//! while. Not while the sidecar drains: then it is about to end.

use std::{future::pending, io};

use super::thread::{Thread, WaitingPlace};
use crate::metrics::UpstreamFailure;

/// How long a refused connection is tried again, in milliseconds.
const LONGEST_MS: u64 = 1_000;
/// The shortest pause between two tries, in milliseconds.
const PAUSE_MS: u64 = 20;
/// By how much a pause may be longer: those who wait do not come back all at once.
const SPREAD_MS: u32 = 31;

/// Connections of one data thread that may wait at a time: whoever looks for open ports must not keep the sidecar busy
/// with those that are closed.
const MAX_KNOCKING: usize = 1024;

/// The tries of one connection.
#[derive(Debug)]
pub struct Knock {
    deadline_ms: u64,
    /// Since the first refusal: when that was.
    waiting: Option<(u64, WaitingPlace)>,
}

impl Knock {
    /// None yet; `deadline_ms` on the monotonic clock ends them, if not before.
    pub fn until(deadline_ms: u64) -> Self {
        Self {
            deadline_ms,
            waiting: None,
        }
    }

    /// Whether to try again after `error`; comes back when it is time to.
    pub async fn again(&mut self, thread: &Thread, error: &io::Error) -> bool {
        if error.kind() != io::ErrorKind::ConnectionRefused || thread.shutdown.draining() {
            return false;
        }
        let now_ms = thread.clock().now_ms();
        if self.waiting.is_none() {
            self.waiting = thread
                .knocking_place(MAX_KNOCKING)
                .map(|place| (now_ms, place));
        }
        let Some((first_ms, _)) = &self.waiting else {
            return false;
        };
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

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures::future::join_all;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[tokio::test]
    async fn only_so_many_wait_at_a_time() {
        let thread = Thread::idle();
        let work = async {
            spawn_local(thread.ticker.clone().run());
            let mut knocks: Vec<_> = (0..MAX_KNOCKING + 3)
                .map(|_| Knock::until(u64::MAX))
                .collect();
            let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
            let thread = Rc::clone(&thread);
            let again = join_all(
                knocks
                    .iter_mut()
                    .map(|knock| knock.again(&thread, &refused)),
            );
            let again = again.await.into_iter().filter(|again| *again).count();
            assert_eq!(again, MAX_KNOCKING);
            drop(knocks);
            assert!(Knock::until(u64::MAX).again(&thread, &refused).await);
        };
        LocalSet::new().run_until(work).await;
    }
}
