//! Point 6, first half: the operator is killed. Sidecars go on, and one that starts meanwhile serves its last-known-good:
//! whole, of a format it knows, and its own, or not at all.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use sluice_tests::{Client, Load, With, eventually, get, isolated, seconds};

use crate::place::{Place, Plan, documents, route, secret};

const ROUTE: &str = "  auth:
    anyOf: [{allOf: [keys]}]
    providers: [{name: keys, type: APIKey, apiKey: {secretRef: {name: acme}}}]
";

const KEY: &str = "an-api-key-of-acme-0123456789";

fn plan_of_one_route(plan: &mut Plan<'_>) -> Result<()> {
    plan.group("api")?;
    plan.put("route", &route("orders", ROUTE))?;
    plan.put("secret", &secret("acme", "api-keys", "acme-1", KEY))
}

async fn status(place: &Place<'_>, pod: usize, key: Option<&str>) -> Result<u16> {
    let request = get("/").with("host", "orders.example");
    let request = match key {
        Some(key) => request.with("x-api-key", key),
        None => request,
    };
    let answer = place.pods[pod].sidecar.client().send_fresh(request).await?;
    Ok(answer.status.as_u16())
}

/// The route is enforced, not merely passed through.
async fn enforces(place: &Place<'_>, pod: usize) -> Result<()> {
    let seen = [
        status(place, pod, Some(KEY)).await?,
        status(place, pod, None).await?,
    ];
    ensure!(seen == [200, 401], "with and without the key: {seen:?}");
    Ok(())
}

#[test]
fn sidecars_serve_and_restart_without_the_operator() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan_of_one_route(&mut plan)?;
        let mut place = plan.start().await?;
        place.live("ApiRoute", "orders").await?;
        let load = Load::against(place.pods[1].sidecar.address)
            .per_second(100)
            .fresh_every(5)
            .request(|_| {
                get("/")
                    .with("host", "orders.example")
                    .with("x-api-key", KEY)
            })
            .start();

        place.operator.process.kill();
        for pod in 0..2 {
            enforces(&place, pod).await?;
        }
        place.pods[0].sidecar.process.kill();
        place.restart_sidecar(0)?;
        place.pods[0].sidecar.ready(seconds(20)).await?;
        enforces(&place, 0).await?;
        let log = place.pods[0].sidecar.process.stderr();
        ensure!(log.contains("serving from the last-known-good"), "{log}");

        // The successor takes both over, with what changed while nobody watched.
        place.put(
            "route",
            &route(
                "orders",
                &format!("  requestLimits: {{maxTargetLength: \"16\"}}\n{ROUTE}"),
            ),
        )?;
        place.restart_operator().await?;
        for pod in &place.pods {
            eventually("the change on every sidecar", seconds(30), async || {
                let long = get("/a-target-of-more-than-sixteen-bytes")
                    .with("host", "orders.example")
                    .with("x-api-key", KEY);
                pod.sidecar.client().send(long).await?.expect(414).map(drop)
            })
            .await?;
        }
        let report = load.finish().await;
        println!("through kill and return of the operator: {report}");
        ensure!(report.failed == 0, "{report}");
        Ok(())
    });
}

/// What was done to the file, and what the log must say about it.
struct Damage {
    what: &'static str,
    file: Vec<u8>,
    log: &'static str,
}

fn last_known_good(place: &Place<'_>, pod: usize) -> PathBuf {
    place.pods[pod].sidecar.state_dir.join("last-known-good")
}

fn damages(place: &Place<'_>) -> Result<Vec<Damage>> {
    let own = fs::read(last_known_good(place, 0))?;
    let other = fs::read(last_known_good(place, 1))?;
    let text = String::from_utf8(own.clone())?;
    ensure!(
        text.contains("\"format\":1,"),
        "its format is not where this test changes it: {text}"
    );
    Ok(vec![
        Damage {
            what: "truncated",
            file: own[..own.len() / 2].to_vec(),
            log: "the last-known-good is damaged",
        },
        Damage {
            what: "altered",
            file: text.replacen("\"orders\"", "\"orderz\"", 1).into_bytes(),
            log: "the last-known-good is damaged",
        },
        Damage {
            what: "of a newer format",
            file: text
                .replacen("\"format\":1,", "\"format\":2,", 1)
                .into_bytes(),
            log: "has format 2, this build reads up to 1",
        },
        Damage {
            what: "of another pod",
            file: other,
            log: "was written for shop/api-1",
        },
    ])
}

