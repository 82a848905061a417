//! Moves of shard slots: the leader drives each ShardSet's state machine with what sidecars confirmed, and writes the
//! part of the status that decides where slots live. What a step is, is [`machine`]'s.
//!
//! The commit is one write over exactly the version that was read: of two leaders, at most one commits. The engine's
//! view must equal what is stored before a step is taken, so that an acknowledgement is always one of today's map.

pub mod machine;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use prometheus::{IntCounterVec, Opts, Registry};
use serde_json::{Value, json};
use sluice_crds::{
    ShardSetStatus,
    shard_set::{MovePhase, MoveStatus, SlotTable},
};
use sluice_process::Shutdown;
use sluice_snapshot::{Hash, UnitName};
use sluice_translate::{Condition, Engine, Kind, ObjectId, PodRef, View};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    engine::Handle,
    leader::Leadership,
    status::{Statuses, Stored, WriteError, render::moves_part},
    stream::{Record, SessionTable},
};
use machine::{Facts, Next, PodView, Step, step};

/// How long a write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// When to look again after a write that failed.
const RETRY: Duration = Duration::from_millis(500);
/// When to look again while the engine has not taken in what is stored.
const LAG: Duration = Duration::from_millis(20);
/// When to look again though nothing happened.
const IDLE: Duration = Duration::from_secs(60);

/// Drives every ShardSet.
pub struct Driver {
    engine: Handle,
    table: Arc<SessionTable>,
    statuses: Arc<dyn Statuses>,
    leadership: Leadership,
    metrics: Metrics,
    /// The phases that this leader itself entered, and when.
    entered: HashMap<ObjectId, (MoveStatus, Instant)>,
    /// Whether the engine has to be asked anew.
    stale: bool,
}

/// The driver's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    steps: IntCounterVec,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "sluice_operator_move_steps_total",
            "Steps of moves of shard slots that were written",
        );
        let steps = IntCounterVec::new(opts, &["step"])?;
        registry.register(Box::new(steps.clone()))?;
        Ok(Self { steps })
    }
}

/// A ShardSet as of one state of the engine.
#[derive(Debug, Clone)]
struct Set {
    object: ObjectId,
    /// The placement that is asked for; none while it cannot be had.
    desired: Option<SlotTable>,
    /// The part of the status that the engine works with.
    seen: ShardSetStatus,
    max_pause: Duration,
    /// Today's map.
    map: Option<(UnitName, Hash)>,
    /// Every pod of every group that holds the map.
    pods: Vec<PodRef>,
}

impl Driver {
    /// A driver that has entered no phase yet.
    pub fn new(
        engine: Handle,
        table: Arc<SessionTable>,
        statuses: Arc<dyn Statuses>,
        leadership: Leadership,
        metrics: Metrics,
    ) -> Self {
        Self {
            engine,
            table,
            statuses,
            leadership,
            metrics,
            entered: HashMap::new(),
            stale: true,
        }
    }

