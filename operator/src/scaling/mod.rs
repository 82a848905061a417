//! What scaling is told: the loads of pods, for whoever computes replicas from them, in their own protocols. Three ways,
//! of which an installation uses one: the custom metrics API ([`metrics_api`], and [`api_service`], which registers it),
//! KEDA's external scaler ([`external`]), and Prometheus, which scrapes sidecars itself.
//!
//! Nothing here computes replicas, and nothing here writes a workload.

pub mod api_service;
pub mod external;
pub mod metric;
pub mod metrics_api;
pub mod pods;
pub mod selector;

use tokio::sync::watch;

/// The group that HorizontalPodAutoscalers ask for metrics of pods.
pub const METRICS_GROUP: &str = "custom.metrics.k8s.io";
/// Its one version that is served: a second one would be one more thing that blocks discovery.
pub const METRICS_VERSION: &str = "v1beta2";

/// Who serves the custom metrics API of this cluster, as far as this replica knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MetricsApi {
    /// Nobody looked yet, or the API server did not answer.
    #[default]
    Unknown,
    /// This operator.
    Ours,
    /// Somebody else, or nobody: what to say of it.
    Elsewhere(String),
}

/// What is known of the metrics API, and its changes.
pub type MetricsApiWatch = watch::Receiver<MetricsApi>;
