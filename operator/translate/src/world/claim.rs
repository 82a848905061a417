//! What other objects see of a route: where it attaches and what it answers to. Plain functions of one object: no judgement.

use std::collections::BTreeSet;

use sluice_crds::{
    ApiRouteSpec,
    api_route::{BackendTarget, ParentRef, cache::CacheMode, filters::FilterAction},
    common::ParentKind,
    gateway_api::{self, BackendRef, ParentReference},
};

use super::{
    facts::{Custom, RouteFacts},
    id::{Age, ObjectId},
};
use crate::resolve::seal;

/// What the spec of a route of the Gateway API says about the route as others see it.
pub(crate) trait GatewayApiSpec: Default {
    /// Where it attaches.
    fn parent_refs(&self) -> &[ParentReference];
    /// What it answers to.
    fn hostnames(&self) -> &[String];
    /// Where it leads.
    fn backends(&self) -> Vec<&BackendRef>;
    /// Profiles it takes over.
    fn profiles(&self) -> Vec<&str> {
        Vec::new()
    }
    /// Its matches as texts.
    fn matches(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
}

/// What other objects see of a route, of whatever kind: where it attaches, what it answers to, whether it enforces
/// anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The route.
    pub id: ObjectId,
    /// Its place among elder and younger.
    pub age: Age,
    /// Its parents that are Services.
    pub parents: Vec<ParentRef>,
    /// Its parents that are Gateways.
    pub gateways: Vec<GatewayRef>,
    /// Lower-case hostnames; `*` alone where it names none.
    pub hostnames: BTreeSet<String>,
    /// Whether a block of its own asks something of a request (or would, could it be read).
    pub enforces: bool,
    /// Profiles whose blocks it takes over.
    pub profiles: BTreeSet<String>,
    /// Namespace and name of Services it leads to from a Gateway.
    pub backends: BTreeSet<(String, String)>,
    /// What each of its matches asks for, written so that equal matches are equal texts; of ApiRoutes none.
    pub matches: BTreeSet<String>,
}

/// A Gateway or a ListenerSet that a route attaches to, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The listener; none is every one.
    pub section: Option<String>,
    /// The port of listeners; none is every one.
    pub port: Option<u16>,
    /// Whether it is a ListenerSet.
    pub set: bool,
    /// The place of the reference among the route's.
    pub index: usize,
}

/// The hostname that stands for "any".
pub const ANY_HOST: &str = "*";

impl Claim {
    /// What `route` claims.
    pub fn of(route: &RouteFacts) -> Self {
        let nothing = ApiRouteSpec::default();
        let spec = route.spec.as_ref().unwrap_or(&nothing);
        let mut hostnames: BTreeSet<String> = spec
            .hostnames
            .iter()
            .map(|host| host.to_ascii_lowercase())
            .collect();
        if hostnames.is_empty() {
            hostnames.insert(ANY_HOST.into());
        }
        let auth = spec
            .auth
            .as_ref()
            .and_then(|auth| auth.requirement())
            .is_some();
        let rules = spec.rules.iter().any(|rule| {
            rule.auth.is_some()
                || rule
                    .cache
                    .as_ref()
                    .is_some_and(|cache| cache.effective_mode() == CacheMode::Enabled)
        });
        let filters = spec.rules.iter().flat_map(|rule| &rule.filters);
        Self {
            id: route.id.clone(),
            age: route.age(),
            parents: spec
                .parent_refs
                .iter()
                .filter(|parent| parent.kind == ParentKind::Service)
                .cloned()
                .collect(),
            gateways: gateways(&route.id, &spec.parent_refs),
            hostnames,
            enforces: auth || rules || route.unreadable().is_some(),
            backends: backends(&route.id, spec),
            matches: BTreeSet::new(),
            profiles: filters
                .filter_map(|filter| match filter.get() {
                    Ok(FilterAction::ExtensionRef(profile)) => Some(profile.name.to_string()),
                    _ => None,
                })
                .collect(),
        }
    }

