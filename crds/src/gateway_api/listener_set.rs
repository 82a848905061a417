//! ListenerSet: listeners that another team adds to a Gateway (GEP-1713).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{Listener, ObjectReference};

/// Listeners for a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListenerSet {
    /// Name, namespace, age.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: ListenerSetSpec,
}

/// What a ListenerSet asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSetSpec {
    /// The Gateway.
    pub parent_ref: ObjectReference,
    /// Where it is to listen besides.
    #[serde(default)]
    pub listeners: Vec<Listener>,
}
