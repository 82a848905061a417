//! The control thread's side of the sidecar: the stream from the operator, what is held, the last-known-good. It decides
//! nothing about requests; it hands compiled programs to the data plane and carries its reports back.

mod abilities;
mod client;
mod identity;
mod last_known_good;
mod metrics;
mod principal;
mod snapshot;

use std::{path::PathBuf, sync::Arc, time::Duration};

use sluice_pipeline::Program;
use sluice_snapshot::stream;
use tokio::sync::mpsc;

pub use abilities::build;
pub use identity::{IdentityError, RootsSource};
pub use metrics::Metrics;

use crate::{data::hop::credentials::Issued, metrics::Told};

/// What the control side is told at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` of the operator's stream server.
    pub operator: String,
    /// The name its certificate must carry, whatever address is dialled.
    pub operator_name: String,
    /// The pod's token; read again at each connection.
    pub token_file: PathBuf,
    /// The first roots.
    pub roots: RootsSource,
    /// Private, memory-backed directory for the last-known-good.
    pub state_dir: PathBuf,
    /// Version and commit, for people.
    pub build: String,
}

/// What the control side needs of the data plane.
pub trait DataPlane: Send + Sync + 'static {
    /// The program in force, whose compiled parts the next one shares.
    fn current(&self) -> Arc<Program>;
    /// Puts a program in force, whole.
    fn install(&self, program: Program, set: &sluice_pipeline::UnitSet);
    /// This sidecar has a new certificate, or trusts others.
    fn identify(&self, issued: Issued);
    /// Whatever was kept from before is in force by now, or is of no use.
    fn restored(&self);
    /// What a stream reports next, for scaling and fleet facts; `told` is what it reported so far.
    fn report(&self, told: &mut Told) -> stream::Report;
}

/// Serves from the last-known-good if there is one, then follows the operator for as long as the process lives. A
/// connection that ends is made again, with backoff and jitter; a panic of the client restarts it, counted.
pub async fn run(
    settings: Settings,
    plane: Arc<dyn DataPlane>,
    metrics: Arc<Metrics>,
    settled: mpsc::Receiver<stream::Settled>,
) -> Result<(), IdentityError> {
    let mut client = client::Client::new(settings, Arc::clone(&plane), metrics, settled)?;
    client.restore();
    plane.restored();
    let mut backoff = Backoff::default();
    loop {
        let end = client.session().await;
        if client.take_progress() {
            backoff = Backoff::default();
        }
        let wait = backoff.next(random_fraction());
        tracing::warn!(error = %end, retry_in_ms = wait.as_millis(), "the stream from the operator ended; what is held goes on serving");
        tokio::time::sleep(wait).await;
    }
}

/// Exponential backoff with full jitter, so that a fleet that lost its operator does not return as one.
#[derive(Debug)]
struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            ceiling: Duration::from_millis(100),
        }
    }
}

impl Backoff {
    const LONGEST: Duration = Duration::from_secs(10);
    const SHORTEST: Duration = Duration::from_millis(20);

    /// The next wait; `fraction` is in `[0, 1)`.
    fn next(&mut self, fraction: f64) -> Duration {
        let wait = self.ceiling.mul_f64(fraction).max(Self::SHORTEST);
        self.ceiling = (self.ceiling * 2).min(Self::LONGEST);
        wait
    }
}

fn random_fraction() -> f64 {
    let random = crate::random::seed() >> 32;
    random as f64 / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_spread() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..12).map(|_| backoff.next(0.999)).collect();
        assert!(longest[0] < Duration::from_millis(101));
        assert!(longest.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(longest[11] <= Backoff::LONGEST && longest[11] > Duration::from_secs(9));
        assert_eq!(backoff.next(0.0), Backoff::SHORTEST);
    }
}
