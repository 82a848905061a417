//! From a change to the last pod that answers with it.

use anyhow::{Context, Result, ensure};
use sluice_e2e::wire::{LatencyReport, LatencySpec};
use sluice_e2e::{ClientPod, Place, on_cluster, product, seconds};

const PODS: usize = 20;

fn quantile(ascending: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * ascending.len() as f64).ceil() as usize;
    ascending
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

fn print(what: &str, report: &LatencyReport) {
    let at = |percent| quantile(&report.live_ms, percent);
    println!(
        "{what}: {} changes, live on all pods p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; {} polls, {} failed {:?}",
        report.live_ms.len(),
        at(50.0),
        at(99.0),
        at(100.0),
        report.polls,
        report.failed,
        report.reasons
    );
}

#[test]
fn a_change_is_live_on_twenty_pods() {
    on_cluster!("latency", seconds(600), async |place: &Place| {
        let manifests = include_str!("latency.yaml").replace("REPLICAS", &PODS.to_string());
        place.apply(&manifests).await?;
        place.rolled_out("web").await?;
        place.ready(&["apiroute/web"]).await?;
        let pods: Vec<String> = place
            .pods("app=web")
            .await?
            .iter()
            .map(|pod| Some(format!("{}:8080", pod["status"]["podIP"].as_str()?)))
            .collect::<Option<_>>()
            .context("each pod has an address")?;
        ensure!(pods.len() == PODS, "{} pods", pods.len());
        let client = ClientPod::start(place, "client").await?;
        let spec = |from, changes, per_second| LatencySpec {
            from,
            namespace: place.namespace.clone(),
            route: "web".into(),
            pods: pods.clone(),
            changes,
            per_second,
        };
        // One after the other, then ten a second, then ten a second while a replica of the operator dies.
        let idle = client.latency(spec(0, 200, 0)).await?;
        print("one by one", &idle);
        let busy = client.latency(spec(200, 200, 10)).await?;
        print("10 a second", &busy);
        shares(&product::metrics(place).await?);
        let (killed, removed) = tokio::join!(client.latency(spec(400, 200, 10)), kill_one(place));
        removed?;
        let killed = killed?;
        print("10 a second, a replica killed", &killed);
        for report in [&idle, &busy, &killed] {
            ensure!(
                report.live_ms.len() == 200 && report.failed == 0,
                "{report:?}"
            );
        }
        Ok(())
    });
}

async fn kill_one(place: &Place) -> Result<()> {
    let operators = place
        .cluster([
            "-n",
            product::NAMESPACE,
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/name=sluice-operator",
            "-o",
            "name",
        ])
        .await?;
    let one = operators.lines().next().context("an operator")?;
    place
        .cluster([
            "-n",
            product::NAMESPACE,
            "delete",
            one,
            "--grace-period=0",
            "--force",
        ])
        .await
        .map(drop)
}

/// Where the time goes, from the replica's own histograms: mean of each share.
fn shares(metrics: &str) {
    for line in metrics.lines() {
        if line.starts_with("sluice_operator_") && line.contains("seconds_sum") {
            let name = line.split("_sum").next().unwrap_or_default();
            let sum: f64 = value(line);
            let labels = line
                .split("_sum")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            let count = format!("{name}_count{}", labels.unwrap_or_default());
            let count = metrics
                .lines()
                .find(|line| line.starts_with(&count))
                .map_or(0.0, value);
            if count > 0.0 {
                println!(
                    "{name}{}: mean {:.2} ms of {count}",
                    labels.unwrap_or_default(),
                    sum / count * 1000.0
                );
            }
        }
    }
}

fn value(line: &str) -> f64 {
    line.rsplit(' ')
        .next()
        .and_then(|value| value.parse().ok())
        .unwrap_or(0.0)
}