/// Starts the sidecar of pod 0 with this file and gives what it newly logged, once it has judged the file.
async fn started_with(place: &mut Place<'_>, file: &[u8]) -> Result<String> {
    place.pods[0].sidecar.process.kill();
    let before = place.pods[0].sidecar.process.stderr().len();
    fs::write(last_known_good(place, 0), file)?;
    place.restart_sidecar(0)?;
    let sidecar = &mut place.pods[0].sidecar;
    eventually(
        "a word about the last-known-good",
        seconds(20),
        async || {
            sidecar.process.alive()?;
            let log = sidecar.process.stderr().split_off(before);
            ensure!(log.contains("last-known-good"), "{log}");
            Ok(log)
        },
    )
    .await
}

#[test]
fn a_last_known_good_that_is_not_whole_known_and_own_is_refused() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan_of_one_route(&mut plan)?;
        let mut place = plan.start().await?;
        place.live("ApiRoute", "orders").await?;
        place.operator.process.kill();

        let good = fs::read(last_known_good(&place, 0))?;
        for Damage { what, file, log } in damages(&place)? {
            let said = started_with(&mut place, &file).await?;
            ensure!(said.contains(log), "{what}: {said}");
            ensure!(
                said.contains("not serving from the last-known-good"),
                "{what}: {said}"
            );
            let sidecar = &place.pods[0].sidecar;
            let answer = eventually("its listener", seconds(20), async || {
                let request = get("/")
                    .with("host", "orders.example")
                    .with("x-api-key", KEY);
                sidecar.client().send_fresh(request).await
            })
            .await?;
            ensure!(
                answer.status.as_u16() == 503,
                "{what} is served: {answer:?}"
            );
            let problem = answer.json()?;
            let type_ = problem["type"].as_str().context("a problem has a type")?;
            ensure!(type_.contains("/config-"), "{what}: {problem}");
            let ready = Client::new(sidecar.metrics).get("/readyz").await?;
            ensure!(
                ready.status.as_u16() == 503,
                "{what}: ready all the same: {ready:?}"
            );
            println!(
                "{what}: {}",
                said.lines()
                    .find(|line| line.contains(log))
                    .unwrap_or_default()
            );
        }

        // The same file, untouched, is served: what was refused was the damage.
        started_with(&mut place, &good).await?;
        place.pods[0].sidecar.ready(seconds(20)).await?;
        enforces(&place, 0).await?;

        // And whoever refused its file is served again once the operator is back.
        let foreign = fs::read(last_known_good(&place, 1))?;
        started_with(&mut place, &foreign).await?;
        place.restart_operator().await?;
        place.pods[0].sidecar.ready(seconds(30)).await?;
        enforces(&place, 0).await
    });
}

#[test]
fn an_operator_that_returns_keeps_keys_and_tokens() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan_of_one_route(&mut plan)?;
        let mut place = plan.start().await?;
        let kept = |place: &Place<'_>| -> Result<Vec<Vec<u8>>> {
            let token = place
                .operator
                .join_token("shop", "api-0")
                .context("file mode")?;
            let roots = place.operator.roots().context("file mode")?;
            [token, roots]
                .iter()
                .map(|file| Ok(fs::read(file)?))
                .collect()
        };
        let before = kept(&place)?;
        place.operator.process.kill();
        place.restart_operator().await?;
        ensure!(
            kept(&place)? == before,
            "every sidecar would have to be joined again"
        );
        // A key is known by its keyed hash: with another hash key the one of before would be refused.
        place.put(
            "secret",
            &documents(&[
                secret("acme", "api-keys", "acme-1", KEY),
                secret(
                    "globex",
                    "api-keys",
                    "globex-1",
                    "an-api-key-of-globex-0123456789",
                ),
            ]),
        )?;
        place.live("ApiRoute", "orders").await?;
        enforces(&place, 0).await
    });
}
