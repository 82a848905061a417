//! What translation keeps of the Gateway API's objects, beside Gateways and BackendTLSPolicies.

use std::sync::Arc;

use sluice_crds::gateway_api::{
    GatewayClass, GatewayClassSpec, GrpcRoute, GrpcRouteSpec, HttpRoute, HttpRouteSpec,
    ListenerSet, ListenerSetSpec, ReferenceGrant, ReferenceGrantSpec, TcpRoute, TcpRouteSpec,
    TlsRoute, TlsRouteSpec,
};

use super::{
    claim::{Claim, GatewayApiSpec},
    facts::{Custom, custom},
    id::Kind,
};

/// A GatewayClass.
pub type GatewayClassFacts = Custom<GatewayClassSpec>;
/// A ListenerSet.
pub type ListenerSetFacts = Custom<ListenerSetSpec>;
/// A ReferenceGrant.
pub type GrantFacts = Custom<ReferenceGrantSpec>;
/// An HTTPRoute.
pub type HttpRouteFacts = Routed<HttpRouteSpec>;
/// A GRPCRoute.
pub type GrpcRouteFacts = Routed<GrpcRouteSpec>;
/// A TLSRoute.
pub type TlsRouteFacts = Routed<TlsRouteSpec>;
/// A TCPRoute.
pub type TcpRouteFacts = Routed<TcpRouteSpec>;

/// A route of the Gateway API. What it claims is made once: each change of any route of a Gateway reads it of them all.
#[derive(Debug, Clone, PartialEq)]
pub struct Routed<S> {
    /// Name, metadata and spec.
    pub custom: Custom<S>,
    /// What others see of it.
    pub claim: Arc<Claim>,
}

#[expect(private_bounds, reason = "only this crate makes them")]
impl<S: GatewayApiSpec> Routed<S> {
    pub(super) fn new(custom: Custom<S>) -> Self {
        Self {
            claim: Arc::new(Claim::of_gateway_api(&custom)),
            custom,
        }
    }
}

macro_rules! plain {
    ($($kind:ident => $facts:ident),+) => {$(
        impl From<&$kind> for $facts {
            fn from(object: &$kind) -> Self {
                custom(Kind::$kind, &object.metadata, &object.spec)
            }
        }
    )+};
}
plain!(GatewayClass => GatewayClassFacts, ListenerSet => ListenerSetFacts, ReferenceGrant => GrantFacts);

macro_rules! routed {
    ($($kind:ident => $facts:ident),+) => {$(
        impl From<&$kind> for $facts {
            fn from(object: &$kind) -> Self {
                Self::new(custom(Kind::$kind, &object.metadata, &object.spec))
            }
        }
    )+};
}
routed!(
    HttpRoute => HttpRouteFacts,
    GrpcRoute => GrpcRouteFacts,
    TlsRoute => TlsRouteFacts,
    TcpRoute => TcpRouteFacts
);
