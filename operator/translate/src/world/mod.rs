//! The world: every object that translation may read, with indexes. It is changed by sources and read through a
//! [`View`](crate::View) only; nothing here judges an object.

mod claim;
mod facts;
mod gateway_api;
mod id;
mod index;
mod membership;
mod object;
mod parts;
mod service;

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::hmac;

pub use claim::{ANY_HOST, Claim, GatewayRef};
pub(crate) use claim::{GatewayApiSpec, is_service};
pub use facts::{
    ATTRIBUTE_PREFIX, AuthoritiesFacts, BackendTlsFacts, Custom, Defect, GATEWAY_LABEL,
    GatewayFacts, HpaFacts, INJECT_LABEL, INJECTION_LABEL, MIRROR_ANNOTATION, NamespaceFacts,
    PodFacts, PolicyFacts, RouteFacts, SIDECAR_CONTAINER, SUBJECT_ANNOTATION, SecretFacts,
    ShardSetFacts, Sidecar, USE_LABEL,
};
pub use gateway_api::{
    GatewayClassFacts, GrantFacts, GrpcRouteFacts, HttpRouteFacts, ListenerSetFacts, Routed,
    TcpRouteFacts, TlsRouteFacts,
};
pub use id::{Age, Kind, Meta, ObjectId};
pub use index::Index;
pub(crate) use index::{key, parent_key, parent_of, part_key};
pub use membership::PodKey;
pub use object::{Change, Object, Undecodable};
pub use parts::Part;
pub use service::{EndpointFacts, ServiceFacts, ServicePort, SliceFacts, TargetPort};

use crate::groups::{GroupId, PodRef};
use membership::{Member, Membership, Moved};

/// Namespaces of Kubernetes itself, which are never injected, whatever their labels say.
const NEVER_INJECTED: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// What holds for the whole life of the process.
#[derive(Clone)]
pub struct Settings {
    /// The platform's key: keyed hashes of secrets and the salts of API keys are made with it.
    pub hash_key: hmac::Key,
    /// Where the Secrets are that SluiceConfig names.
    pub operator_namespace: String,
    /// What says which pods there are.
    pub pods: Pods,
}

/// What says which pods there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pods {
    /// Pod objects; a Service's selector says which are its.
    FromPods,
    /// `targetRef`s of EndpointSlices: file mode, where there are no Pods.
    FromSlices,
}

/// Something that was read, and that a change can invalidate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Read {
    /// One object, also where it is absent.
    Object(ObjectId),
    /// What an index shows under a key, also where that is nothing.
    By(Index, String),
}

/// What a change touched.
#[derive(Debug, Default)]
pub struct Touched {
    /// Reads whose answer is another now.
    pub reads: BTreeSet<Read>,
    /// Groups that came to be or ceased to be.
    pub groups: BTreeSet<GroupId>,
    /// Pods that came, went, changed group or changed otherwise.
    pub pods: BTreeSet<PodKey>,
}

/// All objects.
pub struct World {
    settings: Settings,
    objects: BTreeMap<ObjectId, Object>,
    indexes: index::Indexes,
    slices_by_pod: BTreeMap<PodKey, BTreeSet<ObjectId>>,
    membership: Membership,
}

