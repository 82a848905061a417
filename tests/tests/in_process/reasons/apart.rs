//! The reasons that need more than a request: a move that nobody ends, and a snapshot that an operator of this build
//! never sends. For the latter a sidecar is started with a last-known-good that was taken apart and sealed again.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sluice_pipeline::RejectReason;
use sluice_snapshot::ConfigReason;
use sluice_tests::{get, isolated, seconds};

use super::{Case, PLAIN, check, line};
use crate::place::{Plan, documents, policy, route, shard_set};

/// What this module shows, in the order of the list.
pub const SHOWN: [RejectReason; 4] = [
    // By the tests of the edge: a pod has one table for a port.
    RejectReason::Misdirected,
    RejectReason::ShardMoving,
    RejectReason::Config(ConfigReason::PolicyUnavailable),
    RejectReason::Config(ConfigReason::SidecarTooOld),
];

/// Every slot on one shard.
fn all_on(shard: &str) -> String {
    let rest = format!(
        "  placement: [{{slots: \"0-16383\", shard: {shard}}}]\n  change: {{maxPause: 1s}}\n"
    );
    shard_set("orders", &[("s0", "s0"), ("s1", "s1")], &rest)
}

#[test]
fn a_hold_that_nobody_ends_is_shard_moving() {
    isolated!(async |world| {
        let case = Case("shard-moving");
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        let _members = [plan.member("s0").await?, plan.member("s1").await?];
        plan.put("set", &all_on("s0"))?;
        let spec = "  rules: [{name: all, backendRefs: [{group: sluice.dev, kind: ShardSet, name: orders}]}]\n";
        plan.put("route", &route(case.0, spec))?;
        let mut place = plan.start().await?;
        place.live("ShardSet", "orders").await?;
        place.live("ApiRoute", case.0).await?;

        // One sidecar cannot settle, and the operator that would abort for it is gone.
        place.pods[1].sidecar.process.freeze()?;
        place.put("set", &all_on("s1"))?;
        place.pods[0].holds("orders").await?;
        place.operator.process.kill();
        let mut request = case.get();
        request.headers_mut().insert("x-tenant", "acme".parse()?);
        let answer = place.pods[0].sidecar.client().send(request).await?;
        ensure!(answer.header("retry-after").is_some(), "{answer:?}");
        let line = line(&place.pods[0], case.0).await?;
        check(
            &line,
            RejectReason::ShardMoving,
            Some("shop/orders"),
            answer.status.as_u16(),
        )
    });
}

/// A unit as the last-known-good has it; the body's bytes are what its hash is of.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    denied: Option<Value>,
}

/// Rewrites a last-known-good: `change` says what becomes of its units.
fn reseal(file: &Path, change: impl FnOnce(&mut Vec<Stored>)) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let (header, payload) = text.split_once('\n').context("a header line")?;
    let mut header: Value = serde_json::from_str(header)?;
    let mut units: Vec<Stored> = serde_json::from_str(payload)?;
    change(&mut units);
    let payload = serde_json::to_string(&units)?;
    let sum = digest::digest(&digest::SHA256, payload.as_bytes());
    let hex: String = sum
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    header["sha256"] = json!(hex);
    Ok(fs::write(file, format!("{header}\n{payload}"))?)
}

/// Serves what `change` made of a last-known-good, asks once, and checks the line.
async fn with_snapshot(
    world: &sluice_tests::World,
    reason: ConfigReason,
    by: &str,
    change: fn(&mut Vec<Stored>),
) -> Result<()> {
    let case = Case(reason.reject());
    let mut plan = Plan::new(world)?;
    plan.group("api")?;
    let limit = "    algorithm: {type: TokenBucket, tokenBucket: {requests: 10, per: 1s}}\n";
    plan.put(
        "route",
        &documents(&[route(case.0, PLAIN), policy(case.0, limit)]),
    )?;
    plan.put("other", &route("other", PLAIN))?;
    let mut place = plan.start().await?;
    place.live("ApiRoute", case.0).await?;
    place.live("RateLimitPolicy", case.0).await?;
    place.operator.process.kill();
    place.pods[0].sidecar.process.kill();
    reseal(
        &place.pods[0].sidecar.state_dir.join("last-known-good"),
        change,
    )?;
    place.restart_sidecar(0)?;
    place.pods[0].sidecar.ready(seconds(20)).await?;

    let client = place.pods[0].sidecar.client();
    let status = client.send(case.get()).await?.status.as_u16();
    check(
        &line(&place.pods[0], case.0).await?,
        RejectReason::Config(reason),
        Some(by),
        status,
    )?;
    // The other route, and the other sidecar, are unharmed.
    client
        .send(Case("other").request(get("/")))
        .await?
        .expect(200)?;
    place.pods[1]
        .sidecar
        .client()
        .send(case.get())
        .await?
        .expect(200)
        .map(drop)
}

#[test]
fn a_policy_that_is_not_there_denies() {
    isolated!(async |world| {
        with_snapshot(
            world,
            ConfigReason::PolicyUnavailable,
            "shop/config-policy-unavailable/all",
            |units| {
                units.retain(|unit| !unit.name.starts_with("policy/"));
            },
        )
        .await
    });
}

#[test]
fn a_route_that_the_sidecar_is_too_old_for_denies() {
    isolated!(async |world| {
        with_snapshot(world, ConfigReason::SidecarTooOld, "shop/config-sidecar-too-old", |units| {
            let unit = units.iter_mut().find(|unit| unit.name.ends_with("config-sidecar-too-old") && unit.name.starts_with("route/"));
            let unit = unit.expect("the route is a unit");
            unit.body = None;
            unit.denied = Some(json!({"reason": "SidecarTooOld", "message": "needs a feature this build lacks"}));
        })
        .await
    });
}
