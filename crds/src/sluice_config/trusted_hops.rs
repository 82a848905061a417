//! How far sidecars believe what stands in front of them about the client.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::choice;

/// How far sidecars believe what stands in front of them about the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustedHops {
    /// Whether connections begin with a header of the PROXY protocol, version 1 or 2; Disabled by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How many proxies in front are trusted to have appended the address they saw to X-Forwarded-For or Forwarded; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub forwarded_for: Option<u8>,
}

impl TrustedHops {
    /// What connections begin with, the default applied.
    pub fn effective_proxy_protocol(&self) -> ProxyProtocol {
        self.proxy_protocol.unwrap_or(ProxyProtocol::Disabled)
    }

    /// How many proxies are trusted, the default applied.
    pub fn effective_forwarded_for(&self) -> u8 {
        self.forwarded_for.unwrap_or(0)
    }
}

choice! {
    /// Whether connections begin with a header of the PROXY protocol.
    pub enum ProxyProtocol {
        /// Never.
        Disabled,
        /// Where the client sends one: whoever can connect chooses its own address.
        Optional,
        /// Always; a connection without one is closed.
        Required,
    }
}
