//! Metrics of the control side.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Registered once per process.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// 1 while the stream is up.
    pub connected: IntGauge,
    /// Streams begun.
    pub connections: IntCounter,
    /// Versions applied, and versions refused.
    pub updates: IntCounterVec,
    /// Unix seconds of the last applied version.
    pub applied_at: IntGauge,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            connected: IntGauge::new(
                "sluice_stream_connected",
                "1 while the stream from the operator is up.",
            )?,
            connections: IntCounter::new(
                "sluice_stream_connections_total",
                "Streams to the operator that were begun.",
            )?,
            updates: IntCounterVec::new(
                Opts::new("sluice_updates_total", "Versions received, by result."),
                &["result"],
            )?,
            applied_at: IntGauge::new(
                "sluice_applied_timestamp_seconds",
                "When the version in force was applied.",
            )?,
        };
        registry.register(Box::new(metrics.connected.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.updates.clone()))?;
        registry.register(Box::new(metrics.applied_at.clone()))?;
        Ok(metrics)
    }
}
