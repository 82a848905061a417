//! What requests are counted by.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{AttributeName, ClaimPath, HeaderName, choice, union};

union! {
    /// One part of a key.
    pub struct KeyPart, KeyPartType, KeyPartUse {}
    /// The network of the client's address.
    ClientAddress = "ClientAddress" => client_address = "clientAddress": ClientAddressKey, or &DEFAULT_CLIENT_ADDRESS;
    /// The value of a request header.
    Header = "Header" => header = "header": HeaderKey;
    /// Provider and subject of the identity.
    Identity = "Identity";
    /// An attribute of the identity.
    IdentityAttribute = "IdentityAttribute" => identity_attribute = "identityAttribute": AttributeKey;
    /// A claim of the token.
    Claim = "Claim" => claim = "claim": ClaimKey;
}

static DEFAULT_CLIENT_ADDRESS: ClientAddressKey = ClientAddressKey {
    prefix_v4: None,
    prefix_v6: None,
};

/// How much of the client's address counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientAddressKey {
    /// Leading bits of an IPv4 address; 32 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 32))]
    pub prefix_v4: Option<u8>,
    /// Leading bits of an IPv6 address; 64 by default, what one host usually has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 128))]
    pub prefix_v6: Option<u8>,
}

impl ClientAddressKey {
    /// Leading bits of an IPv4 address, the default applied.
    pub fn effective_prefix_v4(&self) -> u8 {
        self.prefix_v4.unwrap_or(32)
    }

    /// Leading bits of an IPv6 address, the default applied.
    pub fn effective_prefix_v6(&self) -> u8 {
        self.prefix_v6.unwrap_or(64)
    }
}

/// A request header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderKey {
    /// Name of the header.
    pub name: HeaderName,
}

/// An attribute of the identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttributeKey {
    /// Name of the attribute.
    pub name: AttributeName,
}

/// A claim of the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimKey {
    /// Name of the claim.
    pub name: ClaimPath,
}

choice! {
    /// What becomes of a request without a part of the key.
    pub enum OnMissingKey {
        /// It is refused.
        Deny,
        /// The limit does not hold for it.
        Skip,
        /// All such requests are counted together.
        SharedBucket,
    }
}
