//! How pods count together.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Duration, Percent, StoreRef, choice};

choice! {
    /// How exactly pods count together.
    pub enum Consistency {
        /// Each sidecar takes slices from the store in advance: no round trip per request.
        Leased,
        /// Each request asks the store.
        Strict,
    }
}

choice! {
    /// What happens while the store does not answer.
    pub enum StoreFailure {
        /// Each sidecar enforces its share of the limit.
        LocalShare,
        /// Requests pass.
        Allow,
        /// Requests are refused.
        Deny,
    }
}

/// How pods count together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxOvershoot) || !has(self.consistency) || self.consistency == 'Leased'")
        .message("maxOvershoot belongs to consistency: Leased; Strict admits none"),
    validation = Rule::new("!has(self.maxWait) || duration(self.maxWait) <= duration('1s')").message("maxWait is at most 1s")
)]
pub struct GlobalLimit {
    /// The store that counts.
    pub store_ref: StoreRef,
    /// How exactly pods count together; Leased by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// How far the pods together may go above the limit; 1% by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_overshoot: Option<Percent>,
    /// How long a key's first request waits for the store; 10ms by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wait: Option<Duration>,
    /// What happens while the store does not answer; LocalShare by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_store_failure: Option<StoreFailure>,
}

impl GlobalLimit {
    /// How exactly pods count together, the default applied.
    pub fn effective_consistency(&self) -> Consistency {
        self.consistency.unwrap_or(Consistency::Leased)
    }

    /// How far the pods together may go above the limit, the default (1%) applied.
    pub fn effective_max_overshoot(&self) -> Percent {
        self.max_overshoot.unwrap_or(Percent::from_milli(1_000))
    }

    /// How long a key's first request waits for the store, the default (10ms) applied.
    pub fn effective_max_wait(&self) -> std::time::Duration {
        self.max_wait
            .map_or(std::time::Duration::from_millis(10), Duration::get)
    }

    /// What happens while the store does not answer, the default applied.
    pub fn effective_on_store_failure(&self) -> StoreFailure {
        self.on_store_failure.unwrap_or(StoreFailure::LocalShare)
    }
}
