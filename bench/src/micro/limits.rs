//! The token bucket: its arithmetic, and the whole of a local limit.

use std::sync::{Arc, atomic::AtomicU64};

use anyhow::{Result, ensure};
use sluice_pipeline::{
    Program,
    facts::StaticFacts,
    ratelimit::{self, Bucket, When, token_bucket},
};
use sluice_sidecar::{
    limits::charge_here,
    shared::{Shared, SharedLimits},
};
use sluice_snapshot::unit::policy::TokenBucket;

use super::Bench;
use crate::world::{
    self,
    gateway::{self, CLIENT_HEADER, CLIENTS},
};

pub(super) fn benches(program: &Arc<Program>, port: u16) -> Result<Vec<Bench>> {
    Ok(vec![decide()?, by_header(program, port)?])
}

fn decide() -> Result<Bench> {
    let bucket = |requests, burst| {
        Bucket::new(&TokenBucket {
            requests,
            per_ms: 1000,
            burst,
        })
    };
    let (tight, state) = (bucket(1, 2)?, AtomicU64::new(0));
    let admitted = [(); 3].map(|()| token_bucket::take(&state, &tight, 1, 1).admitted());
    ensure!(
        admitted == [true, true, false],
        "a burst of two admits {admitted:?}"
    );
    let (wide, state, mut now_us) = (bucket(1_000_000, 1_000_000)?, AtomicU64::new(0), 1);
    Ok(Bench::new(
        "token bucket, decide",
        "GCRA on one atomic",
        move || {
            now_us += 1;
            token_bucket::take(&state, &wide, 1, now_us).admitted()
        },
    ))
}

fn by_header(program: &Arc<Program>, port: u16) -> Result<Bench> {
    let requests: Vec<StaticFacts> = (0..CLIENTS)
        .map(|client| gateway::get("/limited/128").with(CLIENT_HEADER, &format!("client-{client}")))
        .collect();
    let (rule, _) = world::rule(program, port, &requests[0])?;
    let (shared, _inbox) = Shared::new(SharedLimits::default());
    let mut turn = 0;
    let mut admitted = {
        let shared = Arc::clone(&shared);
        move || {
            turn = (turn + 7) % requests.len();
            let Ok(charges) = ratelimit::charges(&rule, When::Address, &requests[turn], None)
            else {
                return false;
            };
            let charged = charge_here(&shared, &charges, shared.clock.now_us());
            charged.is_some_and(|charged| charged.reject.is_none() && charged.verdicts.len() == 1)
        }
    };
    for _ in 0..CLIENTS {
        ensure!(admitted(), "the limit refuses");
    }
    ensure!(
        shared.limits.buckets() == CLIENTS as u64,
        "{} buckets for {CLIENTS} clients",
        shared.limits.buckets()
    );
    Ok(Bench::new(
        "local limit by header",
        format!("key hashed, one of {CLIENTS} buckets found, clock read, decided, verdict made"),
        admitted,
    ))
}
