//! How a pod with a sidecar starts, is probed, and ends.

use anyhow::{Context, ensure};
use serde_json::Value;
use sluice_e2e::wire::Ask;
use sluice_e2e::{ClientPod, Place, eventually, on_cluster, seconds};

#[test]
fn a_job_with_a_sidecar_completes() {
    on_cluster!("job", seconds(180), async |place: &Place| {
        place.apply(include_str!("lifecycle-job.yaml")).await?;
        let began = std::time::Instant::now();
        place
            .kubectl([
                "wait",
                "--for=condition=Complete",
                "--timeout=90s",
                "job/work",
            ])
            .await?;
        println!("complete after {:.1?}", began.elapsed());
        let pods = place.pods("app=work").await?;
        let pod = pods.first().context("one pod")?;
        ensure!(
            container(pod, "sluice")["state"]["terminated"]["exitCode"] == 0,
            "the sidecar did not end well: {}",
            pod["status"]
        );
        Ok(())
    });
}

/// The status of a container of any kind.
fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    ["initContainerStatuses", "containerStatuses"]
        .iter()
        .filter_map(|kind| pod["status"][kind].as_array())
        .flatten()
        .find(|status| status["name"] == name)
        .unwrap_or(&Value::Null)
}

#[test]
fn every_kind_of_probe_works_behind_a_route_that_denies_all() {
    on_cluster!("probes", seconds(240), async |place: &Place| {
        place.apply(include_str!("lifecycle.yaml")).await?;
        for deployment in ["http", "grpc", "tcp", "exec"] {
            place.rolled_out(deployment).await?;
        }
        place.ready(&["apiroute/denied"]).await?;
        let client = ClientPod::start(place, "client").await?;
        client
            .ask(Ask::get("denied:80", "/healthz"))
            .await?
            .expect(401)?;
        // A sidecar accepts before the application is known to listen: a TCP probe passed on would never fail.
        eventually("a dead TCP port is not ready", seconds(30), async || {
            let pods = place.pods("app=dead").await?;
            let status = container(pods.first().context("one pod")?, "app");
            ensure!(
                !status["state"]["running"].is_null() && status["ready"] == false,
                "{status}"
            );
            Ok(())
        })
        .await?;
        let events = place
            .kubectl([
                "get",
                "events",
                "--field-selector=reason=Unhealthy",
                "-o",
                "name",
            ])
            .await?;
        ensure!(!events.is_empty(), "kubelet saw the dead port fail");
        Ok(())
    });
}

#[test]
fn the_sidecar_starts_first_and_stops_last() {
    on_cluster!("order", seconds(180), async |place: &Place| {
        place.apply(include_str!("lifecycle-order.yaml")).await?;
        place
            .kubectl([
                "wait",
                "--for=condition=Ready",
                "--timeout=90s",
                "pod/ordered",
            ])
            .await?;
        let pod = place.json(["get", "pod", "ordered"]).await?;
        let started = |name: &str| {
            container(&pod, name)["state"]["running"]["startedAt"]
                .as_str()
                .map(str::to_owned)
        };
        let (sidecar, app) = (
            started("sluice").context("the sidecar runs")?,
            started("app").context("the app runs")?,
        );
        ensure!(sidecar <= app, "sidecar {sidecar}, app {app}");
        let first: Vec<_> = pod["spec"]["initContainers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|container| container["name"].as_str())
            .collect();
        ensure!(
            first == ["sluice-capture", "sluice", "asks-first"],
            "{first:?}"
        );

        // Both containers have ended before the object goes: a finalizer keeps it for the look.
        let kept = r#"{"metadata":{"finalizers":["e2e.sluice.dev/look"]}}"#;
        place
            .kubectl(["patch", "pod", "ordered", "--type=merge", "-p", kept])
            .await?;
        place
            .kubectl(["delete", "pod", "ordered", "--wait=false"])
            .await?;
        let ended = eventually("both have ended", seconds(60), async || {
            let pod = place.json(["get", "pod", "ordered"]).await?;
            let ended = |name: &str| {
                container(&pod, name)["state"]["terminated"]["finishedAt"]
                    .as_str()
                    .map(str::to_owned)
            };
            Ok((
                ended("sluice").context("the sidecar still runs")?,
                ended("app").context("the app still runs")?,
            ))
        })
        .await;
        let unkept = r#"{"metadata":{"finalizers":null}}"#;
        place
            .kubectl(["patch", "pod", "ordered", "--type=merge", "-p", unkept])
            .await?;
        let (sidecar, app) = ended?;
        println!("app ended {app}, sidecar {sidecar}");
        ensure!(
            app <= sidecar,
            "the sidecar ended at {sidecar}, the app at {app}"
        );
        Ok(())
    });
}
