//! Stores: where sidecars keep what they must agree on.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{DnsLabel, SecretRef, StoreAddress, choice, union};

union! {
    /// One store.
    pub struct Store, StoreType, StoreUse {
        /// Name of the store, what policies call it by.
        pub name: DnsLabel,
    }
    /// Redis or a server that speaks its protocol.
    Redis = "Redis" => redis = "redis": RedisStore;
}

choice! {
    /// How the servers of a Redis work together.
    pub enum RedisMode {
        /// One server.
        Standalone,
        /// Redis Cluster.
        Cluster,
        /// Servers that Sentinels watch over.
        Sentinel,
    }
}

/// Redis or a server that speaks its protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.mode) && self.mode == 'Sentinel') == has(self.sentinelMaster)")
        .message("mode: Sentinel needs sentinelMaster, other modes have none"),
    validation = Rule::new("(has(self.mode) && self.mode != 'Standalone') || self.addresses.size() == 1")
        .message("mode: Standalone has exactly one address")
)]
pub struct RedisStore {
    /// How the servers work together; Standalone by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<RedisMode>,
    /// The servers, or with mode Sentinel the Sentinels, as host:port.
    #[schemars(length(min = 1, max = 16))]
    pub addresses: Vec<StoreAddress>,
    /// The name by which Sentinels know the primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_master: Option<DnsLabel>,
    /// TLS to the servers; absent means clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
    /// A Secret, labelled `sluice.dev/use: redis-auth`, with username and password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// What every key begins with; `sluice` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<DnsLabel>,
}

impl RedisStore {
    /// How the servers work together, the default applied.
    pub fn effective_mode(&self) -> RedisMode {
        self.mode.unwrap_or(RedisMode::Standalone)
    }

    /// What every key begins with, the default applied.
    pub fn effective_key_prefix(&self) -> &str {
        self.key_prefix.as_deref().unwrap_or("sluice")
    }
}

/// TLS to the servers of a store, verified against the system's roots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisTls {}
