//! Metrics of the stream. Labels are closed: no pod, no client text.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};

/// The stream's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Sessions that are connected.
    pub sessions: IntGauge,
    /// Connections that ended before a session began, by reason.
    pub refused: IntCounterVec,
    /// Sessions that ended, by reason.
    pub ended: IntCounterVec,
    /// Units sent.
    pub units: IntCounter,
    /// Units sent as denied.
    pub denied: IntCounter,
    /// Versions that a sidecar refused.
    pub nacks: IntCounter,
    /// Certificates issued.
    pub certificates: IntCounter,
    /// From a change's publication until it was sent, and from there until it was acknowledged; per session.
    steps: HistogramVec,
    /// From a change's being seen until a sidecar acknowledged it.
    pub total: Histogram,
}

/// Milliseconds to half a minute.
pub fn buckets() -> Vec<f64> {
    // Constant arguments that the function accepts.
    exponential_buckets(0.0005, 2.0, 16).unwrap_or_default()
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("sluice_operator_stream_{name}");
        let metrics = Self {
            sessions: IntGauge::new(name("sessions"), "Connected sidecars")?,
            refused: IntCounterVec::new(
                Opts::new(
                    name("refused_total"),
                    "Connections refused before a session began",
                ),
                &["reason"],
            )?,
            ended: IntCounterVec::new(
                Opts::new(name("ended_total"), "Sessions that ended"),
                &["reason"],
            )?,
            units: IntCounter::new(name("units_total"), "Units sent")?,
            denied: IntCounter::new(name("denied_total"), "Units sent as denied")?,
            nacks: IntCounter::new(name("nacks_total"), "Versions refused by a sidecar")?,
            certificates: IntCounter::new(name("certificates_total"), "Certificates issued")?,
            steps: HistogramVec::new(
                HistogramOpts::new(
                    name("step_seconds"),
                    "Way of a change to one sidecar: published to sent, sent to acknowledged",
                )
                .buckets(buckets()),
                &["step"],
            )?,
            total: Histogram::with_opts(
                HistogramOpts::new(
                    name("seen_to_acked_seconds"),
                    "From a change seen by its source to its Ack by one sidecar",
                )
                .buckets(buckets()),
            )?,
        };
        let Self {
            sessions,
            refused,
            ended,
            units,
            denied,
            nacks,
            certificates,
            steps,
            total,
        } = metrics.clone();
        registry.register(Box::new(sessions))?;
        registry.register(Box::new(refused))?;
        registry.register(Box::new(ended))?;
        registry.register(Box::new(units))?;
        registry.register(Box::new(denied))?;
        registry.register(Box::new(nacks))?;
        registry.register(Box::new(certificates))?;
        registry.register(Box::new(steps))?;
        registry.register(Box::new(total))?;
        Ok(metrics)
    }

    /// Published to sent.
    pub fn sent(&self) -> Histogram {
        self.steps.with_label_values(&["sent"])
    }

    /// Sent to acknowledged.
    pub fn acked(&self) -> Histogram {
        self.steps.with_label_values(&["acked"])
    }
}
