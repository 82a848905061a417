//! Indexes: each a plain function of one object, kept up to date by the world.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sluice_crds::{
    api_route::{ParentRef, cache::CacheMode, filters::FilterAction},
    common::ParentKind,
};

use super::{
    facts::RouteFacts,
    id::{Age, Kind, ObjectId},
    object::Object,
};

/// The indexes. A key is `<namespace>/<value>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Index {
    /// ApiRoutes by the name of a parent Service.
    RouteByParent,
    /// ApiRoutes by `<parent Service>/<hostname>`.
    RouteByHost,
    /// ApiRoutes by the name of a parent Gateway, in the Gateway's namespace.
    RouteByGateway,
    /// ApiRoutes by `<parent Gateway>/<hostname>`, in the Gateway's namespace.
    RouteByGatewayHost,
    /// ApiRoutes by the name of the workload they scale.
    RouteByScaleTarget,
    /// RateLimitPolicies by the ApiRoute they target.
    PolicyByTarget,
    /// BackendTLSPolicies by the Service they target.
    BackendTlsByService,
    /// EndpointSlices by their Service; only names count.
    SliceByService,
    /// Port lists of EndpointSlices by their Service; endpoints do not count.
    PortsByService,
    /// Secrets by the purpose their label names.
    SecretByUse,
    /// HorizontalPodAutoscalers and ScaledObjects by the name of the workload they scale.
    ScalerByTarget,
    /// Groups of pods by one of their Services. Kept by the membership of pods, not by this module.
    GroupByService,
    /// Named ports of pods by one of their Services. Kept likewise.
    PodPortsByService,
}

/// The key of an index.
pub(crate) fn key(namespace: &str, value: &str) -> String {
    format!("{namespace}/{value}")
}

/// What other objects see of an ApiRoute: where it attaches, what it answers to, whether it enforces anything.
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
}

/// A Gateway that a route attaches to, or a part of it.
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
    /// The place of the reference among the route's.
    pub index: usize,
}

/// The hostname that stands for "any".
pub const ANY_HOST: &str = "*";

impl Claim {
    /// What `route` claims.
    pub fn of(route: &RouteFacts) -> Self {
        let spec = route.spec.clone().unwrap_or_default();
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
            profiles: filters
                .filter_map(|filter| match filter.get() {
                    Ok(FilterAction::ExtensionRef(profile)) => Some(profile.name.to_string()),
                    _ => None,
                })
                .collect(),
        }
    }

    /// Whether the route attaches to this port of a Service.
    pub fn attaches(&self, service: &str, port: u16) -> bool {
        self.parents
            .iter()
            .any(|parent| parent.name == service && parent.port.is_none_or(|wanted| wanted == port))
    }
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
            index,
        })
        .collect()
}

/// Every index of an object, with its keys.
fn keys(object: &Object) -> BTreeSet<(Index, String)> {
    let id = object.id();
    let namespace = &*id.namespace;
    let one = |index: Index, value: &str| (index, key(namespace, value));
    match object {
        Object::ApiRoute(route) => {
            let claim = Claim::of(route);
            let mut keys = BTreeSet::new();
            for parent in &claim.parents {
                keys.insert(one(Index::RouteByParent, &parent.name));
                for host in &claim.hostnames {
                    keys.insert(one(Index::RouteByHost, &format!("{}/{host}", parent.name)));
                }
            }
            for gateway in &claim.gateways {
                let of = |index, value: &str| (index, key(&gateway.namespace, value));
                keys.insert(of(Index::RouteByGateway, &gateway.name));
                for host in &claim.hostnames {
                    let value = format!("{}/{host}", gateway.name);
                    keys.insert(of(Index::RouteByGatewayHost, &value));
                }
            }
            if let Some(scaling) = route.spec.as_ref().and_then(|spec| spec.scaling.as_ref()) {
                keys.insert(one(
                    Index::RouteByScaleTarget,
                    &scaling.scale_target_ref.name,
                ));
            }
            keys
        }
        Object::RateLimitPolicy(policy) => policy
            .spec
            .iter()
            .flat_map(|spec| &spec.target_refs)
            .map(|target| one(Index::PolicyByTarget, &target.name))
            .collect(),
        Object::BackendTlsPolicy(policy) => policy
            .spec
            .iter()
            .flat_map(|spec| &spec.target_refs)
            .map(|target| one(Index::BackendTlsByService, &target.name))
            .collect(),
        Object::EndpointSlice(slice) => slice
            .service
            .iter()
            .flat_map(|service| {
                [Index::SliceByService, Index::PortsByService].map(|index| one(index, service))
            })
            .collect(),
        Object::Secret(secret) => secret
            .purpose()
            .map(|purpose| one(Index::SecretByUse, purpose))
            .into_iter()
            .collect(),
        Object::HorizontalPodAutoscaler(scaler) | Object::ScaledObject(scaler) => {
            BTreeSet::from([one(Index::ScalerByTarget, &scaler.target_name)])
        }
        Object::ShardSet(_)
        | Object::Service(_)
        | Object::Pod(_)
        | Object::TlsSecret(_)
        | Object::ConfigMap(_)
        | Object::Gateway(_)
        | Object::Namespace(_)
        | Object::Config(_)
        | Object::Fleet { .. } => BTreeSet::new(),
    }
}

