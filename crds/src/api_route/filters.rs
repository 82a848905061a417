//! What a rule changes about request and response, in the Gateway API's words.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{HeaderName, HeaderValue, Hostname, ObjectName, PathText, choice, union};

union! {
    /// One change.
    pub struct Filter, FilterType, FilterAction {}
    /// Edits the headers of the request before it goes on.
    RequestHeaderModifier = "RequestHeaderModifier" => request_header_modifier = "requestHeaderModifier": HeaderModifier;
    /// Edits the headers of the response.
    ResponseHeaderModifier = "ResponseHeaderModifier" => response_header_modifier = "responseHeaderModifier": HeaderModifier;
    /// Answers with a redirect; nothing is forwarded.
    RequestRedirect = "RequestRedirect" => request_redirect = "requestRedirect": RequestRedirect;
    /// Takes over the blocks of a profile.
    ExtensionRef = "ExtensionRef" => extension_ref = "extensionRef": ProfileRef;
}

/// Edits of headers: first set, then add, then remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.set) || has(self.add) || has(self.remove)").message("a header edit sets, adds or removes something"))]
pub struct HeaderModifier {
    /// Headers that replace those of their name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub set: Vec<HeaderEdit>,
    /// Headers that come beside those of their name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub add: Vec<HeaderEdit>,
    /// Names of headers that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub remove: Vec<HeaderName>,
}

/// One header with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderEdit {
    /// Name of the header.
    pub name: HeaderName,
    /// Value of the header.
    pub value: HeaderValue,
}

choice! {
    /// The scheme of a redirect's target.
    pub enum RedirectScheme {
        /// Clear text.
        Http = "http",
        /// TLS.
        Https = "https",
    }
}

/// A redirect; what is not set stays as the request has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.scheme) || has(self.hostname) || has(self.path) || has(self.port)")
        .message("a redirect changes scheme, hostname, path or port; else it leads to itself"),
    validation = Rule::new("!has(self.hostname) || !self.hostname.startsWith('*')")
        .message("a redirect leads to one host, not to a wildcard")
)]
pub struct RequestRedirect {
    /// Scheme of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    /// Host of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// Path of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<RedirectPath>,
    /// Port of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Status of the answer, 301, 302, 303, 307 or 308; 302 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 301, max = 308))]
    #[x_kube(validation = Rule::new("self in [301, 302, 303, 307, 308]").message("a redirect answers 301, 302, 303, 307 or 308"))]
    pub status_code: Option<u16>,
}

impl RequestRedirect {
    /// The status of the answer, the default applied.
    pub fn effective_status(&self) -> u16 {
        self.status_code.unwrap_or(302)
    }
}

union! {
    /// How a redirect changes the path.
    pub struct RedirectPath, RedirectPathType, RedirectPathChange {}
    /// The path as a whole.
    ReplaceFullPath = "ReplaceFullPath" => replace_full_path = "replaceFullPath": PathText;
    /// Only the prefix that the rule's PathPrefix match met.
    ReplacePrefixMatch = "ReplacePrefixMatch" => replace_prefix_match = "replacePrefixMatch": PathText;
}

choice! {
    /// The group of a profile.
    pub enum ProfileGroup {
        /// This API's own group.
        Sluice = "sluice.dev",
    }
}

choice! {
    /// The kind of a profile.
    pub enum ProfileKind {
        /// An ApiRoute without parentRefs.
        ApiRoute,
    }
}

/// A profile: an ApiRoute without parentRefs, of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileRef {
    /// API group of the profile.
    pub group: ProfileGroup,
    /// Kind of the profile.
    pub kind: ProfileKind,
    /// Name of the profile.
    pub name: ObjectName,
}
