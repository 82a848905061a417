//! The merge under anything that can happen to sidecars, replicas and streams.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use sluice_snapshot::{UnitName, Version};
use sluice_translate::PodRef;
use tokio::time::Instant;

use super::{Other, acked, seat};
use crate::stream::{
    SessionTable, Snapshot,
    published::tests::{pod, snapshot},
    table::{Row, UNKNOWN_FOR},
};

/// Something that happens to pods and replicas. Replica 0 is the one that looks.
#[derive(Debug, Clone)]
enum Happening {
    /// A pod's sidecar ends its session, if any, and connects to a replica.
    Connects(usize, usize),
    /// A pod's sidecar acknowledges one of the versions.
    Acks(usize, usize),
    /// A pod's sidecar ends its session.
    Ends(usize),
    /// A replica tells what is new.
    Tells(usize),
    /// A replica's stream breaks and begins anew.
    Reconnects(usize),
    /// A replica is killed; the next life of it has no session.
    Dies(usize),
    /// Time passes.
    Waits(u64),
}

const PODS: usize = 4;

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        4 => (0..PODS, 0_usize..3).prop_map(|(pod, at)| Connects(pod, at)),
        4 => (0..PODS, 0_usize..4).prop_map(|(pod, version)| Acks(pod, version)),
        2 => (0..PODS).prop_map(Ends),
        4 => (1_usize..3).prop_map(Tells),
        1 => (1_usize..3).prop_map(Reconnects),
        1 => (1_usize..3).prop_map(Dies),
        3 => (1_u64..8_000).prop_map(Waits),
    ]
}

/// What is true of a pod.
#[derive(Default)]
struct Truth {
    row: Option<(usize, Row)>,
    /// What it acknowledged last, while that cannot have been forgotten or lost with a replica.
    acked: Option<Version>,
    /// The replicas that hold the end of a session of it and have not told yet.
    untold: [bool; 3],
    /// A replica was killed then that the observer may still have believed to hold its session.
    orphaned: Option<Instant>,
}

/// A small world of three replicas, of which the first is told by the others.
struct World {
    observer: Arc<SessionTable>,
    others: [Other; 2],
    lives: usize,
    pods: Vec<PodRef>,
    truth: Vec<Truth>,
    versions: Vec<Arc<Snapshot>>,
}

impl World {
    fn new() -> Self {
        let route = |name: &str| UnitName::route("shop", name);
        Self {
            observer: SessionTable::new(),
            others: [Other::new("b0"), Other::new("c0")],
            lives: 0,
            pods: (0..PODS)
                .map(|n| pod(&format!("p{n}"), &format!("u{n}")))
                .collect(),
            truth: (0..PODS).map(|_| Truth::default()).collect(),
            versions: vec![
                snapshot(&[]),
                snapshot(&[(route("a"), b"1", &[])]),
                snapshot(&[(route("a"), b"2", &[]), (route("b"), b"1", &[])]),
                snapshot(&[(route("b"), b"1", &[]), (route("c"), b"1", &[])]),
            ],
        }
    }

    fn table(&self, replica: usize) -> &Arc<SessionTable> {
        match replica {
            0 => &self.observer,
            other => &self.others[other - 1].table,
        }
    }

    async fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Connects(pod, replica) => {
                self.ends(pod);
                // No sidecar is that quick, and two sessions of one moment have no order.
                tokio::time::advance(Duration::from_millis(5)).await;
                let row = seat(self.table(replica), &self.pods[pod]);
                self.truth[pod].row = Some((replica, row));
                self.truth[pod].orphaned = None;
            }
            Happening::Acks(pod, version) => {
                let Some((_, row)) = &self.truth[pod].row else {
                    return;
                };
                let version = &self.versions[version];
                row.acked(acked(version, Instant::now()), version);
                self.truth[pod].acked = Some(version.version.clone());
            }
            Happening::Ends(pod) => self.ends(pod),
            Happening::Tells(replica) => {
                self.others[replica - 1].tell(&self.observer);
                for truth in &mut self.truth {
                    truth.untold[replica] = false;
                }
            }
            Happening::Reconnects(replica) => {
                let other = &mut self.others[replica - 1];
                self.observer.replica_lost(&other.life, Instant::now());
                other.reconnect();
            }
            Happening::Dies(replica) => {
                self.lives += 1;
                let life = format!("{replica}-{}", self.lives);
                let dead = std::mem::replace(&mut self.others[replica - 1], Other::new(&life));
                self.observer.replica_lost(&dead.life, Instant::now());
                for truth in &mut self.truth {
                    let held = truth.row.take_if(|(at, _)| *at == replica).is_some();
                    if held {
                        truth.acked = None;
                    }
                    let untold = std::mem::take(&mut truth.untold[replica]);
                    if held || (untold && truth.row.is_none()) {
                        truth.orphaned = Some(Instant::now());
                    }
                }
            }
            Happening::Waits(ms) => {
                tokio::time::advance(Duration::from_millis(ms)).await;
                for table in (0..3).map(|replica| self.table(replica)) {
                    table.prune(Instant::now());
                }
            }
        }
    }

    fn ends(&mut self, pod: usize) {
        if let Some((replica, _)) = self.truth[pod].row.take() {
            // Another replica may forget it before it is told of a new session.
            self.truth[pod].acked = None;
            self.truth[pod].untold[replica] = true;
        }
        self.truth[pod].orphaned = None;
    }

    /// After everybody has told everything, what is known is what is true.
    fn check(&mut self, order: bool) -> Result<(), TestCaseError> {
        let mut order = [usize::from(order), usize::from(!order)];
        order.reverse();
        for replica in order {
            self.others[replica].tell(&self.observer);
        }
        for (pod, truth) in self.pods.iter().zip(&self.truth) {
            let known = self.observer.records_of(pod).pop();
            match &truth.row {
                Some((replica, _)) => {
                    let known = known.expect("a connected session is known");
                    prop_assert!(known.is_connected(), "{} at {replica}", pod.name);
                    if let Some(acked) = &truth.acked {
                        let known = known.acked.map(|acked| acked.version);
                        prop_assert_eq!(known.as_ref(), Some(acked));
                    }
                }
                None => {
                    prop_assert!(
                        known.as_ref().is_none_or(|known| !known.is_connected()),
                        "{} is not connected",
                        pod.name
                    );
                    let fresh = truth.orphaned.is_none_or(|at| at.elapsed() < UNKNOWN_FOR);
                    prop_assert!(
                        fresh || known.is_none_or(|known| known.is_gone(Instant::now())),
                        "{} is not unknown any more",
                        pod.name
                    );
                }
            }
        }
        Ok(())
    }
}

proptest! {
    /// Whatever happens to sidecars, replicas and streams, and in whatever order replicas tell: once each has told what it
    /// has, the merged table says what is true.
    #[test]
    fn the_merged_table_is_true_once_everybody_has_told(
        happenings in proptest::collection::vec(happening(), 1..60),
        order in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut world = World::new();
            for happening in happenings {
                world.happens(happening).await;
            }
            world.check(order)
        })?;
    }
}
