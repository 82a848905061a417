//! A resolved ApiRoute, HTTPRoute or GRPCRoute: its rules with everything looked up, so that the sidecar merges nothing.

use serde::{Deserialize, Serialize};

use super::{
    ObjectRef,
    auth::{Method, NonceScope, Provider, Requirement},
    cache::CacheRule,
};
use crate::{error::ConfigError, name::UnitName};

/// One ApiRoute, HTTPRoute or GRPCRoute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// The resource: `ApiRoute`, `HTTPRoute` or `GRPCRoute`.
    pub object: ObjectRef,
    /// Sizes beyond which a request is refused.
    pub request_limits: RequestLimits,
    /// The providers that its requirements name; their names are unique.
    pub providers: Vec<Provider>,
    /// In the order of the resource. Never empty: a route without rules has one that gives everything to the own app.
    pub rules: Vec<Rule>,
    /// The route as a whole cannot serve: every request to its hostnames is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<ConfigError>,
}

/// Bounds of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestLimits {
    /// Body, in bytes: 413 above.
    pub max_body: u64,
    /// All header names and values, in bytes: 431 above.
    pub max_headers: u32,
    /// The target as received, in bytes: 414 above.
    pub max_target: u32,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_body: 10 << 20,
            max_headers: 32 << 10,
            max_target: 8 << 10,
        }
    }
}

/// One rule of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The rule's name, or `rule-<index>` where the resource gives none.
    pub name: String,
    /// Any of them; never empty (without matches: the path prefix `/`).
    pub matches: Vec<Match>,
    /// Who may call; none: anyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Requirement>,
    /// The policy units whose limits all apply, sorted. Their names are part of the rule so that a policy that is
    /// missing from a snapshot denies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<UnitName>,
    /// Caching; none: answers are neither stored nor looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheRule>,
    /// Edits before the request leaves.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub request_headers: HeaderEdits,
    /// Edits of the answer.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub response_headers: HeaderEdits,
    /// What the upstream sees in place of the request's host and path; none: those of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Who gets a copy of the request. At most [`Rule::MAX_MIRRORS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// Whom a browser may let read the answers; none: the answers' own headers say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// What happens to a request that passed every phase before.
    pub action: Action,
    /// The rule cannot serve: what it matches is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<ConfigError>,
}

impl Rule {
    /// The most mirrors of one rule.
    pub const MAX_MIRRORS: usize = 8;
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// On the normalised path.
    pub path: PathMatch,
    /// The method, exact and case-sensitive (RFC 9110 section 9.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// On header fields; names lower-case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// On query parameters (first occurrence, percent-decoded).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<ValueMatch>,
    /// On cookies (first occurrence).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<ValueMatch>,
}

/// How a path is matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole segments from the start, as the Gateway API has it: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// A regular expression over the whole path (anchored); named groups are path parameters.
    Regex(String),
}

/// How a named value is matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueMatch {
    /// Name of the header, parameter or cookie.
    pub name: String,
    /// The value, or an expression for it.
    pub value: ValuePattern,
}

/// An exact value or an anchored regular expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum ValuePattern {
    /// Byte for byte.
    Exact(String),
    /// Anchored at both ends.
    Regex(String),
}

/// Header edits, applied in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderEdits {
    /// Lower-case names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Replaces every value of the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(String, String)>,
    /// Appends a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(String, String)>,
}

impl HeaderEdits {
    /// Whether nothing is edited.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Deadlines, from the first byte of the request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// The whole request, until the last byte of the answer's head; zero: no bound (GEP-1742).
    pub request_ms: u64,
    /// One try against an upstream; zero: no bound of its own.
    pub backend_request_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request_ms: 15_000,
            backend_request_ms: 15_000,
        }
    }
}

/// Where a request goes: exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum Action {
    /// One of these, by weight. Never empty; weights of zero take no traffic.
    Backends(Vec<WeightedTarget>),
    /// An answer that sends the client elsewhere.
    Redirect(Redirect),
}

/// A target and its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightedTarget {
    /// Relative to the sum of the list.
    pub weight: u32,
    /// Where to.
    pub target: Target,
    /// Edits of the requests that go there, after those of the rule.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub request_headers: HeaderEdits,
    /// Edits of the answers from there, before those of the rule.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub response_headers: HeaderEdits,
}

impl WeightedTarget {
    /// A target without edits.
    pub fn plain(weight: u32, target: Target) -> Self {
        Self {
            weight,
            target,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }
    }
}

/// A place that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum Target {
    /// This pod's own app, on the port the request arrived for.
    App,
    /// A backend unit: a forward.
    Backend(UnitName),
    /// A shard map unit.
    Shards(UnitName),
    /// Its share of requests is refused.
    Broken(ConfigError),
}

/// URLRewrite of the Gateway API; what is absent is kept from the request, and so is the query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rewrite {
    /// `Host`, or `:authority` of HTTP/2, in lower case and without port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<RedirectPath>,
}

/// RequestMirror of the Gateway API: its answers are read by nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// A backend, or why there is none; nothing else can be mirrored to. A broken one refuses nothing: the requests
    /// themselves go on.
    pub target: Target,
    /// Of `denominator` requests so many are mirrored.
    pub numerator: u32,
    /// Never zero.
    pub denominator: u32,
}

/// CORS of the Gateway API (GEP-1767). A list that holds `*` alone is any value: that the answers may then not be
/// read with credentials, the Fetch standard says, and where credentials are allowed the value asked for is named instead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// `*`, or `scheme://host[:port]` in lower case, the host perhaps with `*.` before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    /// `*`, or methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// `*`, or field names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// `*`, or field names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// Whether scripts may read answers to requests with credentials.
    #[serde(default)]
    pub allow_credentials: bool,
    /// How long a preflight's answer holds, in seconds.
    pub max_age_s: u32,
}

/// RequestRedirect of the Gateway API; what is absent is kept from the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<RedirectPath>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// How a redirect or a rewrite changes the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum RedirectPath {
    /// The whole path.
    ReplaceFullPath(String),
    /// The prefix that the rule matched.
    ReplacePrefixMatch(String),
}

impl Target {
    /// The unit it leads to; none: it leads to none.
    pub fn unit(&self) -> Option<&UnitName> {
        match self {
            Self::Backend(unit) | Self::Shards(unit) => Some(unit),
            Self::App | Self::Broken(_) => None,
        }
    }
}

impl Route {
    pub(super) fn needs(&self) -> Vec<UnitName> {
        let mut needs = Vec::new();
        for provider in &self.providers {
            match &provider.method {
                Method::ApiKey(method) => needs.push(method.keys.clone()),
                Method::Signature(method) => {
                    needs.push(method.keys.clone());
                    if let Some(nonce) = &method.nonce
                        && let NonceScope::Shared { store, .. } = &nonce.scope
                    {
                        needs.push(store.clone());
                    }
                }
                Method::Jwt(method) => needs.extend(method.keys.unit().cloned()),
                Method::Hop(_) | Method::Broken(_) => {}
            }
        }
        for rule in &self.rules {
            needs.extend(rule.policies.iter().cloned());
            let mirrors = rule.mirrors.iter().map(|mirror| &mirror.target);
            needs.extend(mirrors.filter_map(Target::unit).cloned());
            if let Action::Backends(targets) = &rule.action {
                let targets = targets.iter().map(|weighted| &weighted.target);
                needs.extend(targets.filter_map(Target::unit).cloned());
            }
        }
        needs
    }
}
