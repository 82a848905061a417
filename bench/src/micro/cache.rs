//! The cache: an answer that is there.

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sluice_pipeline::{
    Program,
    cache::{self, Asked, Lookup},
    facts::StaticFacts,
    program::Rule,
    target::Target,
};
use sluice_sidecar::cache::{Account, CacheStore, NewEntry};
use sluice_snapshot::unit::cache::CacheRule;

use super::Bench;
use crate::{
    credentials::now_s,
    world::{self, gateway},
};

/// Answers that are stored.
const ANSWERS: usize = 1000;
/// Bytes of each.
const BODY: usize = 1024;
/// The moment, in monotonic milliseconds.
const NOW_MS: u64 = 5000;

pub(super) fn bench(program: &Program, port: u16) -> Result<Bench> {
    let store = CacheStore::new(1 << 30);
    let mut requests = Vec::with_capacity(ANSWERS);
    for answer in 0..ANSWERS {
        let facts = gateway::get(&format!("/cached/{BODY}?item={answer}"));
        let (rule, target) = world::rule(program, port, &facts)?;
        let policy = rule.cache.clone().context("the rule caches")?;
        fill(&store, &rule, &policy, &facts, &target)?;
        requests.push((facts, target, rule, policy));
    }
    let other = gateway::get("/cached/1024?item=never");
    let (rule, target) = world::rule(program, port, &other)?;
    let policy = rule.cache.clone().context("the rule caches")?;
    ensure!(
        !hit(&store, &rule, &policy, &other, &target),
        "what was never stored is a hit"
    );
    let mut turn = 0;
    Ok(Bench::new(
        "cache hit, look-up",
        format!("key hashed, one of {ANSWERS} stored answers of {BODY} B found, freshness checked"),
        move || {
            turn = (turn + 7) % requests.len();
            let (facts, target, rule, policy) = &requests[turn];
            hit(&store, rule, policy, facts, target)
        },
    ))
}

fn of_rule(rule: &Rule) -> [&str; 3] {
    [&rule.object.namespace, &rule.object.name, &rule.name].map(String::as_str)
}

fn asked<'r>(
    store: &'r CacheStore,
    rules: &'r CacheRule,
    facts: &'r StaticFacts,
) -> Asked<'r, StaticFacts> {
    Asked {
        hashes: store.hashes(),
        rules,
        facts,
        identity: None,
    }
}

/// Stores an answer as the sidecar does.
fn fill(
    store: &CacheStore,
    rule: &Rule,
    policy: &CacheRule,
    facts: &StaticFacts,
    target: &Target,
) -> Result<()> {
    let lines = [
        ("content-type", "application/json"),
        ("content-length", "1024"),
        ("cache-control", "public, max-age=600"),
        ("etag", "\"1\""),
    ];
    let headers: HeaderMap = lines
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect();
    let response = lines.iter().map(|(name, value)| (*name, value.as_bytes()));
    let asked = asked(store, policy, facts);
    let stored = cache::storable(&asked, 200, response, now_s()?, NOW_MS)
        .map_err(|why| anyhow!("the answer is not stored: {why:?}"))?;
    let key = cache::key(&asked, of_rule(rule), target);
    let account = Account {
        rule: &of_rule(rule).join("/"),
        max_bytes: policy.max_bytes,
    };
    store.put(
        key,
        account,
        NewEntry {
            stored,
            status: StatusCode::OK,
            headers,
            body: Bytes::from(vec![b'x'; BODY]),
        },
    );
    Ok(())
}

/// Whether the cache answers, with the whole body.
fn hit(
    store: &CacheStore,
    rule: &Rule,
    policy: &CacheRule,
    facts: &StaticFacts,
    target: &Target,
) -> bool {
    let asked = asked(store, policy, facts);
    let key = cache::key(&asked, of_rule(rule), target);
    let (said, entry) = store.find(&key, |variants| {
        let said = cache::lookup(
            &asked,
            variants.iter().map(|entry| &entry.stored),
            NOW_MS + 1000,
        );
        let chosen = match said {
            Lookup::Hit { index, .. } => Some(index),
            _ => None,
        };
        (said, chosen)
    });
    matches!(said, Lookup::Hit { age_s: 1, .. })
        && entry.is_some_and(|entry| entry.body.len() == BODY)
}
