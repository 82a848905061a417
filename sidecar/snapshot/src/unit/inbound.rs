//! The root unit of a group: which routes each inbound port serves.

use serde::{Deserialize, Serialize};

use super::backend::BackendProtocol;
use crate::name::UnitName;

/// What the sidecars of a group serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    /// Namespace of the group.
    pub namespace: String,
    /// The Services that select its pods, sorted.
    pub services: Vec<String>,
    /// The trust domain of hop certificates.
    pub trust_domain: String,
    /// The settings of the platform; none: it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<UnitName>,
    /// One table for each targetPort that has routes. A port without an entry has no route: bytes pass as they are.
    pub ports: Vec<InboundPort>,
    /// Where the edges of a Gateway listen and what each listener serves. Then there are no `ports`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerUse>,
    /// Where the routes of listeners stand that have none here, because there are too many: units of kind table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<UnitName>,
}

/// A listener as a table uses it. Port and hostname stand here too, so that one the sidecar cannot honour refuses what is
/// its own and no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerUse {
    /// The listener unit.
    pub unit: UnitName,
    /// Its port.
    pub port: u16,
    /// Its hostname; none is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Elder routes first, then by name. For a listener of protocol TLS or TCP they are stream routes: their hostnames are
    /// server names, and for TCP only the first counts. A listener whose routes stand in tables has none here.
    pub routes: Vec<RouteUse>,
}

/// The routes of one port, of all parents that share the targetPort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundPort {
    /// The targetPort: where the app listens, as EndpointSlices give it.
    pub port: u16,
    /// What the app speaks there.
    #[serde(default, skip_serializing_if = "BackendProtocol::is_http1")]
    pub protocol: BackendProtocol,
    /// Elder routes first, then by name: the last tie-break between equal matches.
    pub routes: Vec<RouteUse>,
}

/// A route as a table uses it. Hostnames stand here and not only in the route, so that a route the sidecar cannot
/// honour denies its own hostnames and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteUse {
    /// The route unit.
    pub unit: UnitName,
    /// Lower-case hostnames, exact or with a `*.` prefix; empty means any.
    pub hostnames: Vec<String>,
}

impl Inbound {
    pub(super) fn needs(&self) -> Vec<UnitName> {
        let ports = self.ports.iter().flat_map(|port| &port.routes);
        let listeners = self.listeners.iter();
        let routes = ports.chain(listeners.clone().flat_map(|listener| &listener.routes));
        let routes = routes.map(|route| route.unit.clone());
        let listeners = listeners.map(|listener| listener.unit.clone());
        let settings = self.settings.iter().cloned();
        let tables = self.tables.iter().cloned();
        settings
            .chain(routes)
            .chain(listeners)
            .chain(tables)
            .collect()
    }
}
