//! Where a forward can go: a port of a Service and the EndpointSlices behind it.

use serde::{Deserialize, Serialize};

use super::ObjectRef;
use crate::{error::ConfigError, name::UnitName};

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Its port, for logs and the `Host` of nothing: the request keeps its own.
    pub port: u16,
    /// Name of the slices' port to use; the empty name is the unnamed port.
    pub port_name: String,
    /// What the endpoints speak.
    pub protocol: BackendProtocol,
    /// Endpoints units, one for each slice, sorted.
    pub endpoints: Vec<UnitName>,
    /// How connections are protected; none: they are in the clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
    /// Why nothing may be sent there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<ConfigError>,
}

/// TLS to the endpoints of a backend, as a BackendTLSPolicy asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTls {
    /// The policy.
    pub policy: ObjectRef,
    /// The server name that is sent (RFC 6066 section 3); the certificate must have it where `sans` is empty.
    pub server_name: String,
    /// Whom to trust.
    pub roots: TrustedRoots,
    /// Names of which the certificate must have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sans: Vec<San>,
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrustedRoots {
    /// The authorities of the machine that the sidecar runs on.
    System,
    /// These, as PEM.
    Pem(String),
}

/// A name in a certificate (RFC 5280 section 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum San {
    /// A DNS name.
    Hostname(String),
    /// A URI, such as a SPIFFE id.
    Uri(String),
}

/// What a backend speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS (`appProtocol: kubernetes.io/h2c`).
    H2c,
}

impl BackendProtocol {
    /// Whether it is HTTP/1.1.
    pub fn is_http1(&self) -> bool {
        *self == Self::Http1
    }
}

/// One EndpointSlice. Never held back by a policy that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoints {
    /// Port name -> number; the unnamed port has the empty name.
    pub ports: std::collections::BTreeMap<String, u16>,
    /// Sorted by address.
    pub endpoints: Vec<Endpoint>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// IPv4 or IPv6.
    pub address: std::net::IpAddr,
    /// May take new requests.
    pub ready: bool,
    /// Still answers although it terminates: used only where no other is ready.
    pub serving: bool,
    /// The port at which its sidecar takes hops; none: it has no sidecar that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<u16>,
}
