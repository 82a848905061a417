//! Who may send requests: the providers a route declares and the requirement over them.

pub mod api_key;
pub mod hop;
pub mod jwt;
pub mod signature;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{DnsLabel, choice, union};

pub use api_key::ApiKey;
pub use hop::Hop;
pub use jwt::Jwt;
pub use signature::HttpMessageSignature;

choice! {
    /// What becomes of a request that meets no requirement.
    pub enum AuthMode {
        /// It is refused.
        Enforce,
    }
}

choice! {
    /// What becomes of a request without any credential.
    pub enum Anonymous {
        /// It is refused.
        Deny,
        /// It goes on without an identity.
        Allow,
    }
}

/// Who may send requests to a route, and the providers its rules may name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.anyOf) || has(self.providers) || (has(self.anonymous) && self.anonymous == 'Allow')")
        .message("auth needs anyOf, providers, or anonymous: Allow"),
    validation = Rule::new("has(self.anyOf) || !has(self.anonymous) || self.anonymous == 'Allow'")
        .message("anonymous: Deny without anyOf refuses everyone: name a provider in anyOf")
)]
pub struct RouteAuth {
    /// What becomes of a request that meets no requirement; Enforce by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// What becomes of a request without any credential; Deny by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<Anonymous>,
    /// Combinations of providers; the first whose credentials are present decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    pub any_of: Vec<AuthCombination>,
    /// Providers that this route's requirements may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub providers: Vec<AuthProvider>,
}

/// Who may send the requests of one rule; replaces the route's requirement whole and declares no providers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.anyOf) || (has(self.anonymous) && self.anonymous == 'Allow')")
    .message("a rule's auth needs anyOf, or anonymous: Allow to open the rule"))]
pub struct RuleAuth {
    /// What becomes of a request that meets no requirement; Enforce by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// What becomes of a request without any credential; Deny by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<Anonymous>,
    /// Combinations of providers; the first whose credentials are present decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    pub any_of: Vec<AuthCombination>,
}

/// Providers that must all accept the request; the first one's identity counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthCombination {
    /// Names of providers: the route's, the profile's or SluiceConfig's.
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub all_of: Vec<DnsLabel>,
}

/// A requirement with its defaults applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuthRequirement<'a> {
    /// What becomes of a request that meets no combination.
    pub mode: AuthMode,
    /// What becomes of a request without any credential.
    pub anonymous: Anonymous,
    /// The combinations; none together with `anonymous: Deny` lets nobody in.
    pub any_of: &'a [AuthCombination],
}

impl RouteAuth {
    /// The requirement this block states; none where it only declares providers.
    pub fn requirement(&self) -> Option<AuthRequirement<'_>> {
        let Self {
            mode,
            anonymous,
            any_of,
            providers: _,
        } = self;
        let states_one = !any_of.is_empty() || anonymous.is_some();
        states_one.then(|| requirement(*mode, *anonymous, any_of))
    }
}

impl RuleAuth {
    /// The requirement this block states. An empty block, which the schema refuses, lets nobody in.
    pub fn requirement(&self) -> AuthRequirement<'_> {
        let Self {
            mode,
            anonymous,
            any_of,
        } = self;
        requirement(*mode, *anonymous, any_of)
    }
}

fn requirement(
    mode: Option<AuthMode>,
    anonymous: Option<Anonymous>,
    any_of: &[AuthCombination],
) -> AuthRequirement<'_> {
    AuthRequirement {
        mode: mode.unwrap_or(AuthMode::Enforce),
        anonymous: anonymous.unwrap_or(Anonymous::Deny),
        any_of,
    }
}

union! {
    /// One way to tell who sends a request.
    pub struct AuthProvider, AuthProviderType, AuthMethod {
        /// Name of the provider, what requirements call it by.
        pub name: DnsLabel,
    }
    /// A secret that the client sends with the request.
    ApiKey = "APIKey" => api_key = "apiKey": ApiKey;
    /// A signature over parts of the request (RFC 9421).
    HttpMessageSignature = "HTTPMessageSignature" => http_message_signature = "httpMessageSignature": HttpMessageSignature;
    /// A signed token of an issuer (RFC 7519).
    Jwt = "JWT" => jwt = "jwt": Jwt;
    /// What an edge proved, and asserts.
    Hop = "Hop" => hop = "hop": Hop;
}
