//! Indexes: each a plain function of one object, kept up to date by the world.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    claim::{Claim, GatewayRef},
    id::{Kind, ObjectId},
    object::Object,
    parts::{Part, Parts},
};

/// Entries of [`Index::RouteByGatewayMatch`] of one route: beyond them nobody is told of equal matches.
const MAX_MATCHES: usize = 2_048;

/// The indexes. A key is `<namespace>/<value>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Index {
    /// ApiRoutes by the name of a parent Service.
    RouteByParent,
    /// ApiRoutes by `<parent Service>/<hostname>`.
    RouteByHost,
    /// Routes of every kind by the name of a parent Gateway, or `ListenerSet/<name>`, in the parent's namespace; what is read
    /// is one [`Part`] of them, by `<parent>#<part>`.
    RouteByGateway,
    /// The parts of such a parent.
    PartsByGateway,
    /// ApiRoutes by `<parent Gateway>/<hostname>`, in the Gateway's namespace.
    RouteByGatewayHost,
    /// HTTPRoutes and GRPCRoutes by `<parent>/<hostname>/<match>`, in the parent's namespace.
    RouteByGatewayMatch,
    /// Routes of Gateways by a Service they lead to, in the Service's namespace.
    RouteByBackend,
    /// ListenerSets by the Gateway they add to, in the Gateway's namespace.
    ListenerSetByGateway,
    /// ReferenceGrants of a namespace.
    GrantByNamespace,
    /// ApiRoutes by the name of the workload they scale.
    RouteByScaleTarget,
    /// RateLimitPolicies by `<kind>/<name>` of what they target.
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
            keys.extend(on_gateways(&claim));
            for gateway in &claim.gateways {
                for host in &claim.hostnames {
                    let value = key(&gateway.namespace, &format!("{}/{host}", gateway.name));
                    keys.insert((Index::RouteByGatewayHost, value));
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
            .map(|target| {
                let value = format!("{}/{}", target.kind.as_str(), target.name);
                one(Index::PolicyByTarget, &value)
            })
            .collect(),
        Object::BackendTlsPolicy(policy) => policy
            .spec
            .iter()
            .flat_map(|spec| &spec.target_refs)
            .map(|target| one(Index::BackendTlsByService, &target.name))
            .collect(),
        Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TlsRoute(_) | Object::TcpRoute(_) => {
            object.claim().map_or_else(BTreeSet::new, |claim| {
                let mut keys = on_gateways(&claim);
                keys.extend(matches(&claim));
                keys
            })
        }
        Object::ListenerSet(set) => set
            .spec
            .iter()
            .map(|spec| {
                let parent = &spec.parent_ref;
                let namespace = parent.namespace.as_deref().unwrap_or(namespace);
                (Index::ListenerSetByGateway, key(namespace, &parent.name))
            })
            .collect(),
        Object::ReferenceGrant(_) => BTreeSet::from([one(Index::GrantByNamespace, "")]),
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
        | Object::GatewayClass(_)
        | Object::Namespace(_)
        | Object::Config(_)
        | Object::Fleet { .. } => BTreeSet::new(),
    }
}

/// The name under which routes of a Gateway, or of a ListenerSet, are found.
pub(crate) fn parent_key(name: &str, set: bool) -> String {
    match set {
        true => format!("ListenerSet/{name}"),
        false => name.to_owned(),
    }
}

/// Namespace and name of a parent, and whether it is a ListenerSet: [`key`] and [`parent_key`] the other way round.
pub(crate) fn parent_of(key: &str) -> Option<(&str, &str, bool)> {
    let (namespace, value) = key.split_once('/')?;
    Some(match value.strip_prefix("ListenerSet/") {
        Some(name) => (namespace, name, true),
        None => (namespace, value, false),
    })
}

/// The key of one part of a parent's routes.
pub(crate) fn part_key(parent: &str, part: Part) -> String {
    format!("{parent}#{part}")
}

/// By where a route attaches and where it leads from there.
fn on_gateways(claim: &Claim) -> BTreeSet<(Index, String)> {
    let parents = claim.gateways.iter().map(|parent| {
        let value = parent_key(&parent.name, parent.set);
        (Index::RouteByGateway, key(&parent.namespace, &value))
    });
    let backends = claim.backends.iter();
    parents
        .chain(backends.map(|(namespace, name)| (Index::RouteByBackend, key(namespace, name))))
        .collect()
}

/// By what it answers to, whole.
fn matches(claim: &Claim) -> impl Iterator<Item = (Index, String)> {
    let of_parent = move |parent: &GatewayRef| {
        let parent = key(&parent.namespace, &parent_key(&parent.name, parent.set));
        let of_host = move |host: &String| {
            let prefix = format!("{parent}/{host}");
            let keys = claim.matches.iter();
            keys.map(move |one| (Index::RouteByGatewayMatch, format!("{prefix}/{one}")))
        };
        claim.hostnames.iter().flat_map(of_host)
    };
    claim.gateways.iter().flat_map(of_parent).take(MAX_MATCHES)
}

/// Whether what `index` shows of an object differs between two versions of it.
fn differs(index: Index, old: &Object, new: &Object) -> bool {
    match (index, old, new) {
        (Index::RouteByParent | Index::RouteByHost, old, new) => old.claim() != new.claim(),
        (
            Index::RouteByGateway
            | Index::RouteByGatewayHost
            | Index::RouteByGatewayMatch
            | Index::RouteByBackend,
            old,
            new,
        ) => match (old.claim(), new.claim()) {
            (Some(old), Some(new)) => !old.attaches_like(&new),
            _ => true,
        },
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

/// All entries of all indexes, with the objects themselves: whoever reads the thousands of a key looks none of them up.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    entries: HashMap<(Index, String), BTreeMap<ObjectId, Object>>,
    /// The entries of [`Index::RouteByGateway`].
    pub(super) of_gateways: Parts,
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
        let mut touched: BTreeSet<_> = before.symmetric_difference(&after).cloned().collect();
        if let (Some(old), Some(new)) = (old, new) {
            let kept = before.intersection(&after);
            touched.extend(kept.filter(|(index, _)| differs(*index, old, new)).cloned());
        }
        let is_in_parts = |entry: &&(Index, String)| entry.0 == Index::RouteByGateway;
        for entry in before.union(&after).filter(is_in_parts) {
            let (_, parent) = entry;
            let route = new.filter(|_| after.contains(entry));
            let placed = self.of_gateways.put(parent, id, route);
            if touched.remove(entry) {
                let parts = placed.parts.map(|part| part_key(parent, part));
                touched.extend(parts.map(|key| (Index::RouteByGateway, key)));
            }
            if placed.other_parts {
                touched.insert((Index::PartsByGateway, parent.clone()));
            }
        }
        for entry in before
            .difference(&after)
            .filter(|entry| !is_in_parts(entry))
        {
            if let Some(objects) = self.entries.get_mut(entry) {
                objects.remove(id);
                if objects.is_empty() {
                    self.entries.remove(entry);
                }
            }
        }
        if let Some(new) = new {
            for entry in after.iter().filter(|entry| !is_in_parts(entry)) {
                let objects = self.entries.entry(entry.clone()).or_default();
                objects.insert(id.clone(), new.clone());
            }
        }
        touched
    }

    /// The objects under a key, by name.
    pub(super) fn get(&self, index: Index, key: &str) -> impl Iterator<Item = &Object> {
        let objects = self.entries.get(&(index, key.to_owned()));
        objects.into_iter().flat_map(BTreeMap::values)
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
