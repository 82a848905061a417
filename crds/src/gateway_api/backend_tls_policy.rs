//! BackendTLSPolicy: how connections to a Service are protected and whom they trust (GEP-1897).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ObjectReference;

/// TLS from a Gateway, or a sidecar that forwards, to the pods of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendTlsPolicy {
    /// Name, namespace, age.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: BackendTlsPolicySpec,
}

/// What a BackendTLSPolicy asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsPolicySpec {
    /// Services of the policy's namespace.
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    /// Whom to trust.
    #[serde(default)]
    pub validation: Validation,
    /// Not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Value>,
}

/// A Service, or one port of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTarget {
    /// API group: empty, as Services have it.
    #[serde(default)]
    pub group: String,
    /// `Service`; other kinds are not served.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The name of its port; none is every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// ConfigMaps with `ca.crt`.
    #[serde(
        default,
        rename = "caCertificateRefs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ca_certificate_refs: Vec<ObjectReference>,
    /// `System`: the authorities of the machine.
    #[serde(
        default,
        rename = "wellKnownCACertificates",
        skip_serializing_if = "Option::is_none"
    )]
    pub well_known_ca_certificates: Option<String>,
    /// The server name that is sent (SNI), and that the certificate must have where `subjectAltNames` says nothing else.
    #[serde(default)]
    pub hostname: String,
    /// Names of which the certificate must have one; then `hostname` is only sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// A name in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type")]
    pub type_: String,
    /// A DNS name, for `Hostname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// A URI, for `URI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}
