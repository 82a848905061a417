//! The end: uninstalled in the documented order, nothing of ours is left and nothing hangs. Another's metrics API is
//! never touched.

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_e2e::{Place, eventually, on_cluster, product, seconds};

const API_SERVICE: &str = "v1beta2.custom.metrics.k8s.io";

/// Everything of ours outside of namespaces.
async fn left(place: &Place) -> Result<String> {
    let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations,apiservices,clusterroles,clusterrolebindings";
    let all = place.cluster(["get", kinds, "-o", "name"]).await?;
    Ok(all
        .lines()
        .filter(|name| name.contains("sluice") || name.contains(API_SERVICE))
        .filter(|name| !name.contains("sluice.dev"))
        .collect::<Vec<_>>()
        .join("\n"))
}

/// An unrelated namespace comes and goes: a dead APIService would keep it for ever.
async fn namespaces_go(place: &Place) -> Result<()> {
    let other = place.beside("unrelated", json!({})).await?;
    tokio::time::timeout(seconds(30), other.remove()).await?
}

/// Takes the operator's chart away; the definitions stay.
async fn uninstall(place: &Place) -> Result<()> {
    let namespace = ["--namespace", product::NAMESPACE, "--wait"];
    let words = ["uninstall", "sluice"].into_iter().chain(namespace);
    product::helm(place, words).await.map(drop)
}

#[test]
fn nothing_is_left() {
    on_cluster!("uninstall", seconds(400), async |place: &Place| {
        place.apply(include_str!("outage.yaml")).await?;
        place.rolled_out("web").await?;
        place.ready(&["apiroute/web"]).await?;
        let outcome = uninstalled(place).await;
        product::install(place).await?;
        outcome
    });
}

async fn uninstalled(place: &Place) -> Result<()> {
    eventually("the metrics API is ours", seconds(40), async || {
        place
            .cluster(["get", "apiservice", API_SERVICE])
            .await
            .map(drop)
    })
    .await?;
    // The operator at 0: its last replica takes the APIService with it.
    let operator = "deployment/sluice-operator";
    place
        .cluster(["-n", product::NAMESPACE, "scale", operator, "--replicas=0"])
        .await?;
    eventually(
        "the APIService goes with the last replica",
        seconds(40),
        async || {
            ensure!(
                !left(place).await?.contains(API_SERVICE),
                "it is still there"
            );
            Ok(())
        },
    )
    .await?;
    namespaces_go(place).await?;
    place
        .cluster(["-n", product::NAMESPACE, "scale", operator, "--replicas=2"])
        .await?;
    place
        .cluster([
            "-n",
            product::NAMESPACE,
            "rollout",
            "status",
            "--timeout=60s",
            operator,
        ])
        .await?;

    uninstall(place).await?;
    eventually("nothing of the chart is left", seconds(40), async || {
        let left = left(place).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await?;
    namespaces_go(place).await?;
    // Running pods go on; routes delete cleanly without anybody to care for them.
    let pods = place.pods("app=web").await?;
    let running = pods
        .iter()
        .filter(|pod| pod["status"]["phase"] == "Running");
    ensure!(running.count() == 2, "{} pods", pods.len());
    tokio::time::timeout(seconds(20), place.kubectl(["delete", "apiroute", "web"])).await??;
    Ok(())
}

#[test]
fn anothers_metrics_api_is_left_alone() {
    on_cluster!("foreign-metrics", seconds(300), async |place: &Place| {
        uninstall(place).await?;
        place
            .cluster([
                "wait",
                "--for=delete",
                "--timeout=40s",
                &format!("apiservice/{API_SERVICE}"),
            ])
            .await?;
        place.apply(include_str!("uninstall.yaml")).await?;
        let outcome = beside_another(place).await;
        place.cluster(["delete", "apiservice", API_SERVICE]).await?;
        eventually("ours takes the free place", seconds(90), async || {
            place
                .cluster(["get", "apiservice", API_SERVICE])
                .await
                .map(drop)
        })
        .await?;
        outcome
    });
}

async fn beside_another(place: &Place) -> Result<()> {
    let look = [
        "get",
        "apiservice",
        API_SERVICE,
        "-o",
        "jsonpath={.metadata.uid} {.spec} {.metadata.labels}",
    ];
    let before = place.cluster(look).await?;
    product::install(place).await?;
    place.apply(include_str!("hpa.yaml")).await?;
    eventually(
        "the route says who serves the metrics",
        seconds(60),
        async || {
            let said = place.condition("apiroute/web", "Scaling").await?;
            ensure!(said.contains(API_SERVICE), "{said}");
            Ok(())
        },
    )
    .await?;
    let after = place.cluster(look).await?;
    ensure!(before == after, "{before}\n{after}");
    Ok(())
}
