//! GatewayClass: which controller serves the Gateways that name it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A class of Gateways.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewayClass {
    /// Its name.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Who serves it.
    pub spec: GatewayClassSpec,
}

/// Who serves a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// The controller.
    pub controller_name: String,
    /// Not known: a class of ours that has it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<Value>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}
