//! A store of SluiceConfig.

use serde::{Deserialize, Serialize};

use crate::name::UnitName;

/// A Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Store {
    /// The name policies use.
    pub name: String,
    /// How its servers are related.
    pub mode: RedisMode,
    /// `host:port`, at least one.
    pub addresses: Vec<String>,
    /// TLS with the system's roots or `ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<StoreTls>,
    /// A secret unit with the entries `username` (optional) and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<UnitName>,
    /// Before every key of ours.
    pub key_prefix: String,
}

/// How the servers of a Redis are related.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum RedisMode {
    /// One server.
    Standalone,
    /// Redis Cluster; the addresses are seeds.
    Cluster,
    /// Sentinels; the addresses are theirs.
    Sentinel {
        /// Name of the watched primary.
        primary: String,
    },
}

/// TLS towards a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreTls {
    /// PEM bundle; none: the web's public roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

impl Store {
    pub(super) fn needs(&self) -> Vec<UnitName> {
        self.credentials.iter().cloned().collect()
    }
}