    /// What a route of the Gateway API claims. Hostnames that no request can carry are left out.
    pub(crate) fn of_gateway_api<S: GatewayApiSpec>(route: &Custom<S>) -> Self {
        let nothing = S::default();
        let spec = route.spec.as_ref().unwrap_or(&nothing);
        let written = spec.hostnames();
        let mut hostnames: BTreeSet<String> = written
            .iter()
            .map(|host| host.to_ascii_lowercase())
            .filter(|host| seal::hostname(host).is_ok())
            .collect();
        if written.is_empty() {
            hostnames.insert(ANY_HOST.into());
        }
        let own = &*route.id.namespace;
        let services = spec
            .backends()
            .into_iter()
            .filter(|backend| is_service(backend));
        Self {
            id: route.id.clone(),
            age: route.age(),
            parents: Vec::new(),
            gateways: gateway_parents(own, spec.parent_refs()),
            hostnames,
            enforces: false,
            profiles: spec.profiles().into_iter().map(str::to_owned).collect(),
            backends: services
                .map(|backend| {
                    let namespace = backend.namespace.as_deref().unwrap_or(own);
                    (namespace.to_owned(), backend.name.clone())
                })
                .collect(),
            matches: spec.matches(),
        }
    }

    /// Whether two versions of a route attach alike.
    pub(super) fn attaches_like(&self, other: &Self) -> bool {
        self.id == other.id
            && self.age == other.age
            && self.gateways == other.gateways
            && self.hostnames == other.hostnames
    }

    /// Whether the route attaches to this port of a Service.
    pub fn attaches(&self, service: &str, port: u16) -> bool {
        self.parents
            .iter()
            .any(|parent| parent.name == service && parent.port.is_none_or(|wanted| wanted == port))
    }
}

/// Services that a route with Gateways as parents leads to.
fn backends(route: &ObjectId, spec: &ApiRouteSpec) -> BTreeSet<(String, String)> {
    let edge = spec
        .parent_refs
        .iter()
        .any(|parent| parent.kind == ParentKind::Gateway);
    let refs = spec
        .rules
        .iter()
        .filter(|_| edge)
        .flat_map(|rule| &rule.backend_refs);
    refs.filter_map(|backend| match backend.target() {
        Ok(BackendTarget::Service { name, .. }) => {
            Some((route.namespace.to_string(), name.to_string()))
        }
        _ => None,
    })
    .collect()
}

/// Whether a backendRef is of the kind that serves.
pub(crate) fn is_service(backend: &BackendRef) -> bool {
    backend.group.as_deref().unwrap_or_default().is_empty()
        && backend.kind.as_deref().unwrap_or("Service") == "Service"
}

/// Whether a parent of a route of the Gateway API is a ListenerSet; `None`: it is of a kind that is somebody else's.
fn is_listener_set(parent: &ParentReference) -> Option<bool> {
    let group = parent.group.as_deref().unwrap_or(gateway_api::GROUP);
    match parent.kind.as_deref() {
        _ if group != gateway_api::GROUP => None,
        None | Some("Gateway") => Some(false),
        Some("ListenerSet") => Some(true),
        Some(_) => None,
    }
}

fn gateway_parents(own: &str, parents: &[ParentReference]) -> Vec<GatewayRef> {
    let parents = parents.iter().enumerate();
    parents
        .filter_map(|(index, parent)| {
            Some(GatewayRef {
                namespace: parent.namespace.as_deref().unwrap_or(own).to_owned(),
                name: parent.name.clone(),
                section: parent.section_name.clone(),
                port: parent.port,
                set: is_listener_set(parent)?,
                index,
            })
        })
        .collect()
}

fn gateways(route: &ObjectId, parents: &[ParentRef]) -> Vec<GatewayRef> {
    let parents = parents.iter().enumerate();
    parents
        .filter(|(_, parent)| parent.kind == ParentKind::Gateway)
        .map(|(index, parent)| GatewayRef {
            namespace: parent
                .namespace
                .as_ref()
                .map_or_else(|| route.namespace.to_string(), ToString::to_string),
            name: parent.name.to_string(),
            section: parent.section_name.as_ref().map(ToString::to_string),
            port: parent.port,
            set: false,
            index,
        })
        .collect()
}
