//! The names of units. A name is `<kind>/<namespace>/<rest>`; the kind decides the shape of the body.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The kinds of unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitKind {
    /// What a group's inbound ports serve: the root from which everything else is reached.
    Inbound,
    /// An ApiRoute, HTTPRoute or GRPCRoute, resolved.
    Route,
    /// A RateLimitPolicy, resolved.
    Policy,
    /// A Service port that is forwarded to.
    Backend,
    /// One EndpointSlice.
    Endpoints,
    /// A ShardSet in force.
    ShardMap,
    /// A store of SluiceConfig.
    Store,
    /// The set of Secrets that a provider accepts now.
    Keys,
    /// The content of one Secret, at one keyed hash.
    Secret,
    /// Facts about the fleet that a policy needs.
    Fleet,
    /// What the platform says once for every sidecar.
    Settings,
    /// A listener of a Gateway.
    Listener,
    /// A TLSRoute or TCPRoute, resolved.
    StreamRoute,
    /// Some of the routes of a Gateway's or ListenerSet's listeners, where there are many.
    Table,
}

/// How the names of routes of the Gateway API begin after the namespace, by kind. An ApiRoute's has none: the name of an
/// object holds no slash.
const ROUTE_KINDS: [(&str, &str); 4] = [
    ("HTTPRoute", "httproute/"),
    ("GRPCRoute", "grpcroute/"),
    ("TLSRoute", "tlsroute/"),
    ("TCPRoute", "tcproute/"),
];

impl UnitKind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Inbound,
        Self::Route,
        Self::Policy,
        Self::Backend,
        Self::Endpoints,
        Self::ShardMap,
        Self::Store,
        Self::Keys,
        Self::Secret,
        Self::Fleet,
        Self::Settings,
        Self::Listener,
        Self::StreamRoute,
        Self::Table,
    ];

    /// The first segment of the name.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Route => "route",
            Self::Policy => "policy",
            Self::Backend => "backend",
            Self::Endpoints => "endpoints",
            Self::ShardMap => "shards",
            Self::Store => "store",
            Self::Keys => "keys",
            Self::Secret => "secret",
            Self::Fleet => "fleet",
            Self::Settings => "settings",
            Self::Listener => "listener",
            Self::StreamRoute => "streamroute",
            Self::Table => "table",
        }
    }

    /// Whether a pod is live for an object only once it holds this unit with today's hash. Endpoints, fleet facts and
    /// the rotation of secrets change all the time and by nobody's edit of a policy: they do not count.
    pub const fn is_policy(self) -> bool {
        match self {
            Self::Inbound
            | Self::Route
            | Self::Policy
            | Self::Backend
            | Self::ShardMap
            | Self::Store
            | Self::Settings
            | Self::Listener
            | Self::StreamRoute
            | Self::Table => true,
            Self::Endpoints | Self::Keys | Self::Secret | Self::Fleet => false,
        }
    }
}

/// The name of a unit. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(Arc<str>);

/// A name that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not the name of a unit: expected <kind>/<namespace>/<name> with a known kind")]
pub struct NameError(String);

impl UnitName {
    /// The root unit of a group.
    pub fn inbound(namespace: &str, group: &str) -> Self {
        Self::new(UnitKind::Inbound, namespace, group)
    }

    /// An ApiRoute.
    pub fn route(namespace: &str, name: &str) -> Self {
        Self::new(UnitKind::Route, namespace, name)
    }

    /// An HTTPRoute: `route/<namespace>/httproute/<name>`.
    pub fn http_route(namespace: &str, name: &str) -> Self {
        Self::new(UnitKind::Route, namespace, &format!("httproute/{name}"))
    }

    /// A GRPCRoute: `route/<namespace>/grpcroute/<name>`.
    pub fn grpc_route(namespace: &str, name: &str) -> Self {
        Self::new(UnitKind::Route, namespace, &format!("grpcroute/{name}"))
    }

    /// A TLSRoute: `streamroute/<namespace>/tlsroute/<name>`.
    pub fn tls_route(namespace: &str, name: &str) -> Self {
        Self::new(
            UnitKind::StreamRoute,
            namespace,
            &format!("tlsroute/{name}"),
        )
    }

    /// A TCPRoute: `streamroute/<namespace>/tcproute/<name>`.
    pub fn tcp_route(namespace: &str, name: &str) -> Self {
        Self::new(
            UnitKind::StreamRoute,
            namespace,
            &format!("tcproute/{name}"),
        )
    }

    /// A RateLimitPolicy.
    pub fn policy(namespace: &str, name: &str) -> Self {
        Self::new(UnitKind::Policy, namespace, name)
    }

    /// A port of a Service.
    pub fn backend(namespace: &str, service: &str, port: u16) -> Self {
        Self::new(UnitKind::Backend, namespace, &format!("{service}:{port}"))
    }

    /// An EndpointSlice.
    pub fn endpoints(namespace: &str, slice: &str) -> Self {
        Self::new(UnitKind::Endpoints, namespace, slice)
    }

    /// A ShardSet.
    pub fn shard_map(namespace: &str, name: &str) -> Self {
        Self::new(UnitKind::ShardMap, namespace, name)
    }

    /// A store of SluiceConfig, which belongs to no namespace.
    pub fn store(name: &str) -> Self {
        Self::new(UnitKind::Store, "-", name)
    }

