//! The only way to read the world. Every accessor records what it read, also where it found nothing, so that a change of
//! exactly that makes the result stale.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_crds::{SluiceConfig, rate_limit_policy::TargetKind};
use sluice_snapshot::UnitName;

use crate::{
    groups::GroupId,
    world::{
        AuthoritiesFacts, BackendTlsFacts, Claim, GatewayClassFacts, GatewayFacts, GatewayRef,
        GrantFacts, GrpcRouteFacts, HpaFacts, HttpRouteFacts, Index, Kind, ListenerSetFacts,
        Object, ObjectId, Part, PodFacts, PolicyFacts, Read, RouteFacts, SecretFacts, ServiceFacts,
        Settings, ShardSetFacts, SliceFacts, TcpRouteFacts, TlsRouteFacts, World, key, parent_key,
        part_key,
    },
};

/// The trust domain of an installation without SluiceConfig.
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// The label that every namespace has.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A recording view of the world.
pub struct View<'w> {
    world: &'w World,
    candidate: Option<&'w Object>,
    reads: RefCell<BTreeSet<Read>>,
}

/// A policy that targets an object, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The policy.
    pub policy: ObjectId,
    /// The rule or listener it names; none: all.
    pub section: Option<String>,
}

macro_rules! accessor {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $facts:ty) => {
        $(#[$doc])*
        pub fn $name(&self, namespace: &str, name: &str) -> Option<Arc<$facts>> {
            match self.object(ObjectId::new(Kind::$kind, namespace, name)) {
                Some(Object::$kind(facts)) => Some(facts.clone()),
                _ => None,
            }
        }
    };
}

impl<'w> View<'w> {
    /// A view that has read nothing yet.
    pub fn new(world: &'w World) -> Self {
        Self {
            world,
            candidate: None,
            reads: RefCell::default(),
        }
    }

    /// A view that sees `candidate` in the place of the object of its name. Indexes show the world as it is.
    pub fn with_candidate(world: &'w World, candidate: &'w Object) -> Self {
        Self {
            candidate: Some(candidate),
            ..Self::new(world)
        }
    }

    /// Everything that was read.
    pub fn into_reads(self) -> BTreeSet<Read> {
        self.reads.into_inner()
    }

