//! The metrics of a pod, by name: which there are, what they are of a load, how Kubernetes writes their values.

use std::time::Duration;

use sluice_translate::scaling::{IN_FLIGHT, REQUESTS_PER_SECOND};

use crate::load::{PodLoad, meter};

/// What the values are averaged over.
pub const WINDOW: Duration = meter::WINDOW;

/// A metric of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Requests that ended, per second.
    RequestsPerSecond,
    /// Requests that run at a time.
    InFlight,
    /// The 95th percentile of their durations, in seconds.
    LatencyP95,
}

impl Metric {
    /// All of them, by name.
    pub const ALL: [Self; 3] = [Self::InFlight, Self::LatencyP95, Self::RequestsPerSecond];

    /// The name that HorizontalPodAutoscalers use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => REQUESTS_PER_SECOND,
            Self::InFlight => IN_FLIGHT,
            Self::LatencyP95 => "sluice_latency_p95_seconds",
        }
    }

    /// The metric of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.as_str() == name)
    }

    /// Its value; never negative, never infinite.
    pub fn value(self, load: &PodLoad) -> f64 {
        let value = match self {
            Self::RequestsPerSecond => load.requests_per_second,
            Self::InFlight => load.in_flight,
            Self::LatencyP95 => Duration::from_micros(load.latency_p95_us).as_secs_f64(),
        };
        if value.is_finite() {
            value.max(0.0)
        } else {
            0.0
        }
    }

    /// Its value as a Quantity: thousandths, of a latency millionths.
    pub fn quantity(self, load: &PodLoad) -> String {
        let value = self.value(load);
        match self {
            Self::RequestsPerSecond | Self::InFlight => format!("{:.0}m", value * 1e3),
            Self::LatencyP95 => format!("{:.0}u", value * 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn values_are_quantities() {
        let load = PodLoad {
            namespace: "shop".into(),
            pod: "web-0".into(),
            uid: "u".into(),
            requests_per_second: 12.3456,
            in_flight: f64::NAN,
            latency_p95_us: 12_500,
            at: Instant::now(),
        };
        let text = Metric::ALL.map(|metric| metric.quantity(&load));
        assert_eq!(text, ["0m", "12500u", "12346m"]);
        for metric in Metric::ALL {
            assert_eq!(Metric::of(metric.as_str()), Some(metric));
        }
        assert_eq!(Metric::of("cpu"), None);
    }
}
