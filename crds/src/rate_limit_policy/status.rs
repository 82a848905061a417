//! What the operator says about a RateLimitPolicy.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Condition, DnsLabel, LiveStatus, Percent, choice};

/// What the operator found out about a RateLimitPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitPolicyStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// On how many pods the policy is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveStatus>,
    /// Accepted, ResolvedRefs, Programmed and their summary Ready, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// What is known of each limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub limits: Vec<LimitStatus>,
}

choice! {
    /// How a limit is counted now.
    pub enum LimitState {
        /// Each pod for itself, as asked for.
        Local,
        /// By slices from the store.
        Leased,
        /// By asking the store each time.
        Strict,
        /// The store does not answer: each sidecar enforces its share.
        LocalShare,
        /// The store does not answer: requests pass.
        Allow,
        /// The store does not answer: requests are refused.
        Deny,
    }
}

/// What is known of one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitStatus {
    /// Name of the limit.
    pub name: DnsLabel,
    /// How it is counted now.
    pub state: LimitState,
    /// How far the pods together went above it; absent while nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_overshoot: Option<Percent>,
    /// Requests that Shadow let through.
    #[schemars(range(min = 0))]
    pub shadowed: i64,
}
