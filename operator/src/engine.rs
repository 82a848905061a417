//! The actor that owns translation: it takes changes from sources, applies them in batches, publishes what groups must
//! hold, and answers questions about the result. It publishes nothing before every source has delivered its first list:
//! a world that is half read would take configuration away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};
use sluice_process::{Condition, Shutdown};
use sluice_snapshot::UnitMap;
use sluice_translate::{Change, Delta, Engine, Finding, Kind, Object, ObjectId, world::Settings};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    coalesce::Coalescer,
    identity::Authority,
    stream::{
        Entry, Publication, Published, SessionTable, Snapshot, metrics::buckets, table::Required,
    },
};

/// Batches of changes that wait in the channel; a source that is faster waits.
const INBOX: usize = 1024;
/// Questions that wait.
const QUESTIONS: usize = 256;
/// Deltas that a slow follower may be behind before it has to look at everything anew.
const DELTAS: usize = 256;
/// Fleet facts change at most this often.
const FLEET_INTERVAL: Duration = Duration::from_secs(1);
/// How often `--verify-incremental` compares with a full recompute.
const VERIFY_INTERVAL: Duration = Duration::from_secs(60);

/// The trust domain where there is no SluiceConfig.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

enum Input {
    Changes {
        changes: Vec<Change>,
        seen: Instant,
    },
    Note {
        about: ObjectId,
        findings: Vec<Finding>,
    },
    Synced(&'static str),
}

type Question = Box<dyn FnOnce(&Engine) + Send>;

/// The engine is gone: the process is ending.
#[derive(Debug, thiserror::Error)]
#[error("the engine has ended")]
pub struct EngineGone;

/// Access to the engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Input>,
    questions: mpsc::Sender<Question>,
    deltas: broadcast::Sender<Arc<Delta>>,
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// A source's way in.
pub struct Inlet {
    name: &'static str,
    inbox: mpsc::Sender<Input>,
}

impl Handle {
    /// A way in for the source `name`, whose first list the engine will wait for. To be called before the engine runs.
    pub fn inlet(&self, name: &'static str) -> Inlet {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name);
        Inlet {
            name,
            inbox: self.inbox.clone(),
        }
    }

    /// Asks something of the engine as it is between two batches. The question must be quick: changes wait for it.
    pub async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, EngineGone> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |engine| {
            // Whoever asked may have gone.
            let _ = answer.send(question(engine));
        });
        self.questions
            .send(question)
            .await
            .map_err(|_| EngineGone)?;
        answered.await.map_err(|_| EngineGone)
    }

    /// What must be acknowledged, and by whom, for a resource to be live.
    pub async fn required(&self, object: ObjectId) -> Result<Vec<Required>, EngineGone> {
        self.read(move |engine| required(engine, &object)).await
    }

    /// What changed, from now on. A follower that lags must look at everything anew.
    pub fn deltas(&self) -> broadcast::Receiver<Arc<Delta>> {
        self.deltas.subscribe()
    }
}

/// What must be acknowledged, and by whom, for a resource to be live: one entry for each group that holds it.
pub fn required(engine: &Engine, object: &ObjectId) -> Vec<Required> {
    engine
        .groups_holding(object)
        .iter()
        .map(|group| Required {
            units: engine.policy_units(object, group),
            pods: engine.pods_of(group),
        })
        .collect()
}

impl Inlet {
    /// Hands changes in, all to be applied at once.
    pub async fn send(&self, changes: Vec<Change>) -> Result<(), EngineGone> {
        if changes.is_empty() {
            return Ok(());
        }
        self.put(Input::Changes {
            changes,
            seen: Instant::now(),
        })
        .await
    }

    /// Replaces what this source itself has to say about an object or a file.
    pub async fn note(&self, about: ObjectId, findings: Vec<Finding>) -> Result<(), EngineGone> {
        self.put(Input::Note { about, findings }).await
    }

    /// The first list is complete.
    pub async fn synced(&self) -> Result<(), EngineGone> {
        self.put(Input::Synced(self.name)).await
    }

