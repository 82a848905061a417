//! ReferenceGrant: who of other namespaces may refer to what of this one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The consent of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReferenceGrant {
    /// Name, namespace.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is granted.
    #[serde(default)]
    pub spec: ReferenceGrantSpec,
}

/// What is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceGrantSpec {
    /// To whom: any of these.
    #[serde(default)]
    pub from: Vec<GrantFrom>,
    /// For what: any of these.
    #[serde(default)]
    pub to: Vec<GrantTo>,
}

/// Objects that may refer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantFrom {
    /// API group.
    #[serde(default)]
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// Objects that may be referred to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTo {
    /// API group; empty is the core group.
    #[serde(default)]
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// The name of one; none is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
