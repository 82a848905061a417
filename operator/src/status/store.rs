//! Status as it is stored, and the one way to write it: over exactly what was read. The conditions' writer and the moves'
//! driver both write whole statuses; neither can undo what the other has written in between.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use futures::future::BoxFuture;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use sluice_crds::{ApiRoute, GROUP, RateLimitPolicy, ShardSet, VERSION, gateway_api};
use sluice_translate::{Kind, ObjectId};
use tokio::sync::{broadcast, watch};

use crate::{
    leader::{Leadership, NotLeader},
    sinks::{StatusFiles, StatusSink},
    state_dir::StateDir,
};

/// The field manager of everything that this operator applies.
pub const FIELD_MANAGER: &str = "sluice-operator";

/// Changes that a slow follower may be behind before it has to look at everything anew.
const NEWS: usize = 4096;

/// An object's status, and what identifies that version of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    /// The object's uid; empty where files have none.
    pub uid: String,
    /// The version that was read; none in files, of which there is one writer.
    pub resource_version: Option<String>,
    /// The status; null where there is none.
    pub status: Value,
}

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody has changed the object since it was read.
    #[error("the object has changed since it was read; decide again")]
    Stale,
    /// The object is gone.
    #[error("the object is gone")]
    Gone,
    /// This replica may not write.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// Anything else.
    #[error("cannot write the status: {0:#}")]
    Other(anyhow::Error),
}

/// Where statuses are.
pub trait Statuses: Send + Sync + 'static {
    /// The status as it was last seen; `None`: no such object is known.
    fn load(&self, object: &ObjectId) -> Option<Stored>;

    /// Makes `status` the status of the object, if it is still as `basis` has it.
    fn write<'a>(
        &'a self,
        object: &'a ObjectId,
        basis: &'a Stored,
        status: &'a Value,
    ) -> BoxFuture<'a, Result<(), WriteError>>;

    /// Ticks when a status, a uid or a version is seen to be another.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The objects about which [`Self::changes`] ticks. A follower that lags must look at everything anew.
    fn news(&self) -> broadcast::Receiver<ObjectId>;
}

/// Statuses that were seen. The Kubernetes source and writers fill it.
#[derive(Debug)]
pub struct Known {
    objects: RwLock<HashMap<ObjectId, Stored>>,
    changes: watch::Sender<u64>,
    news: broadcast::Sender<ObjectId>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            changes: watch::Sender::default(),
            news: broadcast::Sender::new(NEWS),
        }
    }
}

impl Known {
    /// An object was seen. What is older than what is known is left out: a watch lags behind a writer's own answer.
    pub fn put(&self, object: ObjectId, stored: Stored) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        if objects
            .get(&object)
            .is_some_and(|known| is_older(&stored, known) || *known == stored)
        {
            return;
        }
        objects.insert(object.clone(), stored);
        drop(objects);
        self.tick(object);
    }

    /// An object is gone.
    pub fn remove(&self, object: &ObjectId) {
        let removed = self
            .objects
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(object);
        if removed.is_some() {
            self.tick(object.clone());
        }
    }

    /// What is known of an object.
    pub fn get(&self, object: &ObjectId) -> Option<Stored> {
        self.lock().get(object).cloned()
    }

    /// Ticks with every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What changes.
    pub fn news(&self) -> broadcast::Receiver<ObjectId> {
        self.news.subscribe()
    }

    fn lock(&self) -> RwLockReadGuard<'_, HashMap<ObjectId, Stored>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self, object: ObjectId) {
        self.changes.send_modify(|count| *count += 1);
        // Nobody may be following.
        let _ = self.news.send(object);
    }
}

/// Whether `new` is an earlier version of the same object. Versions of one kind are numbers that grow.
fn is_older(new: &Stored, known: &Stored) -> bool {
    let number = |stored: &Stored| {
        stored
            .resource_version
            .as_ref()
            .and_then(|version| version.parse::<u64>().ok())
    };
    new.uid == known.uid
        && matches!((number(new), number(known)), (Some(new), Some(known)) if new < known)
}

/// Statuses of the API server, written by server-side apply.
pub struct ApiStatuses {
    client: Client,
    known: Arc<Known>,
    leadership: Leadership,
}

impl ApiStatuses {
    /// Reads what the source has put into `known`, writes through `client` while `leadership` is held.
    pub fn new(client: Client, known: Arc<Known>, leadership: Leadership) -> Self {
        Self {
            client,
            known,
            leadership,
        }
    }

    async fn apply(
        &self,
        object: &ObjectId,
        basis: &Stored,
        status: &Value,
    ) -> Result<(), WriteError> {
        let resource = resource(object.kind)
            .ok_or_else(|| WriteError::Other(anyhow::anyhow!("{object} has no status")))?;
        let mut patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": &*object.name,
                "uid": basis.uid,
                "resourceVersion": basis.resource_version,
            },
            "status": status,
        });
        let api: Api<DynamicObject> = match object.namespace.is_empty() {
            true => Api::all_with(self.client.clone(), &resource),
            false => {
                patch["metadata"]["namespace"] = (*object.namespace).into();
                Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
            }
        };
        let params = PatchParams::apply(FIELD_MANAGER).force();
        // Nothing waits between this look and the request.
        self.leadership.check()?;
        match api
            .patch_status(&object.name, &params, &Patch::Apply(&patch))
            .await
        {
            Ok(written) => {
                self.known.put(object.clone(), stored(&written));
                Ok(())
            }
            Err(kube::Error::Api(answer)) if answer.code == 409 => Err(WriteError::Stale),
            Err(kube::Error::Api(answer)) if answer.code == 404 => Err(WriteError::Gone),
            Err(error) => Err(WriteError::Other(error.into())),
        }
    }
}

