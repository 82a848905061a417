//! Follows one watch and delivers what it says. The first list is delivered before the engine publishes anything; a
//! read that fails delivers nothing. A later list replaces what was known as a whole, so what was deleted unseen is seen
//! to be gone. What an object means is its [`Reader`]'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    future::Future,
    time::Duration,
};

use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Config, Event, watcher},
    },
};
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use serde::de::DeserializeOwned;
use sluice_process::Shutdown;
use sluice_translate::{Change, Kind, ObjectId};

use super::Inlet;
use crate::engine::EngineGone;

/// The first wait after an error, doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

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

/// How objects of one kind are read.
pub trait Reader<K>: Send + Sync + 'static {
    /// The object as a change.
    fn read(&self, object: &K) -> Change;

    /// An object is gone.
    fn forget(&self, _object: &ObjectId) {}

    /// Whether the API is not installed, for sure: then there are no objects.
    fn not_installed(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }
}

/// The name under which an object is known.
pub fn id_of<K: ResourceExt>(kind: Kind, object: &K) -> ObjectId {
    ObjectId::new(
        kind,
        object.namespace().as_deref().unwrap_or_default(),
        &object.name_any(),
    )
}

/// What one watch has delivered, and what it is listing.
pub struct Follower {
    kind: Kind,
    inlet: Inlet,
    metrics: Metrics,
    held: BTreeSet<ObjectId>,
    /// The list under way.
    listing: Option<BTreeMap<ObjectId, Change>>,
    synced: bool,
}

impl Follower {
    /// Delivers objects of `kind` to `inlet`.
    pub fn new(kind: Kind, inlet: Inlet, metrics: Metrics) -> Self {
        Self {
            kind,
            inlet,
            metrics,
            held: BTreeSet::new(),
            listing: None,
            synced: false,
        }
    }

    /// Follows the watch until the process shuts down.
    pub async fn run<K>(
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

    /// One event of the watch.
    pub async fn take<K: ResourceExt>(
        &mut self,
        event: Event<K>,
        reader: &impl Reader<K>,
    ) -> Result<(), EngineGone> {
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
    ) -> Result<(), EngineGone> {
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

    async fn deliver(&self, changes: Vec<Change>) -> Result<(), EngineGone> {
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
    pub async fn failed<K>(
        &mut self,
        error: &watcher::Error,
        reader: &impl Reader<K>,
    ) -> Result<(), EngineGone> {
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
    use super::*;

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
