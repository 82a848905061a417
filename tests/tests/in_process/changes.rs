//! Point 2 in file mode: a route that is changed again and again under load. Every change is seen in an answer of every
//! sidecar, and no request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sluice_tests::load::{RunningLoad, percentile};
use sluice_tests::{Load, With, get, isolated, seconds};

use crate::place::{Place, Plan, Pod, changed};

/// Changes of the route.
const CHANGES: u64 = 200;

/// Between two of them.
const PERIOD: Duration = Duration::from_millis(300);

/// For all of them: a change that is seen only by the periodic look at the directory takes ten seconds alone.
const MOST: Duration = seconds(66);

/// Requests a second to each of the two sidecars.
const RATE: u32 = 250;

/// Load on one sidecar that notes the newest change it has seen.
fn watching(pod: &Pod) -> (Arc<AtomicU64>, RunningLoad) {
    let newest = Arc::new(AtomicU64::new(0));
    let seen = newest.clone();
    let load = Load::against(pod.sidecar.address)
        .per_second(RATE)
        .fresh_every(10)
        .request(|_| get("/").with("host", "orders.example"))
        .check(move |answer| {
            let change = answer.header("x-change").and_then(|n| n.parse().ok());
            match (answer.status.as_u16(), change) {
                (200, Some(n)) => {
                    seen.fetch_max(n, Ordering::Relaxed);
                    Ok(())
                }
                (status, _) => Err(format!("status {status}, {:?}", answer.headers)),
            }
        });
    (newest, load.start())
}

/// Makes one change and waits for it; how long each sidecar took to show it.
async fn change(place: &Place<'_>, n: u64, newest: &[Arc<AtomicU64>]) -> Result<Vec<Duration>> {
    let mut took: Vec<Option<Duration>> = vec![None; newest.len()];
    let began = Instant::now();
    place.put("route", &changed(n))?;
    // Looked at more often than `eventually` does: this is a measurement.
    while took.iter().any(Option::is_none) {
        ensure!(
            began.elapsed() < seconds(20),
            "change {n} is not seen: {took:?}"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
        for (took, newest) in took.iter_mut().zip(newest) {
            if took.is_none() && newest.load(Ordering::Relaxed) >= n {
                *took = Some(began.elapsed());
            }
        }
    }
    Ok(took.into_iter().flatten().collect())
}

#[test]
fn two_hundred_changes_in_a_minute_fail_no_request() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put("route", &changed(0))?;
        let place = plan.start().await?;
        place.live("ApiRoute", "orders").await?;

        let (newest, loads): (Vec<_>, Vec<_>) = place.pods.iter().map(watching).unzip();
        let mut latencies = Vec::new();
        let began = Instant::now();
        for n in 1..=CHANGES {
            latencies.extend(change(&place, n, &newest).await?);
            ensure!(
                began.elapsed() < MOST,
                "{n} changes took {:?}",
                began.elapsed()
            );
            tokio::time::sleep_until((began + PERIOD * n as u32).into()).await;
        }
        let took = began.elapsed();
        latencies.sort_unstable();
        let [p50, p99, max] = [50.0, 99.0, 100.0].map(|p| percentile(&latencies, p));
        println!(
            "{CHANGES} changes in {took:.1?}: file written -> first new answer p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}"
        );
        for (pod, load) in place.pods.iter().zip(loads) {
            let report = load.finish().await;
            println!("{}: {report}", pod.name);
            ensure!(report.failed == 0, "{report}");
            ensure!(
                report.sent as f64 >= f64::from(RATE) * took.as_secs_f64() * 0.95,
                "the load was not kept up: {report}"
            );
        }
        Ok(())
    });
}
