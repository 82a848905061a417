//! What the operator says about a ShardSet: the placement in force and the move under way.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{Placement, SlotRange};
use crate::common::{Condition, LiveStatus, choice};

/// What the operator found out about a ShardSet, and the placement in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardSetStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The epoch of the placement in force; it only grows, and grows with every commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub epoch: Option<i64>,
    /// The placement in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub placement: Vec<Placement>,
    /// The move under way; a new leader finishes or aborts it from here.
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    pub moving: Option<MoveStatus>,
    /// On how many pods the map is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveStatus>,
    /// Accepted, ResolvedRefs, Programmed and their summary Ready, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

choice! {
    /// How far a move has come.
    pub enum MovePhase {
        /// Not every pod holds today's map: nothing has changed for requests.
        Waiting,
        /// Sidecars were told to hold requests for the slots.
        Holding,
        /// It was given up and will be tried again.
        BackingOff,
    }
}

/// A move of slots under way. Its commit is one write: epoch plus one, the new placement, and no move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MoveStatus {
    /// How far it has come.
    pub phase: MovePhase,
    /// The epoch it starts from; a status with another epoch has outlived it.
    #[schemars(range(min = 0))]
    pub epoch: i64,
    /// The slots that change their owner.
    #[schemars(length(min = 1, max = 512))]
    pub slots: Vec<SlotRange>,
    /// The placement that the commit will write.
    #[schemars(length(min = 1, max = 256))]
    pub placement: Vec<Placement>,
    /// Since when it is in this phase.
    pub since: Time,
    /// How often it was given up so far.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempts: i32,
    /// Why it waits or was given up, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
}
