//! ApiRoute: which requests of a Service are served, under which conditions, and by whom.

pub mod auth;
pub mod backends;
pub mod cache;
pub mod filters;
pub mod matches;
pub mod scaling;
mod status;
pub mod traffic;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{DnsLabel, Hostname, ObjectName, ParentKind};

pub use auth::{AuthRequirement, RouteAuth, RuleAuth};
pub use backends::{BackendKind, BackendRef, BackendTarget};
pub use cache::Cache;
pub use filters::Filter;
pub use matches::RouteMatch;
pub use scaling::Scaling;
pub use status::{ApiRouteStatus, ParentStatus};
pub use traffic::{RequestLimits, Timeouts};

/// What the requests to a Service mean: who may send them, how they are answered.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
// Clippy takes the columns' arguments for attributes.
#[allow(clippy::duplicated_attributes)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "ApiRoute",
    plural = "apiroutes",
    shortname = "ar",
    category = "sluice",
    namespaced,
    status = "ApiRouteStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What the requests to a Service mean: who may send them, how they are answered.",
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
#[x_kube(validation = Rule::new("!has(self.scaling) || has(self.parentRefs)")
    .message("scaling needs a parentRef: a profile has no pods to scale"),
    validation = Rule::new("!has(self.parentRefs) || self.parentRefs.all(p, p.kind == self.parentRefs[0].kind)")
    .message("parentRefs are all of one kind: a route for Services and for a Gateway is two routes"),
    validation = Rule::new("!has(self.scaling) || !has(self.parentRefs) || self.parentRefs.all(p, p.kind == 'Service')")
    .message("scaling is of the pods of Services: a Gateway's are not the route's to scale"))]
pub struct ApiRouteSpec {
    /// Services, whose pods enforce this route, or Gateways; none makes it a profile, which serves nothing by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub parent_refs: Vec<ParentRef>,
    /// Host names the route answers to; none means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32))]
    pub hostnames: Vec<Hostname>,
    /// How large a request may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_limits: Option<RequestLimits>,
    /// Who may send requests; a rule's own requirement replaces it whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<RouteAuth>,
    /// What is served; none is one rule that gives everything to the own app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<RouteRule>,
    /// How many pods the parents run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
}

impl ApiRouteSpec {
    /// Whether the object is a profile: blocks for others to refer to, no traffic of its own.
    pub fn is_profile(&self) -> bool {
        self.parent_refs.is_empty()
    }
}

/// A Service, of the route's own namespace, whose pods enforce the route, or a Gateway.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.kind != 'Service' || !has(self.group) || self.group == ''").message("a Service is of the core group: leave group out or empty"),
    validation = Rule::new("self.kind != 'Gateway' || (has(self.group) && self.group == 'gateway.networking.k8s.io')").message("a Gateway is of group gateway.networking.k8s.io"),
    validation = Rule::new("self.kind != 'Service' || (!has(self.__namespace__) && !has(self.sectionName))").message("a Service is of the route's own namespace and has no sections: leave namespace and sectionName out")
)]
pub struct ParentRef {
    /// API group of the parent: empty for a Service, gateway.networking.k8s.io for a Gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<crate::common::GroupName>,
    /// Kind of the parent.
    pub kind: ParentKind,
    /// Namespace of the Gateway; none is the route's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<DnsLabel>,
    /// Name of the parent.
    pub name: ObjectName,
    /// Listener of the Gateway; none means every listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<ObjectName>,
    /// Port of the Service, or of listeners of the Gateway; none means every port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// One rule: which requests, what is asked of them, what answers them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.filters) || self.filters.filter(f, f.type == 'RequestRedirect').size() <= 1")
        .message("at most one RequestRedirect filter in a rule"),
    validation = Rule::new("!has(self.filters) || !has(self.backendRefs) || !self.filters.exists(f, f.type == 'RequestRedirect')")
        .message("a rule redirects or forwards, not both: remove backendRefs or the RequestRedirect filter")
)]
pub struct RouteRule {
    /// Name of the rule, what policies and logs call it by.
    pub name: DnsLabel,
    /// Which requests, any of these; none means every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    pub matches: Vec<RouteMatch>,
    /// What changes about request and response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub filters: Vec<Filter>,
    /// Who may send these requests; replaces the route's requirement whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<RuleAuth>,
    /// How long a request may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Which answers are kept and given again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Who answers; none is the own app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub backend_refs: Vec<BackendRef>,
}
