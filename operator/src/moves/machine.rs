//! The state machine of a move of slots, pure: what a ShardSet says, what its pods have confirmed and how long the phase
//! has lasted -> what to write. The status write that raises the epoch is the decision; everything else can be repeated.
//!
//! ```text
//!            every pod holds today's map          every pod settled
//! (none) ─> Waiting ───────────────────> Holding ──────────────────> (none), epoch + 1
//!             ^                             │ pause over, or a pod lost
//!             └──────────── BackingOff <────┘
//! ```
//! A leader that finds a phase it did not enter cannot know what was confirmed to its predecessor: it aborts a hold.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sluice_crds::shard_set::{MovePhase, MoveStatus, Placement, SlotTable};

/// The first wait after a move was given up; doubled each time, up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Pods named in a message; the rest are counted.
const NAMED: usize = 3;
/// The epoch of a ShardSet that was never moved.
const FIRST_EPOCH: i64 = 1;

/// What the machine looks at.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The placement the spec asks for; none while it does not cover every slot once.
    pub desired: Option<&'a SlotTable>,
    /// The placement in force and its epoch; none before the first was recorded.
    pub in_force: Option<(i64, &'a SlotTable)>,
    /// The move under way.
    pub moving: Option<&'a MoveStatus>,
    /// Every pod whose group holds the map.
    pub pods: &'a [PodView],
    /// How long ago *this* leader entered the phase; none: another one did.
    pub elapsed: Option<Duration>,
    /// How long sidecars hold requests.
    pub max_pause: Duration,
    /// For `since`.
    pub now: Time,
}

/// A pod, as far as a move is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Whether it is connected and acknowledged the map as it is today.
    pub current: bool,
    /// Whether it said that no earlier request is left on the held slots, for the map as it is today.
    pub settled: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing changes; look again after this long, or when something does.
    Stay(Option<Duration>),
    /// Write this, then look again.
    Write(Next),
}

/// The part of the status that a move owns.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// The epoch in force.
    pub epoch: i64,
    /// The placement in force.
    pub placement: Vec<Placement>,
    /// The move under way.
    pub moving: Option<MoveStatus>,
}

/// The next step.
pub fn step(facts: &Facts<'_>) -> Step {
    match (facts.in_force, facts.moving) {
        (None, _) => first(facts),
        (Some((epoch, table)), Some(moving)) if moving.epoch == epoch => {
            continued(facts, epoch, table, moving)
        }
        (Some((epoch, table)), _) => begin(facts, epoch, table, 0),
    }
}

/// What is asked for first is in force at once: there is nothing to move yet.
fn first(facts: &Facts<'_>) -> Step {
    match facts.desired {
        Some(desired) => Step::Write(Next {
            epoch: FIRST_EPOCH,
            placement: desired.to_placement(),
            moving: None,
        }),
        None => Step::Stay(None),
    }
}

fn begin(facts: &Facts<'_>, epoch: i64, table: &SlotTable, attempts: i32) -> Step {
    let Some(desired) = facts.desired else {
        return drop_move(facts, epoch, table);
    };
    let slots = table.difference(desired);
    if slots.is_empty() {
        return drop_move(facts, epoch, table);
    }
    let missing = names(facts.pods, |pod| !pod.current);
    let (phase, message) = match missing {
        None => (MovePhase::Holding, String::new()),
        Some(pods) => (
            MovePhase::Waiting,
            format!("waits until every pod holds today's map; missing: {pods}"),
        ),
    };
    let moving = MoveStatus {
        phase,
        epoch,
        slots,
        placement: desired.to_placement(),
        since: facts.now.clone(),
        attempts,
        message,
    };
    // Waiting for the same pods is not worth a write.
    let known = facts.moving.is_some_and(|known| {
        MoveStatus {
            since: known.since.clone(),
            ..moving.clone()
        } == *known
    });
    if known {
        return Step::Stay(None);
    }
    Step::Write(Next {
        epoch,
        placement: table.to_placement(),
        moving: Some(moving),
    })
}

/// The wish was taken back, or there is none.
fn drop_move(facts: &Facts<'_>, epoch: i64, table: &SlotTable) -> Step {
    match facts.moving {
        Some(_) => Step::Write(Next {
            epoch,
            placement: table.to_placement(),
            moving: None,
        }),
        None => Step::Stay(None),
    }
}

