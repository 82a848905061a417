//! The one signal that everything winds down on: SIGTERM, SIGINT, or a critical task that ended.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Whether shutdown has begun. Clones are the same signal.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Begins shutdown on the first SIGTERM or SIGINT. A second one ends the process at once, for whoever presses
    /// Ctrl-C twice.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let begun = shutdown.clone();
        tokio::spawn(async move {
            for first in [true, false] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if !first {
                    std::process::exit(130);
                }
                begun.begin(name);
            }
        });
        Ok(shutdown)
    }

    /// Begins shutdown; `why` is logged the first time.
    pub fn begin(&self, why: &str) {
        if !self.has_begun() {
            tracing::info!(why, "shutting down");
        }
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
