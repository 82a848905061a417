//! Where results go that are not streamed: the borders behind which a cluster and the state directory differ.

use std::{path::PathBuf, sync::Arc};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use sluice_crds::{GROUP, VERSION, gateway_api};
use sluice_snapshot::unit::ObjectRef;
use sluice_translate::Kind;
use tokio::sync::Notify;

use crate::state_dir::{StateDir, StateDirError};

/// Writes the status of objects. Whoever calls it decides when and only with what has changed; it may fail, and is then
/// called again.
pub trait StatusSink: Send + Sync + 'static {
    /// Makes `status` the status of `object`.
    fn write<'a>(
        &'a self,
        object: &'a ObjectRef,
        status: &'a Value,
    ) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// Status as files of the state directory, in the shape of the object.
#[derive(Debug)]
pub struct StatusFiles {
    state: Arc<StateDir>,
    written: Arc<Notify>,
}

impl StatusFiles {
    /// Writes into `state`; `written` wakes the source that reads the files back.
    pub fn new(state: Arc<StateDir>, written: Arc<Notify>) -> Self {
        Self { state, written }
    }

    /// The status that was written for an object; `None` where there is none or where it does not parse.
    pub fn read(state: &StateDir, object: &ObjectRef) -> Result<Option<Value>, StateDirError> {
        let content = state.read(&StateDir::status_file(object)?)?;
        Ok(content.and_then(|content| {
            let parsed: Result<Value, _> =
                serde_saphyr::from_str(std::str::from_utf8(&content).ok()?);
            match parsed {
                Ok(mut object) => Some(object.get_mut("status")?.take()),
                Err(error) => {
                    tracing::error!(?object, %error, "status file does not parse; taken as absent");
                    None
                }
            }
        }))
    }

    fn put(&self, object: &ObjectRef, status: &Value) -> anyhow::Result<()> {
        let file: PathBuf = StateDir::status_file(object)?;
        let whole = json!({
            "apiVersion": api_version(&object.kind),
            "kind": object.kind,
            "metadata": {"namespace": object.namespace, "name": object.name},
            "status": status,
        });
        self.state
            .write(&file, serde_saphyr::to_string(&whole)?.as_bytes())?;
        self.written.notify_one();
        Ok(())
    }
}

/// `apiVersion` of a kind that has a status.
fn api_version(kind: &str) -> String {
    let ours = [Kind::ApiRoute, Kind::RateLimitPolicy, Kind::ShardSet];
    match ours.iter().any(|ours| ours.as_str() == kind) {
        true => format!("{GROUP}/{VERSION}"),
        false => format!("{}/{}", gateway_api::GROUP, gateway_api::VERSION),
    }
}

impl StatusSink for StatusFiles {
    fn write<'a>(
        &'a self,
        object: &'a ObjectRef,
        status: &'a Value,
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move { self.put(object, status) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_status_reads_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = Arc::new(StateDir::open(&dir.path().join("state")).expect("made"));
        let written = Arc::new(Notify::new());
        let sink = StatusFiles::new(state.clone(), written.clone());
        let object = ObjectRef::new("ShardSet", "shop", "orders");
        assert_eq!(StatusFiles::read(&state, &object).expect("reads"), None);
        let status = json!({"epoch": 3, "placement": [{"slots": "0-16383", "shard": "no"}]});
        sink.write(&object, &status).await.expect("writes");
        assert_eq!(
            StatusFiles::read(&state, &object).expect("reads"),
            Some(status)
        );
        written.notified().await;
    }
}
