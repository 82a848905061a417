//! How a caller proves who it is. Credentials are not here: a method refers to a [`Keys`] unit.

use serde::{Deserialize, Serialize};

use crate::{error::ConfigError, name::UnitName};

/// Who may call a rule. The nearest requirement has won already; nothing is merged here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// The first alternative whose credentials are *present* decides: present and bad is 401, absent tries the next.
    pub any_of: Vec<AllOf>,
    /// With no credentials at all: refused, or let through without identity.
    pub anonymous: Anonymous,
}

/// Providers that must all accept; the first one's identity is the request's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllOf {
    /// Names of providers of the route; never empty.
    pub all_of: Vec<String>,
}

/// What a request without credentials meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Anonymous {
    /// 401.
    Deny,
    /// Goes on without identity.
    Allow,
}

/// A named way to prove an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    /// Unique in the route.
    pub name: String,
    /// How.
    pub method: Method,
}

/// The ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum Method {
    /// A key in a header.
    ApiKey(ApiKey),
    /// HTTP message signatures (RFC 9421) with digests (RFC 9530).
    Signature(Signature),
    /// A bearer token (RFC 6750, 7519).
    Jwt(Jwt),
    /// An identity that an edge proved and asserts.
    Hop(Hop),
    /// The provider is declared but cannot serve: what asks for it is refused.
    Broken(ConfigError),
}

/// Identities that others assert over a hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hop {
    /// SPIFFE ids of the certificates that are believed; never empty.
    pub from: Vec<String>,
}

/// A key sent as it is. The sidecar holds keyed hashes only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKey {
    /// Lower-case name of the header.
    pub header: String,
    /// The accepted keys.
    pub keys: UnitName,
}

/// HTTP message signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signature {
    /// The accepted keys.
    pub keys: UnitName,
    /// Algorithms that may verify; a key never chooses another.
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Components a signature must cover, as RFC 9421 writes them: `@method`, `content-digest`.
    pub required_components: Vec<String>,
    /// Largest age of `created`.
    pub max_age_ms: u64,
    /// How far `created` may lie ahead.
    pub skew_ms: u64,
    /// Replay protection; none: the same signature may come again within `max_age_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Nonce>,
    /// Whether the body is held back until its digest is verified.
    pub digest: Digest,
    /// The largest body that is held back, in bytes: 413 above.
    pub max_buffered: u64,
}

/// The algorithms of message signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SignatureAlgorithm {
    /// `hmac-sha256` (RFC 9421 section 3.3.3).
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
}

/// Replay protection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nonce {
    /// Whether a signature without `nonce` is refused.
    pub required: bool,
    /// Who remembers.
    pub scope: NonceScope,
}

/// Where used nonces are remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum NonceScope {
    /// In this sidecar only.
    Local,
    /// In a store, for all sidecars.
    Shared {
        /// The store unit.
        store: UnitName,
        /// Who answers while the store does not.
        on_store_failure: NonceFallback,
    },
}

/// Who answers for a shared nonce while the store does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NonceFallback {
    /// This sidecar's own memory.
    Local,
    /// Nobody: 503.
    Deny,
}

/// What happens to the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Digest {
    /// Held back whole until verified: the app never sees a bad body.
    Buffered,
    /// Not looked at; the signature covers the header field only.
    None,
}

/// A bearer token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwt {
    /// The `iss` that is required; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// One of them must be in `aud`; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// Algorithms that may verify; never empty.
    pub algorithms: Vec<JwtAlgorithm>,
    /// The keys.
    pub keys: JwtKeys,
    /// Claims that become attributes of the identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<ClaimAttribute>,
    /// The claim that holds the scopes: a list, or words with spaces between.
    pub scopes_claim: String,
    /// Tolerance on `exp` and `nbf`.
    pub leeway_ms: u64,
}

/// The algorithms of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are RFC 7518's
pub enum JwtAlgorithm {
    HS256,
    RS256,
    ES256,
}

/// Where a token's keys come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum JwtKeys {
    /// A JSON Web Key Set (RFC 7517) of public keys, as text.
    Inline(String),
    /// Shared keys from Secrets.
    Keys(UnitName),
}

impl JwtKeys {
    /// The unit of shared keys.
    pub fn unit(&self) -> Option<&UnitName> {
        match self {
            Self::Inline(_) => None,
            Self::Keys(unit) => Some(unit),
        }
    }
}

/// A claim that becomes an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimAttribute {
    /// Name of the attribute.
    pub name: String,
    /// Name of the claim.
    pub claim: String,
}

/// The Secrets that a provider accepts now. A unit of its own, so that a rotation touches no policy unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keys {
    /// Secret units, elder Secret first: of a key id in two Secrets the first counts.
    pub secrets: Vec<UnitName>,
    /// Where the provider names one entry (`secretRef.key`): only this one is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
}