    /// Drives until shutdown, from the moment that this replica leads.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = self.leadership.won() => {}
        }
        let mut deltas = self.engine.deltas();
        let mut sessions = self.table.changes();
        let mut stored = self.statuses.changes();
        let mut sets = Vec::new();
        loop {
            if std::mem::take(&mut self.stale) {
                sets = match self.engine.read(all).await {
                    Ok(sets) => sets,
                    Err(_gone) => {
                        shutdown.begun().await;
                        return Ok(());
                    }
                };
                let there: BTreeSet<_> = sets.iter().map(|set| &set.object).collect();
                self.entered.retain(|object, _| there.contains(object));
            }
            let mut next = Instant::now() + IDLE;
            for set in &sets {
                if let Some(wait) = self.turn(set).await {
                    next = next.min(Instant::now() + wait);
                }
            }
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                // A lost delta is as good as one that came: both say "look".
                _ = deltas.recv() => self.stale = true,
                changed = stored.changed() => {
                    changed.context("nobody knows statuses any more")?;
                    self.stale = true;
                }
                changed = sessions.changed() => changed.context("the session table is gone")?,
                () = sleep_until(next) => {}
            }
            while deltas.try_recv().is_ok() {
                self.stale = true;
            }
        }
    }

    /// One step of one ShardSet; the answer is when to look again.
    async fn turn(&mut self, set: &Set) -> Option<Duration> {
        let basis = self.statuses.load(&set.object)?;
        let stored = moves_part(&basis.status);
        if stored != set.seen {
            // The engine has yet to hear of what is stored. Where no unit depends on it, no delta will tell.
            self.stale = true;
            return Some(LAG);
        }
        let table = match stored.placement.is_empty() {
            true => None,
            false => match SlotTable::new(&stored.placement) {
                Ok(table) => Some(table),
                Err(_) => {
                    tracing::error!(set = %set.object, "status.placement was edited and does not cover every slot once: nothing moves until it is restored");
                    return None;
                }
            },
        };
        let in_force = table
            .as_ref()
            .map(|table| (stored.epoch.unwrap_or_default(), table));
        let pods = match in_force.is_some() {
            true => self.pods(set, stored.epoch.unwrap_or_default()),
            false => Vec::new(),
        };
        let now = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
        let facts = Facts {
            desired: set.desired.as_ref(),
            in_force,
            moving: stored.moving.as_ref(),
            pods: &pods,
            elapsed: stored
                .moving
                .as_ref()
                .and_then(|moving| self.elapsed(&set.object, moving)),
            max_pause: set.max_pause,
            now,
        };
        match step(&facts) {
            Step::Stay(wait) => wait,
            Step::Write(next) => self.write(set, &basis, &stored, next).await,
        }
    }

    /// How long ago this leader entered the phase.
    fn elapsed(&self, object: &ObjectId, moving: &MoveStatus) -> Option<Duration> {
        let (entered, at) = self.entered.get(object)?;
        (entered == moving).then(|| at.elapsed())
    }

    /// What each pod has confirmed of today's map.
    fn pods(&self, set: &Set, epoch: i64) -> Vec<PodView> {
        let view = |pod: &PodRef| {
            let records = self.table.records_of(pod);
            // A pod that was never ready and has no sidecar that spoke to us serves nobody.
            if !pod.counts && records.is_empty() {
                return None;
            }
            let map = set.map.as_ref().filter(|_| !records.is_empty());
            let is_current = |record: &Record| {
                let acked = record.acked.as_ref();
                map.is_some_and(|(unit, hash)| {
                    let held = acked.and_then(|acked| acked.manifest.get(unit));
                    record.is_connected() && held == Some(hash)
                })
            };
            let has_settled = |record: &Record| {
                map.and_then(|(unit, hash)| Some((record.settled.get(unit)?, hash)))
                    .is_some_and(|((of, by), hash)| i64::try_from(*of) == Ok(epoch) && by == hash)
            };
            // Of those that share a pod, each has to.
            Some(PodView {
                name: pod.name.clone(),
                current: map.is_some() && records.iter().all(is_current),
                settled: map.is_some() && records.iter().all(has_settled),
            })
        };
        set.pods.iter().filter_map(view).collect()
    }

    async fn write(
        &mut self,
        set: &Set,
        basis: &Stored,
        stored: &ShardSetStatus,
        next: Next,
    ) -> Option<Duration> {
        let label = label(stored, &next);
        let status = with_move(&basis.status, &next);
        let write = self.statuses.write(&set.object, basis, &status);
        match timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(())) => {
                let Next {
                    epoch,
                    placement: _,
                    moving,
                } = &next;
                let why = moving
                    .as_ref()
                    .map(|moving| moving.message.as_str())
                    .unwrap_or_default();
                tracing::info!(set = %set.object, step = label, epoch, why, "move of slots");
                self.metrics.steps.with_label_values(&[label]).inc();
                match next.moving {
                    Some(moving) => drop(
                        self.entered
                            .insert(set.object.clone(), (moving, Instant::now())),
                    ),
                    None => drop(self.entered.remove(&set.object)),
                }
                None
            }
            Ok(Err(WriteError::Stale | WriteError::Gone)) => None,
            Ok(Err(WriteError::NotLeader(_))) => Some(RETRY),
            Ok(Err(WriteError::Other(error))) => {
                tracing::warn!(set = %set.object, step = label, error = format!("{error:#}"), "move of slots");
                Some(RETRY)
            }
            Err(_) => {
                // Whether it was written shows when the object comes back.
                tracing::warn!(set = %set.object, step = label, "move of slots: no answer in time");
                Some(RETRY)
            }
        }
    }
}

