//! A listener of a Gateway: where an edge listens, what it shows and what it asks of clients. Which routes it serves
//! stands in the root unit, so that a new certificate changes nothing but this.

use serde::{Deserialize, Serialize};

use super::ObjectRef;
use crate::{error::ConfigError, name::UnitName};

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// The Gateway.
    pub object: ObjectRef,
    /// Its name in the Gateway.
    pub name: String,
    /// The port.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// The hostname it serves, in lower case, exact or with a `*.` prefix; none is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The TLS of an HTTPS listener, or of a TLS listener that ends it (`mode: Terminate`); none where it is broken, and where
    /// TLS passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Why it refuses everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<ConfigError>,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2 in the clear.
    Http,
    /// The same over TLS, which ends here.
    Https,
    /// Bytes in TLS: passed as they are to where the server name says, or, where the listener has TLS, what is in it.
    Tls,
    /// Bytes.
    Tcp,
}

/// The TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// Secret units of purpose `tls`, the preferred first; at least one.
    pub certificates: Vec<UnitName>,
    /// Authorities as PEM, of one of which each client must have a certificate; none: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_authorities: Option<String>,
}

impl Protocol {
    /// Whether its routes are of kind [`crate::UnitKind::StreamRoute`].
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Tls | Self::Tcp)
    }
}

impl Listener {
    pub(super) fn needs(&self) -> Vec<UnitName> {
        self.tls
            .iter()
            .flat_map(|tls| tls.certificates.iter().cloned())
            .collect()
    }
}
