//! Of the Gateway API, the shapes that are read, all `gateway.networking.k8s.io/v1`. Fields that nothing here reads are kept
//! as JSON, so that a manifest that has them is not refused and a misspelt one is.
//!
//! Every name is the Gateway API's. What it bounds by its CRDs is text here: an API server has checked it, a file has not,
//! and `translate` takes nothing for granted.

mod backend_tls_policy;
mod gateway;
mod gateway_class;
mod grpc_route;
mod http_route;
mod infrastructure;
mod listener_set;
mod reference_grant;
mod route;
mod stream_route;

use serde::{Deserialize, Serialize};

pub use backend_tls_policy::{
    BackendTlsPolicy, BackendTlsPolicySpec, PolicyTarget, SubjectAltName, Validation,
};
pub use gateway::{
    AllowedListeners, AllowedRoutes, ClientValidation, Frontend, FrontendConfig, FrontendPort,
    Gateway, GatewayAddress, GatewaySpec, GatewayTls, Listener, ListenerTls, RouteKind,
    RouteNamespaces,
};
pub use gateway_class::{GatewayClass, GatewayClassSpec};
pub use grpc_route::{GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule, GrpcRouteSpec};
pub use http_route::{
    HttpPathMatch, HttpRoute, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, HttpRouteTimeouts,
};
pub use infrastructure::{Infrastructure, ParametersReference};
pub use listener_set::{ListenerSet, ListenerSetSpec};
pub use reference_grant::{GrantFrom, GrantTo, ReferenceGrant, ReferenceGrantSpec};
pub use route::{
    BackendRef, Cors, Fraction, Header, HeaderFilter, LocalReference, NamedMatch, ParentReference,
    PathModifier, RequestMirror, RequestRedirect, RouteFilter, UrlRewrite,
};
pub use stream_route::{StreamRule, TcpRoute, TcpRouteSpec, TlsRoute, TlsRouteSpec};

/// The API group.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// The only version that is read.
pub const VERSION: &str = "v1";
/// The version of ReferenceGrants where there is no other.
pub const GRANT_VERSION: &str = "v1beta1";
/// The class whose Gateways are ours where no GatewayClass of that name says otherwise.
pub const CLASS: &str = "sluice";

/// A reference to an object, as certificates and authorities are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// API group; empty is the core group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its kind; what none means is the field's affair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// Its namespace; none is that of the referring object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl ObjectReference {
    /// Whether it names an object of a kind of the core group, in `namespace`.
    pub fn is_core(&self, kind: &str, default: &str, namespace: &str) -> bool {
        self.group.as_deref().unwrap_or_default().is_empty()
            && self.kind.as_deref().unwrap_or(default) == kind
            && self.namespace.as_deref().unwrap_or(namespace) == namespace
    }
}
