//! Rolling updates of an application that ends at once on SIGTERM, under load through the ClusterIP, and what a killed
//! worker costs. Each run has a client pod of its own: a reused source port would meet a dead pod's connection entry.

use anyhow::{Context, Result, ensure};
use sluice_e2e::wire::{Ask, LoadReport, LoadSpec};
use sluice_e2e::{ClientPod, Place, eventually, on_cluster, product, seconds};

const PER_SECOND: u32 = 100;
const RUNS: usize = 3;
/// Of new connections at a time, on a busy machine.
pub const MOST_UNDER_WAY: u64 = 5;
/// Connections that are kept: as many requests can be under way on them.
pub const KEPT: u32 = 8;

/// Requests on new and on kept connections.
pub struct Seen {
    /// A connection for each.
    pub new: LoadReport,
    /// On few connections.
    pub kept: LoadReport,
}

impl Seen {
    pub fn failed(&self) -> u64 {
        self.new.failed + self.kept.failed
    }

    /// Whether it was enough to show that nothing fails.
    pub fn enough(&self) -> Result<()> {
        for report in [&self.new, &self.kept] {
            ensure!(report.sent > 300, "too little load: {report:?}");
        }
        Ok(())
    }

    pub fn print(&self, what: &str) {
        let Self { new, kept } = self;
        println!(
            "{what}: new {} of {} failed (max {:.0} ms), kept {} of {} failed (max {:.0} ms) {:?} {:?}",
            new.failed,
            new.sent,
            new.max_ms,
            kept.failed,
            kept.sent,
            kept.max_ms,
            new.reasons,
            kept.reasons
        );
    }
}

/// Sends to `to` from a pod of its own while `meanwhile` runs.
pub async fn under_load(
    place: &Place,
    run: &str,
    to: &str,
    meanwhile: impl AsyncFnOnce() -> Result<()>,
) -> Result<Seen> {
    let client = ClientPod::start(place, &format!("client-{run}")).await?;
    let spec = |connections| LoadSpec {
        ask: Ask::get(to, "/").method("POST"),
        per_second: PER_SECOND,
        connections,
        http2: false,
        at_most_seconds: 120,
    };
    let (new, kept) = (
        client.load(&spec(0)).await?,
        client.load(&spec(KEPT)).await?,
    );
    meanwhile().await?;
    Ok(Seen {
        new: new.finish().await?,
        kept: kept.finish().await?,
    })
}

async fn restarted(place: &Place, deployment: &str) -> Result<()> {
    let object = format!("deployment/{deployment}");
    place.kubectl(["rollout", "restart", &object]).await?;
    place.rolled_out(deployment).await?;
    // The last pod of the former generation is on its way out.
    eventually("the former pods are gone", seconds(60), async || {
        let pods = place.pods(&format!("app={deployment}")).await?;
        ensure!(
            pods.iter()
                .all(|pod| pod["metadata"]["deletionTimestamp"].is_null()),
            "{} pods",
            pods.len()
        );
        Ok(())
    })
    .await
}

#[test]
fn a_rolling_update_fails_no_request() {
    on_cluster!("rollout", seconds(600), async |place: &Place| {
        place.apply(include_str!("rollout.yaml")).await?;
        for deployment in ["bare", "undrained", "web"] {
            place.rolled_out(deployment).await?;
        }
        place.ready(&["apiroute/web", "apiroute/undrained"]).await?;
        for deployment in ["bare", "undrained"] {
            let to = format!("{deployment}:80");
            let seen = under_load(place, deployment, &to, async || {
                restarted(place, deployment).await
            })
            .await?;
            seen.print(deployment);
            ensure!(seen.failed() > 0, "{deployment}: this load shows nothing");
        }
        for run in 0..RUNS {
            let seen = under_load(place, &format!("web-{run}"), "web:80", async || {
                restarted(place, "web").await
            })
            .await?;
            seen.print("injected");
            seen.enough()?;
            ensure!(seen.failed() == 0, "run {run}");
        }
        Ok(())
    });
}

