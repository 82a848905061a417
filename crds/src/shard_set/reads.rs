//! Which requests go to replicas.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{HttpMethod, choice};

/// Which requests go to replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadWriteSplit {
    /// What counts as a read and where it goes.
    pub reads: ReadRouting,
}

/// What counts as a read and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadRouting {
    /// Methods that count as reads; all others are writes.
    #[schemars(length(min = 1, max = 9))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub methods: Vec<HttpMethod>,
    /// Where reads go.
    pub to: ReadTarget,
}

choice! {
    /// Where reads go.
    pub enum ReadTarget {
        /// To the primary, as writes do.
        Primary,
        /// To a replica, to the primary where the shard has none.
        PreferReplica,
    }
}
