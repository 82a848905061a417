//! JSON Web Tokens (RFC 7519) in the Authorization header (RFC 6750).

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    AttributeName, ClaimPath, Duration, JwksText, SecretKeys, SecretRef, SecretSelector, Url,
    choice,
};

/// Tokens of one issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.algorithms.all(a, (a == 'HS256') != has(self.keys.jwks))")
    .message("HS256 takes its keys from Secrets, RS256 and ES256 from jwks: one provider cannot have both"))]
pub struct Jwt {
    /// The `iss` a token must have.
    pub issuer: Url,
    /// The `aud` values a token must have one of.
    #[schemars(length(min = 1, max = 16))]
    pub audiences: Vec<Url>,
    /// The keys that tokens are signed with.
    pub keys: JwtKeys,
    /// The algorithms a token may be signed with; a key never chooses another.
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub algorithms: Vec<JwtAlgorithm>,
    /// Claims that become attributes of the identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub attributes: Vec<ClaimAttribute>,
    /// Claim that holds the scopes; `scope` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes_claim: Option<ClaimPath>,
    /// How far the clocks of issuer and sidecar may differ; 30s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('5m')").message("leeway is at most 5m"))]
    pub leeway: Option<Duration>,
}

impl Jwt {
    /// Claim that holds the scopes, the default applied.
    pub fn effective_scopes_claim(&self) -> &str {
        self.scopes_claim.as_deref().unwrap_or("scope")
    }

    /// How far the clocks of issuer and sidecar may differ, the default applied.
    pub fn effective_leeway(&self) -> std::time::Duration {
        self.leeway
            .map_or(std::time::Duration::from_secs(30), Duration::get)
    }
}

choice! {
    /// Signature algorithms of tokens (RFC 7518 section 3).
    pub enum JwtAlgorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        Rs256 = "RS256",
        /// ECDSA over P-256 with SHA-256.
        Es256 = "ES256",
    }
}

/// Where the keys of an issuer come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.jwks), has(self.secretRef), has(self.secretSelector)].filter(x, x).size() == 1")
    .message("exactly one of jwks, secretRef and secretSelector must be set"))]
pub struct JwtKeys {
    /// Public keys as a JWK set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Jwks>,
    /// One Secret, labelled `sluice.dev/use: jwt-keys`, with keys for HS256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// All Secrets with these labels, with keys for HS256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_selector: Option<SecretSelector>,
}

/// A JWK set (RFC 7517 section 5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Jwks {
    /// The set as JSON text; public keys only.
    pub inline: JwksText,
}

/// Where the keys of an issuer come from, with no wrong state left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtKeySource<'a> {
    /// Public keys, as the JSON text of a JWK set.
    Jwks(&'a str),
    /// Shared keys from Secrets.
    Secrets(SecretKeys<'a>),
}

/// Keys that are named twice or not at all; the schema refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exactly one of jwks, secretRef and secretSelector must be set")]
pub struct JwtKeysError;

impl JwtKeys {
    /// Where the keys come from.
    ///
    /// # Errors
    /// None or several sources are named.
    pub fn source(&self) -> Result<JwtKeySource<'_>, JwtKeysError> {
        match (&self.jwks, &self.secret_ref, &self.secret_selector) {
            (Some(jwks), None, None) => Ok(JwtKeySource::Jwks(&jwks.inline)),
            (None, Some(one), None) => Ok(JwtKeySource::Secrets(SecretKeys::Ref(one))),
            (None, None, Some(many)) => Ok(JwtKeySource::Secrets(SecretKeys::Selector(many))),
            _ => Err(JwtKeysError),
        }
    }
}

/// A claim that becomes an attribute of the identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimAttribute {
    /// Name of the attribute.
    pub name: AttributeName,
    /// The claim it is taken from.
    pub claim: ClaimPath,
}