impl Statuses for ApiStatuses {
    fn load(&self, object: &ObjectId) -> Option<Stored> {
        self.known.get(object)
    }

    fn write<'a>(
        &'a self,
        object: &'a ObjectId,
        basis: &'a Stored,
        status: &'a Value,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(self.apply(object, basis, status))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.known.changes()
    }

    fn news(&self) -> broadcast::Receiver<ObjectId> {
        self.known.news()
    }
}

/// What is kept of an object.
pub fn stored(object: &DynamicObject) -> Stored {
    Stored {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        resource_version: object.metadata.resource_version.clone(),
        status: object.data.get("status").cloned().unwrap_or_default(),
    }
}

/// The API resource of a kind whose status is ours to write.
pub fn resource(kind: Kind) -> Option<ApiResource> {
    let gateway_api = |plural: &str| {
        let kind = GroupVersionKind::gvk(gateway_api::GROUP, gateway_api::VERSION, kind.as_str());
        Some(ApiResource::from_gvk_with_plural(&kind, plural))
    };
    match kind {
        Kind::GatewayClass => gateway_api("gatewayclasses"),
        Kind::Gateway => gateway_api("gateways"),
        Kind::ListenerSet => gateway_api("listenersets"),
        Kind::HttpRoute => gateway_api("httproutes"),
        Kind::GrpcRoute => gateway_api("grpcroutes"),
        Kind::TlsRoute => gateway_api("tlsroutes"),
        Kind::TcpRoute => gateway_api("tcproutes"),
        Kind::BackendTlsPolicy => gateway_api("backendtlspolicies"),
        Kind::ApiRoute => Some(ApiResource::erase::<ApiRoute>(&())),
        Kind::RateLimitPolicy => Some(ApiResource::erase::<RateLimitPolicy>(&())),
        Kind::ShardSet => Some(ApiResource::erase::<ShardSet>(&())),
        _ => None,
    }
}

/// `apiVersion` of our kinds.
pub fn api_version() -> String {
    format!("{GROUP}/{VERSION}")
}

/// Statuses of the state directory, which has one writer at a time.
pub struct FileStatuses {
    state: Arc<StateDir>,
    sink: StatusFiles,
    known: Known,
}

impl FileStatuses {
    /// Reads from `state`, writes through `sink`.
    pub fn new(state: Arc<StateDir>, sink: StatusFiles) -> Self {
        Self {
            state,
            sink,
            known: Known::default(),
        }
    }
}

impl Statuses for FileStatuses {
    fn load(&self, object: &ObjectId) -> Option<Stored> {
        if let Some(known) = self.known.get(object) {
            return Some(known);
        }
        let status = StatusFiles::read(&self.state, &object.reference()).unwrap_or_else(|error| {
            tracing::error!(%object, %error, "status file");
            None
        });
        let stored = Stored {
            status: status.unwrap_or_default(),
            ..Stored::default()
        };
        self.known.put(object.clone(), stored.clone());
        Some(stored)
    }

    fn write<'a>(
        &'a self,
        object: &'a ObjectId,
        basis: &'a Stored,
        status: &'a Value,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move {
            if self.known.get(object).as_ref() != Some(basis) {
                return Err(WriteError::Stale);
            }
            self.sink
                .write(&object.reference(), status)
                .await
                .map_err(WriteError::Other)?;
            self.known.put(
                object.clone(),
                Stored {
                    status: status.clone(),
                    ..Stored::default()
                },
            );
            Ok(())
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.known.changes()
    }

    fn news(&self) -> broadcast::Receiver<ObjectId> {
        self.known.news()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;

    fn object() -> ObjectId {
        ObjectId::new(Kind::ShardSet, "shop", "orders")
    }

    fn version(version: &str, epoch: i64) -> Stored {
        Stored {
            uid: "u".into(),
            resource_version: Some(version.into()),
            status: json!({"epoch": epoch}),
        }
    }

    #[test]
    fn a_lagging_watch_does_not_undo_what_a_writer_knows() {
        let known = Known::default();
        known.put(object(), version("100", 2));
        known.put(object(), version("99", 1));
        assert_eq!(known.get(&object()), Some(version("100", 2)));
        let recreated = Stored {
            uid: "v".into(),
            ..version("7", 0)
        };
        known.put(object(), recreated.clone());
        assert_eq!(
            known.get(&object()),
            Some(recreated),
            "another object of that name"
        );
    }

    #[test]
    fn only_what_is_new_ticks() {
        let known = Known::default();
        let mut changes = known.changes();
        known.put(object(), version("1", 1));
        assert!(changes.has_changed().expect("open"));
        changes.mark_unchanged();
        known.put(object(), version("1", 1));
        known.remove(&ObjectId::new(Kind::ShardSet, "shop", "other"));
        assert!(!changes.has_changed().expect("open"));
    }

    #[tokio::test]
    async fn files_are_written_over_what_was_read_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = Arc::new(StateDir::open(&dir.path().join("state")).expect("made"));
        let files = || {
            FileStatuses::new(
                state.clone(),
                StatusFiles::new(state.clone(), Arc::new(Notify::new())),
            )
        };
        let statuses = files();
        let before = statuses.load(&object()).expect("files know every object");
        statuses
            .write(&object(), &before, &json!({"epoch": 1}))
            .await
            .expect("writes");
        let stale = statuses
            .write(&object(), &before, &json!({"epoch": 9}))
            .await;
        assert!(matches!(stale, Err(WriteError::Stale)));
        assert_eq!(
            files().load(&object()).expect("kept").status,
            json!({"epoch": 1})
        );
    }
}
