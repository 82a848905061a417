//! HorizontalPodAutoscalers: made, owned, followed, deleted; never over somebody else's, and never a word to the workload.

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_tests::{Cluster, eventually, isolated, seconds};

use super::install::{self, condition, get, until};
use super::scaling::{WEB, not_written_by_us, scaled_by};

fn scaled(max: u32) -> String {
    let block = format!(
        "    maxReplicas: {max}
    metrics: [{{type: RequestsPerSecond, requestsPerSecond: {{averageValue: \"150\"}}}}]"
    );
    scaled_by("web", &block)
}

async fn hpas(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = cluster.kubectl().json(["-n", "shop", "get", "hpa"]).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

async fn gone(cluster: &Cluster) -> Result<()> {
    eventually("no HPA is left", seconds(20), async || {
        let left = hpas(cluster).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

#[test]
fn it_follows_the_route_and_goes_with_it() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let _operator = install::operator(world, &cluster).await?;
        cluster.apply_yaml(WEB).await?;
        cluster.apply_yaml(&scaled(40)).await?;
        let route = until(&cluster, "apiroute", "web", "Scaling", "True/Scaling").await?;
        let found = hpas(&cluster).await?;
        ensure!(
            found.len() == 1 && found[0]["metadata"]["name"] == "sluice-web",
            "{found:?}"
        );
        let owners = &found[0]["metadata"]["ownerReferences"];
        ensure!(
            owners[0]["uid"] == route["metadata"]["uid"] && owners[0]["controller"].is_null(),
            "{owners}"
        );

        cluster.apply_yaml(&scaled(10)).await?;
        eventually("it follows", seconds(20), async || {
            let found = hpas(&cluster).await?;
            ensure!(
                found[0]["spec"]["maxReplicas"] == 10,
                "{}",
                found[0]["spec"]
            );
            Ok(())
        })
        .await?;
        let deployment = cluster
            .kubectl()
            .json(["-n", "shop", "get", "deployment", "web"])
            .await?;
        ensure!(
            deployment["spec"]["replicas"] == 2,
            "a user's replicas: {}",
            deployment["spec"]["replicas"]
        );
        not_written_by_us(&cluster).await?;

        // Without the block, and without the route.
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        gone(&cluster).await?;
        cluster.apply_yaml(&scaled(5)).await?;
        until(&cluster, "apiroute", "web", "Scaling", "True/Scaling").await?;
        cluster
            .kubectl()
            .run(["-n", "shop", "delete", "apiroute", "web"])
            .await?;
        gone(&cluster).await
    });
}

#[test]
fn somebody_elses_is_left_alone_and_named() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let _operator = install::operator(world, &cluster).await?;
        cluster.apply_yaml(WEB).await?;
        let foreign = |name: &str, target: &str| {
            format!(
                "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: {name}, namespace: shop}}
spec: {{scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {target}}}, maxReplicas: 3}}
"
            )
        };
        cluster.apply_yaml(&foreign("mine", "web")).await?;
        cluster.apply_yaml(&scaled(40)).await?;
        let route = until(&cluster, "apiroute", "web", "Scaling", "False/TargetTaken").await?;
        let (_, message) = condition(&route, "Scaling");
        ensure!(message.contains("mine"), "{message}");
        ensure!(
            condition(&route, "Ready").0 == "True/Ready",
            "scaling is no part of Ready"
        );
        ensure!(hpas(&cluster).await?.len() == 1);

        // One that only has our name is not taken over either.
        cluster
            .kubectl()
            .run(["-n", "shop", "delete", "hpa", "mine"])
            .await?;
        until(&cluster, "apiroute", "web", "Scaling", "True/Scaling").await?;
        cluster
            .kubectl()
            .run(["-n", "shop", "delete", "apiroute", "web"])
            .await?;
        gone(&cluster).await?;
        cluster.apply_yaml(&foreign("sluice-web", "other")).await?;
        cluster.apply_yaml(&scaled(40)).await?;
        let route = until(&cluster, "apiroute", "web", "Scaling", "False/TargetTaken").await?;
        let (_, message) = condition(&route, "Scaling");
        ensure!(message.contains("sluice-web"), "{message}");
        let found = hpas(&cluster).await?;
        ensure!(
            found[0]["spec"]["scaleTargetRef"]["name"] == "other",
            "{found:?}"
        );
        get(&cluster, "apiroute", "web").await.map(drop)
    });
}
