//! TLSRoute and TCPRoute: which connections go where.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::route::{BackendRef, ParentReference};

/// Which TLS connections, by the server name they ask for, go where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TlsRoute {
    /// Name, namespace, age.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: TlsRouteSpec,
}

/// What a TLSRoute asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsRouteSpec {
    /// Where it attaches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// Not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<Value>,
    /// The server names (SNI).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Where the connections go; one rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<StreamRule>,
}

/// Which connections of a port go where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TcpRoute {
    /// Name, namespace, age.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: TcpRouteSpec,
}

/// What a TCPRoute asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteSpec {
    /// Where it attaches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// Not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<Value>,
    /// Where the connections go; one rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<StreamRule>,
}

/// Where connections go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRule {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
}
