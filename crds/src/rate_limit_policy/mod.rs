//! RateLimitPolicy: how many requests may be made of a route or of one of its rules.

mod algorithm;
mod global;
mod key;
mod status;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{DnsLabel, ObjectName, choice};

pub use algorithm::{Algorithm, AlgorithmType, AlgorithmUse, TokenBucket};
pub use global::{Consistency, GlobalLimit, StoreFailure};
pub use key::{
    AttributeKey, ClaimKey, ClientAddressKey, HeaderKey, KeyPart, KeyPartType, KeyPartUse,
    OnMissingKey,
};
pub use status::{LimitState, LimitStatus, RateLimitPolicyStatus};

/// How many requests may be made of routes, of single rules, or of a Gateway.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
// Clippy takes the columns' arguments for attributes.
#[allow(clippy::duplicated_attributes)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "RateLimitPolicy",
    plural = "ratelimitpolicies",
    shortname = "rlp",
    category = "sluice",
    namespaced,
    status = "RateLimitPolicyStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "How many requests may be made of routes, of single rules, or of a Gateway.",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "LIVE", type_ = "string", json_path = ".status.live.summary"),
    printcolumn(
        name = "OUTDATED",
        type_ = "integer",
        json_path = ".status.live.outdated",
        priority = 1
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitPolicySpec {
    /// The routes and Gateways, or parts of them, that the limits hold for.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<PolicyTargetRef>,
    /// Whether requests above a limit are refused or only counted; Enforce by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<LimitMode>,
    /// Which headers tell clients about the limits; Standard by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<LimitHeaders>,
    /// The limits; a request must pass all of them.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub limits: Vec<Limit>,
}

impl RateLimitPolicySpec {
    /// Whether requests above a limit are refused, the default applied.
    pub fn effective_mode(&self) -> LimitMode {
        self.mode.unwrap_or(LimitMode::Enforce)
    }

    /// Which headers tell clients about the limits, the default applied.
    pub fn effective_headers(&self) -> LimitHeaders {
        self.headers.unwrap_or(LimitHeaders::Standard)
    }
}

choice! {
    /// The group of a policy's target.
    pub enum TargetGroup {
        /// This API's own group.
        Sluice = "sluice.dev",
        /// The Gateway API's.
        GatewayApi = "gateway.networking.k8s.io",
    }
}

choice! {
    /// The kind of a policy's target.
    pub enum TargetKind {
        /// An ApiRoute, or with sectionName one rule of it.
        ApiRoute,
        /// An HTTPRoute, or with sectionName one rule of it.
        HttpRoute = "HTTPRoute",
        /// A Gateway, or with sectionName one listener of it: every route there.
        Gateway,
    }
}

/// A route or Gateway of the policy's namespace, or a part of it.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.kind == 'ApiRoute') == (self.group == 'sluice.dev')")
    .message("an ApiRoute is of group sluice.dev, an HTTPRoute or Gateway of gateway.networking.k8s.io"))]
pub struct PolicyTargetRef {
    /// API group of the target.
    pub group: TargetGroup,
    /// Kind of the target.
    pub kind: TargetKind,
    /// Name of the target.
    pub name: ObjectName,
    /// Name of one rule, or of one listener; none means all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<DnsLabel>,
}

choice! {
    /// Whether requests above a limit are refused.
    pub enum LimitMode {
        /// They are refused with 429.
        Enforce,
        /// They are counted and let through.
        Shadow,
    }
}

choice! {
    /// Which headers tell clients about the limits.
    pub enum LimitHeaders {
        /// RateLimit and RateLimit-Policy of the IETF draft.
        Standard,
        /// Only Retry-After on a 429.
        None,
    }
}

choice! {
    /// Over what a limit counts.
    pub enum LimitScope {
        /// Each pod for itself.
        Local,
        /// All pods together, through a store.
        Global,
    }
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.scope) && self.scope == 'Global') == has(self.global)")
    .message("scope: Global needs a global block, scope: Local has none"))]
pub struct Limit {
    /// Name of the limit, what headers and logs call it by.
    pub name: DnsLabel,
    /// What requests are counted by, all parts joined; none is one count for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    pub key: Vec<KeyPart>,
    /// What becomes of a request without a part of the key; Deny by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_missing_key: Option<OnMissingKey>,
    /// How requests are counted.
    pub algorithm: Algorithm,
    /// Over what the limit counts; Local by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<LimitScope>,
    /// How pods count together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<GlobalLimit>,
}

/// Over what a limit counts, with no wrong state left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LimitReach<'a> {
    /// Each pod for itself.
    Local,
    /// All pods together.
    Global(&'a GlobalLimit),
}

/// A scope that contradicts its block; the schema refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scope Global needs a global block, scope Local has none")]
pub struct LimitReachError;

impl Limit {
    /// What becomes of a request without a part of the key, the default applied.
    pub fn effective_on_missing_key(&self) -> OnMissingKey {
        self.on_missing_key.unwrap_or(OnMissingKey::Deny)
    }

    /// Over what the limit counts.
    ///
    /// # Errors
    /// Scope and `global` contradict each other.
    pub fn reach(&self) -> Result<LimitReach<'_>, LimitReachError> {
        match (self.scope.unwrap_or(LimitScope::Local), &self.global) {
            (LimitScope::Local, None) => Ok(LimitReach::Local),
            (LimitScope::Global, Some(global)) => Ok(LimitReach::Global(global)),
            (LimitScope::Local, Some(_)) | (LimitScope::Global, None) => Err(LimitReachError),
        }
    }
}
