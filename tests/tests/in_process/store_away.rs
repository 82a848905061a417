//! Point 6, second half: Redis is killed, and hung. Requests do not wait for it, each policy's `onStoreFailure` answers
//! as named, and all is as before once it is back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_tests::load::Report;
use sluice_tests::signature::{Signer, fresh_nonce};
use sluice_tests::{Answer, Client, Load, Redis, With, World, eventually, get, isolated, seconds};

use crate::place::{Place, Plan, config, documents, policy, route, secret};

/// How much slower the slowest hundredth may become.
const SLOWER: Duration = Duration::from_millis(20);

/// One phase of the load.
const PHASE: Duration = Duration::from_secs(6);

/// Requests of a key in a burst; refilled so slowly that a test never sees it.
const BURST: u64 = 40;

const SIGNATURE_KEY: &str = "a-signature-key-of-acme-0123456789abcdef";

/// A limit in the store; `failure` is what happens without it.
fn limited(name: &str, failure: &str, requests: u64, per: &str, wait: &str) -> String {
    let limit = format!(
        "    key: [{{type: Header, header: {{name: X-Key}}}}]
    algorithm: {{type: TokenBucket, tokenBucket: {{requests: {requests}, per: {per}, burst: {requests}}}}}
    scope: Global
    global: {{storeRef: {{name: default}}, onStoreFailure: {failure}, maxWait: {wait}}}
"
    );
    documents(&[
        route(name, "  requestLimits: {maxBodySize: 1Mi}\n"),
        policy(name, &limit),
    ])
}

