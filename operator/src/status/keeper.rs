//! Keeps every object's status true: looks when something has changed, compares, writes what differs. At most one write
//! per object and second, none that changes nothing, and none by a replica that does not lead.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures::{StreamExt, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use sluice_process::Shutdown;
use sluice_translate::ObjectId;
use tokio::time::{Instant, error::Elapsed, sleep, sleep_until, timeout};

use super::{
    conditions::Kind,
    events::{Announcer, Turned},
    gather::{self, Gathered, Special},
    render::{Rendered, render, waits_for_references, was_programmed},
    store::{Statuses, Stored, WriteError},
};
use crate::{
    children::Scalers,
    engine::Handle,
    leader::Leadership,
    stream::{Live, SessionTable, Why, table::Missing},
};

/// Between two writes of one object.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Changes are collected for as long before a look, except for the first.
const PAUSE: Duration = Duration::from_millis(100);
/// When to look again where time itself changes something.
const TICK: Duration = Duration::from_secs(1);
/// When to look again though nothing happened.
const IDLE: Duration = Duration::from_secs(300);
/// How long a write may take.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Writes at a time.
pub(super) const WRITES: usize = 16;

/// The writer's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    writes: IntCounterVec,
    looks: IntCounter,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "sluice_operator_status_writes_total",
            "Writes of status, by outcome",
        );
        let metrics = Self {
            writes: IntCounterVec::new(opts, &["outcome"])?,
            looks: IntCounter::new(
                "sluice_operator_status_looks_total",
                "Times that all statuses were compared",
            )?,
        };
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.looks.clone()))?;
        Ok(metrics)
    }

    /// Counts a write.
    pub(super) fn count(&self, outcome: &str) {
        self.writes.with_label_values(&[outcome]).inc();
    }
}

/// What the keeper works with.
pub struct Wiring {
    /// What there is, and what is wrong with it.
    pub engine: Handle,
    /// Who acknowledged what.
    pub table: Arc<SessionTable>,
    /// Where statuses are.
    pub statuses: Arc<dyn Statuses>,
    /// Who is told of conditions that turn False.
    pub announcer: Arc<dyn Announcer>,
    /// How far HorizontalPodAutoscalers have come.
    pub scalers: Arc<Scalers>,
    /// Whether to write.
    pub leadership: Leadership,
    /// The writer's metrics.
    pub metrics: Metrics,
}

/// The keeper.
pub struct Keeper {
    wiring: Wiring,
    gathered: Vec<Gathered>,
    /// When each object was written, or tried to be, last.
    written: HashMap<ObjectId, Instant>,
    /// Since when pods, by namespace and name, have been seen without a session.
    absent: HashMap<(String, String), Instant>,
}

/// A write that is due.
struct Due {
    object: ObjectId,
    basis: Stored,
    rendered: Rendered,
}

impl Keeper {
    /// A keeper that has looked at nothing yet.
    pub fn new(wiring: Wiring) -> Self {
        Self {
            wiring,
            gathered: Vec::new(),
            written: HashMap::new(),
            absent: HashMap::new(),
        }
    }

