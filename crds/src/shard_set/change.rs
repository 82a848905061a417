//! How slots change their owner.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Duration, choice};

choice! {
    /// How slots change their owner.
    pub enum ChangeStrategy {
        /// Requests for moving slots wait until every sidecar has settled, then the epoch changes at once.
        Hold,
    }
}

/// How slots change their owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlacementChange {
    /// How; Hold by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<ChangeStrategy>,
    /// How long requests may wait before the move is given up; 500ms by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10ms') && duration(self) <= duration('30s')")
        .message("maxPause is from 10ms to 30s"))]
    pub max_pause: Option<Duration>,
}

impl PlacementChange {
    /// How long requests may wait where the block names nothing.
    pub const DEFAULT_MAX_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
}

impl super::ShardSetSpec {
    /// How long requests for moving slots may wait before the move is given up, the default applied.
    pub fn effective_max_pause(&self) -> std::time::Duration {
        let named = self.change.as_ref().and_then(|change| change.max_pause);
        named.map_or(PlacementChange::DEFAULT_MAX_PAUSE, Duration::get)
    }
}
