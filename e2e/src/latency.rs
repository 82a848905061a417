//! From the API server's answer to a patch until every pod answers with it, on one clock: that of the client pod, which
//! patches and polls. It judges nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use sluice_crds::ApiRoute;
use sluice_tests::get;
use sluice_tests::http::{Connection, Protocol};
use tokio::sync::watch;

use crate::calls::resolve;
use crate::wire::{LatencyReport, LatencySpec};

/// Between two looks at one pod.
const PERIOD: Duration = Duration::from_millis(5);
/// A change that is not live by then never will be.
const PATIENCE: Duration = Duration::from_secs(20);
/// Reasons kept.
const REASONS: usize = 10;

/// What the pollers found so far.
#[derive(Default)]
struct Seen {
    polls: AtomicU64,
    failed: AtomicU64,
    reasons: Mutex<Vec<String>>,
}

/// When a pod first answered with a version: `newest` and the time of each version up to it.
type Times = Arc<Mutex<Vec<Option<Instant>>>>;

/// Makes the changes and times each.
pub async fn measure(spec: LatencySpec) -> Result<LatencyReport> {
    let client = Client::try_default()
        .await
        .context("no access to the API server from this pod")?;
    let routes: Api<ApiRoute> = Api::namespaced(client, &spec.namespace);
    let seen = Arc::new(Seen::default());
    let (from, changes) = (spec.from as usize, spec.changes as usize);
    let mut pods: Vec<Times> = Vec::new();
    let (stop, stopped) = watch::channel(false);
    let (told, newest) = watch::channel(0usize);
    for pod in &spec.pods {
        let times: Times = Arc::new(Mutex::new(vec![None; changes + 1]));
        let poller = poll(
            resolve(pod).await?,
            from,
            times.clone(),
            seen.clone(),
            stopped.clone(),
        );
        tokio::spawn(poller);
        pods.push(times);
    }

    let mut patched = Vec::with_capacity(changes);
    let began = Instant::now();
    for change in 1..=changes {
        if let Some(pause) = 1000u64.checked_div(u64::from(spec.per_second)) {
            let due = began + Duration::from_millis(pause * change as u64);
            tokio::time::sleep_until(due.into()).await;
        }
        patch(&routes, &spec.route, from + change).await?;
        patched.push(Instant::now());
        told.send_replace(change);
        if spec.per_second == 0 {
            live(&pods, change).await?;
        }
    }
    live(&pods, changes).await?;
    drop(newest);
    stop.send_replace(true);

    let mut live_ms: Vec<f64> = patched
        .iter()
        .enumerate()
        .filter_map(|(index, patched)| {
            let last = pods.iter().map(|times| first(times, index + 1)).max()??;
            Some(last.saturating_duration_since(*patched).as_secs_f64() * 1000.0)
        })
        .collect();
    live_ms.sort_by(f64::total_cmp);
    let reasons = seen.reasons.lock().map(|reasons| reasons.clone());
    Ok(LatencyReport {
        live_ms,
        polls: seen.polls.load(Ordering::Relaxed),
        failed: seen.failed.load(Ordering::Relaxed),
        reasons: reasons.unwrap_or_default(),
    })
}

async fn patch(routes: &Api<ApiRoute>, name: &str, change: usize) -> Result<()> {
    let patch = json!([{
        "op": "replace",
        "path": "/spec/rules/0/filters/0/responseHeaderModifier/set/0/value",
        "value": change.to_string(),
    }]);
    let patch: json_patch::Patch = serde_json::from_value(patch)?;
    routes
        .patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))
        .await
        .with_context(|| format!("change {change}"))?;
    Ok(())
}

/// When the pod first answered with `version` or a newer one.
fn first(times: &Times, version: usize) -> Option<Instant> {
    let times = times.lock().ok()?;
    times[version..].iter().flatten().min().copied()
}

async fn live(pods: &[Times], version: usize) -> Result<()> {
    let began = Instant::now();
    while !pods.iter().all(|times| first(times, version).is_some()) {
        if began.elapsed() > PATIENCE {
            let missing = pods
                .iter()
                .filter(|times| first(times, version).is_none())
                .count();
            bail!(
                "change {version} is not live after {PATIENCE:?} on {missing} of {} pods",
                pods.len()
            );
        }
        tokio::time::sleep(PERIOD).await;
    }
    Ok(())
}

/// Asks one pod again and again, over a kept connection.
async fn poll(
    pod: SocketAddr,
    from: usize,
    times: Times,
    seen: Arc<Seen>,
    stopped: watch::Receiver<bool>,
) {
    let mut connection = None;
    while !*stopped.borrow() {
        match look(pod, &mut connection).await {
            Ok(version) => {
                if let (Some(version), Ok(mut times)) = (version, times.lock()) {
                    // What an earlier run left is not of this one.
                    let change = version.checked_sub(from).filter(|change| *change > 0);
                    change
                        .and_then(|change| times.get_mut(change))
                        .map(|time| time.get_or_insert_with(Instant::now));
                }
            }
            Err(error) => {
                connection = None;
                seen.failed.fetch_add(1, Ordering::Relaxed);
                if let Ok(mut reasons) = seen.reasons.lock()
                    && reasons.len() < REASONS
                {
                    reasons.push(format!("{pod}: {error:#}"));
                }
            }
        }
        seen.polls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PERIOD).await;
    }
}

/// The version in one answer; none before the first change.
async fn look(pod: SocketAddr, kept: &mut Option<Connection>) -> Result<Option<usize>> {
    let mut connection = match kept.take().filter(Connection::is_open) {
        Some(connection) => connection,
        None => Connection::open(pod, Protocol::Http1).await?,
    };
    let answer = connection.send(get("/")).await?.expect(200)?;
    *kept = Some(connection);
    Ok(answer
        .header("x-version")
        .and_then(|version| version.parse().ok()))
}
