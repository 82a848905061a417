//! Events: said once when a condition turns False. Whether it did is the keeper's to tell.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use sluice_crds::CONTROLLER_NAME;
use sluice_translate::ObjectId;

use super::{
    conditions::{Kind, truncated},
    store::api_version,
};
use crate::leader::Leadership;

/// The longest note that the API takes, in bytes.
const MAX_NOTE: usize = 1024;

/// A condition that turned False.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turned {
    /// The object.
    pub object: ObjectId,
    /// Its uid.
    pub uid: String,
    /// The condition.
    pub kind: Kind,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// Tells people.
pub trait Announcer: Send + Sync + 'static {
    /// A condition turned False. Best effort: what is lost stands in the status anyway.
    fn turned<'a>(&'a self, turned: &'a Turned) -> BoxFuture<'a, ()>;
}

/// Events of the API server.
pub struct ApiEvents {
    recorder: Recorder,
    leadership: Leadership,
}

impl ApiEvents {
    /// Events that name `instance` as the replica they come from.
    pub fn new(client: Client, instance: &str, leadership: Leadership) -> Self {
        let reporter = Reporter {
            controller: CONTROLLER_NAME.to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            leadership,
        }
    }
}

impl Announcer for ApiEvents {
    fn turned<'a>(&'a self, turned: &'a Turned) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Turned {
                object,
                uid,
                kind,
                reason,
                message,
            } = turned;
            let event = Event {
                type_: EventType::Warning,
                reason: reason.clone(),
                note: Some(truncated(
                    format!("{} is False: {message}", kind.as_str()),
                    MAX_NOTE,
                )),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            let reference = ObjectReference {
                api_version: Some(api_version()),
                kind: Some(object.kind.as_str().to_owned()),
                namespace: Some(object.namespace.to_string()),
                name: Some(object.name.to_string()),
                uid: Some(uid.clone()),
                ..ObjectReference::default()
            };
            if !self.leadership.is_held() {
                return;
            }
            if let Err(error) = self.recorder.publish(&event, &reference).await {
                tracing::warn!(%object, %error, "Event");
            }
        })
    }
}

/// File mode: the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoggedEvents;

impl Announcer for LoggedEvents {
    fn turned<'a>(&'a self, turned: &'a Turned) -> BoxFuture<'a, ()> {
        let Turned {
            object,
            uid: _,
            kind,
            reason,
            message,
        } = turned;
        tracing::warn!(%object, condition = kind.as_str(), reason, message, "condition turned False");
        Box::pin(std::future::ready(()))
    }
}