    async fn put(&self, input: Input) -> Result<(), EngineGone> {
        self.inbox.send(input).await.map_err(|_| EngineGone)
    }
}

/// What the actor works with.
pub struct Wiring {
    /// What holds for the life of the process.
    pub settings: Settings,
    /// Where results go.
    pub published: Arc<Published>,
    /// Who is connected, for fleet facts.
    pub table: Arc<SessionTable>,
    /// Learns the trust domain.
    pub authority: Arc<Authority>,
    /// Holds once the first state is published.
    pub ready: Condition,
    /// The engine's metrics.
    pub metrics: Metrics,
    /// Whether to compare with a full recompute every minute.
    pub verify: bool,
    /// Ends the actor.
    pub shutdown: Shutdown,
}

/// The actor.
pub struct Actor {
    wiring: Wiring,
    inbox: Coalescer<Input>,
    questions: mpsc::Receiver<Question>,
    deltas: broadcast::Sender<Arc<Delta>>,
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
    /// Absent only while a blocking thread works with it.
    engine: Option<Engine>,
    started: bool,
    /// What came before every source was synced.
    early: Vec<Change>,
    /// Every unit as it is sent.
    entries: UnitMap<Arc<Entry>>,
    /// The fleet facts that the engine has.
    fleet: BTreeMap<ObjectId, u32>,
    /// Ticks of the table that fleet facts do not show yet.
    sessions: watch::Receiver<u64>,
    /// Whether changes were applied that fleet facts do not show yet.
    applied: bool,
}

/// An actor and the access to it.
pub fn new(wiring: Wiring) -> (Handle, Actor) {
    let (inbox, inputs) = mpsc::channel(INBOX);
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let (deltas, _) = broadcast::channel(DELTAS);
    let waiting = Arc::default();
    let actor = Actor {
        engine: Some(Engine::new(wiring.settings.clone())),
        sessions: wiring.table.changes(),
        wiring,
        inbox: Coalescer::new(inputs),
        questions: asked,
        deltas: deltas.clone(),
        waiting: Arc::clone(&waiting),
        started: false,
        early: Vec::new(),
        entries: UnitMap::new(),
        fleet: BTreeMap::new(),
        applied: true,
    };
    let handle = Handle {
        inbox,
        questions,
        deltas,
        waiting,
    };
    (handle, actor)
}

