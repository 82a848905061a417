//! What a request's shard key is.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{ClaimPath, HeaderName, QueryName, choice, union};

/// What a request's key is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardKey {
    /// Where the key is looked for; the first place that has one counts.
    #[schemars(length(min = 1, max = 8))]
    pub from: Vec<ShardKeyPart>,
    /// What becomes of a request without a key; Reject by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_missing: Option<OnMissingShardKey>,
}

choice! {
    /// What becomes of a request without a key.
    pub enum OnMissingShardKey {
        /// It is refused.
        Reject,
    }
}

union! {
    /// One place where a key is looked for.
    pub struct ShardKeyPart, ShardKeyPartType, ShardKeyPartUse {}
    /// The value of a request header.
    Header = "Header" => header = "header": ShardKeyHeader;
    /// A named group of the rule's regular expression.
    PathParameter = "PathParameter" => path_parameter = "pathParameter": NamedKey;
    /// A segment of the path.
    PathSegment = "PathSegment" => path_segment = "pathSegment": PathSegmentKey;
    /// The value of a query parameter.
    Query = "Query" => query = "query": NamedKey;
    /// A claim of the token.
    Claim = "Claim" => claim = "claim": ShardKeyClaim;
}

/// A request header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardKeyHeader {
    /// Name of the header.
    pub name: HeaderName,
}

/// A path or query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedKey {
    /// Name of the parameter.
    pub name: QueryName,
}

/// A segment of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathSegmentKey {
    /// Which segment, counted from 0: in /v1/orders/acme, `acme` is 2.
    #[schemars(range(min = 0, max = 31))]
    pub index: u8,
}

/// A claim of the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardKeyClaim {
    /// Name of the claim.
    pub name: ClaimPath,
}
