//! Identities that an edge of the platform proved.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::SpiffeId;

/// What edges assert of the requests they forward, over TLS with certificates of the trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The certificates that are believed: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub from: Vec<SpiffeId>,
}