#[test]
fn a_rolling_update_of_the_operator_fails_no_request() {
    on_cluster!("operator-rollout", seconds(300), async |place: &Place| {
        place.apply(include_str!("rollout.yaml")).await?;
        place.rolled_out("web").await?;
        place.ready(&["apiroute/web"]).await?;
        let seen = under_load(place, "web", "web:80", async || {
            let namespace = product::NAMESPACE;
            let operator = "deployment/sluice-operator";
            place
                .cluster(["-n", namespace, "rollout", "restart", operator])
                .await?;
            place
                .cluster([
                    "-n",
                    namespace,
                    "rollout",
                    "status",
                    "--timeout=120s",
                    operator,
                ])
                .await
                .map(drop)
        })
        .await?;
        seen.print("operator");
        seen.enough()?;
        ensure!(seen.failed() == 0, "a request failed");
        place.ready(&["apiroute/web"]).await
    });
}

#[test]
fn a_killed_worker_refuses_no_new_connection() {
    on_cluster!("kill", seconds(240), async |place: &Place| {
        place.apply(include_str!("rollout.yaml")).await?;
        place.rolled_out("killed").await?;
        place.ready(&["apiroute/killed"]).await?;
        let pod = place
            .pod_names("app=killed")
            .await?
            .pop()
            .context("one pod")?;
        let seen = under_load(place, "killed", "killed:80", async || {
            for _ in 1..=5 {
                kill(place, &pod, "worker").await?;
            }
            Ok(())
        })
        .await?;
        seen.print("worker killed 5 times");
        seen.enough()?;
        // Requests under way end with the worker; those that came later waited in the parent's sockets.
        ensure!(seen.new.unconnected == 0, "a new connection was refused");
        ensure!(
            seen.new.failed <= 5 * MOST_UNDER_WAY,
            "more than what was under way"
        );
        ensure!(
            seen.new.max_ms < 1000.0,
            "back after {:.0} ms",
            seen.new.max_ms
        );
        ensure!(restarts(place, &pod).await? == 0, "kubelet restarted");

        // The listeners end with process 1: what comes until kubelet has started the next is refused. Printed, not judged.
        let seen = under_load(place, "parent", "killed:80", async || {
            kill(place, &pod, "parent").await
        })
        .await?;
        seen.print("process 1 killed once");
        ensure!(restarts(place, &pod).await? == 1, "another process 1");
        place.ready(&["apiroute/killed"]).await
    });
}

/// How often kubelet has started a sidecar of the pod again.
async fn restarts(place: &Place, pod: &str) -> Result<i64> {
    let object = place.json(["get", "pod", pod]).await?;
    let statuses = object["status"]["initContainerStatuses"].as_array();
    let counts = statuses.into_iter().flatten();
    Ok(counts
        .filter_map(|status| status["restartCount"].as_i64())
        .sum())
}

/// Kills a process of the pod's sidecar and waits for the worker that serves afterwards.
async fn kill(place: &Place, pod: &str, role: &str) -> Result<()> {
    let worker = in_pod(place, pod, ["find", "worker"]).await?;
    let victim = in_pod(place, pod, ["find", role]).await?;
    in_pod(place, pod, ["kill", &victim]).await?;
    eventually("another worker", seconds(30), async || {
        let now = in_pod(place, pod, ["find", "worker"]).await?;
        ensure!(now != worker, "still {now}");
        Ok(())
    })
    .await
}

/// Runs the client beside the sidecar, as the containers of the pod share their processes.
async fn in_pod(place: &Place, pod: &str, args: [&str; 2]) -> Result<String> {
    let client = ["exec", pod, "-c", "killer", "--", "/sluice-e2e-client"];
    let told = place.kubectl(client.into_iter().chain(args)).await?;
    Ok(told.trim().to_owned())
}