impl World {
    /// An empty world.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            objects: BTreeMap::new(),
            indexes: index::Indexes::default(),
            slices_by_pod: BTreeMap::new(),
            membership: Membership::default(),
        }
    }

    /// What holds for the whole life of the process.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The same objects, everything derived from them made anew.
    pub fn rebuilt(&self) -> Self {
        let mut world = Self::new(self.settings.clone());
        for object in self.objects.values() {
            world.apply(Change::Upsert(object.clone()));
        }
        world
    }

    /// Takes a change in and says what it touched.
    pub fn apply(&mut self, change: Change) -> Touched {
        let (id, new) = match change {
            Change::Upsert(object) => (object.id(), Some(object)),
            Change::Delete(id) => (id, None),
            Change::Undecodable(broken) => {
                let id = broken.id.clone();
                let kept = broken.keep(self.objects.get(&id));
                (id, kept)
            }
        };
        self.put(id, new)
    }

    fn put(&mut self, id: ObjectId, new: Option<Object>) -> Touched {
        let old = self.objects.remove(&id);
        let new = new.map(|new| remember_ready(old.as_ref(), new));
        if old == new {
            if let Some(new) = new {
                self.objects.insert(id, new);
            }
            return Touched::default();
        }
        let indexes = self.indexes.update(&id, old.as_ref(), new.as_ref());
        let dirty = self.pods_about(&id, old.as_ref(), new.as_ref());
        if let Some(new) = new {
            self.objects.insert(id.clone(), new);
        }
        let moved = self.place(dirty);
        let mut reads: BTreeSet<Read> = indexes
            .into_iter()
            .map(|(index, key)| Read::By(index, key))
            .collect();
        reads.insert(Read::Object(id));
        let groups = moved.services.into_iter();
        reads.extend(groups.map(|key| Read::By(Index::GroupByService, key)));
        let ports = moved.ports.into_iter();
        reads.extend(ports.map(|key| Read::By(Index::PodPortsByService, key)));
        Touched {
            reads,
            groups: moved.groups,
            pods: moved.pods,
        }
    }

    /// The pods whose group a change may alter. Keeps the index of slices by pod on the way.
    fn pods_about(
        &mut self,
        id: &ObjectId,
        old: Option<&Object>,
        new: Option<&Object>,
    ) -> BTreeSet<PodKey> {
        match id.kind {
            Kind::Pod => BTreeSet::from([PodKey {
                namespace: id.namespace.clone(),
                name: id.name.clone(),
            }]),
            Kind::Service => self.membership.pods_in(&id.namespace).cloned().collect(),
            Kind::Gateway => BTreeSet::from([PodKey::of_gateway(&id.namespace, &id.name)]),
            Kind::Namespace => self.membership.pods_in(&id.name).cloned().collect(),
            Kind::EndpointSlice => {
                let before = old.map(pods_named).unwrap_or_default();
                let after = new.map(pods_named).unwrap_or_default();
                for pod in before.difference(&after) {
                    if let Some(slices) = self.slices_by_pod.get_mut(pod) {
                        slices.remove(id);
                        if slices.is_empty() {
                            self.slices_by_pod.remove(pod);
                        }
                    }
                }
                for pod in after.difference(&before) {
                    self.slices_by_pod
                        .entry(pod.clone())
                        .or_default()
                        .insert(id.clone());
                }
                before.union(&after).cloned().collect()
            }
            Kind::ApiRoute
            | Kind::RateLimitPolicy
            | Kind::ShardSet
            | Kind::Secret
            | Kind::HorizontalPodAutoscaler
            | Kind::ScaledObject
            | Kind::TlsSecret
            | Kind::ConfigMap
            | Kind::BackendTlsPolicy
            | Kind::GatewayClass
            | Kind::ListenerSet
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TlsRoute
            | Kind::TcpRoute
            | Kind::ReferenceGrant
            | Kind::Config
            | Kind::Fleet
            | Kind::File => BTreeSet::new(),
        }
    }

    fn place(&mut self, dirty: BTreeSet<PodKey>) -> Moved {
        let mut moved = Moved::default();
        for key in dirty {
            let now = self.member(&key);
            self.membership.place(&key, now, &mut moved);
        }
        moved
    }

    /// The group a pod belongs to by the objects as they are.
    fn member(&self, key: &PodKey) -> Option<Member> {
        if let Some(member) = self.edge(key) {
            return Some(member);
        }
        let mut services = BTreeSet::new();
        let mut ports = BTreeMap::new();
        let pod = match self.settings.pods {
            Pods::FromPods => {
                let id = ObjectId {
                    kind: Kind::Pod,
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                };
                let Some(Object::Pod(pod)) = self.objects.get(&id) else {
                    return None;
                };
                let selecting = self.services_selecting(&pod.id.namespace, &pod.labels);
                services.extend(selecting.map(|service| service.id.name.to_string()));
                ports.clone_from(&pod.ports);
                PodRef::from_pod(pod, self.injects(&key.namespace))
            }
            Pods::FromSlices => PodRef::from_slices(key, self.slices_naming(key))?,
        };
        for slice in self.slices_naming(key) {
            let Some(service) = &slice.service else {
                continue;
            };
            let id = ObjectId::new(Kind::Service, &key.namespace, service);
            if let Some(Object::Service(facts)) = self.objects.get(&id)
                && (self.settings.pods == Pods::FromSlices || facts.selector.is_empty())
            {
                services.insert(service.clone());
            }
        }
        Some(Member {
            group: GroupId::new(&key.namespace, services),
            pod,
            ports,
        })
    }

    /// A pod of a Gateway: one with its label, or, where there are no Pods, the one that stands for all of its edges.
    fn edge(&self, key: &PodKey) -> Option<Member> {
        let namespace = &*key.namespace;
        let (gateway, pod) = match self.settings.pods {
            Pods::FromPods => {
                let id = ObjectId::new(Kind::Pod, namespace, &key.name);
                let Some(Object::Pod(pod)) = self.objects.get(&id) else {
                    return None;
                };
                // Nobody injects a pod that is one whole edge.
                (
                    pod.labels.get(GATEWAY_LABEL)?.as_str(),
                    PodRef::from_pod(pod, false),
                )
            }
            Pods::FromSlices => {
                let gateway = key.gateway()?;
                self.objects
                    .get(&ObjectId::new(Kind::Gateway, namespace, gateway))?;
                (gateway, PodRef::of_gateway(key))
            }
        };
        Some(Member {
            group: GroupId::gateway(namespace, gateway),
            pod,
            ports: BTreeMap::new(),
        })
    }

    /// Whether pods of a namespace are to be injected: the webhook's own selector, and what it leaves out.
    fn injects(&self, namespace: &str) -> bool {
        let left_out =
            NEVER_INJECTED.contains(&namespace) || namespace == self.settings.operator_namespace;
        !left_out
            && self
                .namespace(namespace)
                .is_some_and(|facts| facts.injection)
    }

    /// Services of a namespace whose selector matches a pod's labels.
    pub fn services_selecting<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a ServiceFacts> {
        let objects = index::in_namespace(&self.objects, Kind::Service, namespace);
        objects.filter_map(|object| match object {
            Object::Service(service) => {
                let selector = &service.selector;
                let matches = selector
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value));
                (!selector.is_empty() && matches).then_some(&**service)
            }
            _ => None,
        })
    }

    fn slices_naming<'a>(&'a self, key: &PodKey) -> impl Iterator<Item = &'a SliceFacts> + 'a {
        let ids = self.slices_by_pod.get(key).into_iter().flatten();
        ids.filter_map(|id| match self.objects.get(id) {
            Some(Object::EndpointSlice(slice)) => Some(&**slice),
            _ => None,
        })
    }

    /// What the labels of a namespace say; `None` where it is not known.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceFacts> {
        match self.objects.get(&ObjectId::new(Kind::Namespace, "", name)) {
            Some(Object::Namespace(facts)) => Some(facts),
            _ => None,
        }
    }

    /// Pods that have no sidecar and should.
    pub fn bare_pods(&self) -> impl Iterator<Item = &PodRef> {
        self.membership.pods().filter(|pod| pod.bare)
    }

    /// One object.
    pub(crate) fn object(&self, id: &ObjectId) -> Option<&Object> {
        self.objects.get(id)
    }

    /// Every object.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    /// What an index shows. [`Index::GroupByService`] is asked by [`World::groups_with`].
    pub(crate) fn by(&self, index: Index, key: &str) -> impl Iterator<Item = &Object> {
        self.indexes.get(index, key)
    }

    /// The parts of the routes of a parent Gateway or ListenerSet, in order.
    pub(crate) fn parts_of(&self, parent: &str) -> Vec<Part> {
        self.indexes.of_gateways.list(parent)
    }

    /// Whether a parent has this part now.
    pub(crate) fn has_part(&self, parent: &str, part: Part) -> bool {
        self.indexes.of_gateways.has(parent, part)
    }

    /// The routes of a part.
    pub(crate) fn routes_of_part(&self, parent: &str, part: Part) -> impl Iterator<Item = &Object> {
        self.indexes.of_gateways.routes(parent, part)
    }

    /// Every parent Gateway or ListenerSet that has routes.
    pub(crate) fn parents(&self) -> impl Iterator<Item = &str> {
        self.indexes.of_gateways.parents()
    }

    /// The groups whose pods a Service has.
    pub(crate) fn groups_with(&self, key: &str) -> impl Iterator<Item = &GroupId> {
        self.membership.groups_with(key)
    }

    /// The numbers that the pods of a Service give to ports of this name.
    pub(crate) fn pod_ports(&self, key: &str, name: &str) -> BTreeSet<u16> {
        self.membership.ports_of(key, name)
    }

    /// Every group that has a pod.
    pub fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.membership.groups()
    }

    /// The pods of a group.
    pub fn pods_of(&self, group: &GroupId) -> impl Iterator<Item = &PodRef> {
        self.membership.pods_of(group)
    }

    /// A pod and its group.
    pub fn pod(&self, key: &PodKey) -> Option<(&GroupId, &PodRef)> {
        self.membership
            .pod(key)
            .map(|member| (&member.group, &member.pod))
    }

    /// The Pods of a namespace, by name; none in file mode, which has no Pods.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &PodFacts> {
        index::in_namespace(&self.objects, Kind::Pod, namespace).filter_map(|object| match object {
            Object::Pod(pod) => Some(&**pod),
            _ => None,
        })
    }

    /// Every Gateway, of whatever class.
    pub fn gateways(&self) -> impl Iterator<Item = &GatewayFacts> {
        let first = ObjectId::new(Kind::Gateway, "", "");
        self.objects
            .range(first..)
            .take_while(|(id, _)| id.kind == Kind::Gateway)
            .filter_map(|(_, object)| match object {
                Object::Gateway(facts) => Some(&**facts),
                _ => None,
            })
    }

    /// Every ListenerSet, whatever it adds to.
    pub fn listener_sets(&self) -> impl Iterator<Item = &ObjectId> {
        let first = ObjectId::new(Kind::ListenerSet, "", "");
        self.objects
            .range(first..)
            .map(|(id, _)| id)
            .take_while(|id| id.kind == Kind::ListenerSet)
    }

    /// Uid, age and generation of one of our resources.
    pub fn meta(&self, id: &ObjectId) -> Option<&Meta> {
        self.objects.get(id).and_then(Object::meta)
    }

    /// Every one of our resources that there is.
    pub fn resources(&self) -> impl Iterator<Item = &ObjectId> {
        // The three kinds sort first.
        self.objects
            .keys()
            .take_while(|id| id.kind <= Kind::ShardSet)
    }
}

/// A pod that was ready once counts for ever: what it lost since is news, not a reason to stop counting it.
fn remember_ready(old: Option<&Object>, new: Object) -> Object {
    match (old, new) {
        (Some(Object::Pod(old)), Object::Pod(new))
            if old.was_ready && !new.was_ready && old.uid == new.uid =>
        {
            Object::Pod(std::sync::Arc::new(PodFacts {
                was_ready: true,
                ..PodFacts::clone(&new)
            }))
        }
        (_, new) => new,
    }
}

fn pods_named(object: &Object) -> BTreeSet<PodKey> {
    match object {
        Object::EndpointSlice(slice) => slice
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.pod.as_ref())
            .map(|(name, _)| PodKey::new(&slice.id.namespace, name))
            .collect(),
        _ => BTreeSet::new(),
    }
}
