//! Statuses on a real API server: what they say, that saying it again writes nothing, and that Events tell what broke.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::product::AUDIENCE;
use sluice_tests::{
    App, Cluster, Operator, Sidecar, StandInPod, World, eventually, isolated, seconds,
};

use super::install::{self, condition, get, until};

/// The roots that the webhook would give an injected sidecar.
pub async fn roots(cluster: &Cluster) -> Result<String> {
    let data = cluster
        .kubectl()
        .json(["-n", install::NAMESPACE, "get", "secret", "sluice-ca"])
        .await?;
    let encoded = data["data"]["roots.pem"]
        .as_str()
        .context("the Secret holds roots")?;
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded)?;
    Ok(String::from_utf8(bytes)?)
}

/// A pod with application and sidecar.
pub struct Served {
    pub pod: StandInPod,
    pub sidecar: Sidecar,
    pub _app: App,
}

/// A pod `name` labelled `app`, with application and sidecar, served by the operator at `stream`.
pub async fn serve(
    world: &World,
    cluster: &Cluster,
    stream: SocketAddr,
    app: &str,
    name: &str,
) -> Result<Served> {
    let labels = json!({"app": app, "sluice.dev/inject": "false"});
    let pod = StandInPod::create(world, cluster, "shop", name, labels).await?;
    let application = App::start(world, name, pod.ip).await?;
    let sidecar = Sidecar::options(world, name, pod.ip)?
        .operator(stream)
        .token_file(&pod.token_file(AUDIENCE).await?)
        .roots_pem(&roots(cluster).await?)
        .start(world)?;
    Ok(Served {
        pod,
        sidecar,
        _app: application,
    })
}

#[test]
fn ready_means_acknowledged_and_nothing_is_written_twice() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let operator = install::operator(world, &cluster).await?;
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        until(&cluster, "apiroute", "web", "Programmed", "True/NoPods").await?;

        let first = serve(world, &cluster, operator.stream, "web", "web-0").await?;
        let mut second = serve(world, &cluster, operator.stream, "web", "web-1").await?;
        let wait = [
            "-n",
            "shop",
            "wait",
            "--for=condition=Ready",
            "--timeout=30s",
            "apiroute/web",
        ];
        cluster.kubectl().run(wait).await?;
        let route = eventually("both pods count", seconds(30), async || {
            let route = get(&cluster, "apiroute", "web").await?;
            ensure!(
                route["status"]["live"]["summary"] == "2/2",
                "{}",
                route["status"]["live"]
            );
            Ok(route)
        })
        .await?;
        let generation = &route["metadata"]["generation"];
        let conditions = route["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        ensure!(conditions.len() == 6, "{conditions:?}");
        ensure!(
            conditions
                .iter()
                .all(|condition| condition["observedGeneration"] == *generation),
            "{conditions:?}"
        );
        ensure!(
            route["status"]["parents"][0]["controllerName"] == "sluice.dev/operator",
            "{route}"
        );

        // Labels make the writer look again, for longer than it must wait between two writes; it finds nothing to write.
        let writes = written(&operator).await?;
        let began = Instant::now();
        while began.elapsed() < seconds(3) {
            let looks = metric(&operator, LOOKS).await?;
            let label = format!("looked={looks}");
            let label = [
                "-n",
                "shop",
                "label",
                "--overwrite",
                "apiroute",
                "web",
                &label,
            ];
            cluster.kubectl().run(label).await?;
            eventually("the writer has looked", seconds(20), async || {
                ensure!(metric(&operator, LOOKS).await? > looks, "it has not");
                Ok(())
            })
            .await?;
        }
        let after = written(&operator).await?;
        ensure!(after == writes, "{after} writes after {writes}");

        // A pod that is gone is named; one that is deleted does not count any more.
        second.sidecar.process.kill();
        let broken = until(
            &cluster,
            "apiroute",
            "web",
            "Programmed",
            "False/PodsPending",
        )
        .await?;
        let (_, message) = condition(&broken, "Programmed");
        ensure!(
            message.starts_with("live on 1 of 2 pods; web-1 not connected"),
            "{message}"
        );
        second.pod.delete().await?;
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;
        ensure!(get(&cluster, "apiroute", "web").await?["status"]["live"]["summary"] == "1/1");
        drop(first);
        Ok(())
    });
}

