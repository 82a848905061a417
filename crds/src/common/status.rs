//! What every status carries.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// On how many pods an object is in force, counted from what sidecars acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LiveStatus {
    /// Both numbers as one text, `118/120`.
    #[schemars(length(max = 32))]
    pub summary: String,
    /// Pods that acknowledged it.
    #[schemars(range(max = 1_000_000))]
    pub pods: u32,
    /// Pods that should.
    #[schemars(range(max = 1_000_000))]
    pub of: u32,
    /// The version of the object's units, a short hash.
    #[schemars(length(max = 64))]
    pub version: String,
    /// How long the slowest pod took to acknowledge it, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowest_ms: Option<i64>,
    /// Pods among them whose sidecar is of another build than the operator; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub outdated: Option<u32>,
}

impl LiveStatus {
    /// Counts with their summary.
    pub fn new(pods: u32, of: u32, version: impl Into<String>, slowest_ms: Option<i64>) -> Self {
        Self {
            summary: format!("{pods}/{of}"),
            pods,
            of,
            version: version.into(),
            slowest_ms,
            outdated: None,
        }
    }
}
