//! Which requests a rule is for, in the Gateway API's words (and cookies, which are ours).

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    CookieName, HeaderName, HeaderValue, HttpMethod, PathText, QueryName, QueryValue, choice,
};

/// A set of conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// Condition on the path; none means every path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Condition on the method; none means every method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// Conditions on headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub headers: Vec<HeaderMatch>,
    /// Conditions on query parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub query_params: Vec<QueryParamMatch>,
    /// Conditions on cookies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub cookies: Vec<CookieMatch>,
}

choice! {
    /// How a path is compared.
    pub enum PathMatchType {
        /// The whole path, byte for byte.
        Exact,
        /// Whole leading segments of the path.
        PathPrefix,
        /// A regular expression over the whole path; its named groups are path parameters.
        RegularExpression,
    }
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.type) && self.type == 'RegularExpression') || self.value.startsWith('/')")
        .message("a path begins with /"),
    validation = Rule::new("(has(self.type) && self.type == 'RegularExpression') || !self.value.matches('//|/[.][.]?(/|$)|[?#]')")
        .message("a path is written as it is compared: without //, /., /.., ? and #")
)]
pub struct PathMatch {
    /// How the path is compared; PathPrefix by default.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<PathMatchType>,
    /// The path, prefix or expression.
    pub value: PathText,
}

impl PathMatch {
    /// How the path is compared, the default applied.
    pub fn effective_kind(&self) -> PathMatchType {
        self.kind.unwrap_or(PathMatchType::PathPrefix)
    }
}

choice! {
    /// How a value is compared.
    pub enum ValueMatchType {
        /// The whole value, byte for byte.
        Exact,
        /// A regular expression over the whole value.
        RegularExpression,
    }
}

macro_rules! value_match {
    ($(#[$meta:meta])* $name:ident, $name_ty:ty, $value_ty:ty) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// How the value is compared; Exact by default.
            #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
            pub kind: Option<ValueMatchType>,
            /// What is looked at.
            pub name: $name_ty,
            /// The value or expression.
            pub value: $value_ty,
        }

        impl $name {
            /// How the value is compared, the default applied.
            pub fn effective_kind(&self) -> ValueMatchType {
                self.kind.unwrap_or(ValueMatchType::Exact)
            }
        }
    };
}

value_match!(
    /// A condition on one header.
    HeaderMatch, HeaderName, HeaderValue
);
value_match!(
    /// A condition on one query parameter.
    QueryParamMatch, QueryName, QueryValue
);
value_match!(
    /// A condition on one cookie.
    CookieMatch, CookieName, HeaderValue
);
