//! Scaling by what the sidecars report: up under load, down after it, and not at all where the same load is not reported.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_e2e::wire::{Ask, LoadSpec};
use sluice_e2e::{ClientPod, Place, eventually, on_cluster, seconds};

/// Above four times the target of one pod.
const PER_SECOND: u32 = 250;

async fn replicas(place: &Place, deployment: &str) -> Result<i64> {
    let object = place.json(["get", "deployment", deployment]).await?;
    object["spec"]["replicas"].as_i64().context("a number")
}

/// Who wrote fields of an object.
fn managers(object: &Value) -> Vec<&str> {
    let fields = object["metadata"]["managedFields"].as_array();
    fields
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["manager"].as_str())
        .collect()
}

#[test]
fn load_grows_and_shrinks_the_deployment() {
    on_cluster!("hpa", seconds(420), async |place: &Place| {
        place.apply(include_str!("hpa.yaml")).await?;
        for deployment in ["web", "still"] {
            place.rolled_out(deployment).await?;
        }
        place.ready(&["apiroute/web", "apiroute/still"]).await?;
        eventually("the metric is there", seconds(60), async || {
            let hpa = place.json(["get", "hpa", "sluice-web"]).await?;
            let active = hpa["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|one| one["type"] == "ScalingActive" && one["status"] == "True");
            ensure!(active, "{}", hpa["status"]);
            Ok(())
        })
        .await?;

        let client = ClientPod::start(place, "client").await?;
        let load = |to: &str| LoadSpec {
            ask: Ask::get(to, "/"),
            per_second: PER_SECOND,
            connections: 16,
            http2: false,
            at_most_seconds: 180,
        };
        // The same load on both; that on `still` goes to a port that is not captured, so nothing reports it.
        let (seen, unseen) = (
            client.load(&load("web:80")).await?,
            client.load(&load("still:81")).await?,
        );
        let began = std::time::Instant::now();
        eventually("replicas grow under load", seconds(90), async || {
            let now = replicas(place, "web").await?;
            ensure!(now >= 3, "{now}");
            Ok(())
        })
        .await?;
        println!("grown after {:.1?}", began.elapsed());
        ensure!(
            replicas(place, "still").await? == 1,
            "scaled by a load that no sidecar saw"
        );
        let (seen, unseen) = (seen.finish().await?, unseen.finish().await?);
        println!("load: {seen:?}; control: {unseen:?}");
        ensure!(unseen.sent > 1000 && unseen.failed == 0, "{unseen:?}");
        let began = std::time::Instant::now();
        eventually("replicas shrink after it", seconds(120), async || {
            let now = replicas(place, "web").await?;
            ensure!(now == 1, "{now}");
            Ok(())
        })
        .await?;
        println!("shrunk after {:.1?}", began.elapsed());
        let deployment = place
            .json(["get", "deployment", "web", "--show-managed-fields"])
            .await?;
        let managers = managers(&deployment);
        ensure!(
            !managers.iter().any(|manager| manager.contains("sluice")),
            "we wrote the Deployment: {managers:?}"
        );
        Ok(())
    });
}
