//! The Kubernetes source: one list-and-watch per kind. Each delivers its first list before the engine publishes anything;
//! a read that fails delivers nothing. A later list replaces what was known as a whole, so what was deleted unseen is
//! seen to be gone.
//!
//! Objects become what translation keeps of them at once (a Pod shrinks to a few fields). Our own kinds are read as JSON
//! and decoded here, so that one undecodable object is a [`Change::Undecodable`] with all that is left of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::{
    api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{Pod, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::DynamicObject,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Config, Event, watcher},
    },
};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use serde::de::DeserializeOwned;
use sluice_crds::{ApiRoute, RateLimitPolicy, ShardSet};
use sluice_process::{Shutdown, Tasks};
use sluice_translate::{Change, Kind, Object, ObjectId, Undecodable, world::USE_LABEL};

use super::Inlet;
use crate::{
    engine::Handle,
    status::{Known, store},
};

/// The first wait after an error, doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The kinds that are watched.
const KINDS: [Kind; 8] = [
    Kind::ApiRoute,
    Kind::RateLimitPolicy,
    Kind::ShardSet,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Secret,
    Kind::Pod,
    Kind::HorizontalPodAutoscaler,
];

/// The source's metrics, by kind.
#[derive(Debug, Clone)]
pub struct Metrics {
    changes: IntCounterVec,
    lists: IntCounterVec,
    errors: IntCounterVec,
    objects: IntGaugeVec,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts =
            |name: &str, help: &str| Opts::new(format!("sluice_operator_watch_{name}"), help);
        let counter = |name: &str, help: &str| IntCounterVec::new(opts(name, help), &["kind"]);
        let metrics = Self {
            changes: counter("changes_total", "Objects that came, changed or went")?,
            lists: counter(
                "lists_total",
                "Complete lists: the first, and one after each watch that was lost",
            )?,
            errors: counter("errors_total", "Lists and watches that failed")?,
            objects: IntGaugeVec::new(opts("objects", "Objects that are known"), &["kind"])?,
        };
        let Self {
            changes,
            lists,
            errors,
            objects,
        } = metrics.clone();
        registry.register(Box::new(changes))?;
        registry.register(Box::new(lists))?;
        registry.register(Box::new(errors))?;
        registry.register(Box::new(objects))?;
        Ok(metrics)
    }
}

/// The source, with its ways into an engine that does not run yet.
pub struct Kubernetes {
    client: Client,
    inlets: BTreeMap<Kind, Inlet>,
    known: Arc<Known>,
    metrics: Metrics,
}

impl Kubernetes {
    /// Watches through `client` and fills `engine`; statuses of our kinds go into `known`.
    pub fn new(client: Client, engine: &Handle, known: Arc<Known>, metrics: Metrics) -> Self {
        let inlets = KINDS.map(|kind| (kind, engine.inlet(kind.as_str())));
        Self {
            client,
            inlets: inlets.into(),
            known,
            metrics,
        }
    }

    /// Runs one task per kind.
    pub fn start(self, tasks: &Tasks) {
        let Self {
            client,
            inlets,
            known,
            metrics,
        } = self;
        for (kind, inlet) in inlets {
            let follower = Follower::new(kind, inlet, metrics.clone());
            let shutdown = tasks.shutdown().clone();
            tasks.spawn_critical(
                kind.as_str(),
                follow_kind(kind, client.clone(), known.clone(), follower, shutdown),
            );
        }
    }
}

