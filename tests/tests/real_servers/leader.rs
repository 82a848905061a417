//! Leader election: every replica serves and one of them writes; a leader that was stopped past its lease writes nothing
//! more. What replicas know of each other's sessions is `replicas`'.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use sluice_tests::{Cluster, Operator, eventually, isolated, seconds};

use super::install::{self, get, until};

pub async fn holder(cluster: &Cluster) -> Result<String> {
    let lease = cluster
        .kubectl()
        .json(["-n", install::NAMESPACE, "get", "lease", "sluice-operator"])
        .await?;
    Ok(lease["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

pub async fn held_by(cluster: &Cluster, name: &str) -> Result<()> {
    eventually(&format!("{name} leads"), seconds(30), async || {
        let holder = holder(cluster).await?;
        ensure!(holder.starts_with(&format!("{name}_")), "{holder} does");
        Ok(())
    })
    .await
}

/// Waits until it serves; another one leads all the while.
async fn serves_beside(cluster: &Cluster, operator: &mut Operator, leader: &str) -> Result<()> {
    operator.ready(seconds(40)).await?;
    let holder = holder(cluster).await?;
    ensure!(holder.starts_with(&format!("{leader}_")), "{holder} leads");
    Ok(())
}

#[test]
fn one_leads_and_the_other_takes_over() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let patient = |name| install::options_with_lease(world, &cluster, name, 60)?.start(world);
        let mut first = patient("operator-0")?;
        first.ready(seconds(40)).await?;
        let mut second = patient("operator-1")?;
        serves_beside(&cluster, &mut second, "operator-0").await?;
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;

        // Told to end, it gives the lease back: nobody waits a minute for it to run out.
        let status = first.process.terminate(seconds(20)).await?;
        ensure!(status.success(), "{status}: {}", first.process.stderr());
        held_by(&cluster, "operator-1").await?;
        cluster
            .apply_yaml(&install::service_and_route("stock"))
            .await?;
        until(&cluster, "apiroute", "stock", "Ready", "True/Ready").await?;
        Ok(())
    });
}

#[test]
fn a_leader_that_was_stopped_past_its_lease_writes_nothing_more() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let mut first = install::replica(world, &cluster, "operator-0")?;
        first.ready(seconds(40)).await?;
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;
        let mut second = install::replica(world, &cluster, "operator-1")?;
        serves_beside(&cluster, &mut second, "operator-0").await?;

        first.process.freeze()?;
        held_by(&cluster, "operator-1").await?;
        // A change that the stopped one has yet to answer, answered by the second, which then stops too: whatever is
        // written from here on is the first's.
        cluster
            .apply_yaml(&install::service_and_route("stock"))
            .await?;
        until(&cluster, "apiroute", "stock", "Ready", "True/Ready").await?;
        second.process.freeze()?;
        cluster
            .apply_yaml(&install::service_and_route("late"))
            .await?;
        let before = holder(&cluster).await?;
        first.process.thaw()?;
        let status = first.process.ended(seconds(20)).await?;
        ensure!(!status.success(), "it should say that it lost the lease");
        ensure!(
            first.process.stderr().contains("operator-1"),
            "{}",
            first.process.stderr()
        );
        let late = get(&cluster, "apiroute", "late").await?;
        ensure!(
            install::condition(&late, "Ready").0 == "Unknown/Pending",
            "the first wrote: {}",
            late["status"]
        );
        ensure!(holder(&cluster).await? == before, "the lease changed hands");
        Ok(())
    });
}

/// Seconds since the Lease was renewed.
async fn silent_for(cluster: &Cluster) -> Result<i64> {
    let lease = ["-n", install::NAMESPACE, "get", "lease", "sluice-operator"];
    let lease: Lease = serde_json::from_value(cluster.kubectl().json(lease).await?)?;
    let renewed = lease.spec.and_then(|spec| spec.renew_time);
    let renewed = renewed.context("a held Lease was renewed once")?;
    Ok(Timestamp::now().as_second() - renewed.0.as_second())
}

/// The rules of the operator's Role, with or without those about Leases.
async fn may_renew(cluster: &Cluster, allowed: bool) -> Result<()> {
    if allowed {
        let rbac = install::repository("deploy/kustomize/rbac.yaml");
        return cluster.apply_files(&[&rbac]).await.map(drop);
    }
    let role = ["-n", install::NAMESPACE, "patch", "role", "sluice-operator"];
    let patch = r#"[{"op": "replace", "path": "/rules/1/verbs", "value": ["get"]}]"#;
    let args = role.into_iter().chain(["--type=json", "-p", patch]);
    cluster.kubectl().run(args).await.map(drop)
}

#[test]
fn a_leader_that_cannot_renew_writes_nothing_and_goes_on_once_it_can() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let mut operator = install::operator(world, &cluster).await?;
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;

        // It still sees everything and could still write everything but the Lease.
        may_renew(&cluster, false).await?;
        eventually("its lease is over", seconds(30), async || {
            let silent = silent_for(&cluster).await?;
            ensure!(silent > 3, "renewed {silent} s ago");
            Ok(())
        })
        .await?;
        cluster
            .apply_yaml(&install::service_and_route("late"))
            .await?;
        let refused = "sluice_operator_status_writes_total{outcome=\"not-leader\"}";
        eventually("it wanted to write", seconds(20), async || {
            let metrics = operator.metrics().await?;
            ensure!(metrics.contains(refused), "{metrics}");
            Ok(())
        })
        .await?;
        let late = get(&cluster, "apiroute", "late").await?;
        ensure!(
            install::condition(&late, "Ready").0 == "Unknown/Pending",
            "it wrote: {}",
            late["status"]
        );

        may_renew(&cluster, true).await?;
        until(&cluster, "apiroute", "late", "Ready", "True/Ready").await?;
        operator.process.alive()
    });
}
