//! The Kubernetes source: one list-and-watch per kind, and how its objects are read. Following a watch is `follower`'s.
//!
//! Objects become what translation keeps of them at once (a Pod shrinks to a few fields). Our own kinds are read as JSON
//! and decoded here, so that one undecodable object is a [`Change::Undecodable`] with all that is left of it.

mod follower;
mod installed_later;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use futures::future::BoxFuture;
use k8s_openapi::{
    api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Client, Resource, api::DynamicObject, runtime::watcher::Config};
use serde::de::DeserializeOwned;
use sluice_crds::{ApiRoute, RateLimitPolicy, ShardSet};
use sluice_process::{Shutdown, Tasks};
use sluice_translate::{
    Change, Kind, Object, ObjectId, Undecodable, manifests::TLS_SECRET_TYPE, world::USE_LABEL,
};

use super::Inlet;
use crate::{
    engine::Handle,
    status::{Known, store},
};
pub use follower::Metrics;
use follower::{Follower, Reader, id_of};

/// The kinds that are watched.
const KINDS: [Kind; 21] = [
    Kind::ApiRoute,
    Kind::RateLimitPolicy,
    Kind::ShardSet,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Secret,
    Kind::Pod,
    Kind::HorizontalPodAutoscaler,
    Kind::Namespace,
    Kind::ScaledObject,
    Kind::TlsSecret,
    Kind::ConfigMap,
    Kind::Gateway,
    Kind::BackendTlsPolicy,
    Kind::GatewayClass,
    Kind::ListenerSet,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::ReferenceGrant,
];

/// Where statuses go that are seen.
#[derive(Debug, Clone)]
pub struct Statuses {
    /// Those of our own kinds.
    pub ours: Arc<Known>,
    /// Those of the Gateway API's.
    pub gateway_api: Arc<Known>,
}

/// The source, with its ways into an engine that does not run yet.
pub struct Kubernetes {
    client: Client,
    inlets: BTreeMap<Kind, Inlet>,
    statuses: Statuses,
    metrics: Metrics,
}

impl Kubernetes {
    /// Watches through `client` and fills `engine` and `statuses`.
    pub fn new(client: Client, engine: &Handle, statuses: Statuses, metrics: Metrics) -> Self {
        let inlets = KINDS.map(|kind| (kind, engine.inlet(kind.as_str())));
        Self {
            client,
            inlets: inlets.into(),
            statuses,
            metrics,
        }
    }

    /// Runs one task per kind.
    pub fn start(self, tasks: &Tasks) {
        let Self {
            client,
            inlets,
            statuses,
            metrics,
        } = self;
        for (kind, inlet) in inlets {
            let follower = Follower::new(kind, inlet, metrics.clone());
            let shutdown = tasks.shutdown().clone();
            tasks.spawn_critical(
                kind.as_str(),
                follow_kind(kind, client.clone(), statuses.clone(), follower, shutdown),
            );
        }
    }
}

fn follow_kind(
    kind: Kind,
    client: Client,
    statuses: Statuses,
    follower: Follower,
    shutdown: Shutdown,
) -> BoxFuture<'static, anyhow::Result<()>> {
    fn all<K>(
        client: Client,
        config: Config,
        follower: Follower,
        shutdown: Shutdown,
    ) -> BoxFuture<'static, anyhow::Result<()>>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        for<'a> Object: From<&'a K>,
    {
        let read = |object: &K| Change::Upsert(Object::from(object));
        Box::pin(follower.run(Api::<K>::all(client), config, Foreign(read), shutdown))
    }
    let any = Config::default();
    let Statuses {
        ours: known,
        gateway_api,
    } = statuses;
    let later = |foreign, client, follower, shutdown| {
        later(foreign, client, gateway_api, follower, shutdown)
    };
    match kind {
        Kind::ApiRoute => ours::<ApiRoute>(kind, client, known, follower, shutdown),
        Kind::RateLimitPolicy => ours::<RateLimitPolicy>(kind, client, known, follower, shutdown),
        Kind::ShardSet => ours::<ShardSet>(kind, client, known, follower, shutdown),
        Kind::Service => all::<Service>(client, any, follower, shutdown),
        Kind::EndpointSlice => all::<EndpointSlice>(client, any, follower, shutdown),
        Kind::Secret => all::<Secret>(client, any.labels(USE_LABEL), follower, shutdown),
        Kind::Pod => all::<Pod>(client, any, follower, shutdown),
        Kind::Namespace => all::<Namespace>(client, any, follower, shutdown),
        Kind::HorizontalPodAutoscaler => {
            all::<HorizontalPodAutoscaler>(client, any, follower, shutdown)
        }
        Kind::TlsSecret => {
            let read = |object: &Secret| Change::Upsert(Object::tls_secret(object));
            let config = any.fields(&format!("type={TLS_SECRET_TYPE}"));
            Box::pin(follower.run(Api::<Secret>::all(client), config, Foreign(read), shutdown))
        }
        Kind::ConfigMap => all::<ConfigMap>(client, any, follower, shutdown),
        Kind::ScaledObject => later(installed_later::SCALED_OBJECTS, client, follower, shutdown),
        Kind::Gateway => later(installed_later::GATEWAYS, client, follower, shutdown),
        Kind::BackendTlsPolicy => later(
            installed_later::BACKEND_TLS_POLICIES,
            client,
            follower,
            shutdown,
        ),
        Kind::GatewayClass => later(installed_later::GATEWAY_CLASSES, client, follower, shutdown),
        Kind::ListenerSet => later(installed_later::LISTENER_SETS, client, follower, shutdown),
        Kind::HttpRoute => later(installed_later::HTTP_ROUTES, client, follower, shutdown),
        Kind::GrpcRoute => later(installed_later::GRPC_ROUTES, client, follower, shutdown),
        Kind::TlsRoute => later(installed_later::TLS_ROUTES, client, follower, shutdown),
        Kind::TcpRoute => later(installed_later::TCP_ROUTES, client, follower, shutdown),
        Kind::ReferenceGrant => later(
            installed_later::REFERENCE_GRANTS,
            client,
            follower,
            shutdown,
        ),
        Kind::Config | Kind::Fleet | Kind::File => {
            Box::pin(async move { anyhow::bail!("{} is not of the API server", kind.as_str()) })
        }
    }
}

