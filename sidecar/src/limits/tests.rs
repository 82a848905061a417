use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use sluice_pipeline::{
    UnitSet,
    facts::StaticFacts,
    program::{self, Content, Held},
    ratelimit::{When, charges},
};
use sluice_snapshot::{
    Hash, Unit, UnitName,
    unit::{
        Inbound, LimitPolicy, ObjectRef, Route,
        policy::{self as unit, KeyPart, OnMissingKey, TokenBucket},
        route::{Action, HeaderEdits, Match, PathMatch, RequestLimits, Timeouts, WeightedTarget},
    },
};
use tokio::task::JoinHandle;

use super::*;
use crate::shared::{Inbox, SharedLimits};

/// A sidecar's limits with one rule and one policy, and a store that runs the script's model.
struct Bench {
    shared: Arc<Shared>,
    program: Program,
    calls: Arc<AtomicUsize>,
    /// What the store does not answer any more.
    hung: Arc<Mutex<bool>>,
    store: JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.store.abort();
    }
}

fn global(consistency: Consistency, on_store_failure: StoreFailure) -> Scope {
    Scope::Global(Global {
        store: UnitName::store("default"),
        consistency,
        max_overshoot_ppm: 10_000,
        max_wait_ms: 50,
        on_store_failure,
        fleet: UnitName::fleet("shop", "plans"),
    })
}

/// A limit for each address, `burst` at once and hardly more.
fn limit(name: &str, scope: Scope, burst: u64) -> unit::Limit {
    unit::Limit {
        name: name.into(),
        key: vec![KeyPart::ClientAddress {
            prefix_v4: 32,
            prefix_v6: 64,
        }],
        on_missing_key: OnMissingKey::Deny,
        bucket: TokenBucket {
            requests: 1,
            per_ms: 3_600_000,
            burst,
        },
        scope,
    }
}

fn units(limits: Vec<unit::Limit>, mode: Mode) -> UnitSet {
    let policy = Unit::Policy(LimitPolicy {
        object: ObjectRef::new("RateLimitPolicy", "shop", "plans"),
        mode,
        headers: true,
        limits,
        broken: None,
    });
    let route = Unit::Route(Route {
        object: ObjectRef::new("ApiRoute", "shop", "orders"),
        request_limits: RequestLimits::default(),
        providers: Vec::new(),
        rules: vec![sluice_snapshot::unit::route::Rule {
            name: "all".into(),
            matches: vec![Match {
                path: PathMatch::Prefix("/".into()),
                method: None,
                headers: Vec::new(),
                query: Vec::new(),
                cookies: Vec::new(),
            }],
            auth: None,
            policies: vec![UnitName::policy("shop", "plans")],
            cache: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            rewrite: None,
            mirrors: Vec::new(),
            cors: None,
            timeouts: Timeouts::default(),
            action: Action::Backends(vec![WeightedTarget::plain(
                1,
                sluice_snapshot::unit::route::Target::App,
            )]),
            broken: None,
        }],
        broken: None,
    });
    let store = Unit::Store(sluice_snapshot::unit::Store {
        name: "default".into(),
        mode: sluice_snapshot::unit::store::RedisMode::Standalone,
        addresses: vec!["127.0.0.1:1".into()],
        tls: None,
        credentials: None,
        key_prefix: "sluice".into(),
    });
    let inbound = Unit::Inbound(Inbound {
        listeners: Vec::new(),
        tables: Vec::new(),
        namespace: "shop".into(),
        services: vec!["orders".into()],
        trust_domain: "x".into(),
        settings: None,
        ports: Vec::new(),
    });
    let fleet = Unit::Fleet(sluice_snapshot::unit::Fleet { sessions: 4 });
    let all = [
        (UnitName::policy("shop", "plans"), policy),
        (UnitName::route("shop", "orders"), route),
        (UnitName::store("default"), store),
        (UnitName::inbound("shop", "orders"), inbound),
        (UnitName::fleet("shop", "plans"), fleet),
    ];
    let held = |unit: Unit| Held {
        hash: Hash::of(&unit.encode()),
        content: Content::Unit(Arc::new(unit)),
    };
    UnitSet {
        units: all.map(|(name, unit)| (name, held(unit))).into(),
    }
}