fn follow_kind(
    kind: Kind,
    client: Client,
    known: Arc<Known>,
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
    match kind {
        Kind::ApiRoute => ours::<ApiRoute>(kind, client, known, follower, shutdown),
        Kind::RateLimitPolicy => ours::<RateLimitPolicy>(kind, client, known, follower, shutdown),
        Kind::ShardSet => ours::<ShardSet>(kind, client, known, follower, shutdown),
        Kind::Service => all::<Service>(client, any, follower, shutdown),
        Kind::EndpointSlice => all::<EndpointSlice>(client, any, follower, shutdown),
        Kind::Secret => all::<Secret>(client, any.labels(USE_LABEL), follower, shutdown),
        Kind::Pod => all::<Pod>(client, any, follower, shutdown),
        Kind::HorizontalPodAutoscaler => {
            all::<HorizontalPodAutoscaler>(client, any, follower, shutdown)
        }
        Kind::Config | Kind::Fleet | Kind::File => {
            Box::pin(async move { anyhow::bail!("{} is not of the API server", kind.as_str()) })
        }
    }
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
        decode: |object: &DynamicObject| decode::<K>(object),
        kind,
        known,
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

/// How objects of one kind are read.
trait Reader<K>: Send + Sync + 'static {
    /// The object as a change.
    fn read(&self, object: &K) -> Change;

    /// An object is gone.
    fn forget(&self, _object: &ObjectId) {}

    /// Whether the API is not installed, for sure: then there are no objects.
    fn not_installed(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
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
    decode: fn(&DynamicObject) -> Result<Object, String>,
    kind: Kind,
    known: Arc<Known>,
    definitions: Api<CustomResourceDefinition>,
    definition: String,
}

impl Reader<DynamicObject> for Ours {
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

fn id_of<K: ResourceExt>(kind: Kind, object: &K) -> ObjectId {
    ObjectId::new(
        kind,
        object.namespace().as_deref().unwrap_or_default(),
        &object.name_any(),
    )
}

/// What one watch has delivered, and what it is listing.
struct Follower {
    kind: Kind,
    inlet: Inlet,
    metrics: Metrics,
    held: BTreeSet<ObjectId>,
    /// The list under way.
    listing: Option<BTreeMap<ObjectId, Change>>,
    synced: bool,
}

impl Follower {
    fn new(kind: Kind, inlet: Inlet, metrics: Metrics) -> Self {
        Self {
            kind,
            inlet,
            metrics,
            held: BTreeSet::new(),
            listing: None,
            synced: false,
        }
    }

    async fn run<K>(
        mut self,
        api: Api<K>,
        config: Config,
        reader: impl Reader<K>,
        shutdown: Shutdown,
    ) -> anyhow::Result<()>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let mut events = watcher(api, config).backoff(Waits::default()).boxed();
        loop {
            let event = tokio::select! {
                () = shutdown.begun() => return Ok(()),
                event = events.next() => event,
            };
            let taken = match event {
                None => anyhow::bail!("the watch has ended"),
                Some(Ok(event)) => self.take(event, &reader).await,
                Some(Err(error)) => self.failed(&error, &reader).await,
            };
            // An engine that is gone is the end of the process, and not this task's news.
            if taken.is_err() {
                shutdown.begun().await;
                return Ok(());
            }
        }
    }

    async fn take<K: ResourceExt>(
        &mut self,
        event: Event<K>,
        reader: &impl Reader<K>,
    ) -> Result<(), crate::engine::EngineGone> {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let id = id_of(self.kind, &object);
                self.listing
                    .get_or_insert_default()
                    .insert(id, reader.read(&object));
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                self.replace(listed, reader).await?;
            }
            Event::Apply(object) => {
                self.held.insert(id_of(self.kind, &object));
                self.deliver(vec![reader.read(&object)]).await?;
            }
            Event::Delete(object) => {
                let id = id_of(self.kind, &object);
                self.held.remove(&id);
                reader.forget(&id);
                self.deliver(vec![Change::Delete(id)]).await?;
            }
        }
        Ok(())
    }

    /// A list replaces what was known as a whole.
    async fn replace<K>(
        &mut self,
        listed: BTreeMap<ObjectId, Change>,
        reader: &impl Reader<K>,
    ) -> Result<(), crate::engine::EngineGone> {
        self.metrics
            .lists
            .with_label_values(&[self.kind.as_str()])
            .inc();
        let now: BTreeSet<ObjectId> = listed.keys().cloned().collect();
        let gone: Vec<_> = self.held.difference(&now).cloned().collect();
        gone.iter().for_each(|id| reader.forget(id));
        let changes = listed
            .into_values()
            .chain(gone.into_iter().map(Change::Delete));
        self.held = now;
        self.deliver(changes.collect()).await?;
        if !std::mem::replace(&mut self.synced, true) {
            self.inlet.synced().await?;
        }
        Ok(())
    }

    async fn deliver(&self, changes: Vec<Change>) -> Result<(), crate::engine::EngineGone> {
        let kind = [self.kind.as_str()];
        self.metrics
            .changes
            .with_label_values(&kind)
            .inc_by(changes.len() as u64);
        self.metrics
            .objects
            .with_label_values(&kind)
            .set(i64::try_from(self.held.len()).unwrap_or(i64::MAX));
        self.inlet.send(changes).await
    }

    /// What could not be read stays as it was. The watcher itself tries again, with waits that grow.
    async fn failed<K>(
        &mut self,
        error: &watcher::Error,
        reader: &impl Reader<K>,
    ) -> Result<(), crate::engine::EngineGone> {
        self.metrics
            .errors
            .with_label_values(&[self.kind.as_str()])
            .inc();
        self.listing = None;
        if is_not_found(error) && reader.not_installed().await {
            tracing::warn!(
                kind = self.kind.as_str(),
                "the API is not installed: taken as empty, asked for again"
            );
            return self.replace(BTreeMap::new(), reader).await;
        }
        tracing::warn!(kind = self.kind.as_str(), %error, "watch");
        Ok(())
    }
}

