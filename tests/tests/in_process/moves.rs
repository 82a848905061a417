//! Point 8: editing a placement moves slots under load. No request is lost, none is answered by the old shard after the
//! commit; a sidecar that does not settle aborts the move, and an operator killed in the middle leaves nothing half done.
//! What was answered where is read from the access log, and the moment of the commit from the status file.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sluice_tests::load::{Report, RunningLoad};
use sluice_tests::{App, Load, With, World, eventually, get, isolated, seconds};

use crate::place::{Place, Plan, Pod, route, shard_set};

/// What a busy machine may add to a request that was held for as long as is allowed.
const SLACK: Duration = Duration::from_millis(1500);

/// A request that takes its time, and how long.
const SLOW: &str = "/?delay=400ms";
const SLOW_TAKES: Duration = Duration::from_millis(400);

/// Slots from here to 8191 move between the two shards.
const BOUNDARY: u64 = 4096;

fn placement(first_of_s1: u64) -> String {
    format!(
        "{{slots: \"0-{}\", shard: s0}}, {{slots: \"{first_of_s1}-16383\", shard: s1}}",
        first_of_s1 - 1
    )
}

fn orders(first_of_s1: u64, max_pause: &str) -> String {
    let rest = format!(
        "  placement: [{}]\n  change: {{strategy: Hold, maxPause: {max_pause}}}\n",
        placement(first_of_s1)
    );
    shard_set("orders", &[("s0", "s0"), ("s1", "s1")], &rest)
}

/// Two sidecars before two shards; slots 0-8191 on the first one, epoch 1.
async fn start<'w>(world: &'w World, max_pause: &str) -> Result<(Place<'w>, [App; 2])> {
    let mut plan = Plan::new(world)?;
    plan.group("api")?;
    let shards = [plan.member("s0").await?, plan.member("s1").await?];
    plan.put("set", &orders(8192, max_pause))?;
    let rules = "  rules: [{name: all, backendRefs: [{group: sluice.dev, kind: ShardSet, name: orders}]}]\n";
    plan.put("route", &route("orders", rules))?;
    let place = plan.start().await?;
    place.live("ShardSet", "orders").await?;
    place.live("ApiRoute", "orders").await?;
    ensure!(epoch(&place)? == 1, "the first placement is epoch 1");
    Ok((place, shards))
}

fn epoch(place: &Place<'_>) -> Result<u64> {
    let status = place.status("ShardSet", "orders")?;
    status["epoch"]
        .as_u64()
        .with_context(|| format!("no epoch: {status}"))
}

