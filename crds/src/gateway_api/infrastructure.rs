//! `infrastructure` of a Gateway: what is said of the objects that are made for it (GEP-1867).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is said of the objects that are made for a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Infrastructure {
    /// Labels of each of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of each of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// A ConfigMap of the Gateway's namespace that says more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<ParametersReference>,
}

/// Where more is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParametersReference {
    /// API group; empty is the core group.
    #[serde(default)]
    pub group: String,
    /// `ConfigMap`; other kinds are not read.
    pub kind: String,
    /// Its name.
    pub name: String,
}