#[test]
fn what_is_broken_says_why_in_status_and_events_and_mends_itself() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let _operator = install::operator(world, &cluster).await?;
        cluster
            .apply_yaml(
                "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: web}]
  rules: [{name: far, backendRefs: [{kind: Service, name: stock, port: 80}]}]
",
            )
            .await?;
        let broken = until(
            &cluster,
            "apiroute",
            "web",
            "ResolvedRefs",
            "False/BackendNotFound",
        )
        .await?;
        let (ready, message) = condition(&broken, "Ready");
        ensure!(
            ready == "False/BackendNotFound" && message.contains("stock"),
            "{ready}: {message}"
        );
        eventually("an Event tells", seconds(10), async || {
            let events = cluster
                .kubectl()
                .json(["-n", "shop", "get", "events.events.k8s.io"])
                .await?;
            let events = events["items"].as_array().cloned().unwrap_or_default();
            let told = events.iter().filter(|event| {
                event["regarding"]["name"] == "web" && event["reason"] == "BackendNotFound"
            });
            ensure!(told.count() == 1, "{events:?}");
            Ok(())
        })
        .await?;

        cluster
            .apply_yaml(&install::service_and_route("stock"))
            .await?;
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;
        // A younger route of the same host is refused, the elder goes on.
        let younger = install::service_and_route("web").replace(
            "kind: ApiRoute\nmetadata: {name: web,",
            "kind: ApiRoute\nmetadata: {name: younger,",
        );
        cluster.apply_yaml(&younger).await?;
        let younger = until(
            &cluster,
            "apiroute",
            "younger",
            "Accepted",
            "False/Conflicted",
        )
        .await?;
        ensure!(
            condition(&younger, "Stalled").0 == "True/Conflicted",
            "{younger}"
        );
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;
        Ok(())
    });
}

const LOOKS: &str = "sluice_operator_status_looks_total";

/// How often a status was written.
async fn written(operator: &Operator) -> Result<u64> {
    metric(
        operator,
        "sluice_operator_status_writes_total{outcome=\"written\"}",
    )
    .await
}

/// The value of a metric.
pub async fn metric(operator: &Operator, name: &str) -> Result<u64> {
    let metrics = operator.metrics().await?;
    let line = metrics
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")));
    let value = line
        .and_then(|line| line.rsplit_once(' '))
        .map_or("0", |(_, value)| value);
    Ok(value.parse()?)
}

/// What a person sees without asking further.
#[test]
fn columns_show_ready_and_live() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        let columns = async || {
            let table = cluster
                .kubectl()
                .run(["-n", "shop", "get", "ar", "web", "--no-headers"])
                .await?;
            Ok::<_, anyhow::Error>(
                table
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
            )
        };
        ensure!(columns().await?[1] == "Unknown", "before any operator");
        let _operator = install::operator(world, &cluster).await?;
        until(&cluster, "apiroute", "web", "Ready", "True/Ready").await?;
        let shown = columns().await?;
        ensure!(shown[1..3] == ["True", "0/0"], "{shown:?}");
        let value: Value = get(&cluster, "apiroute", "web").await?;
        ensure!(
            value["metadata"]["managedFields"]
                .as_array()
                .is_some_and(|managers| {
                    managers.iter().any(|manager| {
                        manager["manager"] == "sluice-operator"
                            && manager["subresource"] == "status"
                    })
                })
                || cluster
                    .kubectl()
                    .run([
                        "-n",
                        "shop",
                        "get",
                        "ar",
                        "web",
                        "-o",
                        "yaml",
                        "--show-managed-fields"
                    ])
                    .await?
                    .contains("sluice-operator")
        );
        Ok(())
    });
}