impl Bench {
    fn new(scope: Scope, burst: u64, mode: Mode, limits: SharedLimits) -> Self {
        Self::of(vec![limit("each", scope, burst)], mode, limits)
    }

    fn of(policy: Vec<unit::Limit>, mode: Mode, limits: SharedLimits) -> Self {
        let (
            shared,
            Inbox {
                store_calls: mut queue,
                settled: _,
            },
        ) = Shared::new(limits);
        let program = Program::compile(&units(policy, mode), None).expect("compiles");
        let (calls, hung) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(false)));
        let (counter, silent, clock) = (Arc::clone(&calls), Arc::clone(&hung), shared.clock);
        let store = tokio::spawn(async move {
            let mut buckets = HashMap::new();
            let mut unanswered = Vec::new();
            while let Some(call) = queue.recv().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let StoreCall::Lease(lease) = call else {
                    continue;
                };
                if *silent.lock().expect("no panic") {
                    unanswered.push(lease);
                    continue;
                }
                let key = lease.key;
                let (stored, reply) =
                    slice::model(buckets.get(&key).copied(), &lease.request, clock.now_us());
                if let Some(stored) = stored {
                    buckets.insert(key, stored);
                }
                lease.reply.answer(Ok(reply));
            }
        });
        Self {
            shared,
            program,
            calls,
            hung,
            store,
        }
    }

    fn rule(&self) -> &program::Rule {
        &self
            .program
            .route(&UnitName::route("shop", "orders"))
            .expect("a route")
            .rules[0]
    }

    async fn ask(&self, peer: [u8; 4]) -> Charged {
        let mut facts = StaticFacts::new("GET", "a.example", "/");
        facts.peer = IpAddr::from(peer);
        let charges = charges(self.rule(), When::Address, &facts, None).expect("charges");
        charge(&self.shared, &self.program, &charges).await
    }

    async fn admitted(&self, requests: usize, peer: [u8; 4]) -> usize {
        let mut admitted = 0;
        for _ in 0..requests {
            admitted += usize::from(self.ask(peer).await.reject.is_none());
            tokio::task::yield_now().await;
        }
        admitted
    }
}

#[tokio::test]
async fn leases_admit_what_the_bucket_holds_with_few_calls() {
    let bench = Bench::new(
        global(Consistency::Leased, StoreFailure::Deny),
        100,
        Mode::Enforce,
        SharedLimits::default(),
    );
    let admitted = bench.admitted(1000, [192, 0, 2, 1]).await;
    let calls = bench.calls.load(Ordering::Relaxed);
    assert!((60..=101).contains(&admitted), "{admitted}");
    assert!(calls <= 50, "{calls} calls");
    assert_eq!(
        bench.shared.limits.observed("shop/plans/each").0,
        Answering::Leased
    );
}

#[tokio::test]
async fn tokens_of_a_slice_are_given_back_when_another_limit_of_the_phase_refuses() {
    let leased = || global(Consistency::Leased, StoreFailure::Deny);
    // What refuses stands behind what has leased, and is exact in one case, leased as well in the other.
    for refusing in [Consistency::Leased, Consistency::Strict] {
        let each = limit("each", leased(), 40);
        let narrow = unit::Limit {
            key: vec![KeyPart::Header {
                name: "x-key".into(),
            }],
            ..limit("narrow", global(refusing, StoreFailure::Deny), 5)
        };
        let bench = Bench::of(vec![each, narrow], Mode::Enforce, SharedLimits::default());
        let mut admitted = Vec::new();
        for key in ["a", "b", "c"] {
            let mut of_key = 0;
            for _ in 0..100 {
                let mut facts = StaticFacts::new("GET", "a.example", "/");
                facts
                    .headers
                    .push(("x-key".into(), key.as_bytes().to_vec()));
                let charges = charges(bench.rule(), When::Address, &facts, None).expect("charges");
                let charged = charge(&bench.shared, &bench.program, &charges).await;
                of_key += usize::from(charged.reject.is_none());
                tokio::task::yield_now().await;
            }
            admitted.push(of_key);
        }
        // Of forty there is enough for three times five, whatever was refused in between.
        assert_eq!(admitted, [5, 5, 5], "{refusing:?}");
    }
}

