//! The dispatch phase with what is live about it: held slots wait for their move, requests on a slot are counted, and an
//! endpoint that is this pod itself is the own application.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use sluice_pipeline::{
    Facts, Identity, Reject, RejectReason,
    dispatch::{self, Dispatch, ShardChoice},
    program::{Backend, Rule, TargetEdits},
    route::{self, Matched},
    target::Target,
};
use sluice_snapshot::unit::backend::BackendProtocol;

use sluice_snapshot::ConfigReason;

use super::{edge::Arrival, record::ShardSeen, thread::Thread};
use crate::{cli::Inbound, shards::Flight, shared::InForce};

/// Requests of one data thread that may wait for a move at a time.
const MAX_WAITING: usize = 1024;

/// Where a request goes, with nothing borrowed.
pub enum Place {
    /// This pod's own app.
    App {
        /// Which of its ports, where it is not the one the request arrived for.
        inbound: Option<Inbound>,
        /// What it speaks there.
        protocol: BackendProtocol,
        /// Why it is on this shard, where a ShardSet chose.
        shard: Option<OnShard>,
        /// Edits of what goes there and comes from there.
        edits: Option<Arc<TargetEdits>>,
    },
    /// Another pod.
    Forward {
        /// The Service.
        backend: Arc<Backend>,
        /// The first endpoint to try.
        endpoint: SocketAddr,
        /// The shard, where a ShardSet chose.
        shard: Option<OnShard>,
        /// Edits of what goes there and comes from there.
        edits: Option<Arc<TargetEdits>>,
    },
    /// Back to the client.
    Redirect {
        /// Status code.
        status: u16,
        /// Value of `Location`.
        location: String,
    },
}

impl Place {
    /// Edits of what goes there and comes from there.
    pub fn edits(&self) -> Option<&Arc<TargetEdits>> {
        match self {
            Self::App { edits, .. } | Self::Forward { edits, .. } => edits.as_ref(),
            Self::Redirect { .. } => None,
        }
    }

    /// The same place with the edits of the target that led there.
    fn edited(mut self, of_target: Option<&Arc<TargetEdits>>) -> Self {
        if let Self::App { edits, .. } | Self::Forward { edits, .. } = &mut self {
            *edits = of_target.cloned();
        }
        self
    }
}

/// A request's place on a shard.
pub struct OnShard {
    /// For the log.
    pub seen: Rc<ShardSeen>,
    /// Ends with the request.
    pub flight: Flight,
}

/// What placing a request needs to know of it.
pub struct Asked<'r, F> {
    /// Its view.
    pub facts: &'r F,
    /// Its target.
    pub target: &'r Target,
    /// Who asks.
    pub identity: Option<&'r Identity>,
    /// The port it arrived for.
    pub port: u16,
    /// How it came through the door of an edge; none: this is a pod.
    pub arrival: Option<&'r Arrival>,
}

/// Chooses by the program the request keeps; a request whose slot moves chooses again by the program that ends the move.
pub async fn place<F: Facts>(
    thread: &Rc<Thread>,
    force: &Arc<InForce>,
    matched: Matched<'_>,
    asked: &Asked<'_, F>,
) -> Result<Place, Reject> {
    let random = thread.dice.even32();
    match step(thread, force, matched, asked, random)? {
        Step::Placed(place) => Ok(place),
        // Rare, and large: not in every request's future.
        later => {
            Box::pin(place_later(
                thread,
                Arc::clone(force),
                matched.rule,
                asked,
                random,
                later,
            ))
            .await
        }
    }
}

async fn place_later<F: Facts>(
    thread: &Rc<Thread>,
    mut force: Arc<InForce>,
    rule: &Rule,
    asked: &Asked<'_, F>,
    random: u32,
    mut step_taken: Step,
) -> Result<Place, Reject> {
    loop {
        force = match step_taken {
            Step::Placed(place) => return Ok(place),
            Step::Again(newer) => newer,
            Step::Wait(hold) => hold.wait(thread, &force).await?,
        };
        step_taken = step(thread, &force, again(&force, rule, asked)?, asked, random)?;
    }
}

enum Step {
    Placed(Place),
    /// A newer program has another map.
    Again(Arc<InForce>),
    Wait(Hold),
}

/// A slot that is being moved.
struct Hold {
    map: sluice_snapshot::UnitName,
    max_pause_ms: u64,
    refusal: Reject,
}