    /// Keeps until shutdown, from the moment that this replica leads.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = self.wiring.leadership.won() => {}
        }
        let complete_at = self.wiring.table.unknown_until();
        let mut deltas = self.wiring.engine.deltas();
        let mut sessions = self.wiring.table.changes();
        let mut stored = self.wiring.statuses.changes();
        let mut scalers = self.wiring.scalers.changes();
        loop {
            let Ok(gathered) = self.wiring.engine.read(gather::all).await else {
                shutdown.begun().await;
                return Ok(());
            };
            self.gathered = gathered;
            self.wiring.metrics.looks.inc();
            let next = self.look(complete_at).await;
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                // A lost delta is as good as one that came: both say "look".
                _ = deltas.recv() => {}
                changed = stored.changed() => changed.context("nobody knows statuses any more")?,
                changed = sessions.changed() => changed.context("the session table is gone")?,
                changed = scalers.changed() => changed.context("nobody knows scalers any more")?,
                () = sleep_until(next) => {}
            }
            sleep(PAUSE).await;
            while deltas.try_recv().is_ok() {}
        }
    }

    /// Compares everything, writes what differs; the answer is when to look again though nothing happens.
    async fn look(&mut self, complete_at: Instant) -> Instant {
        let now = Instant::now();
        let wall = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
        let (mut due, mut next) = (Vec::new(), now + IDLE);
        let mut absent = HashMap::new();
        for gathered in &self.gathered {
            let Some(basis) = self.wiring.statuses.load(&gathered.object) else {
                continue;
            };
            let mut live = self.wiring.table.live(&gathered.required, now);
            if now < complete_at && was_programmed(&basis.status) && may_return(&live) {
                // Those pods were told to an operator before this one, and are on their way here.
                next = next.min(complete_at);
                continue;
            }
            self.since(&mut live, &mut absent, now);
            if !live.missing.is_empty() || waits_for_references(gathered) {
                next = next.min(now + TICK);
            }
            let scaling = match &gathered.special {
                Special::Route {
                    scaler: Some(scaler),
                    ..
                } => Some(self.wiring.scalers.get(scaler)),
                _ => None,
            };
            let Some(rendered) = render(gathered, &live, scaling.as_ref(), &basis.status, &wall)
            else {
                continue;
            };
            match self
                .written
                .get(&gathered.object)
                .map(|at| *at + WRITE_INTERVAL)
            {
                Some(free) if now < free => next = next.min(free),
                _ => due.push(Due {
                    object: gathered.object.clone(),
                    basis,
                    rendered,
                }),
            }
        }
        self.absent = absent;
        let there: BTreeMap<_, _> = self
            .gathered
            .iter()
            .map(|gathered| (&gathered.object, ()))
            .collect();
        self.written.retain(|object, _| there.contains_key(object));
        self.written
            .extend(due.iter().map(|due| (due.object.clone(), now)));
        let wiring = &self.wiring;
        let failed = stream::iter(due)
            .map(|due| write(wiring, due))
            .buffer_unordered(WRITES)
            .filter(|written| std::future::ready(!written))
            .count()
            .await;
        if failed > 0 {
            next.min(Instant::now() + WRITE_INTERVAL)
        } else {
            next
        }
    }

    /// The table forgets lost sessions; how long a pod has been away is remembered here.
    fn since(
        &self,
        live: &mut Live,
        absent: &mut HashMap<(String, String), Instant>,
        now: Instant,
    ) {
        for Missing {
            namespace,
            pod,
            why,
        } in &mut live.missing
        {
            let Why::NotConnected(known) = why else {
                continue;
            };
            let key = (namespace.clone(), pod.clone());
            let seen = now - known.unwrap_or_default();
            let since = self
                .absent
                .get(&key)
                .map_or(seen, |since| *since.min(&seen));
            absent.insert(key, since);
            *known = Some(now.duration_since(since));
        }
    }
}

/// Whether a pod may have a session with a former operator.
pub(super) fn may_return(live: &Live) -> bool {
    live.missing
        .iter()
        .any(|missing| matches!(missing.why, Why::NotConnected(None) | Why::Pending))
}

/// How a write ended, as metrics have it.
pub(super) fn outcome(result: &Result<Result<(), WriteError>, Elapsed>) -> &'static str {
    match result {
        Ok(Ok(())) => "written",
        Ok(Err(WriteError::Stale)) => "stale",
        Ok(Err(WriteError::Gone)) => "gone",
        Ok(Err(WriteError::NotLeader(_))) => "not-leader",
        Ok(Err(WriteError::Other(_))) => "failed",
        Err(_) => "timeout",
    }
}

/// Writes and tells; whether it is done with.
async fn write(wiring: &Wiring, due: Due) -> bool {
    let Due {
        object,
        basis,
        rendered: Rendered { status, turned },
    } = due;
    let result = timeout(
        WRITE_TIMEOUT,
        wiring.statuses.write(&object, &basis, &status),
    )
    .await;
    wiring.metrics.count(outcome(&result));
    match result {
        Ok(Ok(())) => {
            for condition in turned {
                let kind = Kind::ALL
                    .into_iter()
                    .find(|kind| kind.as_str() == condition.type_);
                let turned = Turned {
                    object: object.clone(),
                    uid: basis.uid.clone(),
                    kind: kind.unwrap_or(Kind::Ready),
                    reason: condition.reason,
                    message: condition.message,
                };
                wiring.announcer.turned(&turned).await;
            }
            true
        }
        Ok(Err(WriteError::Gone)) => true,
        // The newer version comes by itself, a moment later.
        Ok(Err(WriteError::Stale | WriteError::NotLeader(_))) => false,
        Ok(Err(WriteError::Other(error))) => {
            tracing::warn!(%object, error = format!("{error:#}"), "status");
            false
        }
        Err(_) => {
            tracing::warn!(%object, "status: no answer in time");
            false
        }
    }
}
