//! What the operator says about an ApiRoute.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::ParentRef;
use crate::common::{Condition, LiveStatus};

/// What the operator found out about an ApiRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiRouteStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// On how many pods the route is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveStatus>,
    /// Accepted, ResolvedRefs, Programmed, their summary Ready, Reconciling, Stalled, and Scaling.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// What each parent made of the route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub parents: Vec<ParentStatus>,
}

/// What one parent made of the route, as the Gateway API reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parent.
    pub parent_ref: ParentRef,
    /// Who wrote this entry, `sluice.dev/operator`.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// The conditions of the route under this parent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}
