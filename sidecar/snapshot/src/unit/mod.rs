//! The shapes of units. Every shape is closed: unknown fields and unknown enum values are refused, because a field that
//! was skipped could be the one that denies.
//!
//! Times are milliseconds (`_ms`), sizes are bytes, ratios are parts per million (`_ppm`).

pub mod auth;
pub mod backend;
pub mod cache;
pub mod inbound;
pub mod listener;
pub mod policy;
pub mod route;
pub mod secret;
pub mod settings;
pub mod shard_map;
pub mod store;
pub mod stream_route;
pub mod table;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::name::{UnitKind, UnitName};

pub use auth::Keys;
pub use backend::{Backend, Endpoints};
pub use inbound::Inbound;
pub use listener::Listener;
pub use policy::{Fleet, LimitPolicy};
pub use route::Route;
pub use secret::Secret;
pub use settings::Settings;
pub use shard_map::ShardMap;
pub use store::Store;
pub use stream_route::StreamRoute;
pub use table::Table;

/// The resource that a unit was made from: what status, access log and metrics name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectRef {
    /// `ApiRoute`, `HTTPRoute`, `RateLimitPolicy`, `ShardSet`, ...
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// A reference to an object.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The resource that a unit of routes is of, told by its name alone: for one that is missing or denied.
    pub fn of_route(unit: &UnitName) -> Self {
        let (kind, name) = unit.route_parts();
        Self::new(kind, unit.namespace(), name)
    }

    /// Whether it is a route of the Gateway API, whose denials by configuration are 500 (HTTPRouteRule.backendRefs) and
    /// not 503.
    pub fn is_gateway_route(&self) -> bool {
        matches!(self.kind.as_str(), "HTTPRoute" | "GRPCRoute")
    }
}

/// One named, immutable, content-hashed piece of configuration.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // each variant is documented at its type
pub enum Unit {
    Inbound(Inbound),
    Route(Route),
    Policy(LimitPolicy),
    Backend(Backend),
    Endpoints(Endpoints),
    ShardMap(ShardMap),
    Store(Store),
    Keys(Keys),
    Secret(Secret),
    Fleet(Fleet),
    Settings(Settings),
    Listener(Listener),
    StreamRoute(StreamRoute),
    Table(Table),
}

/// A body that does not decode.
#[derive(Debug, thiserror::Error)]
#[error("unit {name} does not decode: {source}; the operator is probably newer than this sidecar")]
pub struct DecodeError {
    /// The unit.
    pub name: UnitName,
    /// Where and why. For secret units the cause is withheld.
    source: serde_json::Error,
}

impl Unit {
    /// The kind, which equals that of the unit's name.
    pub fn kind(&self) -> UnitKind {
        match self {
            Self::Inbound(_) => UnitKind::Inbound,
            Self::Route(_) => UnitKind::Route,
            Self::Policy(_) => UnitKind::Policy,
            Self::Backend(_) => UnitKind::Backend,
            Self::Endpoints(_) => UnitKind::Endpoints,
            Self::ShardMap(_) => UnitKind::ShardMap,
            Self::Store(_) => UnitKind::Store,
            Self::Keys(_) => UnitKind::Keys,
            Self::Secret(_) => UnitKind::Secret,
            Self::Fleet(_) => UnitKind::Fleet,
            Self::Settings(_) => UnitKind::Settings,
            Self::Listener(_) => UnitKind::Listener,
            Self::StreamRoute(_) => UnitKind::StreamRoute,
            Self::Table(_) => UnitKind::Table,
        }
    }

    /// The body: JSON, the same bytes for the same value.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Inbound(unit) => json(unit),
            Self::Route(unit) => json(unit),
            Self::Policy(unit) => json(unit),
            Self::Backend(unit) => json(unit),
            Self::Endpoints(unit) => json(unit),
            Self::ShardMap(unit) => json(unit),
            Self::Store(unit) => json(unit),
            Self::Keys(unit) => json(unit),
            Self::Secret(unit) => unit.encode(),
            Self::Fleet(unit) => json(unit),
            Self::Settings(unit) => json(unit),
            Self::Listener(unit) => json(unit),
            Self::StreamRoute(unit) => json(unit),
            Self::Table(unit) => json(unit),
        }
    }

    /// Reads the body of `name`, strictly.
    pub fn decode(name: &UnitName, body: &[u8]) -> Result<Self, DecodeError> {
        fn read<T: DeserializeOwned>(name: &UnitName, body: &[u8]) -> Result<T, DecodeError> {
            serde_json::from_slice(body).map_err(|source| DecodeError {
                name: name.clone(),
                source,
            })
        }
        Ok(match name.kind() {
            UnitKind::Inbound => Self::Inbound(read(name, body)?),
            UnitKind::Route => Self::Route(read(name, body)?),
            UnitKind::Policy => Self::Policy(read(name, body)?),
            UnitKind::Backend => Self::Backend(read(name, body)?),
            UnitKind::Endpoints => Self::Endpoints(read(name, body)?),
            UnitKind::ShardMap => Self::ShardMap(read(name, body)?),
            UnitKind::Store => Self::Store(read(name, body)?),
            UnitKind::Keys => Self::Keys(read(name, body)?),
            UnitKind::Secret => Self::Secret(read(name, body).map_err(|error| DecodeError {
                name: error.name,
                // serde quotes the offending value, which would be secret here.
                source: serde::de::Error::custom("malformed secret unit"),
            })?),
            UnitKind::Fleet => Self::Fleet(read(name, body)?),
            UnitKind::Settings => Self::Settings(read(name, body)?),
            UnitKind::Listener => Self::Listener(read(name, body)?),
            UnitKind::StreamRoute => Self::StreamRoute(read(name, body)?),
            UnitKind::Table => Self::Table(read(name, body)?),
        })
    }

    /// A redacted JSON view for debug endpoints and goldens: secret bytes are replaced by their length.
    pub fn redacted(&self) -> serde_json::Value {
        match self {
            Self::Secret(unit) => unit.redacted(),
            other => serde_json::from_slice(&other.encode()).unwrap_or_default(),
        }
    }

    /// The units this one needs; `assemble` is the closure of it.
    pub fn needs(&self) -> Vec<UnitName> {
        match self {
            Self::Inbound(unit) => unit.needs(),
            Self::Route(unit) => unit.needs(),
            Self::Policy(unit) => unit.needs(),
            Self::Backend(unit) => unit.endpoints.clone(),
            Self::ShardMap(unit) => unit.needs(),
            Self::Store(unit) => unit.needs(),
            Self::Keys(unit) => unit.secrets.clone(),
            Self::Endpoints(_) | Self::Secret(_) | Self::Fleet(_) | Self::Settings(_) => Vec::new(),
            Self::Listener(unit) => unit.needs(),
            Self::StreamRoute(unit) => unit.needs(),
            Self::Table(unit) => unit.needs(),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    // Units are structs with string keys and no foreign Serialize: serde_json has nothing to refuse.
    Bytes::from(serde_json::to_vec(value).expect("a unit always encodes"))
}