fn continued(facts: &Facts<'_>, epoch: i64, table: &SlotTable, moving: &MoveStatus) -> Step {
    match moving.phase {
        MovePhase::Waiting => begin(facts, epoch, table, moving.attempts),
        MovePhase::Holding => held(facts, epoch, table, moving),
        MovePhase::BackingOff => {
            let pause = backoff(moving.attempts);
            match facts.elapsed {
                Some(elapsed) if elapsed < pause => Step::Stay(Some(pause - elapsed)),
                _ => begin(facts, epoch, table, moving.attempts),
            }
        }
    }
}

fn held(facts: &Facts<'_>, epoch: i64, table: &SlotTable, moving: &MoveStatus) -> Step {
    let Some(elapsed) = facts.elapsed else {
        return abort(
            facts,
            epoch,
            table,
            moving,
            "the operator changed while requests were held".into(),
        );
    };
    match names(facts.pods, |pod| !(pod.current && pod.settled)) {
        // All confirmed: this write decides.
        None => Step::Write(Next {
            epoch: epoch + 1,
            placement: moving.placement.clone(),
            moving: None,
        }),
        Some(pods) if elapsed >= facts.max_pause => abort(
            facts,
            epoch,
            table,
            moving,
            format!("not settled within maxPause: {pods}"),
        ),
        Some(_) => Step::Stay(Some(facts.max_pause - elapsed)),
    }
}

/// The map without hold, same epoch: requests go on as before.
fn abort(
    facts: &Facts<'_>,
    epoch: i64,
    table: &SlotTable,
    moving: &MoveStatus,
    message: String,
) -> Step {
    let moving = MoveStatus {
        phase: MovePhase::BackingOff,
        since: facts.now.clone(),
        attempts: moving.attempts.saturating_add(1),
        message,
        ..moving.clone()
    };
    Step::Write(Next {
        epoch,
        placement: table.to_placement(),
        moving: Some(moving),
    })
}

fn backoff(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1))
        .unwrap_or(0)
        .min(6);
    (FIRST_BACKOFF * 2_u32.pow(doublings)).min(LONGEST_BACKOFF)
}

