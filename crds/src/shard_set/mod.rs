//! ShardSet: which backend owns which part of a key space.

mod change;
mod key;
mod members;
mod reads;
mod slots;
mod status;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{DnsLabel, FreeText, choice};

pub use change::{ChangeStrategy, PlacementChange};
pub use key::{
    NamedKey, OnMissingShardKey, PathSegmentKey, ShardKey, ShardKeyClaim, ShardKeyHeader,
    ShardKeyPart, ShardKeyPartType, ShardKeyPartUse,
};
pub use members::{MemberRole, Shard, ShardMember};
pub use reads::{ReadRouting, ReadTarget, ReadWriteSplit};
pub use slots::{SLOTS, SlotRange, SlotRangeError, SlotTable, SlotTableError};
pub use status::{MovePhase, MoveStatus, ShardSetStatus};

/// Which backend owns which part of a key space.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
// Clippy takes the columns' arguments for attributes.
#[allow(clippy::duplicated_attributes)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "ShardSet",
    plural = "shardsets",
    shortname = "ss",
    category = "sluice",
    namespaced,
    status = "ShardSetStatus",
    derive = "PartialEq",
    doc = "Which backend owns which part of a key space.",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "LIVE", type_ = "string", json_path = ".status.live.summary"),
    printcolumn(
        name = "OUTDATED",
        type_ = "integer",
        json_path = ".status.live.outdated",
        priority = 1
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ShardSetSpec {
    /// What the shards speak; HTTP by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ShardProtocol>,
    /// How keys become slots; it cannot change, for every key would change its owner.
    #[x_kube(validation = Rule::new("self == oldSelf").message("the keyspace is immutable: every key would change its owner"))]
    pub keyspace: Keyspace,
    /// What a request's key is.
    pub key: ShardKey,
    /// The shards.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub shards: Vec<Shard>,
    /// Which shard shall own which slots: a wish that a move makes true; status.placement is what holds.
    #[schemars(length(min = 1, max = 256))]
    pub placement: Vec<Placement>,
    /// Keys whose shard is fixed, whatever their slot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["key".into()]))]
    pub pins: Vec<Pin>,
    /// How slots change their owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<PlacementChange>,
    /// Which requests go to replicas; without, all go to the primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_write_split: Option<ReadWriteSplit>,
}

choice! {
    /// What the shards speak.
    pub enum ShardProtocol {
        /// HTTP/1.1 and HTTP/2.
        Http = "HTTP",
    }
}

choice! {
    /// How a key becomes a number.
    pub enum KeyHash {
        /// CRC16/XMODEM with hash tags, as Redis Cluster computes it.
        Crc16 = "CRC16",
    }
}

/// How keys become slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Keyspace {
    /// How many slots there are: 16384.
    #[schemars(range(min = 16384, max = 16384))]
    pub slots: u16,
    /// How a key becomes a number.
    pub hash: KeyHash,
}

/// Slots and the shard that owns them.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// One slot or an inclusive range, `0-8191`.
    pub slots: SlotRange,
    /// Name of the shard.
    pub shard: DnsLabel,
}

/// A key whose shard is fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// The key.
    #[schemars(length(min = 1, max = 256))]
    pub key: String,
    /// Name of the shard.
    pub shard: DnsLabel,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<FreeText>,
}
