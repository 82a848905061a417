//! What the platform says once for every sidecar.

use serde::{Deserialize, Serialize};

/// How far a sidecar believes what stands in front of it about the client. Without this unit: not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Whether connections begin with a header of the PROXY protocol, version 1 or 2.
    pub proxy_protocol: ProxyProtocol,
    /// How many proxies in front are trusted to have appended the address they saw to `X-Forwarded-For` or `Forwarded`.
    pub forwarded_for: u8,
}

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ProxyProtocol {
    /// The client's own bytes.
    #[default]
    Disabled,
    /// A header of the PROXY protocol, or the client's own bytes.
    Optional,
    /// A header of the PROXY protocol; any other connection is closed.
    Required,
}

impl Settings {
    /// The most proxies that may be trusted.
    pub const MAX_FORWARDED_FOR: u8 = 16;
}
