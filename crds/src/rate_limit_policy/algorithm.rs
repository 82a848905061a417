//! How requests are counted.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Duration, union};

union! {
    /// How requests are counted.
    pub struct Algorithm, AlgorithmType, AlgorithmUse {}
    /// A bucket that fills at a steady rate and holds a burst.
    TokenBucket = "TokenBucket" => token_bucket = "tokenBucket": TokenBucket;
}

/// A bucket that fills at a steady rate and holds a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.per) >= duration('1ms') && duration(self.per) <= duration('24h')")
    .message("per is from 1ms to 24h"))]
pub struct TokenBucket {
    /// Requests that `per` brings.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,
    /// The time that `requests` is counted over.
    pub per: Duration,
    /// Requests at once; as many as `requests` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
}

impl TokenBucket {
    /// Requests at once, the default applied.
    pub fn effective_burst(&self) -> u32 {
        self.burst.unwrap_or(self.requests)
    }
}