fn names(pods: &[PodView], wanted: impl Fn(&PodView) -> bool) -> Option<String> {
    let mut names: Vec<_> = pods
        .iter()
        .filter(|pod| wanted(pod))
        .map(|pod| pod.name.as_str())
        .collect();
    names.sort_unstable();
    let rest = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    match (names.is_empty(), rest) {
        (true, _) => None,
        (false, 0) => Some(names.join(", ")),
        (false, rest) => Some(format!("{} and {rest} more", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(boundary: u16) -> SlotTable {
        let placement = [
            Placement {
                slots: format!("0-{}", boundary - 1).as_str().into(),
                shard: "s0".into(),
            },
            Placement {
                slots: format!("{boundary}-16383").as_str().into(),
                shard: "s1".into(),
            },
        ];
        SlotTable::new(&placement).expect("covers every slot once")
    }

    fn pod(name: &str, current: bool, settled: bool) -> PodView {
        PodView {
            name: name.into(),
            current,
            settled,
        }
    }

    fn now() -> Time {
        serde_json::from_value(serde_json::json!("2026-01-01T00:00:00Z")).expect("a time")
    }

    /// One ShardSet and its two pods, driven step by step.
    struct World {
        desired: SlotTable,
        in_force: (i64, SlotTable),
        moving: Option<MoveStatus>,
        pods: Vec<PodView>,
        elapsed: Option<Duration>,
    }

    impl World {
        fn asked_to_move() -> Self {
            Self {
                desired: table(4096),
                in_force: (7, table(8192)),
                moving: None,
                pods: vec![pod("a", true, false), pod("b", true, false)],
                elapsed: Some(Duration::ZERO),
            }
        }

        fn step(&mut self) -> Step {
            let step = step(&Facts {
                desired: Some(&self.desired),
                in_force: Some((self.in_force.0, &self.in_force.1)),
                moving: self.moving.as_ref(),
                pods: &self.pods,
                elapsed: self.elapsed,
                max_pause: Duration::from_millis(500),
                now: now(),
            });
            if let Step::Write(next) = &step {
                self.in_force = (
                    next.epoch,
                    SlotTable::new(&next.placement).expect("a whole placement"),
                );
                self.moving = next.moving.clone();
                self.elapsed = Some(Duration::ZERO);
            }
            step
        }

        fn phase(&self) -> Option<MovePhase> {
            self.moving.as_ref().map(|moving| moving.phase)
        }
    }

    #[test]
    fn the_first_placement_is_in_force_at_once() {
        let desired = table(8192);
        let facts = Facts {
            desired: Some(&desired),
            in_force: None,
            moving: None,
            pods: &[],
            elapsed: None,
            max_pause: Duration::ZERO,
            now: now(),
        };
        let expected = Next {
            epoch: 1,
            placement: desired.to_placement(),
            moving: None,
        };
        assert_eq!(step(&facts), Step::Write(expected));
    }

    #[test]
    fn a_wish_is_held_and_committed_once_every_pod_has_settled() {
        let mut world = World::asked_to_move();
        world.step();
        assert_eq!(world.phase(), Some(MovePhase::Holding));
        assert_eq!(
            world.moving.as_ref().expect("moves").slots,
            table(8192).difference(&table(4096))
        );
        assert_eq!(world.in_force.0, 7, "nothing has moved yet");

        world.pods[0].settled = true;
        assert_eq!(world.step(), Step::Stay(Some(Duration::from_millis(500))));
        world.pods[1].settled = true;
        world.step();
        assert_eq!(world.in_force, (8, table(4096)));
        assert_eq!(world.phase(), None);
        assert_eq!(world.step(), Step::Stay(None), "and nothing follows");
    }

    #[test]
    fn it_waits_for_a_pod_that_lags_and_names_it_once() {
        let mut world = World::asked_to_move();
        world.pods[1].current = false;
        world.step();
        assert_eq!(world.phase(), Some(MovePhase::Waiting));
        assert!(
            world
                .moving
                .as_ref()
                .expect("waits")
                .message
                .contains("missing: b")
        );
        assert_eq!(
            world.step(),
            Step::Stay(None),
            "the same wait is not written again"
        );
        world.pods[1].current = true;
        world.step();
        assert_eq!(world.phase(), Some(MovePhase::Holding));
    }

    #[test]
    fn a_frozen_pod_aborts_the_move_which_is_tried_again_later() {
        let mut world = World::asked_to_move();
        world.step();
        world.pods[0].settled = true;
        world.elapsed = Some(Duration::from_millis(500));
        world.step();
        assert_eq!(
            (world.phase(), world.in_force.0),
            (Some(MovePhase::BackingOff), 7)
        );
        assert!(
            world
                .moving
                .as_ref()
                .expect("backs off")
                .message
                .contains('b')
        );
        assert_eq!(world.step(), Step::Stay(Some(FIRST_BACKOFF)));
        world.elapsed = Some(FIRST_BACKOFF);
        world.step();
        assert_eq!(world.phase(), Some(MovePhase::Holding));
        assert_eq!(world.moving.as_ref().expect("holds").attempts, 1);
    }

    #[test]
    fn a_new_leader_aborts_a_hold_it_did_not_begin() {
        let mut world = World::asked_to_move();
        world.step();
        world.elapsed = None;
        world.pods = vec![pod("a", true, true), pod("b", true, true)];
        world.step();
        assert_eq!(
            (world.phase(), world.in_force.0),
            (Some(MovePhase::BackingOff), 7)
        );
    }

    #[test]
    fn a_wish_that_is_taken_back_ends_the_wait() {
        let mut world = World::asked_to_move();
        world.pods[0].current = false;
        world.step();
        world.desired = table(8192);
        world.step();
        assert_eq!((world.phase(), world.in_force.0), (None, 7));
    }

    proptest! {
        /// Whatever happens, the placement in force changes only by a commit that every pod had settled for.
        #[test]
        fn the_epoch_grows_only_when_every_pod_is_current_and_settled(
            events in proptest::collection::vec((0_usize..2, any::<bool>(), any::<bool>(), 0_u64..2000, any::<bool>(), 1_u16..8), 1..60),
        ) {
            let mut world = World::asked_to_move();
            for (which, current, settled, elapsed, known, boundary) in events {
                world.pods[which] = pod(if which == 0 { "a" } else { "b" }, current, settled);
                world.elapsed = known.then(|| Duration::from_millis(elapsed));
                world.desired = table(boundary * 2000);
                let before = world.in_force.clone();
                let holding = world.phase() == Some(MovePhase::Holding);
                world.step();
                if world.in_force != before {
                    prop_assert_eq!(world.in_force.0, before.0 + 1);
                    prop_assert!(holding && known && world.pods.iter().all(|pod| pod.current && pod.settled));
                }
            }
        }
    }
}
