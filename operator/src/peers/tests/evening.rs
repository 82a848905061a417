//! Sessions even out between two replicas of which one came late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sluice_translate::PodRef;
use tokio::{task::JoinSet, time::Instant};

use super::{follow, orders, two_replicas};
use crate::stream::{
    SessionTable,
    balance::{self, Pace, surplus},
    published::tests::{group, pod},
    table::Required,
    testing::{Server, required, until},
};

const PODS: usize = 40;

/// A sidecar that is with the first replica, and goes wherever a Service leads it after that: to each in turn.
async fn reconnecting(replicas: [Arc<Server>; 2], pod: String, turn: Arc<AtomicUsize>) {
    let mut to = 0;
    loop {
        let server = &replicas[to];
        if let Ok(mut sidecar) = server.join(server.token(&pod)).await {
            sidecar.apply().await;
            sidecar.end().await;
        }
        to = turn.fetch_add(1, Ordering::Relaxed) % 2;
    }
}

#[tokio::test]
async fn a_replica_that_came_late_gets_its_share_and_nobody_is_missed_meanwhile() {
    let (first, second) = two_replicas().await;
    let replicas = [Arc::new(first), Arc::new(second)];
    let (orders, group) = (orders(), group("orders"));
    let pods: Vec<PodRef> = (0..PODS)
        .map(|n| pod(&format!("orders-{n}"), &format!("u{n}")))
        .collect();
    let placed: Vec<_> = pods.iter().map(|pod| (&group, pod.clone())).collect();
    for replica in &replicas {
        replica.place(&placed, &orders);
    }
    let (end, _hears) = follow(&replicas[0], &replicas[1]);
    let (other_end, _other_hears) = follow(&replicas[1], &replicas[0]);

    let turn = Arc::new(AtomicUsize::new(0));
    let mut sidecars = JoinSet::new();
    for pod in &pods {
        sidecars.spawn(reconnecting(
            replicas.clone(),
            pod.name.clone(),
            turn.clone(),
        ));
    }
    let required = required(&orders, &pods);
    let tables = [&replicas[0].table, &replicas[1].table];
    until("the first has all, and both know", || {
        let known = tables.map(|table| live(table, &required));
        tables[0].shares() == (PODS, vec![0]) && known == [PODS; 2]
    })
    .await;

    let pace = Pace {
        tick: Duration::from_millis(20),
        patience: Duration::from_millis(200),
    };
    for replica in &replicas {
        let keep = balance::keep(replica.table.clone(), pace, replica.shutdown.clone());
        tokio::spawn(keep);
    }
    until("they are even", || {
        // Whoever is on the way to another replica goes on serving.
        assert_eq!(live(tables[0], &required), PODS);
        let [(first, _), (second, _)] = tables.map(|table| table.shares());
        first + second == PODS && surplus(first, &[second]) == 0
    })
    .await;
    let (left, _) = tables[0].shares();
    // Half of those that are asked come back, and it ends as soon as nobody has clearly more.
    assert!((PODS / 4..=PODS * 4 / 5).contains(&left), "{left}");
    end.cancel();
    other_end.cancel();
}

fn live(table: &SessionTable, required: &[Required]) -> usize {
    table.live(required, Instant::now()).pods
}