fn later(
    foreign: installed_later::Foreign,
    client: Client,
    known: Arc<Known>,
    follower: Follower,
    shutdown: Shutdown,
) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(installed_later::follow(
        foreign, client, known, follower, shutdown,
    ))
}

fn ours<K>(
    kind: Kind,
    client: Client,
    known: Arc<Known>,
    follower: Follower,
    shutdown: Shutdown,
) -> BoxFuture<'static, anyhow::Result<()>>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
    for<'a> Object: From<&'a K>,
{
    let resource = kube::api::ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let reader = Ours {
        decoder: Decoder {
            kind,
            decode: decode::<K>,
            known,
        },
        definitions: Api::all(client),
        definition: format!("{}.{}", resource.plural, resource.group),
    };
    Box::pin(follower.run(api, Config::default(), reader, shutdown))
}

/// The object, or why it does not decode.
fn decode<K>(object: &DynamicObject) -> Result<Object, String>
where
    K: DeserializeOwned,
    for<'a> Object: From<&'a K>,
{
    // The path of what does not decode is worth more than the decoder's words alone.
    let text = serde_json::to_vec(object).map_err(|error| error.to_string())?;
    let mut json = serde_json::Deserializer::from_slice(&text);
    match serde_path_to_error::deserialize::<_, K>(&mut json) {
        Ok(decoded) => Ok(Object::from(&decoded)),
        Err(error) => Err(error.to_string()),
    }
}

/// Kinds of Kubernetes itself.
struct Foreign<F>(F);

impl<K, F> Reader<K> for Foreign<F>
where
    F: Fn(&K) -> Change + Send + Sync + 'static,
{
    fn read(&self, object: &K) -> Change {
        (self.0)(object)
    }
}

/// Our own kinds: they may be undecodable, have a status, and may not be installed.
struct Ours {
    decoder: Decoder,
    definitions: Api<CustomResourceDefinition>,
    definition: String,
}

impl Reader<DynamicObject> for Ours {
    fn read(&self, object: &DynamicObject) -> Change {
        self.decoder.read(object)
    }

    fn forget(&self, object: &ObjectId) {
        self.decoder.forget(object);
    }

    /// A 404 for the list alone proves nothing: an API server that starts answers so, too.
    async fn not_installed(&self) -> bool {
        match self.definitions.get_metadata_opt(&self.definition).await {
            Ok(found) => found.is_none(),
            Err(error) => {
                tracing::warn!(definition = self.definition, %error, "cannot look for the definition");
                false
            }
        }
    }
}

/// Decodes the objects of one of our kinds, and keeps their statuses.
struct Decoder {
    kind: Kind,
    decode: fn(&DynamicObject) -> Result<Object, String>,
    known: Arc<Known>,
}

impl Reader<DynamicObject> for Decoder {
    fn read(&self, object: &DynamicObject) -> Change {
        let id = id_of(self.kind, object);
        self.known.put(id.clone(), store::stored(object));
        (self.decode)(object).map_or_else(
            |message| {
                Change::Undecodable(Undecodable {
                    id,
                    meta: (&object.metadata).into(),
                    message,
                    raw: Some(object.data.clone()),
                })
            },
            Change::Upsert,
        )
    }

    fn forget(&self, object: &ObjectId) {
        self.known.remove(object);
    }
}

#[cfg(test)]
mod tests;