/// Whether what `index` shows of an object differs between two versions of it.
fn differs(index: Index, old: &Object, new: &Object) -> bool {
    match (index, old, new) {
        (
            Index::RouteByParent
            | Index::RouteByHost
            | Index::RouteByGateway
            | Index::RouteByGatewayHost,
            Object::ApiRoute(old),
            Object::ApiRoute(new),
        ) => Claim::of(old) != Claim::of(new),
        (Index::PolicyByTarget, Object::RateLimitPolicy(old), Object::RateLimitPolicy(new)) => {
            let targets = |spec: &Option<sluice_crds::RateLimitPolicySpec>| {
                spec.as_ref().map(|spec| spec.target_refs.clone())
            };
            targets(&old.spec) != targets(&new.spec)
        }
        (Index::PortsByService, Object::EndpointSlice(old), Object::EndpointSlice(new)) => {
            old.ports != new.ports
        }
        (Index::SliceByService, _, _) => false,
        _ => true,
    }
}

/// All entries of all indexes.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    entries: HashMap<(Index, String), BTreeSet<ObjectId>>,
}

impl Indexes {
    /// Moves an object's entries and says which keys show something else now.
    pub(super) fn update(
        &mut self,
        id: &ObjectId,
        old: Option<&Object>,
        new: Option<&Object>,
    ) -> BTreeSet<(Index, String)> {
        let before = old.map(keys).unwrap_or_default();
        let after = new.map(keys).unwrap_or_default();
        for entry in before.difference(&after) {
            if let Some(ids) = self.entries.get_mut(entry) {
                ids.remove(id);
                if ids.is_empty() {
                    self.entries.remove(entry);
                }
            }
        }
        for entry in after.difference(&before) {
            self.entries
                .entry(entry.clone())
                .or_default()
                .insert(id.clone());
        }
        let mut touched: BTreeSet<_> = before.symmetric_difference(&after).cloned().collect();
        if let (Some(old), Some(new)) = (old, new) {
            let kept = before.intersection(&after);
            touched.extend(kept.filter(|(index, _)| differs(*index, old, new)).cloned());
        }
        touched
    }

    /// The objects under a key, by name.
    pub(super) fn get(&self, index: Index, key: &str) -> impl Iterator<Item = &ObjectId> {
        self.entries
            .get(&(index, key.to_owned()))
            .into_iter()
            .flatten()
    }
}

/// Ranges of a sorted map of objects: one kind in one namespace.
pub(super) fn in_namespace<'a, V>(
    objects: &'a BTreeMap<ObjectId, V>,
    kind: Kind,
    namespace: &str,
) -> impl Iterator<Item = &'a V> {
    let first = ObjectId::new(kind, namespace, "");
    let namespace = namespace.to_owned();
    objects
        .range(first..)
        .take_while(move |(id, _)| id.kind == kind && *id.namespace == *namespace)
        .map(|(_, object)| object)
}
