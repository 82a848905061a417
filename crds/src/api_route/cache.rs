//! Which answers of a rule are kept and given again (RFC 9111).

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Duration, HeaderName, Quantity, QueryName, choice};

choice! {
    /// Whether a rule caches.
    pub enum CacheMode {
        /// Answers are kept and given again.
        Enabled,
        /// Nothing is kept.
        Disabled,
    }
}

choice! {
    /// Who shares a kept answer.
    pub enum CacheScope {
        /// Whoever RFC 9111 lets share it: an answer to a known identity is private unless it says otherwise.
        Standard,
        /// Only the identity that asked for it.
        Identity,
    }
}

/// Which answers are kept and given again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// Whether the rule caches; Enabled by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<CacheMode>,
    /// Who shares a kept answer; Standard by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<CacheScope>,
    /// How long an answer without freshness of its own stays fresh; 0s, the default, keeps only what the origin calls fresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_ttl: Option<Duration>,
    /// What tells two requests apart beside method, host and path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<CacheKey>,
    /// Where answers are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<CacheLevels>,
}

impl Cache {
    /// Memory for kept answers of a rule that names none, in bytes.
    pub const DEFAULT_MAX_BYTES: u64 = 64 << 20;

    /// Whether the rule caches, the default applied.
    pub fn effective_mode(&self) -> CacheMode {
        self.mode.unwrap_or(CacheMode::Enabled)
    }

    /// Who shares a kept answer, the default applied.
    pub fn effective_scope(&self) -> CacheScope {
        self.scope.unwrap_or(CacheScope::Standard)
    }

    /// How long an answer without freshness of its own stays fresh; zero means it is not kept.
    pub fn effective_default_ttl(&self) -> std::time::Duration {
        self.default_ttl.unwrap_or_default().get()
    }

    /// Memory for kept answers, in bytes.
    pub fn effective_max_bytes(&self) -> u64 {
        let memory = self
            .levels
            .as_ref()
            .and_then(|levels| levels.memory.as_ref());
        memory
            .and_then(|memory| memory.max_bytes.as_ref())
            .map_or(Self::DEFAULT_MAX_BYTES, Quantity::value)
    }
}

/// What tells two requests apart beside method, host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheKey {
    /// How the query counts; as a whole by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<CacheKeyQuery>,
    /// Request headers that count, beside those the answer's Vary names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub headers: Vec<HeaderName>,
}

/// How the query counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheKeyQuery {
    /// Parameters that do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32))]
    pub ignore: Vec<QueryName>,
}

/// Where answers are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheLevels {
    /// In the memory of each sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryLevel>,
}

/// The memory of each sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryLevel {
    /// How much of it; 64Mi by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Quantity>,
}