impl Actor {
    /// Works until shutdown.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut fleet = interval(FLEET_INTERVAL);
        let mut verify = interval(VERIFY_INTERVAL);
        for ticks in [&mut fleet, &mut verify] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let shutdown = self.wiring.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                batch = self.inbox.next() => match batch {
                    Some(batch) => self.batch(batch).await?,
                    None => anyhow::bail!("every source is gone"),
                },
                Some(question) = self.questions.recv() => question(self.engine()?),
                _ = fleet.tick(), if self.started => self.count_fleet().await?,
                _ = verify.tick(), if self.started && self.wiring.verify => self.verify().await?,
            }
        }
    }

    async fn batch(&mut self, batch: Vec<Input>) -> anyhow::Result<()> {
        let (mut changes, mut notes) = (std::mem::take(&mut self.early), Vec::new());
        let mut first_seen = None;
        for input in batch {
            match input {
                Input::Changes {
                    changes: mut more,
                    seen,
                } => {
                    first_seen = Some(first_seen.map_or(seen, |first: Instant| first.min(seen)));
                    changes.append(&mut more);
                }
                Input::Note { about, findings } => notes.push((about, findings)),
                Input::Synced(name) => {
                    self.lock_waiting().remove(name);
                    tracing::info!(source = name, "first list complete");
                }
            }
        }
        self.note(notes)?;
        if !self.started && !self.lock_waiting().is_empty() {
            self.early = changes;
            return Ok(());
        }
        let starting = !std::mem::replace(&mut self.started, true);
        let seen = first_seen.unwrap_or_else(Instant::now);
        self.wiring.metrics.changes.inc_by(changes.len() as u64);
        if starting || !changes.is_empty() {
            self.apply(changes, seen).await?;
            // A policy that is new gets its fleet facts with it, not a second later.
            let changes = self.fleet_changes(true)?;
            self.apply(changes, seen).await?;
        }
        if starting {
            // Also where nothing was found: an empty world is published as such.
            self.wiring.published.publish(Publication::default());
            self.wiring.ready.met();
            let (groups, pods) = self.wiring.published.sizes();
            tracing::info!(
                groups,
                pods,
                units = self.entries.len(),
                "first state published"
            );
        }
        Ok(())
    }

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, BTreeSet<&'static str>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn apply(&mut self, changes: Vec<Change>, seen: Instant) -> anyhow::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.applied = true;
        self.follow_trust_domain(&changes);
        let of_resource = changes.iter().any(is_of_resource);
        let metrics = self.wiring.metrics.clone();
        let begun = Instant::now();
        metrics
            .waited
            .observe(begun.saturating_duration_since(seen).as_secs_f64());
        let delta = self.work(move |engine| engine.apply(changes)).await?;
        metrics.translated.observe(begun.elapsed().as_secs_f64());
        self.publish(&delta, seen)?;
        // A wish may change no unit yet (a placement is moved to, never switched to): who drives it must hear of it.
        match of_resource {
            true => self.tell(delta),
            false => self.announce(delta),
        }
        Ok(())
    }

    /// Runs something long on a thread of its own, so that streams and timers go on.
    async fn work<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut engine = self.engine.take().context("the engine is lent out")?;
        let (engine, result) = tokio::task::spawn_blocking(move || {
            let result = job(&mut engine);
            (engine, result)
        })
        .await
        .context("translation panicked: please report it with the log above")?;
        self.engine = Some(engine);
        Ok(result)
    }

    fn engine(&self) -> anyhow::Result<&Engine> {
        self.engine.as_ref().context("the engine is lent out")
    }

    fn publish(&mut self, delta: &Delta, seen: Instant) -> anyhow::Result<()> {
        let engine = self.engine.as_ref().context("the engine is lent out")?;
        let now = Instant::now();
        for name in &delta.units_removed {
            self.entries.remove(name);
        }
        for name in &delta.units_changed {
            let Some(unit) = engine.unit(name) else {
                continue;
            };
            let entry = Entry {
                hash: unit.hash.clone(),
                body: unit.body.clone(),
                features: unit.features.clone(),
                since: now,
            };
            self.entries.insert(name.clone(), Arc::new(entry));
        }
        let groups = delta.groups_changed.keys().map(|group| {
            let list = engine.group_units(group);
            // Both share with the former ones what did not change.
            let snapshot =
                |list: &UnitMap<_>| Snapshot::new(list.clone(), self.entries.clone(), seen, now);
            (group.clone(), list.map(|list| Arc::new(snapshot(list))))
        });
        let pods = delta.pods_changed.iter().map(|key| {
            let pod = engine.world().pod(key);
            (
                key.clone(),
                pod.map(|(group, pod)| (group.clone(), pod.clone())),
            )
        });
        let publication = Publication {
            groups: groups.collect(),
            pods: pods.collect(),
        };
        self.wiring.published.publish(publication);
        self.wiring.metrics.units.set(self.entries.len() as i64);
        self.wiring
            .metrics
            .groups
            .set(engine.groups().count() as i64);
        Ok(())
    }

    fn note(&mut self, notes: Vec<(ObjectId, Vec<Finding>)>) -> anyhow::Result<()> {
        for (about, findings) in notes {
            let engine = self.engine.as_mut().context("the engine is lent out")?;
            let delta = engine.report(&about, findings);
            self.announce(delta);
        }
        Ok(())
    }

    fn announce(&self, delta: Delta) {
        if !delta.is_empty() {
            self.tell(delta);
        }
    }

    fn tell(&self, delta: Delta) {
        // Nobody may be following.
        let _ = self.deltas.send(Arc::new(delta));
    }

    fn follow_trust_domain(&self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Upsert(Object::Config(config)) => {
                    self.wiring
                        .authority
                        .set_trust_domain(config.trust_domain.as_ref());
                }
                Change::Delete(id) if id.kind == Kind::Config => {
                    self.wiring.authority.set_trust_domain(DEFAULT_TRUST_DOMAIN);
                }
                _ => {}
            }
        }
    }

    /// Once a second: sessions come and go, and so do pods and policies.
    async fn count_fleet(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        self.wiring.table.prune(now);
        let moved = self
            .sessions
            .has_changed()
            .context("the session table is gone")?;
        if std::mem::take(&mut self.applied) || moved {
            self.sessions.mark_unchanged();
            let changes = self.fleet_changes(false)?;
            self.apply(changes, now).await?;
            self.applied = false;
        }
        Ok(())
    }

    /// The fleet facts that are not what the table shows. `new_only`: those of policies that have none yet. With nobody
    /// left the last value stays: the sidecars that went may only have lost their way to us.
    fn fleet_changes(&mut self, new_only: bool) -> anyhow::Result<Vec<Change>> {
        let engine = self.engine.as_ref().context("the engine is lent out")?;
        let now = Instant::now();
        let mut changes = Vec::new();
        let policies: BTreeSet<_> = engine
            .resources()
            .filter(|id| id.kind == Kind::RateLimitPolicy)
            .cloned()
            .collect();
        self.fleet.retain(|policy, _| {
            let stays = policies.contains(policy);
            if !stays {
                changes.push(Change::Delete(ObjectId {
                    kind: Kind::Fleet,
                    ..policy.clone()
                }));
            }
            stays
        });
        for policy in policies {
            if new_only && self.fleet.contains_key(&policy) {
                continue;
            }
            let sessions = engine
                .groups_holding(&policy)
                .iter()
                .map(|group| self.wiring.table.alive(&engine.pods_of(group), now))
                .sum::<usize>();
            let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
            if sessions > 0 && self.fleet.get(&policy) != Some(&sessions) {
                changes.push(Change::Upsert(Object::fleet(&policy, sessions)));
                self.fleet.insert(policy, sessions);
            }
        }
        Ok(changes)
    }

    async fn verify(&mut self) -> anyhow::Result<()> {
        if let Err(divergence) = self.work(|engine| engine.verify()).await? {
            self.wiring.metrics.divergences.inc();
            tracing::error!(%divergence, "incremental recompute");
        }
        Ok(())
    }
}

