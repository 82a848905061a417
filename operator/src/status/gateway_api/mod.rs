//! Statuses of the Gateway API: translation says how objects stand, acks and addresses say what is programmed, and here
//! both become what is written. Only what something happened to is looked at: there may be thousands of routes. At most one
//! write per object and second, none that changes nothing, and none by a replica that does not lead.

mod features;
mod gather;
mod programmed;
mod render;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::Value;
use sluice_process::Shutdown;
use sluice_translate::{Delta, ObjectId};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    keeper::{Metrics, WRITE_INTERVAL, WRITE_TIMEOUT, WRITES, may_return, outcome},
    store::{Statuses, Stored, WriteError},
};
use crate::{children::edge::Edges, engine::Handle, leader::Leadership, stream::SessionTable};
pub use features::FEATURES;
use gather::Gathered;
use programmed::Facts;

/// Changes are collected for as long before a look.
const PAUSE: Duration = Duration::from_millis(50);
/// When to look again though nothing happened.
const IDLE: Duration = Duration::from_secs(300);

/// What the keeper works with.
pub struct Wiring {
    /// How objects stand.
    pub engine: Handle,
    /// Who acknowledged what.
    pub table: Arc<SessionTable>,
    /// Where statuses are.
    pub statuses: Arc<dyn Statuses>,
    /// How far edges have come, and where they are.
    pub edges: Arc<Edges>,
    /// Whether to write.
    pub leadership: Leadership,
    /// The writers' metrics.
    pub metrics: Metrics,
}

/// The keeper.
pub struct Keeper {
    wiring: Wiring,
    /// What something happened to since it was looked at.
    stale: BTreeSet<ObjectId>,
    /// When each object was written, or tried to be, last.
    written: HashMap<ObjectId, Instant>,
}

/// A write that is due.
struct Due {
    object: ObjectId,
    basis: Stored,
    status: Value,
}

impl Keeper {
    /// A keeper that has looked at nothing yet.
    pub fn new(wiring: Wiring) -> Self {
        Self {
            wiring,
            stale: BTreeSet::new(),
            written: HashMap::new(),
        }
    }

    /// Keeps until shutdown, from the moment that this replica leads.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = self.wiring.leadership.won() => {}
        }
        let mut deltas = self.wiring.engine.deltas();
        let mut news = self.wiring.statuses.news();
        let mut sessions = self.wiring.table.changes();
        let mut edges = self.wiring.edges.changes();
        let (mut everything, mut gateways) = (true, false);
        loop {
            let question = std::mem::take(&mut self.stale);
            let (all, acks) = (
                std::mem::take(&mut everything),
                std::mem::take(&mut gateways),
            );
            let read = move |engine: &sluice_translate::Engine| match all {
                true => gather::all(engine),
                false => gather::these(engine, question, acks),
            };
            let Ok(gathered) = self.wiring.engine.read(read).await else {
                shutdown.begun().await;
                return Ok(());
            };
            let next = self.look(gathered).await;
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                delta = deltas.recv() => match delta {
                    Ok(delta) => gateways |= self.hear(&delta),
                    Err(RecvError::Lagged(_) | RecvError::Closed) => everything = true,
                },
                object = news.recv() => match object {
                    Ok(object) => drop(self.stale.insert(object)),
                    Err(RecvError::Lagged(_) | RecvError::Closed) => everything = true,
                },
                _ = sessions.changed() => gateways = true,
                _ = edges.changed() => gateways = true,
                () = sleep_until(next) => everything |= self.stale.is_empty(),
            }
            sleep(PAUSE).await;
            loop {
                match deltas.try_recv() {
                    Ok(delta) => gateways |= self.hear(&delta),
                    Err(error) if is_behind(&error) => everything = true,
                    Err(_) => break,
                }
            }
            loop {
                match news.try_recv() {
                    Ok(object) => drop(self.stale.insert(object)),
                    Err(error) if is_behind(&error) => everything = true,
                    Err(_) => break,
                }
            }
        }
    }

    /// Notes what a delta happened to; whether it concerns the pods of Gateways, too.
    fn hear(&mut self, delta: &Delta) -> bool {
        self.stale.extend(delta.standings_changed.iter().cloned());
        // An edge counts once it is ready, which is after it has acknowledged.
        !delta.pods_changed.is_empty()
    }

    /// Compares what was gathered, writes what differs; the answer is when to look again at what is still stale.
    async fn look(&mut self, gathered: Vec<Gathered>) -> Instant {
        let now = Instant::now();
        let wall = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
        let returned = self.wiring.table.unknown_until();
        let (mut due, mut next) = (Vec::new(), now + IDLE);
        self.written
            .retain(|_, written| *written + WRITE_INTERVAL > now);
        for gathered in gathered {
            let Some(basis) = self.wiring.statuses.load(&gathered.object) else {
                continue;
            };
            let facts = Facts {
                live: self.wiring.table.live(&gathered.required, now),
                edge: gathered
                    .gateway
                    .as_ref()
                    .and_then(|(namespace, name)| self.wiring.edges.get(namespace, name)),
            };
            if now < returned && render::is_programmed(&basis.status) && may_return(&facts.live) {
                // Those edges were told to an operator before this one, and are on their way here.
                next = next.min(returned);
                self.stale.insert(gathered.object);
                continue;
            }
            let Some(status) = render::status(&gathered, &facts, &basis.status, &wall) else {
                continue;
            };
            match self
                .written
                .get(&gathered.object)
                .map(|at| *at + WRITE_INTERVAL)
            {
                Some(free) => {
                    next = next.min(free);
                    self.stale.insert(gathered.object);
                }
                None => due.push(Due {
                    object: gathered.object,
                    basis,
                    status,
                }),
            }
        }
        self.written
            .extend(due.iter().map(|due| (due.object.clone(), now)));
        let wiring = &self.wiring;
        let undone: Vec<ObjectId> = stream::iter(due)
            .map(|due| write(wiring, due))
            .buffer_unordered(WRITES)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if !undone.is_empty() {
            next = next.min(Instant::now() + WRITE_INTERVAL);
            self.stale.extend(undone);
        }
        next
    }
}

fn is_behind(error: &tokio::sync::broadcast::error::TryRecvError) -> bool {
    matches!(
        error,
        tokio::sync::broadcast::error::TryRecvError::Lagged(_)
    )
}

/// Writes; the object, where it is not done with.
async fn write(wiring: &Wiring, due: Due) -> Option<ObjectId> {
    let Due {
        object,
        basis,
        status,
    } = due;
    let writing = wiring.statuses.write(&object, &basis, &status);
    let result = timeout(WRITE_TIMEOUT, writing).await;
    wiring.metrics.count(outcome(&result));
    match result {
        Ok(Ok(()) | Err(WriteError::Gone)) => None,
        // The newer version comes by itself, a moment later.
        Ok(Err(WriteError::Stale | WriteError::NotLeader(_))) => Some(object),
        Ok(Err(WriteError::Other(error))) => {
            tracing::warn!(%object, error = format!("{error:#}"), "status");
            Some(object)
        }
        Err(_) => {
            tracing::warn!(%object, "status: no answer in time");
            Some(object)
        }
    }
}