    /// The Secrets that provider `provider` of ApiRoute `route` accepts. A provider of SluiceConfig has namespace and
    /// route `-`.
    pub fn keys(namespace: &str, route: &str, provider: &str) -> Self {
        Self::new(UnitKind::Keys, namespace, &format!("{route}/{provider}"))
    }

    /// A Secret at one content; `keyed` is [`crate::Hash::keyed`] of its body.
    pub fn secret(namespace: &str, name: &str, keyed: &str) -> Self {
        Self::new(UnitKind::Secret, namespace, &format!("{name}@{keyed}"))
    }

    /// Fleet facts for a RateLimitPolicy.
    pub fn fleet(namespace: &str, policy: &str) -> Self {
        Self::new(UnitKind::Fleet, namespace, policy)
    }

    /// The settings of the platform: one for each operator.
    pub fn settings() -> Self {
        Self::new(UnitKind::Settings, "-", "platform")
    }

    /// A listener of a Gateway.
    pub fn listener(namespace: &str, gateway: &str, listener: &str) -> Self {
        Self::new(
            UnitKind::Listener,
            namespace,
            &format!("{gateway}/{listener}"),
        )
    }

    /// Some of the routes of the listeners that a Gateway or ListenerSet has: `owner` is its kind in lower case and its
    /// name, `part` tells them from the others.
    pub fn table(namespace: &str, owner: &str, part: &str) -> Self {
        Self::new(UnitKind::Table, namespace, &format!("{owner}/{part}"))
    }

    fn new(kind: UnitKind, namespace: &str, rest: &str) -> Self {
        Self(format!("{}/{namespace}/{rest}", kind.prefix()).into())
    }

    /// The kind, which decides the body's shape.
    pub fn kind(&self) -> UnitKind {
        let prefix = self.0.split('/').next().unwrap_or_default();
        UnitKind::ALL
            .into_iter()
            .find(|kind| kind.prefix() == prefix)
            .expect("the constructors and TryFrom admit known kinds only")
    }

    /// The namespace segment.
    pub fn namespace(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }

    /// What follows the namespace.
    pub fn rest(&self) -> &str {
        self.0.splitn(3, '/').nth(2).unwrap_or_default()
    }

    /// Kind and name of the resource that a unit of routes is of.
    pub fn route_parts(&self) -> (&'static str, &str) {
        let rest = self.rest();
        let known = ROUTE_KINDS
            .iter()
            .find_map(|(kind, prefix)| Some((*kind, rest.strip_prefix(prefix)?)));
        known.unwrap_or(("ApiRoute", rest))
    }

    /// Orders units of routes by their objects: namespace, name, kind.
    pub fn by_object(&self, other: &Self) -> Ordering {
        fn object(unit: &UnitName) -> (&str, Option<usize>) {
            let (kind, name) = unit.route_parts();
            let place = ROUTE_KINDS.iter().position(|(known, _)| *known == kind);
            (name, place)
        }
        let namespaces = self.namespace().cmp(other.namespace());
        namespaces.then_with(|| object(self).cmp(&object(other)))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UnitName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut parts = text.splitn(3, '/');
        let known = parts
            .next()
            .is_some_and(|prefix| UnitKind::ALL.iter().any(|kind| kind.prefix() == prefix));
        let filled = parts.next().is_some_and(|part| !part.is_empty())
            && parts.next().is_some_and(|part| !part.is_empty());
        if known && filled && text.len() <= 512 && !text.contains(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(NameError(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for UnitName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> Self {
        name.0.as_ref().into()
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back() {
        let names = [
            UnitName::inbound("shop", "orders"),
            UnitName::route("shop", "orders"),
            UnitName::policy("shop", "plans"),
            UnitName::backend("shop", "orders", 80),
            UnitName::endpoints("shop", "orders-x2x"),
            UnitName::shard_map("shop", "orders"),
            UnitName::store("default"),
            UnitName::keys("shop", "orders", "partners"),
            UnitName::secret("shop", "alice", "00ff"),
            UnitName::fleet("shop", "plans"),
            UnitName::settings(),
            UnitName::listener("shop", "public", "https"),
            UnitName::tls_route("shop", "orders"),
            UnitName::table("shop", "gateway/public", "01"),
        ];
        for (name, kind) in names.iter().zip(UnitKind::ALL) {
            assert_eq!(name.kind(), kind);
            assert_eq!(name.as_str().parse::<UnitName>().as_ref(), Ok(name));
        }
    }

    #[test]
    fn routes_of_every_kind_have_names_of_their_own() {
        let names = [
            ("ApiRoute", UnitName::route("shop", "orders")),
            ("HTTPRoute", UnitName::http_route("shop", "orders")),
            ("GRPCRoute", UnitName::grpc_route("shop", "orders")),
            ("TLSRoute", UnitName::tls_route("shop", "orders")),
            ("TCPRoute", UnitName::tcp_route("shop", "orders")),
        ];
        for (index, (kind, name)) in names.iter().enumerate() {
            assert_eq!(name.route_parts(), (*kind, "orders"));
            assert_eq!(name.as_str().parse::<UnitName>().as_ref(), Ok(name));
            assert!(!names[..index].iter().any(|(_, other)| other == name));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "route",
            "route/shop",
            "route/shop/",
            "route//x",
            "pod/shop/x",
            "route/shop/a\nb",
        ] {
            assert!(text.parse::<UnitName>().is_err(), "{text:?}");
        }
    }
}