/// The move under way, by its phase and message; none: there is none.
fn moving(place: &Place<'_>) -> Result<Option<(String, String)>> {
    let status = place.status("ShardSet", "orders")?;
    let text = |field: &str| {
        status["move"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    Ok(status["move"]
        .is_object()
        .then(|| (text("phase"), text("message"))))
}

/// Requests of a thousand tenants. What a client may see of a move is a wait, and `shard-moving` where it was too long.
fn load(pod: &Pod) -> RunningLoad {
    load_of(pod, 60, "/")
}

/// The same for another target.
fn load_of(pod: &Pod, per_second: u32, target: &'static str) -> RunningLoad {
    Load::against(pod.sidecar.address)
        .per_second(per_second)
        .fresh_every(20)
        .request(move |n| {
            get(target)
                .with("host", "orders.example")
                .with("x-tenant", &format!("tenant-{}", n * 7919 % 1000))
        })
        .start()
}

/// Failures of a load that are not 503 `shard-moving`.
fn other_failures(report: &Report) -> Vec<&String> {
    report
        .reasons
        .iter()
        .filter(|reason| !reason.contains("shard-moving"))
        .collect()
}

/// One answered request on a shard.
#[derive(Debug)]
struct Sharded {
    slot: u64,
    shard: String,
    epoch: u64,
    /// When its answer had ended, since 1970.
    ended: Duration,
}

/// Every request of a sidecar that reached a shard.
fn sharded(pod: &Pod) -> Result<Vec<Sharded>> {
    let read = |line: &Value| -> Result<Sharded> {
        let began = line["time"].as_str().context("a line has a time")?;
        let duration = line["duration_us"]
            .as_u64()
            .context("a line has a duration")?;
        Ok(Sharded {
            slot: line["shard"]["slot"]
                .as_u64()
                .context("a shard line has a slot")?,
            shard: line["shard"]["shard"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            epoch: line["shard"]["epoch"]
                .as_u64()
                .context("a shard line has an epoch")?,
            ended: unix(began)? + Duration::from_micros(duration),
        })
    };
    let lines = pod.sidecar.access_log();
    lines
        .iter()
        .filter(|line| line["shard"].is_object())
        .map(read)
        .collect()
}

/// An RFC 3339 time in UTC, since 1970.
fn unix(text: &str) -> Result<Duration> {
    let time: k8s_openapi::jiff::Timestamp = text.parse()?;
    Ok(Duration::from_nanos(u64::try_from(time.as_nanosecond())?))
}

/// The name the epoch and the slot demand: slots from `BOUNDARY` to 8191 are s0's in odd epochs and s1's in even ones.
fn owner(slot: u64, epoch: u64) -> &'static str {
    match slot {
        ..BOUNDARY => "s0",
        BOUNDARY..8192 if epoch % 2 == 1 => "s0",
        _ => "s1",
    }
}

#[test]
fn a_placement_edit_moves_slots_without_an_error_and_without_the_old_shard() {
    isolated!(async |world| {
        let (place, _shards) = start(world, "5s").await?;
        // Beside the quick ones, some that are under way when a hold begins and end long after it: a commit that does not
        // wait for them is seen to have been too early.
        let loads: Vec<_> = place
            .pods
            .iter()
            .map(|pod| (load(pod), load_of(pod, 20, SLOW)))
            .collect();
        for (quick, slow) in &loads {
            quick.answers(20).await?;
            slow.answers(1).await?;
        }

        let mut commits = Vec::new();
        for (next, boundary) in [(2, BOUNDARY), (3, 8192), (4, BOUNDARY)] {
            place.put("set", &orders(boundary, "5s"))?;
            let committed = eventually(&format!("epoch {next}"), seconds(60), async || {
                let file = place.status_file("ShardSet", "orders");
                // Read before the epoch is looked at: the file may be written again meanwhile, never the reverse.
                let written = std::fs::metadata(&file)?.modified()?;
                ensure!(epoch(&place)? >= next, "{:?}", moving(&place)?);
                Ok(written)
            })
            .await?;
            commits.push((next, committed.duration_since(UNIX_EPOCH)?));
            place.live("ShardSet", "orders").await?;
            for (quick, _) in &loads {
                quick.answers(20).await?;
            }
        }

        for (pod, (quick, slow)) in place.pods.iter().zip(loads) {
            for (load, takes) in [(quick, Duration::ZERO), (slow, SLOW_TAKES)] {
                let report = load.finish().await;
                println!("{}: {report}", pod.name);
                ensure!(report.failed == 0, "{report}");
                ensure!(
                    report.percentile(100.0) < seconds(5) + takes + SLACK,
                    "held longer than maxPause: {report}"
                );
            }
            let lines = sharded(pod)?;
            let mut seen = std::collections::BTreeSet::new();
            for line in &lines {
                ensure!(line.shard == owner(line.slot, line.epoch), "{line:?}");
                seen.insert(line.epoch);
                // A file's time is kept in ticks of 4 ms, a line's in milliseconds.
                for (epoch, committed) in &commits {
                    let late = line.ended.saturating_sub(*committed);
                    let moved = (BOUNDARY..8192).contains(&line.slot);
                    ensure!(
                        !moved || line.epoch >= *epoch || late < Duration::from_millis(10),
                        "answered {late:?} after epoch {epoch} was committed: {line:?}"
                    );
                }
            }
            ensure!(seen.len() == 4, "epochs with requests: {seen:?}");
            println!(
                "{}: {} requests on shards, epochs {seen:?}",
                pod.name,
                lines.len()
            );
        }
        Ok(())
    });
}

/// Requests that are under way on a slot are waited for: they end on the old shard, before the commit.
#[test]
fn a_slow_request_is_waited_for() {
    isolated!(async |world| {
        let (place, _shards) = start(world, "5s").await?;
        // `tenant-1` has a slot that moves in one direction or the other, or none: ask until one does.
        let pod = &place.pods[0];
        let mut tenant = None;
        for n in 0..200 {
            let name = format!("tenant-{n}");
            pod.sidecar
                .client()
                .send(
                    get("/")
                        .with("host", "orders.example")
                        .with("x-tenant", &name),
                )
                .await?
                .expect(200)?;
            let slot = eventually("the request's log line", seconds(5), async || {
                let lines = sharded(pod)?;
                ensure!(lines.len() > n, "{} lines", lines.len());
                Ok(lines[n].slot)
            })
            .await?;
            if (BOUNDARY..8192).contains(&slot) {
                tenant = Some(name);
                break;
            }
        }
        let tenant = tenant.context("no tenant of 200 has a slot that moves")?;
        let ask = |query: &str| {
            get(query)
                .with("host", "orders.example")
                .with("x-tenant", &tenant)
        };
        let (slow, quick) = (pod.sidecar.client(), pod.sidecar.client());
        let began = std::time::Instant::now();
        let slow_request = ask("/?delay=1500ms");
        let slow = tokio::spawn(async move { slow.send(slow_request).await });
        eventually("the slow one is under way", seconds(5), async || {
            let scrape = pod.sidecar.scrape().await?;
            ensure!(
                scrape.contains("\nsluice_requests_in_flight 1\n"),
                "{scrape}"
            );
            Ok(())
        })
        .await?;
        place.put("set", &orders(BOUNDARY, "5s"))?;
        pod.holds("orders").await?;
        // Held until the slow one has ended and the move is committed; then the new shard answers.
        let held = quick.send(ask("/")).await?.expect(200)?;
        let waited = began.elapsed();
        let slow = slow.await??.expect(200)?;
        ensure!(slow.header("x-served-by") == Some("s0"), "{slow:?}");
        ensure!(held.header("x-served-by") == Some("s1"), "{held:?}");
        ensure!(
            waited > Duration::from_millis(1400),
            "the slow request was not waited for: {waited:?}"
        );
        println!("held until {waited:?} after the slow request of 1.5 s began");
        Ok(())
    });
}

#[test]
fn a_frozen_sidecar_aborts_the_move_and_the_status_says_why() {
    isolated!(async |world| {
        let (place, _shards) = start(world, "4s").await?;
        let load = load(&place.pods[0]);
        load.answers(10).await?;
        place.pods[1].sidecar.process.freeze()?;
        place.put("set", &orders(BOUNDARY, "4s"))?;
        let why = eventually("the abort", seconds(30), async || match moving(&place)? {
            Some((phase, why)) if phase == "BackingOff" => Ok(why),
            other => bail!("{other:?}"),
        })
        .await?;
        println!("aborted: {why}");
        ensure!(why.contains("api-1") && !why.contains("api-0"), "{why}");
        ensure!(epoch(&place)? == 1, "it was committed without api-1");
        let said = place
            .condition("ShardSet", "orders", "Programmed", "False", "MovePending")
            .await?;
        ensure!(said.contains("4096-8191"), "{said}");

        // Thawed, the wish becomes true by itself.
        place.pods[1].sidecar.process.thaw()?;
        eventually("the commit", seconds(60), async || {
            ensure!(epoch(&place)? == 2, "{:?}", moving(&place)?);
            Ok(())
        })
        .await?;
        place.live("ShardSet", "orders").await?;
        let report = load.finish().await;
        println!("the sidecar that was not frozen: {report}");
        ensure!(other_failures(&report).is_empty(), "{report}");
        let longest = report.percentile(100.0);
        ensure!(
            longest < seconds(4) + SLACK,
            "held longer than maxPause: {report}"
        );
        for line in sharded(&place.pods[0])? {
            ensure!(line.shard == owner(line.slot, line.epoch), "{line:?}");
        }
        Ok(())
    });
}

#[test]
fn an_operator_killed_in_the_middle_leaves_nothing_half_done() {
    isolated!(async |world| {
        let (mut place, _shards) = start(world, "3s").await?;
        let load = load(&place.pods[0]);
        load.answers(10).await?;
        // The move cannot get past its hold while one sidecar is frozen.
        place.pods[1].sidecar.process.freeze()?;
        place.put("set", &orders(BOUNDARY, "3s"))?;
        place.pods[0].holds("orders").await?;
        place.operator.process.kill();
        place.pods[1].sidecar.process.thaw()?;
        ensure!(epoch(&place)? == 1, "committed before it was killed");

        place.restart_operator().await?;
        eventually("the end of the move", seconds(60), async || {
            ensure!(
                epoch(&place)? == 2 && moving(&place)?.is_none(),
                "{:?}",
                moving(&place)?
            );
            Ok(())
        })
        .await?;
        place.live("ShardSet", "orders").await?;
        let log = place.operator.process.stderr();
        for line in log.lines().filter(|line| line.contains("move of slots")) {
            println!("{line}");
        }
        ensure!(
            log.contains("the operator changed while requests were held"),
            "the successor did not abort first"
        );
        let report = load.finish().await;
        println!("through the operator's death: {report}");
        ensure!(other_failures(&report).is_empty(), "{report}");
        ensure!(report.percentile(100.0) < seconds(3) + SLACK, "{report}");
        for pod in &place.pods {
            for line in sharded(pod)? {
                ensure!(
                    line.shard == owner(line.slot, line.epoch),
                    "{}: {line:?}",
                    pod.name
                );
            }
        }
        Ok(())
    });
}
