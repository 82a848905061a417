//! Caching of one rule (RFC 9111).

use serde::{Deserialize, Serialize};

/// What is cached and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheRule {
    /// Who may be given a stored answer.
    pub scope: CacheScope,
    /// Freshness where the origin states none; zero: such answers are not stored.
    pub default_ttl_ms: u64,
    /// Query parameters that are no part of the key, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_query: Vec<String>,
    /// Header fields that are part of the key, lower-case, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_headers: Vec<String>,
    /// Bytes of memory that the answers of this rule may take in one sidecar.
    pub max_bytes: u64,
}

/// Who may be given a stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheScope {
    /// As RFC 9111 says; a request with an identity counts as one with `Authorization` (section 3.5).
    Standard,
    /// The identity is part of the key: each caller has its own answers.
    Identity,
}