fn step<F: Facts>(
    thread: &Rc<Thread>,
    force: &Arc<InForce>,
    matched: Matched<'_>,
    asked: &Asked<'_, F>,
    random: u32,
) -> Result<Step, Reject> {
    let Asked {
        facts,
        target,
        identity,
        ..
    } = asked;
    Ok(
        match dispatch::choose(&matched, *facts, target, *identity, random)? {
            // Translation makes no such rule; an edge has nobody to give the request to.
            Dispatch::App { .. } if asked.arrival.is_some() => {
                return Err(matched
                    .reject(RejectReason::Config(ConfigReason::Invalid))
                    .detail("an edge has no application of its own"));
            }
            Dispatch::App { edits } => Step::Placed(Place::App {
                inbound: None,
                protocol: force.program.app_protocol(asked.port),
                shard: None,
                edits: edits.cloned(),
            }),
            Dispatch::Redirect { status, location } => {
                Step::Placed(Place::Redirect { status, location })
            }
            Dispatch::Forward { backend, edits } => {
                let place = towards(thread, matched, *facts, backend, None)?;
                Step::Placed(place.edited(edits))
            }
            Dispatch::Shard(choice) if choice.held => Step::Wait(Hold::new(force, &choice)),
            Dispatch::Shard(choice) => {
                let flight = thread.shared.flights.enter(choice.map, choice.slot);
                let newest = thread.shared.live.load();
                if Arc::ptr_eq(&newest, force) || still_there(&newest, &choice) {
                    let seen = seen(force, &choice);
                    Step::Placed(towards(
                        thread,
                        matched,
                        *facts,
                        choice.backend,
                        Some(OnShard { seen, flight }),
                    )?)
                } else {
                    Step::Again(newest)
                }
            }
        },
    )
}

/// Whether a newer program keeps the slot where this one has it.
fn still_there(newer: &InForce, choice: &ShardChoice<'_>) -> bool {
    newer
        .program
        .shard_map(choice.map)
        .is_some_and(|map| map.epoch == choice.epoch && !map.is_held(choice.slot))
}

fn seen(force: &InForce, choice: &ShardChoice<'_>) -> Rc<ShardSeen> {
    let set = force.program.shard_map(choice.map);
    Rc::new(ShardSeen {
        set: set
            .map(|map| format!("{}/{}", map.object.namespace, map.object.name))
            .unwrap_or_default(),
        shard: choice.shard.into(),
        role: choice.role,
        slot: choice.slot,
        epoch: choice.epoch,
    })
}

/// An endpoint of the backend, which may be this pod itself: that is no hop.
fn towards(
    thread: &Thread,
    matched: Matched<'_>,
    facts: &impl Facts,
    backend: &Arc<Backend>,
    shard: Option<OnShard>,
) -> Result<Place, Reject> {
    let endpoint = dispatch::endpoint(backend, thread.dice.roll32()).ok_or_else(|| {
        matched
            .reject(RejectReason::NoEndpoint)
            .detail(format!("no endpoint of {}", backend.name))
    })?;
    if let Some(inbound) = thread.own(endpoint) {
        return Ok(Place::App {
            inbound: Some(inbound),
            protocol: backend.protocol,
            shard,
            edits: None,
        });
    }
    dispatch::may_forward(&matched, facts)?;
    Ok(Place::Forward {
        backend: Arc::clone(backend),
        endpoint,
        shard,
        edits: None,
    })
}

/// The same rule in a newer program. What came before dispatch was decided by the elder one; only where the request goes
/// is decided again. A rule that is gone leaves nothing to decide by: the client is asked to come again.
fn again<'p, F: Facts>(
    force: &'p InForce,
    rule: &Rule,
    asked: &Asked<'_, F>,
) -> Result<Matched<'p>, Reject> {
    let moved = || {
        Reject::new(RejectReason::ShardMoving)
            .by(rule.decider())
            .retry_after(1)
    };
    let table = match asked.arrival {
        Some(arrival) => arrival.table(force, asked.port, asked.facts)?,
        None => force.program.table(asked.port).ok_or_else(moved)?,
    };
    let matched = route::find(table, asked.facts, asked.target)?;
    if matched.rule.object == rule.object && matched.rule.name == rule.name {
        Ok(matched)
    } else {
        Err(moved())
    }
}

impl Hold {
    fn new(force: &InForce, choice: &ShardChoice<'_>) -> Self {
        let decider = force
            .program
            .shard_map(choice.map)
            .map(|map| map.decider())
            .unwrap_or_default();
        Self {
            map: choice.map.clone(),
            max_pause_ms: choice.max_pause_ms,
            refusal: Reject::new(RejectReason::ShardMoving)
                .by(decider)
                .retry_after(1),
        }
    }

    /// Waits for a newer program, until the hold is as old as it may become.
    async fn wait(self, thread: &Rc<Thread>, force: &Arc<InForce>) -> Result<Arc<InForce>, Reject> {
        let shared = &thread.shared;
        let mut changes = shared.live.subscribe();
        let newest = shared.live.load();
        if !Arc::ptr_eq(&newest, force) {
            return Ok(newest);
        }
        let now = shared.clock.now_ms();
        let since = shared.flights.held_since_ms(&self.map).unwrap_or(now);
        let deadline = since.saturating_add(self.max_pause_ms);
        let Some(_place) = thread.waiting_place(MAX_WAITING).filter(|_| now < deadline) else {
            return Err(self.refusal);
        };
        match thread.ticker.within(deadline, changes.changed()).await {
            Ok(Ok(())) => Ok(shared.live.load()),
            Ok(Err(_)) | Err(_) => Err(self.refusal),
        }
    }
}
