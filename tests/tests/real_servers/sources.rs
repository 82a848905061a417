//! The Kubernetes source: kinds that are not installed, objects that do not decode, API servers that go away.

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_tests::{Cluster, eventually, isolated, seconds};

use super::install::{self, condition, until};

/// Lets the stored CRD know one more value of the enum of a parent's kind, or not any more.
async fn one_more_kind(cluster: &Cluster, known: bool) -> Result<()> {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/parentRefs/items/properties/kind/enum";
    let kinds = if known {
        json!(["Service", "Gateway", "Moon"])
    } else {
        json!(["Service", "Gateway"])
    };
    let patch = json!([{"op": "replace", "path": path, "value": kinds}]).to_string();
    let crd = [
        "patch",
        "crd",
        "apiroutes.sluice.dev",
        "--type=json",
        "-p",
        &patch,
    ];
    cluster.kubectl().run(crd).await.map(drop)
}

#[test]
fn an_undecodable_object_stops_nothing_and_says_so_itself() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        one_more_kind(&cluster, true).await?;
        let odd = "
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: odd, namespace: shop}
spec: {parentRefs: [{kind: Moon, name: web}]}
";
        eventually(
            "the API server has learnt the value",
            seconds(20),
            async || cluster.apply_yaml(odd).await,
        )
        .await?;
        one_more_kind(&cluster, false).await?;
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        let _operator = install::operator(world, &cluster).await?;
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;
        let odd = until(&cluster, "apiroute", "odd", "Accepted", "False/Undecodable").await?;
        let (_, message) = condition(&odd, "Accepted");
        ensure!(message.contains("spec.parentRefs[0]"), "{message}");
        Ok(())
    });
}

#[test]
fn kinds_may_be_installed_later() {
    isolated!(async |world| {
        let cluster = install::bare_cluster(world).await?;
        let _operator = install::operator(world, &cluster).await?;
        cluster
            .install_crds(&install::repository("crds/yaml"))
            .await?;
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;
        Ok(())
    });
}

#[test]
fn what_was_deleted_unseen_is_seen_to_be_gone() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let operator = install::operator(world, &cluster).await?;
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        cluster
            .apply_yaml(&install::service_and_route("stock"))
            .await?;
        until(&cluster, "apiroute", "stock", "Ready", "True/Ready").await?;
        let routes = async || {
            let metrics = operator.metrics().await?;
            let line = metrics
                .lines()
                .find(|line| line.starts_with("sluice_operator_watch_objects{kind=\"ApiRoute\"}"));
            Ok::<_, anyhow::Error>(
                line.unwrap_or_default()
                    .rsplit(' ')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            )
        };
        ensure!(routes().await? == "2", "{}", routes().await?);
        operator.process.freeze()?;
        cluster
            .kubectl()
            .run(["-n", "shop", "delete", "apiroute", "stock"])
            .await?;
        operator.process.thaw()?;
        eventually("one route is left", seconds(40), async || {
            let left = routes().await?;
            ensure!(left == "1", "{left}");
            Ok(())
        })
        .await
    });
}