#[tokio::test]
async fn strict_asks_for_each_request_and_admits_exactly() {
    let bench = Bench::new(
        global(Consistency::Strict, StoreFailure::Deny),
        5,
        Mode::Enforce,
        SharedLimits::default(),
    );
    assert_eq!(bench.admitted(20, [192, 0, 2, 1]).await, 5);
    assert_eq!(bench.calls.load(Ordering::Relaxed), 20);
}

#[tokio::test]
async fn a_store_that_hangs_is_waited_for_no_longer_than_allowed_and_then_the_named_answer_counts()
{
    for (on_failure, admits) in [
        (StoreFailure::LocalShare, 2),
        (StoreFailure::Allow, 8),
        (StoreFailure::Deny, 0),
    ] {
        for consistency in [Consistency::Leased, Consistency::Strict] {
            let bench = Bench::new(
                global(consistency, on_failure),
                8,
                Mode::Enforce,
                SharedLimits::default(),
            );
            *bench.hung.lock().expect("no panic") = true;
            let begin = std::time::Instant::now();
            let first = bench.ask([192, 0, 2, 1]).await;
            let waited = begin.elapsed();
            assert!(
                waited >= Duration::from_millis(45) && waited < Duration::from_secs(5),
                "{waited:?}"
            );
            // Once the breaker is open nobody waits.
            bench
                .shared
                .stores
                .set_open(&UnitName::store("default"), true);
            let begin = std::time::Instant::now();
            let rest = bench.admitted(7, [192, 0, 2, 1]).await;
            assert!(
                begin.elapsed() < Duration::from_millis(300),
                "{:?}",
                begin.elapsed()
            );
            // Eight among four sidecars are two for each.
            assert_eq!(
                usize::from(first.reject.is_none()) + rest,
                admits,
                "{on_failure:?} {consistency:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_policy_that_denies_without_store_refuses_with_503_and_in_shadow_with_nothing() {
    for (mode, refused) in [(Mode::Enforce, true), (Mode::Shadow, false)] {
        let bench = Bench::new(
            global(Consistency::Leased, StoreFailure::Deny),
            8,
            mode,
            SharedLimits::default(),
        );
        bench
            .shared
            .stores
            .set_open(&UnitName::store("default"), true);
        let reject = bench.ask([192, 0, 2, 1]).await.reject;
        assert_eq!(
            reject.map(|reject| reject.reason.describe().status),
            refused.then_some(503)
        );
    }
}

#[tokio::test]
async fn memory_for_buckets_is_bounded_and_its_end_is_stricter_and_not_laxer() {
    let limits = SharedLimits {
        max_buckets: 64,
        ..SharedLimits::default()
    };
    let bench = Bench::new(Scope::Local, 2, Mode::Enforce, limits);
    for peer in 0..=255 {
        bench.ask([10, 0, 0, peer]).await;
    }
    assert!(bench.shared.limits.buckets() <= 64);
    // Whoever spent both tokens is not given new ones because others came.
    let first = [10, 0, 1, 0];
    let before = bench.admitted(3, first).await;
    for peer in 1..=255 {
        bench.ask([10, 0, 1, peer]).await;
    }
    assert!(before <= 2);
    assert_eq!(bench.admitted(1, first).await, 0);
}

#[tokio::test]
async fn only_a_keys_first_request_waits_for_a_store_that_hangs_and_its_answer_is_taken_up_again() {
    let bench = Bench::new(
        global(Consistency::Leased, StoreFailure::Allow),
        100,
        Mode::Enforce,
        SharedLimits::default(),
    );
    *bench.hung.lock().expect("no panic") = true;
    bench.ask([192, 0, 2, 1]).await;
    // The breaker is closed still: twenty waits would take a second.
    let begin = std::time::Instant::now();
    bench.admitted(20, [192, 0, 2, 1]).await;
    assert!(
        begin.elapsed() < Duration::from_millis(500),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(
        bench.shared.limits.observed("shop/plans/each").0,
        Answering::Allow
    );
    *bench.hung.lock().expect("no panic") = false;
    for _ in 0..500 {
        bench.ask([192, 0, 2, 1]).await;
        if bench.shared.limits.observed("shop/plans/each").0 == Answering::Leased {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the store's answers are not taken up");
}

/// What is decided at once is what would be decided in turn: who is admitted, what is left, and what goes back to a bucket
/// when another one refuses.
#[tokio::test]
async fn own_buckets_answer_at_once_as_they_do_in_turn() {
    // Two of each key and five of all: had refusals kept what they took, there would be fewer. A shadow keeps it.
    for (mode, expected) in [(Mode::Enforce, 5), (Mode::Shadow, 3)] {
        let limits = || {
            let narrow = unit::Limit {
                key: vec![KeyPart::Header {
                    name: "x-key".into(),
                }],
                ..limit("narrow", Scope::Local, 2)
            };
            vec![
                limit("wide", Scope::Local, 5),
                narrow,
                limit("last", Scope::Local, 7),
            ]
        };
        let new = || Bench::of(limits(), mode, SharedLimits::default());
        let (at_once, in_turn) = (new(), new());
        let mut admitted = 0;
        for key in ["a", "a", "a", "a", "b", "b", "b", "c", "c"] {
            let facts = StaticFacts::new("GET", "a.example", "/").with("x-key", key);
            let asked = charges(at_once.rule(), When::Address, &facts, None).expect("charges");
            let Bench { shared, .. } = &at_once;
            let once = charge_here(shared, &asked, shared.clock.now_us()).expect("no store");
            let asked = charges(in_turn.rule(), When::Address, &facts, None).expect("charges");
            let turn = charge(&in_turn.shared, &in_turn.program, &asked).await;
            let (once, turn) = (told(&once), told(&turn));
            assert_eq!(once, turn, "{mode:?} {key}");
            admitted += usize::from(once.iter().all(|(admitted, _)| *admitted) && once.len() == 3);
        }
        assert_eq!(admitted, expected, "{mode:?}");
        assert_eq!(at_once.calls.load(Ordering::Relaxed), 0);
    }
}

fn told(charged: &Charged) -> Vec<(bool, u64)> {
    let verdicts = charged.verdicts.iter();
    verdicts
        .map(|verdict| (verdict.admitted, verdict.remaining))
        .collect()
}

/// A store's answer has to be waited for, so nothing is taken before.
#[tokio::test]
async fn nothing_is_decided_at_once_where_a_store_is_asked() {
    let limits = vec![
        limit("own", Scope::Local, 1),
        limit("all", global(Consistency::Leased, StoreFailure::Deny), 9),
    ];
    let bench = Bench::of(limits, Mode::Enforce, SharedLimits::default());
    let facts = StaticFacts::new("GET", "a.example", "/");
    let charges = charges(bench.rule(), When::Address, &facts, None).expect("charges");
    assert!(charge_here(&bench.shared, &charges, bench.shared.clock.now_us()).is_none());
    let charged = charge(&bench.shared, &bench.program, &charges).await;
    assert!(charged.reject.is_none());
}