    fn object(&self, id: ObjectId) -> Option<&'w Object> {
        let candidate = self.candidate.filter(|candidate| candidate.id() == id);
        let object = candidate.or_else(|| self.world.object(&id));
        self.reads.borrow_mut().insert(Read::Object(id));
        object
    }

    fn by(&self, index: Index, namespace: &str, value: &str) -> impl Iterator<Item = &'w Object> {
        let key = key(namespace, value);
        let found = self.world.by(index, &key).collect::<Vec<_>>();
        self.reads.borrow_mut().insert(Read::By(index, key));
        found.into_iter()
    }

    accessor!(
        /// An ApiRoute.
        route, ApiRoute, RouteFacts
    );
    accessor!(
        /// A RateLimitPolicy.
        policy, RateLimitPolicy, PolicyFacts
    );
    accessor!(
        /// A ShardSet.
        shard_set, ShardSet, ShardSetFacts
    );
    accessor!(
        /// A Service.
        service, Service, ServiceFacts
    );
    accessor!(
        /// An EndpointSlice.
        slice, EndpointSlice, SliceFacts
    );
    accessor!(
        /// A Pod.
        pod, Pod, PodFacts
    );
    accessor!(
        /// A Secret.
        secret, Secret, SecretFacts
    );
    accessor!(
        /// A Secret of type `kubernetes.io/tls`.
        tls_secret, TlsSecret, SecretFacts
    );
    accessor!(
        /// The authorities of a ConfigMap.
        authorities, ConfigMap, AuthoritiesFacts
    );
    accessor!(
        /// A Gateway, of whatever class.
        gateway, Gateway, GatewayFacts
    );
    accessor!(
        /// A BackendTLSPolicy.
        backend_tls_policy, BackendTlsPolicy, BackendTlsFacts
    );
    accessor!(
        /// A ListenerSet.
        listener_set, ListenerSet, ListenerSetFacts
    );
    accessor!(
        /// An HTTPRoute.
        http_route, HttpRoute, HttpRouteFacts
    );
    accessor!(
        /// A GRPCRoute.
        grpc_route, GrpcRoute, GrpcRouteFacts
    );
    accessor!(
        /// A TLSRoute.
        tls_route, TlsRoute, TlsRouteFacts
    );
    accessor!(
        /// A TCPRoute.
        tcp_route, TcpRoute, TcpRouteFacts
    );

    /// The labels of a namespace. Where there are no Namespaces, the one that each has by itself.
    pub fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        match self.object(ObjectId::new(Kind::Namespace, "", name)) {
            Some(Object::Namespace(facts)) => facts.labels.clone(),
            _ => BTreeMap::from([(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned())]),
        }
    }

    /// SluiceConfig, where there is one.
    pub fn config(&self) -> Option<Arc<SluiceConfig>> {
        match self.object(ObjectId::config()) {
            Some(Object::Config(config)) => Some(config.clone()),
            _ => None,
        }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> String {
        let config = self.config();
        config.map_or_else(
            || DEFAULT_TRUST_DOMAIN.into(),
            |config| config.trust_domain.to_string(),
        )
    }

    /// The unit of the platform's settings, where it has any.
    pub fn settings_unit(&self) -> Option<UnitName> {
        let config = self.config()?;
        config.trusted_hops.map(|_| UnitName::settings())
    }

    /// How many sidecars hold a policy; none where nobody counted yet.
    pub fn fleet(&self, namespace: &str, policy: &str) -> Option<u32> {
        match self.object(ObjectId::new(Kind::Fleet, namespace, policy)) {
            Some(Object::Fleet { sessions, .. }) => Some(*sessions),
            _ => None,
        }
    }

    /// What the routes of a parent Service claim, by name.
    pub fn routes_of_parent(&self, namespace: &str, service: &str) -> Vec<Arc<Claim>> {
        self.by(Index::RouteByParent, namespace, service)
            .filter_map(Object::claim)
            .collect()
    }

    /// What the routes of a parent Service claim that answer to this hostname, by name.
    pub fn routes_of_host(&self, namespace: &str, service: &str, host: &str) -> Vec<Arc<Claim>> {
        let value = format!("{service}/{host}");
        self.by(Index::RouteByHost, namespace, &value)
            .filter_map(Object::claim)
            .collect()
    }

    /// The parts of the routes of a parent Gateway, or ListenerSet, in order; none where it has no routes.
    pub fn parts_of_gateway(&self, namespace: &str, name: &str, set: bool) -> Vec<Part> {
        let parent = key(namespace, &parent_key(name, set));
        let parts = self.world.parts_of(&parent);
        self.reads
            .borrow_mut()
            .insert(Read::By(Index::PartsByGateway, parent));
        parts
    }

    /// What the routes of one part claim.
    pub fn routes_of_gateway(
        &self,
        namespace: &str,
        name: &str,
        set: bool,
        part: Part,
    ) -> Vec<Arc<Claim>> {
        let parent = key(namespace, &parent_key(name, set));
        let routes = self.world.routes_of_part(&parent, part);
        let claims = routes.filter_map(Object::claim).collect();
        self.reads
            .borrow_mut()
            .insert(Read::By(Index::RouteByGateway, part_key(&parent, part)));
        claims
    }

    /// What the HTTPRoutes and GRPCRoutes of a parent claim that answer to this hostname and have this match.
    pub fn routes_of_match(&self, parent: &GatewayRef, host: &str, one: &str) -> Vec<Arc<Claim>> {
        let value = format!("{}/{host}/{one}", parent_key(&parent.name, parent.set));
        self.by(Index::RouteByGatewayMatch, &parent.namespace, &value)
            .filter_map(Object::claim)
            .collect()
    }

    /// What the routes claim that lead to a Service from a Gateway.
    pub fn routes_to(&self, namespace: &str, service: &str) -> Vec<Arc<Claim>> {
        self.by(Index::RouteByBackend, namespace, service)
            .filter_map(Object::claim)
            .collect()
    }

    /// The ListenerSets that add to a Gateway, by namespace and name.
    pub fn listener_sets_of(&self, namespace: &str, gateway: &str) -> Vec<Arc<ListenerSetFacts>> {
        self.by(Index::ListenerSetByGateway, namespace, gateway)
            .filter_map(|object| match object {
                Object::ListenerSet(set) => Some(set.clone()),
                _ => None,
            })
            .collect()
    }

    /// The ReferenceGrants of a namespace, by name.
    pub fn grants_of(&self, namespace: &str) -> Vec<Arc<GrantFacts>> {
        self.by(Index::GrantByNamespace, namespace, "")
            .filter_map(|object| match object {
                Object::ReferenceGrant(grant) => Some(grant.clone()),
                _ => None,
            })
            .collect()
    }

    /// A GatewayClass.
    pub fn gateway_class(&self, name: &str) -> Option<Arc<GatewayClassFacts>> {
        match self.object(ObjectId::new(Kind::GatewayClass, "", name)) {
            Some(Object::GatewayClass(class)) => Some(class.clone()),
            _ => None,
        }
    }

    /// What the ApiRoutes of a parent Gateway claim that answer to this hostname, by namespace and name.
    pub fn routes_of_gateway_host(
        &self,
        namespace: &str,
        gateway: &str,
        host: &str,
    ) -> Vec<Arc<Claim>> {
        let value = format!("{gateway}/{host}");
        self.by(Index::RouteByGatewayHost, namespace, &value)
            .filter_map(Object::claim)
            .collect()
    }

    /// The BackendTLSPolicies that target a Service, or a port of it, by name.
    pub fn backend_tls_of(&self, namespace: &str, service: &str) -> Vec<Arc<BackendTlsFacts>> {
        self.by(Index::BackendTlsByService, namespace, service)
            .filter_map(|object| match object {
                Object::BackendTlsPolicy(policy) => Some(policy.clone()),
                _ => None,
            })
            .collect()
    }

    /// The routes that scale a workload of this name, by name.
    pub fn routes_of_scale_target(&self, namespace: &str, target: &str) -> Vec<Arc<RouteFacts>> {
        self.by(Index::RouteByScaleTarget, namespace, target)
            .filter_map(|object| match object {
                Object::ApiRoute(route) => Some(route.clone()),
                _ => None,
            })
            .collect()
    }

    /// The policies that target an object, sorted.
    pub fn policies_of(&self, kind: TargetKind, namespace: &str, name: &str) -> Vec<Target> {
        let value = format!("{}/{name}", kind.as_str());
        let policies = self.by(Index::PolicyByTarget, namespace, &value);
        let targets = policies.filter_map(|object| match object {
            Object::RateLimitPolicy(policy) => Some(policy),
            _ => None,
        });
        let mut found: Vec<Target> = targets
            .flat_map(|policy| {
                let refs = policy.spec.iter().flat_map(|spec| &spec.target_refs);
                refs.filter(|target| target.kind == kind && target.name == name)
                    .map(|target| Target {
                        policy: policy.id.clone(),
                        section: target.section_name.as_ref().map(ToString::to_string),
                    })
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// The names of a Service's EndpointSlices, sorted.
    pub fn slices_of(&self, namespace: &str, service: &str) -> Vec<String> {
        let slices = self.by(Index::SliceByService, namespace, service);
        slices.map(|object| object.id().name.to_string()).collect()
    }

    /// The port lists of a Service's EndpointSlices.
    pub fn slice_ports(&self, namespace: &str, service: &str) -> Vec<BTreeMap<String, u16>> {
        self.by(Index::PortsByService, namespace, service)
            .filter_map(|object| match object {
                Object::EndpointSlice(slice) => Some(slice.ports.clone()),
                _ => None,
            })
            .collect()
    }

    /// The Secrets labelled for a purpose, by name.
    pub fn secrets_for(&self, namespace: &str, purpose: &str) -> Vec<Arc<SecretFacts>> {
        self.by(Index::SecretByUse, namespace, purpose)
            .filter_map(|object| match object {
                Object::Secret(secret) => Some(secret.clone()),
                _ => None,
            })
            .collect()
    }

    /// What scales a workload of this name: HorizontalPodAutoscalers, and KEDA's ScaledObjects, which come first: where
    /// both are there, the former was made from the latter.
    pub fn scalers_of(&self, namespace: &str, target: &str) -> Vec<Arc<HpaFacts>> {
        let mut scalers: Vec<_> = self
            .by(Index::ScalerByTarget, namespace, target)
            .filter_map(|object| match object {
                Object::HorizontalPodAutoscaler(scaler) | Object::ScaledObject(scaler) => {
                    Some(scaler.clone())
                }
                _ => None,
            })
            .collect();
        scalers.sort_by_key(|scaler| scaler.id.kind != Kind::ScaledObject);
        scalers
    }

    /// The groups whose pods a Service has.
    pub fn groups_with(&self, namespace: &str, service: &str) -> BTreeSet<GroupId> {
        let key = key(namespace, service);
        let groups = self.world.groups_with(&key).cloned().collect();
        self.reads
            .borrow_mut()
            .insert(Read::By(Index::GroupByService, key));
        groups
    }

    /// The numbers that the pods of a Service give to ports of this name.
    pub fn pod_ports(&self, namespace: &str, service: &str, name: &str) -> BTreeSet<u16> {
        let key = key(namespace, service);
        let ports = self.world.pod_ports(&key, name);
        self.reads
            .borrow_mut()
            .insert(Read::By(Index::PodPortsByService, key));
        ports
    }

    /// What holds for the whole life of the process: no change, so no read.
    pub fn settings(&self) -> &'w Settings {
        self.world.settings()
    }
}