fn is_not_found(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// Waits that double.
#[derive(Debug, Default)]
struct Waits(u32);

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = FIRST_WAIT
            .saturating_mul(2_u32.saturating_pow(self.0))
            .min(LONGEST_WAIT);
        self.0 = self.0.saturating_add(1);
        Some(wait)
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use serde_json::json;
    use sluice_process::Readiness;
    use sluice_translate::{Pods, world::Settings};

    use super::*;
    use crate::{
        engine,
        identity::{Authority, CaMaterial},
        stream::SessionTable,
    };

    fn reader() -> (Arc<Known>, impl Reader<DynamicObject>) {
        struct Offline(Arc<Known>);
        impl Reader<DynamicObject> for Offline {
            fn read(&self, object: &DynamicObject) -> Change {
                let id = id_of(Kind::ApiRoute, object);
                self.0.put(id.clone(), store::stored(object));
                match decode::<ApiRoute>(object) {
                    Ok(object) => Change::Upsert(object),
                    Err(message) => {
                        let meta = (&object.metadata).into();
                        Change::Undecodable(Undecodable {
                            id,
                            meta,
                            message,
                            raw: Some(object.data.clone()),
                        })
                    }
                }
            }

            fn forget(&self, object: &ObjectId) {
                self.0.remove(object);
            }
        }
        let known = Arc::new(Known::default());
        (known.clone(), Offline(known))
    }

    fn route(spec: serde_json::Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "ApiRoute",
            "metadata": {"namespace": "shop", "name": "orders", "uid": "u", "resourceVersion": "7", "generation": 2},
            "spec": spec,
            "status": {"observedGeneration": 1},
        }))
        .expect("an object")
    }

    #[test]
    fn an_undecodable_object_says_where_and_keeps_its_rest() {
        let (known, reader) = reader();
        let change = reader.read(&route(
            json!({"parentRefs": [{"kind": "Moon", "name": "orders"}]}),
        ));
        let Change::Undecodable(Undecodable {
            id,
            meta,
            message,
            raw,
        }) = change
        else {
            panic!("it decodes: {change:?}");
        };
        assert_eq!(
            (id.to_string().as_str(), meta.generation),
            ("ApiRoute shop/orders", 2)
        );
        assert!(message.contains("spec.parentRefs[0]"), "{message}");
        assert_eq!(
            raw.expect("kept")["spec"]["parentRefs"][0]["name"],
            "orders"
        );
        let stored = known.get(&id).expect("its status can be written");
        assert_eq!(
            (
                stored.resource_version.as_deref(),
                &stored.status["observedGeneration"]
            ),
            (Some("7"), &json!(1))
        );
    }

    #[test]
    fn a_decodable_object_is_an_upsert() {
        let (_, reader) = reader();
        let change = reader.read(&route(
            json!({"parentRefs": [{"kind": "Service", "name": "orders"}]}),
        ));
        assert!(
            matches!(change, Change::Upsert(Object::ApiRoute(_))),
            "{change:?}"
        );
    }

    /// A running engine that waits for one watch of ApiRoutes, and that watch.
    fn engine() -> (Handle, Follower, Shutdown) {
        let material = CaMaterial::generate(1_800_000_000).expect("a CA");
        let settings = Settings {
            hash_key: hmac::Key::new(hmac::HMAC_SHA256, material.hash_key.expose()),
            operator_namespace: "sluice-system".into(),
            pods: Pods::FromPods,
        };
        let authority = Authority::new(material, "operator", "cluster.local", 1_800_000_000);
        let shutdown = Shutdown::default();
        let (handle, actor) = engine::new(engine::Wiring {
            settings,
            published: Arc::default(),
            table: SessionTable::new(),
            authority: Arc::new(authority.expect("an authority")),
            ready: Readiness::default().condition("world"),
            metrics: engine::Metrics::register(&Registry::new()).expect("registers"),
            verify: false,
            shutdown: shutdown.clone(),
        });
        let inlet = handle.inlet("ApiRoute");
        tokio::spawn(actor.run());
        let metrics = Metrics::register(&Registry::new()).expect("registers");
        let follower = Follower::new(Kind::ApiRoute, inlet, metrics);
        (handle, follower, shutdown)
    }

    fn named(name: &str) -> DynamicObject {
        let mut object = route(json!({"parentRefs": [{"kind": "Service", "name": "orders"}]}));
        object.metadata.name = Some(name.to_owned());
        object
    }

    /// Waits until the engine knows exactly these ApiRoutes.
    async fn until(handle: &Handle, names: &[&str]) {
        let look = |engine: &sluice_translate::Engine| {
            let names = engine.resources().map(|id| id.name.to_string());
            names.collect::<Vec<_>>()
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let known = handle.read(look).await.expect("the engine runs");
            if known == names {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{known:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_list_replaces_what_was_known_and_a_failed_one_leaves_it() {
        let (handle, mut follower, shutdown) = engine();
        let (known, reader) = reader();
        let events = |names: &[&str]| {
            let objects = names.iter().map(|name| Event::InitApply(named(name)));
            let all = std::iter::once(Event::Init).chain(objects);
            all.chain([Event::InitDone]).collect::<Vec<_>>()
        };
        for event in events(&["a", "b"]) {
            follower
                .take(event, &reader)
                .await
                .expect("the engine runs");
        }
        until(&handle, &["a", "b"]).await;

        // A list that fails half way, then a watch event, then a whole list without `b`.
        for event in [Event::Init, Event::InitApply(named("a"))] {
            follower
                .take(event, &reader)
                .await
                .expect("the engine runs");
        }
        let error = watcher::Error::NoResourceVersion;
        follower
            .failed(&error, &reader)
            .await
            .expect("the engine runs");
        let event = Event::Apply(named("c"));
        follower
            .take(event, &reader)
            .await
            .expect("the engine runs");
        until(&handle, &["a", "b", "c"]).await;
        for event in events(&["a", "c"]) {
            follower
                .take(event, &reader)
                .await
                .expect("the engine runs");
        }
        until(&handle, &["a", "c"]).await;
        let gone = ObjectId::new(Kind::ApiRoute, "shop", "b");
        assert_eq!(known.get(&gone), None, "nor is its status known any more");
        shutdown.begin("test");
    }

    #[test]
    fn waits_double_up_to_ten_seconds_and_start_over() {
        let mut waits = Waits::default();
        let first: Vec<_> = waits
            .by_ref()
            .take(3)
            .map(|wait| wait.as_millis())
            .collect();
        assert_eq!(first, [250, 500, 1000]);
        assert_eq!(waits.nth(20), Some(LONGEST_WAIT));
        waits.reset();
        assert_eq!(waits.next(), Some(FIRST_WAIT));
    }
}