fn signed(name: &str, failure: &str) -> String {
    let auth = format!(
        "  auth:
    anyOf: [{{allOf: [signed]}}]
    providers:
    - name: signed
      type: HTTPMessageSignature
      httpMessageSignature:
        keys: {{secretRef: {{name: acme}}}}
        algorithms: [hmac-sha256]
        requiredComponents: [\"@method\", \"@target-uri\"]
        nonce: {{required: true, scope: Shared, storeRef: {{name: default}}, onStoreFailure: {failure}}}
"
    );
    route(name, &auth)
}

/// Two sidecars, a Redis, and one route for each answer to its loss.
async fn start(world: &World) -> Result<(Place<'_>, Redis)> {
    let redis = Redis::start(world).await?;
    let mut plan = Plan::new(world)?;
    plan.group("api")?;
    plan.put("config", &config(&[("default", redis.address())]))?;
    plan.put(
        "load",
        &limited("load", "LocalShare", 100_000, "1s", "10ms"),
    )?;
    for (name, failure) in [
        ("share", "LocalShare"),
        ("allow", "Allow"),
        ("deny", "Deny"),
    ] {
        // A busy machine is no lost store: these wait longer than a store of the same machine ever takes.
        plan.put(name, &limited(name, failure, BURST, "24h", "250ms"))?;
    }
    plan.put("nonce-local", &signed("nonce-local", "Local"))?;
    plan.put("nonce-deny", &signed("nonce-deny", "Deny"))?;
    plan.put(
        "secret",
        &secret("acme", "signature-keys", "acme-1", SIGNATURE_KEY),
    )?;
    let place = plan.start().await?;
    for name in [
        "load",
        "share",
        "allow",
        "deny",
        "nonce-local",
        "nonce-deny",
    ] {
        place.live("ApiRoute", name).await?;
    }
    store_is(&place, true).await?;
    Ok((place, redis))
}

/// Waits until every sidecar takes the store for `up`, or for lost.
async fn store_is(place: &Place<'_>, up: bool) -> Result<()> {
    let line = format!("sluice_store_up{{store=\"default\"}} {}", u8::from(up));
    for pod in &place.pods {
        eventually(&line, seconds(20), async || {
            let metrics = pod.sidecar.scrape().await?;
            let found = metrics
                .lines()
                .find(|line| line.starts_with("sluice_store_up"));
            ensure!(found == Some(line.as_str()), "{}: {found:?}", pod.name);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Constant load on the route `load`, far below its limit, with a key now and then that no sidecar has seen.
fn load(place: &Place<'_>) -> Load {
    Load::against(place.pods[0].sidecar.address)
        .per_second(300)
        .request(|n| {
            get("/")
                .with("host", "load.example")
                .with("x-key", &format!("key-{}", n / 50))
        })
}

async fn phase(
    name: &str,
    place: &Place<'_>,
    begin: impl FnOnce() -> Result<()>,
) -> Result<Report> {
    let load = load(place).start();
    load.answers(100).await?;
    // What is lost is lost while requests are under way.
    begin()?;
    // Latencies of this time are what is measured.
    tokio::time::sleep(PHASE).await;
    let report = load.finish().await;
    println!("{name:<8} {report}");
    ensure!(report.failed == 0, "{name}: {report}");
    Ok(report)
}

/// How much the worst p99 of the disturbed phases exceeds the worst of the undisturbed ones, which is the machine's own
/// noise.
async fn slower(world: &World, place: &Place<'_>, redis: &mut Redis) -> Result<Duration> {
    let before = phase("before", place, || Ok(())).await?;
    let killed = phase("killed", place, || {
        redis.process.kill();
        Ok(())
    })
    .await?;
    store_is_given_up(place).await?;
    *redis = restarted(world, redis).await?;
    store_is(place, true).await?;

    let again = phase("again", place, || Ok(())).await?;
    let hung = phase("hung", place, || redis.process.freeze()).await?;
    store_is_given_up(place).await?;
    redis.process.thaw()?;
    store_is(place, true).await?;

    let p99 = |report: &Report| report.percentile(99.0);
    let usual = p99(&before).max(p99(&again));
    Ok(p99(&killed).max(p99(&hung)).saturating_sub(usual))
}

/// A new Redis where one was killed.
async fn restarted(world: &World, redis: &Redis) -> Result<Redis> {
    match redis.address().ip() {
        std::net::IpAddr::V4(ip) => Redis::start_at(world, ip).await,
        std::net::IpAddr::V6(_) => anyhow::bail!("this network has IPv4 addresses"),
    }
}

/// What else the machine does may hit one phase and not the other: waiting for a store would slow every round.
#[test]
fn requests_do_not_wait_for_a_store_that_is_killed_or_hung() {
    isolated!(async |world| {
        let (place, mut redis) = start(world).await?;
        let mut rounds = Vec::new();
        for _ in 0..3 {
            let slower = slower(world, &place, &mut redis).await?;
            println!("slower by {slower:.1?}");
            if slower <= SLOWER {
                return Ok(());
            }
            rounds.push(slower);
        }
        anyhow::bail!("p99 is slower without the store, by {rounds:?} in three rounds")
    });
}

/// How many of two bursts are admitted by the first sidecar, and the answers that were not 200.
async fn spend(place: &Place<'_>, host: &str, key: &str) -> Result<(u64, Vec<Answer>)> {
    let client = place.pods[0].sidecar.client();
    let (mut admitted, mut refused) = (0, Vec::new());
    for _ in 0..2 * BURST {
        let request = get("/")
            .with("host", &format!("{host}.example"))
            .with("x-key", key);
        let answer = client.send(request).await?;
        match answer.status.as_u16() {
            200 => admitted += 1,
            _ => refused.push(answer),
        }
    }
    Ok((admitted, refused))
}

fn problem(answer: &Answer) -> Result<String> {
    let body = answer.json()?;
    let type_ = body["type"].as_str().context("a problem has a type")?;
    Ok(format!(
        "{} {}",
        answer.status.as_u16(),
        type_.rsplit('/').next().unwrap_or_default()
    ))
}

/// Every refusal is this one.
fn all_are(refused: &[Answer], expected: &str) -> Result<()> {
    for answer in refused {
        let found = problem(answer)?;
        ensure!(found == expected, "{found}, not {expected}");
    }
    Ok(())
}

/// With the store one sidecar may have the whole burst, but for what the others lease of it.
async fn limits_are_global(place: &Place<'_>, key: &str) -> Result<()> {
    for host in ["share", "allow", "deny"] {
        let (admitted, refused) = spend(place, host, key).await?;
        println!("with the store, {host}: {admitted} of {BURST}");
        ensure!(
            (BURST * 9 / 10..=BURST + 1).contains(&admitted),
            "{host}: {admitted} of {BURST}"
        );
        all_are(&refused, "429 limit-exceeded")?;
    }
    Ok(())
}

/// Without the store each answers as named.
async fn limits_are_as_named(place: &Place<'_>, key: &str) -> Result<()> {
    let (admitted, refused) = spend(place, "share", key).await?;
    println!("without, LocalShare: {admitted} of {BURST}");
    // Two sidecars hold the policy: half for each.
    ensure!(
        (BURST / 2..=BURST / 2 + 1).contains(&admitted),
        "LocalShare: {admitted} of {BURST}"
    );
    all_are(&refused, "429 limit-exceeded")?;
    let (admitted, refused) = spend(place, "allow", key).await?;
    println!("without, Allow: {admitted} of {BURST}");
    ensure!(
        admitted == 2 * BURST && refused.is_empty(),
        "Allow: {admitted}"
    );
    let (admitted, refused) = spend(place, "deny", key).await?;
    println!("without, Deny: {admitted} of {BURST}");
    ensure!(admitted == 0, "Deny: {admitted}");
    all_are(&refused, "503 limit-store-unavailable")
}

/// One signature shown to the first sidecar, again, and then to the second.
async fn replay(place: &Place<'_>, host: &str) -> Result<[String; 3]> {
    let signer = Signer {
        nonce: Some(fresh_nonce()),
        ..Signer::new("acme-1", SIGNATURE_KEY)
    };
    let request = || signer.sign(get("/").with("host", &format!("{host}.example")));
    let show = async |client: Client| -> Result<String> {
        let answer = client.send(request()).await?;
        match answer.status.as_u16() {
            200 => Ok("200".into()),
            _ => problem(&answer),
        }
    };
    let [first, second] = [0, 1].map(|pod| place.pods[pod].sidecar.client());
    let again = place.pods[0].sidecar.client();
    Ok([show(first).await?, show(again).await?, show(second).await?])
}

const REPLAYED: &str = "401 nonce-replayed";
const UNAVAILABLE: &str = "503 nonce-store-unavailable";

async fn nonces_are_shared(place: &Place<'_>) -> Result<()> {
    for host in ["nonce-local", "nonce-deny"] {
        // Looked at until it is so: a call that a busy machine answered late falls back as named.
        eventually(
            &format!("{host}: one use in all"),
            seconds(20),
            async || {
                let seen = replay(place, host).await?;
                ensure!(seen == ["200", REPLAYED, REPLAYED], "{host}: {seen:?}");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}

async fn nonces_are_as_named(place: &Place<'_>) -> Result<()> {
    // Local: each sidecar still knows what it has seen itself, and nothing of the other.
    let seen = replay(place, "nonce-local").await?;
    ensure!(seen == ["200", REPLAYED, "200"], "Local: {seen:?}");
    // Deny: nothing is accepted of which nobody can say that it is new.
    let seen = replay(place, "nonce-deny").await?;
    ensure!(
        seen[0] == UNAVAILABLE && seen[2] == UNAVAILABLE,
        "Deny: {seen:?}"
    );
    ensure!(
        [UNAVAILABLE, REPLAYED].contains(&seen[1].as_str()),
        "Deny: {seen:?}"
    );
    Ok(())
}

#[test]
fn without_its_store_every_policy_answers_as_named_and_with_it_as_before() {
    isolated!(async |world| {
        let (place, mut redis) = start(world).await?;
        limits_are_global(&place, "first").await?;
        nonces_are_shared(&place).await?;

        redis.process.freeze()?;
        store_is_given_up(&place).await?;
        limits_are_as_named(&place, "hung").await?;
        nonces_are_as_named(&place).await?;

        redis.process.thaw()?;
        store_is(&place, true).await?;
        limits_are_global(&place, "thawed").await?;
        nonces_are_shared(&place).await?;

        redis.process.kill();
        store_is_given_up(&place).await?;
        limits_are_as_named(&place, "killed").await?;
        nonces_are_as_named(&place).await?;

        let _redis = restarted(world, &redis).await?;
        store_is(&place, true).await?;
        limits_are_global(&place, "restarted").await?;
        nonces_are_shared(&place).await
    });
}

/// A store is given up after calls that were not answered: these make them, on both sidecars.
async fn store_is_given_up(place: &Place<'_>) -> Result<()> {
    for pod in &place.pods {
        for n in 0..5 {
            let request = get("/")
                .with("host", "load.example")
                .with("x-key", &format!("{}-{n}", pod.name));
            pod.sidecar.client().send(request).await?.expect(200)?;
        }
    }
    store_is(place, false).await
}