/// The engine's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    changes: IntCounter,
    divergences: IntCounter,
    units: IntGauge,
    groups: IntGauge,
    waited: Histogram,
    translated: Histogram,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("sluice_operator_engine_{name}");
        let histogram = |metric: &str, help: &str| {
            Histogram::with_opts(HistogramOpts::new(name(metric), help).buckets(buckets()))
        };
        let metrics = Self {
            changes: IntCounter::new(name("changes_total"), "Changes taken in")?,
            divergences: IntCounter::new(
                name("divergences_total"),
                "Times that a full recompute gave another result (--verify-incremental)",
            )?,
            units: IntGauge::new(name("units"), "Units that exist")?,
            groups: IntGauge::new(name("groups"), "Groups of pods")?,
            waited: histogram(
                "seen_to_begun_seconds",
                "From a change seen to its translation begun",
            )?,
            translated: histogram("translate_seconds", "Translation of one batch")?,
        };
        let Self {
            changes,
            divergences,
            units,
            groups,
            waited,
            translated,
        } = metrics.clone();
        registry.register(Box::new(changes))?;
        registry.register(Box::new(divergences))?;
        registry.register(Box::new(units))?;
        registry.register(Box::new(groups))?;
        registry.register(Box::new(waited))?;
        registry.register(Box::new(translated))?;
        Ok(metrics)
    }
}

/// Whether a change is about a resource, which has an owner who waits for its status.
fn is_of_resource(change: &Change) -> bool {
    let kind = match change {
        Change::Upsert(object) => object.id().kind,
        Change::Undecodable(undecodable) => undecodable.id.kind,
        Change::Delete(id) => id.kind,
    };
    matches!(
        kind,
        Kind::ApiRoute | Kind::RateLimitPolicy | Kind::ShardSet
    )
}

#[cfg(test)]
mod tests;
