//! Rate limits at work: takes from the buckets that a phase names, all or none, and says what each limit said. The
//! arithmetic is the pipeline's; here is what it is applied to, and the waiting for a store where a policy allows it.

mod buckets;

use std::{sync::Arc, time::Duration};

use sluice_pipeline::{
    Program, Reject,
    ratelimit::{
        self, Bucket, Charge, Decision, Limit, Verdict,
        slice::{self, Spent, Taken},
        token_bucket,
    },
};
use sluice_process::Clock;
use sluice_snapshot::unit::policy::{Consistency, Global, Mode, Scope, StoreFailure};
use smallvec::SmallVec;

use buckets::LiveBucket;
pub use buckets::{Answering, Limits};

use crate::{
    shared::Shared,
    store_api::{Lease, Reply, StoreCall},
};

/// What the limits of a request said. Few requests meet more than one.
pub type Verdicts = SmallVec<[Verdict; 1]>;

/// What one phase's limits said together.
pub struct Charged {
    /// What each said, in the order of the charges.
    pub verdicts: Verdicts,
    /// Why the request is refused; none: it passes.
    pub reject: Option<Reject>,
}

/// As [`charge`], where every bucket is this sidecar's own: at once. None: a store may have to be asked.
pub fn charge_here(shared: &Shared, charges: &[Charge<'_>], now_us: u64) -> Option<Charged> {
    let own = |charge: &Charge<'_>| matches!(charge.limit.scope, Scope::Local);
    if !charges.iter().all(own) {
        return None;
    }
    let mut verdicts = Verdicts::new();
    let mut taken = SmallVec::<[Arc<LiveBucket>; 1]>::new();
    for charge in charges {
        let live = shared.limits.bucket(charge, now_us);
        let bucket = &charge.limit.bucket;
        let decision = token_bucket::take(&live.tat, bucket, charge.cost, now_us);
        let verdict = Verdict::new(charge, decision);
        let refusal = ratelimit::refusal(std::slice::from_ref(&verdict));
        verdicts.push(verdict);
        taken.push(live);
        if let Some(reject) = refusal {
            for ((charge, verdict), live) in charges.iter().zip(&verdicts).zip(&taken) {
                if verdict.admitted {
                    token_bucket::give_back(&live.tat, &charge.limit.bucket, charge.cost);
                }
            }
            return Some(Charged {
                verdicts,
                reject: Some(reject),
            });
        }
    }
    Some(Charged {
        verdicts,
        reject: None,
    })
}

/// Takes from the buckets of one phase. Where one refuses, what the others gave is given back.
pub async fn charge(shared: &Shared, program: &Program, charges: &[Charge<'_>]) -> Charged {
    let mut taken: Vec<Option<Taking>> = Vec::with_capacity(charges.len());
    taken.resize_with(charges.len(), || None);
    let mut refused = None;
    // Buckets of this sidecar first, exact round trips last: what cannot be given back is taken when nothing else
    // refuses any more.
    for rank in 0..=2 {
        for (charge, slot) in charges
            .iter()
            .zip(&mut taken)
            .filter(|(charge, _)| rank_of(charge.limit) == rank)
        {
            if refused.is_some() {
                break;
            }
            let taking = take(shared, program, charge).await;
            refused = taking.refusal(charge);
            *slot = Some(taking);
        }
    }
    if refused.is_some() {
        for taking in taken.iter().flatten() {
            taking.give_back();
        }
    }
    let verdicts: Verdicts = taken
        .into_iter()
        .flatten()
        .filter_map(|taking| taking.verdict)
        .collect();
    Charged {
        verdicts,
        reject: refused,
    }
}

fn rank_of(limit: &Limit) -> u8 {
    match &limit.scope {
        Scope::Local => 0,
        Scope::Global(Global {
            consistency: Consistency::Leased,
            ..
        }) => 1,
        Scope::Global(Global {
            consistency: Consistency::Strict,
            ..
        }) => 2,
    }
}

/// What was taken for one charge.
struct Taking {
    /// None: the store is away and the policy refuses then.
    verdict: Option<Verdict>,
    /// Where it came from; none: it cannot be given back, or nothing was taken.
    from: Option<Source>,
}

/// Where tokens came from, and may go back to.
enum Source {
    /// A bucket of this sidecar.
    Bucket(Arc<LiveBucket>, Bucket, u64),
    /// A slice of the store's.
    Slice(Arc<LiveBucket>, Spent),
}

impl Taking {
    fn refusal(&self, charge: &Charge<'_>) -> Option<Reject> {
        match &self.verdict {
            Some(verdict) => ratelimit::refusal(std::slice::from_ref(verdict)),
            None if charge.policy.mode == Mode::Shadow => None,
            None => Some(charge.limit.store_unavailable()),
        }
    }

    fn give_back(&self) {
        let admitted = self
            .verdict
            .as_ref()
            .is_some_and(|verdict| verdict.admitted);
        match &self.from {
            Some(Source::Bucket(live, bucket, cost)) if admitted => {
                token_bucket::give_back(&live.tat, bucket, *cost);
            }
            Some(Source::Slice(live, spent)) if admitted => live.lease().give_back(*spent),
            Some(_) | None => {}
        }
    }
}

async fn take(shared: &Shared, program: &Program, charge: &Charge<'_>) -> Taking {
    let live = shared.limits.bucket(charge, shared.clock.now_us());
    match &charge.limit.scope {
        Scope::Local => local(&live, charge, charge.limit.bucket, shared.clock),
        Scope::Global(global) => {
            let (answer, by) = match global.consistency {
                Consistency::Leased => (
                    leased(shared, program, charge, global, &live).await,
                    Answering::Leased,
                ),
                Consistency::Strict => (
                    strict(shared, program, charge, global).await,
                    Answering::Strict,
                ),
            };
            match answer {
                Some(Answer {
                    decision,
                    spent,
                    overshoot_ppm,
                }) => {
                    shared.limits.note(&charge.limit.id, by, overshoot_ppm);
                    Taking {
                        verdict: Some(Verdict::new(charge, decision)),
                        from: spent.map(|spent| Source::Slice(Arc::clone(&live), spent)),
                    }
                }
                None => without_store(shared, program, charge, global, &live),
            }
        }
    }
}

fn local(live: &Arc<LiveBucket>, charge: &Charge<'_>, bucket: Bucket, clock: Clock) -> Taking {
    let decision = token_bucket::take(&live.tat, &bucket, charge.cost, clock.now_us());
    Taking {
        verdict: Some(Verdict::new(charge, decision)),
        from: Some(Source::Bucket(Arc::clone(live), bucket, charge.cost)),
    }
}

/// The named answer to a store that does not answer.
fn without_store(
    shared: &Shared,
    program: &Program,
    charge: &Charge<'_>,
    global: &Global,
    live: &Arc<LiveBucket>,
) -> Taking {
    match global.on_store_failure {
        StoreFailure::LocalShare => {
            shared
                .limits
                .note(&charge.limit.id, Answering::LocalShare, 0);
            let share = charge.limit.bucket.share(sessions(program, global));
            local(live, charge, share, shared.clock)
        }
        StoreFailure::Allow => {
            shared.limits.note(&charge.limit.id, Answering::Allow, 0);
            let decision = Decision::Admit {
                tat: 0,
                remaining: charge.limit.bucket.burst(),
                reset_us: 0,
            };
            Taking {
                verdict: Some(Verdict::new(charge, decision)),
                from: None,
            }
        }
        StoreFailure::Deny => {
            shared.limits.note(&charge.limit.id, Answering::Deny, 0);
            Taking {
                verdict: None,
                from: None,
            }
        }
    }
}

/// Among how many sidecars a bucket is shared, as far as is known.
fn sessions(program: &Program, global: &Global) -> u32 {
    program.fleet(&global.fleet).unwrap_or(1)
}

/// What the store, or a slice of its bucket, said to one charge.
struct Answer {
    decision: Decision,
    /// What a slice gave.
    spent: Option<Spent>,
    /// How far beyond the limit that was.
    overshoot_ppm: u64,
}

impl From<Decision> for Answer {
    fn from(decision: Decision) -> Self {
        Self {
            decision,
            spent: None,
            overshoot_ppm: 0,
        }
    }
}

/// Takes from the slice that this sidecar leases. None: the store does not answer.
async fn leased(
    shared: &Shared,
    program: &Program,
    charge: &Charge<'_>,
    global: &Global,
    live: &Arc<LiveBucket>,
) -> Option<Answer> {
    let terms = charge.limit.terms.as_ref()?;
    let send = |ask: slice::Ask| {
        let request = ask.request(sessions(program, global));
        let (live, clock) = (Arc::clone(live), shared.clock);
        let reply = Reply::new(move |result| live.hear(&ask, result, clock.now_us()));
        shared.stores.call(StoreCall::Lease(Lease {
            store: global.store.clone(),
            key: charge.key.for_store(),
            request,
            reply,
        }));
    };
    let take = || live.lease().take(terms, charge.cost, shared.clock.now_us());
    let settled = |taken: Taken| -> Result<Answer, Option<slice::Ask>> {
        match taken {
            Taken::Admit {
                remaining,
                reset_us,
                spent,
                overshoot_ppm,
                ask,
            } => {
                ask.map(&send);
                let decision = Decision::Admit {
                    tat: 0,
                    remaining,
                    reset_us,
                };
                Ok(Answer {
                    decision,
                    spent: Some(spent),
                    overshoot_ppm,
                })
            }
            Taken::Refuse {
                retry_after_us,
                reset_us,
                ask,
            } => {
                ask.map(&send);
                let decision = Decision::Refuse {
                    retry_after_us,
                    remaining: 0,
                    reset_us,
                };
                Ok(decision.into())
            }
            Taken::Ask(ask) => Err(Some(ask)),
            Taken::Wait => Err(None),
        }
    };
    let first = match settled(take()) {
        Ok(answer) => return Some(answer),
        Err(ask) => ask,
    };
    if shared.stores.is_open(&global.store) {
        if let Some(ask) = first {
            live.lease().lost(&ask);
        }
        return None;
    }
    if live.is_overdue() {
        // Asked for again, but not waited for again.
        first.map(&send);
        return None;
    }
    // The slow way: a key's first slice, or one that ran out. It ends after `maxWait` at the latest.
    let wait = async {
        let failures = live.failures();
        let mut ask = first;
        loop {
            let heard = live.heard.notified();
            tokio::pin!(heard);
            // From here on no answer can be missed.
            heard.as_mut().enable();
            if let Some(ask) = ask.take() {
                send(ask);
            } else {
                match settled(take()) {
                    Ok(answer) => return Some(answer),
                    Err(Some(ask)) => send(ask),
                    Err(None) => {}
                }
            }
            if live.failures() != failures {
                return None;
            }
            heard.await;
            if live.failures() != failures {
                return None;
            }
        }
    };
    let Ok(answer) = tokio::time::timeout(Duration::from_millis(global.max_wait_ms), wait).await
    else {
        live.set_overdue();
        return None;
    };
    answer
}

/// Asks the store for exactly this request. None: it does not answer.
async fn strict(
    shared: &Shared,
    program: &Program,
    charge: &Charge<'_>,
    global: &Global,
) -> Option<Answer> {
    let terms = charge.limit.terms.as_ref()?;
    if shared.stores.is_open(&global.store) {
        return None;
    }
    let request = terms
        .strict(charge.cost, shared.clock.now_us())
        .request(sessions(program, global));
    let answer = shared
        .stores
        .lease(&global.store, charge.key.for_store(), request);
    let reply = tokio::time::timeout(Duration::from_millis(global.max_wait_ms), answer)
        .await
        .ok()?
        .ok()?;
    let slice::Reply {
        granted,
        left,
        retry_us,
        reset_us,
    } = reply;
    let decision = if granted >= charge.cost {
        Decision::Admit {
            tat: 0,
            remaining: left,
            reset_us,
        }
    } else {
        Decision::Refuse {
            retry_after_us: retry_us,
            remaining: left,
            reset_us,
        }
    };
    Some(decision.into())
}

#[cfg(test)]
mod tests;
