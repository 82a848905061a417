//! A resolved RateLimitPolicy, and the fleet facts it needs.

use serde::{Deserialize, Serialize};

use super::ObjectRef;
use crate::{error::ConfigError, name::UnitName};

/// One RateLimitPolicy. Where it applies stands in the rules that name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitPolicy {
    /// The RateLimitPolicy.
    pub object: ObjectRef,
    /// Enforced, or only counted.
    pub mode: Mode,
    /// Whether answers carry `RateLimit` and `RateLimit-Policy`.
    pub headers: bool,
    /// All must admit.
    pub limits: Vec<Limit>,
    /// The policy cannot serve: the rules that name it refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<ConfigError>,
}

/// Whether a policy acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Refuses.
    Enforce,
    /// Counts what it would refuse.
    Shadow,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    /// Unique in the policy.
    pub name: String,
    /// Parts are joined; empty: one bucket for all.
    pub key: Vec<KeyPart>,
    /// When a part has no value.
    pub on_missing_key: OnMissingKey,
    /// The numbers.
    pub bucket: TokenBucket,
    /// Who shares a bucket.
    pub scope: Scope,
}

/// A part of a bucket's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum KeyPart {
    /// The client's address, cut to a prefix.
    ClientAddress {
        /// Bits kept of an IPv4 address.
        prefix_v4: u8,
        /// Bits kept of an IPv6 address.
        prefix_v6: u8,
    },
    /// The first value of a header field, by lower-case name.
    Header {
        /// Name.
        name: String,
    },
    /// `provider|subject` of the identity.
    Identity,
    /// An attribute of the identity.
    IdentityAttribute {
        /// Name.
        name: String,
    },
    /// A claim of the token that proved the identity.
    Claim {
        /// Name of a top-level claim.
        name: String,
    },
}

/// When a part of the key has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnMissingKey {
    /// The request is refused.
    Deny,
    /// The limit does not apply.
    Skip,
    /// All such requests share one bucket.
    SharedBucket,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenBucket {
    /// Tokens added in each `per_ms`.
    pub requests: u64,
    /// The period.
    pub per_ms: u64,
    /// Tokens the bucket holds when full; at least one.
    pub burst: u64,
}

/// Who shares a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum Scope {
    /// One sidecar.
    Local,
    /// All sidecars, through a store.
    Global(Global),
}

/// How sidecars share a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Global {
    /// The store unit.
    pub store: UnitName,
    /// Slices, or a round trip per request.
    pub consistency: Consistency,
    /// How far all sidecars together may exceed the limit.
    pub max_overshoot_ppm: u32,
    /// How long the first request of a key waits for its slice.
    pub max_wait_ms: u64,
    /// Who answers while the store does not.
    pub on_store_failure: StoreFailure,
    /// The fleet unit that says among how many the limit is divided then.
    pub fleet: UnitName,
}

/// How exact a global limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// Sidecars lease slices of tokens.
    Leased,
    /// Each request asks the store.
    Strict,
}

/// Who answers for a global limit while the store does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreFailure {
    /// This sidecar admits limit / sessions.
    LocalShare,
    /// Everything is admitted.
    Allow,
    /// Everything is refused with 503.
    Deny,
}

/// Fleet facts of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fleet {
    /// Sidecars, connected or unknown, whose groups hold the policy; at least one.
    pub sessions: u32,
}

impl LimitPolicy {
    pub(super) fn needs(&self) -> Vec<UnitName> {
        self.limits
            .iter()
            .filter_map(|limit| match &limit.scope {
                Scope::Local => None,
                Scope::Global(global) => Some([global.store.clone(), global.fleet.clone()]),
            })
            .flatten()
            .collect()
    }
}
