//! Metrics of the exchange between replicas.

use prometheus::{IntCounter, IntGauge, Registry};

/// The exchange's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Bytes told to other replicas.
    pub sent: IntCounter,
    /// Bytes that other replicas told.
    pub received: IntCounter,
    /// Replicas that tell at present.
    pub followed: IntGauge,
    /// Times that one fell silent or ended the exchange.
    pub lost: IntCounter,
    /// Requests of somebody who is no replica.
    pub refused: IntCounter,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("sluice_operator_peers_{name}");
        let metrics = Self {
            sent: IntCounter::new(name("sent_bytes_total"), "Bytes told to other replicas")?,
            received: IntCounter::new(
                name("received_bytes_total"),
                "Bytes that other replicas told",
            )?,
            followed: IntGauge::new(
                name("followed"),
                "Other replicas that tell of their sessions",
            )?,
            lost: IntCounter::new(
                name("lost_total"),
                "Times that another replica fell silent or ended the exchange",
            )?,
            refused: IntCounter::new(
                name("refused_total"),
                "Requests for the exchange by somebody who is no replica",
            )?,
        };
        let Self {
            sent,
            received,
            followed,
            lost,
            refused,
        } = metrics.clone();
        registry.register(Box::new(sent))?;
        registry.register(Box::new(received))?;
        registry.register(Box::new(followed))?;
        registry.register(Box::new(lost))?;
        registry.register(Box::new(refused))?;
        Ok(metrics)
    }
}
