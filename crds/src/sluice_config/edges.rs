//! What the edges of Gateways look like where their Gateways do not say.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::InjectionResources;

/// What the edges of Gateways look like where their own parameters do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Edges {
    /// How many pods a new edge has at first; 2 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: Option<i32>,
    /// Requests and limits of the container; by default it asks for 100m of CPU and 64Mi of memory and has no limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<InjectionResources>,
}
