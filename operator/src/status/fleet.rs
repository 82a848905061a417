//! What the fleet as a whole lacks, as metrics that every replica shows alike: pods without their sidecar, and sidecars of
//! another build than this operator. Which pods, and what to do, objects' statuses and `kubectl sluice outdated` say.

use std::{sync::Arc, time::Duration};

use prometheus::{IntGauge, Registry};
use sluice_process::Shutdown;
use tokio::time::{MissedTickBehavior, interval};

use crate::{engine::Handle, stream::SessionTable};

/// Between two counts.
const INTERVAL: Duration = Duration::from_secs(2);

/// The fleet's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    bare: IntGauge,
    outdated: IntGauge,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            bare: IntGauge::new(
                "sluice_operator_bare_pods",
                "Pods without a sidecar in namespaces that ask for one",
            )?,
            outdated: IntGauge::new(
                "sluice_operator_outdated_sidecars",
                "Connected sidecars of another build than this operator",
            )?,
        };
        registry.register(Box::new(metrics.bare.clone()))?;
        registry.register(Box::new(metrics.outdated.clone()))?;
        Ok(metrics)
    }
}

/// Counts until shutdown.
pub async fn count(
    engine: Handle,
    table: Arc<SessionTable>,
    metrics: Metrics,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let bare = engine.read(|engine| engine.world().bare_pods().count());
        let Ok(bare) = bare.await else {
            shutdown.begun().await;
            return Ok(());
        };
        metrics.bare.set(gauge(bare));
        metrics.outdated.set(gauge(table.outdated()));
    }
}
