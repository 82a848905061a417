//! The two signals that everything winds down on: *draining* says that this process will end, so that clients go
//! elsewhere, and changes nothing else; *shutdown* is the end itself (SIGTERM, SIGINT, or a critical task that ended).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How far winding down has come. Clones are the same signal.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    announced: CancellationToken,
    token: CancellationToken,
    /// The same as `announced`, for those who look at every request: a token's look takes a lock.
    draining: Arc<AtomicBool>,
}

impl Shutdown {
    /// Begins shutdown on the first SIGTERM or SIGINT. A second one ends the process at once, for whoever presses
    /// Ctrl-C twice.
    pub fn on_signals() -> io::Result<Self> {
        Self::on_first_signal(Self::begin)
    }

    /// Does what `first` says on the first SIGTERM or SIGINT, which is told by name. A second one ends the process.
    pub fn on_first_signal(first: impl FnOnce(&Self, &str) + Send + 'static) -> io::Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told = shutdown.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            };
            first(&told, next().await);
            next().await;
            std::process::exit(130);
        });
        Ok(shutdown)
    }

    /// Announces the end: work that comes is still done. `why` is logged the first time.
    pub fn drain(&self, why: &str) {
        if !self.draining.swap(true, Ordering::Relaxed) {
            tracing::info!(why, "draining");
        }
        self.announced.cancel();
    }

    /// Whether the end is announced. Cheap enough for every request.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Waits until the end is announced.
    pub fn announced(&self) -> WaitForCancellationFutureOwned {
        self.announced.clone().cancelled_owned()
    }

    /// Begins shutdown, announced or not; `why` is logged the first time.
    pub fn begin(&self, why: &str) {
        if !self.has_begun() {
            tracing::info!(why, "shutting down");
        }
        self.draining.store(true, Ordering::Relaxed);
        self.announced.cancel();
        self.token.cancel();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until it begins.
    pub fn begun(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// The token, for code that takes one.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_is_no_shutdown_and_shutdown_is_draining() {
        let shutdown = Shutdown::default();
        let clone = shutdown.clone();
        shutdown.drain("test");
        clone.announced().await;
        assert!(clone.draining() && !clone.has_begun());

        let shutdown = Shutdown::default();
        shutdown.begin("test");
        shutdown.announced().await;
        shutdown.begun().await;
        assert!(shutdown.draining() && shutdown.has_begun());
    }
}