/// The step, for log and metric.
fn label(before: &ShardSetStatus, next: &Next) -> &'static str {
    match (before.epoch, &next.moving) {
        (None, _) => "first",
        (Some(epoch), None) if next.epoch > epoch => "commit",
        (Some(_), None) => "withdrawn",
        (Some(_), Some(moving)) => match moving.phase {
            MovePhase::Waiting => "wait",
            MovePhase::Holding => "hold",
            MovePhase::BackingOff => "abort",
        },
    }
}

/// The status with the move's part replaced; the rest is the conditions' writer's.
fn with_move(status: &Value, next: &Next) -> Value {
    let Next {
        epoch,
        placement,
        moving,
    } = next;
    let mut status = match status {
        Value::Object(fields) => fields.clone(),
        _ => serde_json::Map::new(),
    };
    status.insert("epoch".into(), json!(epoch));
    status.insert("placement".into(), json!(placement));
    match moving {
        Some(moving) => drop(status.insert("move".into(), json!(moving))),
        None => drop(status.remove("move")),
    }
    Value::Object(status)
}

fn all(engine: &Engine) -> Vec<Set> {
    let sets = engine.resources().filter(|id| id.kind == Kind::ShardSet);
    sets.filter_map(|id| one(engine, id)).collect()
}

fn one(engine: &Engine, object: &ObjectId) -> Option<Set> {
    let view = View::new(engine.world());
    let set = view.shard_set(&object.namespace, &object.name)?;
    let spec = set.custom.sound();
    let findings = engine.findings(object);
    let has = |condition| {
        findings
            .iter()
            .any(|finding| finding.reason.condition() == condition)
    };
    // What is in force already is not moved to where nobody answers.
    let obstacle =
        has(Condition::Accepted) || (set.epoch.is_some() && has(Condition::ResolvedRefs));
    let name = UnitName::shard_map(&object.namespace, &object.name);
    let groups = engine.groups_holding(object);
    Some(Set {
        object: object.clone(),
        desired: spec
            .filter(|_| !obstacle)
            .and_then(|spec| SlotTable::new(&spec.placement).ok()),
        seen: ShardSetStatus {
            epoch: set.epoch,
            placement: set.placement.clone(),
            moving: set.moving.clone(),
            ..ShardSetStatus::default()
        },
        max_pause: spec
            .map(|spec| spec.effective_max_pause())
            .unwrap_or_default(),
        map: engine.unit(&name).map(|unit| (name, unit.hash.clone())),
        pods: groups
            .iter()
            .flat_map(|group| engine.pods_of(group))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moving(phase: MovePhase) -> MoveStatus {
        MoveStatus {
            phase,
            epoch: 4,
            slots: vec!["0-1".into()],
            placement: Vec::new(),
            since: Time(Timestamp::UNIX_EPOCH),
            attempts: 0,
            message: String::new(),
        }
    }

    #[test]
    fn a_step_replaces_the_moves_part_only() {
        let status = json!({"epoch": 4, "move": {"phase": "Holding"}, "conditions": [{"type": "Ready"}], "live": {"pods": 2}});
        let next = Next {
            epoch: 5,
            placement: Vec::new(),
            moving: None,
        };
        let expected = json!({"epoch": 5, "placement": [], "conditions": [{"type": "Ready"}], "live": {"pods": 2}});
        assert_eq!(with_move(&status, &next), expected);
        let first = with_move(
            &Value::Null,
            &Next {
                moving: Some(moving(MovePhase::Holding)),
                ..next
            },
        );
        assert_eq!(first["move"]["phase"], "Holding");
    }

    #[test]
    fn steps_have_names() {
        let before = |epoch| ShardSetStatus {
            epoch,
            ..ShardSetStatus::default()
        };
        let next = |epoch, phase: Option<MovePhase>| Next {
            epoch,
            placement: Vec::new(),
            moving: phase.map(moving),
        };
        assert_eq!(label(&before(None), &next(1, None)), "first");
        assert_eq!(label(&before(Some(4)), &next(5, None)), "commit");
        assert_eq!(label(&before(Some(4)), &next(4, None)), "withdrawn");
        assert_eq!(
            label(&before(Some(4)), &next(4, Some(MovePhase::BackingOff))),
            "abort"
        );
    }
}
