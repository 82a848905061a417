//! A ShardSet in force: which slot lives on which shard, at one epoch.

use serde::{Deserialize, Serialize};

use super::ObjectRef;
use crate::name::UnitName;

/// Slots of the only keyspace there is now: CRC16 mod 16384, as Redis Cluster has it.
pub const SLOTS: u16 = 16_384;

/// One ShardSet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardMap {
    /// The ShardSet.
    pub object: ObjectRef,
    /// Its uid: with the epoch it names the map.
    pub uid: String,
    /// Grows by one with every committed move.
    pub epoch: u64,
    /// Sources of the key; the first that is present gives it.
    pub key: Vec<KeySource>,
    /// Every slot exactly once, sorted.
    pub slots: Vec<SlotRange>,
    /// Slots whose new requests wait, during a move.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hold: Vec<Held>,
    /// How long they wait at most.
    pub max_pause_ms: u64,
    /// Keys that live on a shard whatever their slot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// In the order of the resource.
    pub shards: Vec<Shard>,
    /// Methods that read; empty: everything goes to the primary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replica_methods: Vec<String>,
    /// The set cannot serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<crate::error::ConfigError>,
}

/// Where a key comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum KeySource {
    /// First value of a header field, by lower-case name.
    Header {
        /// Name.
        name: String,
    },
    /// A named group of the rule's path expression.
    PathParameter {
        /// Name.
        name: String,
    },
    /// A segment of the normalised path, from zero.
    PathSegment {
        /// Which.
        index: u8,
    },
    /// First occurrence of a query parameter, percent-decoded.
    Query {
        /// Name.
        name: String,
    },
    /// A claim of the token that proved the identity.
    Claim {
        /// Name of a top-level claim.
        name: String,
    },
}

/// Slots on a shard, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
    /// Index into `shards`.
    pub shard: u16,
}

/// Slots that are held, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Held {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
}

/// A key with a home of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pin {
    /// The whole key.
    pub key: String,
    /// Index into `shards`.
    pub shard: u16,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shard {
    /// Its name.
    pub name: String,
    /// Backend unit for writes, and for reads where there is no replica.
    pub primary: UnitName,
    /// Backend units for the methods of `replica_methods`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<UnitName>,
}

impl ShardMap {
    pub(super) fn needs(&self) -> Vec<UnitName> {
        self.shards
            .iter()
            .flat_map(|shard| {
                std::iter::once(&shard.primary)
                    .chain(&shard.replicas)
                    .cloned()
            })
            .collect()
    }
}
