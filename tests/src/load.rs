//! Load at a constant rate: requests start when the clock says so, whether or not earlier ones have ended, and their
//! latency counts from that moment; a server that stalls cannot hide it. Judging an answer is the caller's.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Request;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::http::{Answer, Connection, Protocol, get};
use crate::wait::eventually;

/// How long one request may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reasons kept for the report.
const REASONS: usize = 10;

/// Requests under way above which no more are started: each that should have been counts as failed.
const MOST_AT_ONCE: usize = 2048;

type MakeRequest = dyn Fn(u64) -> Request<Bytes> + Send + Sync;
type Check = dyn Fn(&Answer) -> Result<(), String> + Send + Sync;

/// What to send. Every default is visible in [`Load::against`].
#[derive(Clone)]
pub struct Load {
    address: SocketAddr,
    protocol: Protocol,
    per_second: u32,
    fresh_every: u64,
    strict: bool,
    request: Arc<MakeRequest>,
    check: Arc<Check>,
}

impl Load {
    /// 100 requests a second for `/` on kept connections, where any answer below 400 is good.
    pub fn against(address: impl Into<SocketAddr>) -> Self {
        Self {
            address: address.into(),
            protocol: Protocol::Http1,
            per_second: 100,
            fresh_every: 0,
            strict: false,
            request: Arc::new(|_| get("/")),
            check: Arc::new(|answer| match answer.status.as_u16() {
                ..400 => Ok(()),
                status => Err(format!("status {status}: {}", answer.text())),
            }),
        }
    }

    /// Requests started per second.
    pub fn per_second(self, per_second: u32) -> Self {
        Self {
            per_second: per_second.max(1),
            ..self
        }
    }

    /// Every n-th request goes over a new connection; 1 = all, 0 = none.
    pub fn fresh_every(self, fresh_every: u64) -> Self {
        Self {
            fresh_every,
            ..self
        }
    }

    /// A request that meets a connection the server has just closed fails, where other clients would send it again.
    pub fn strict(self) -> Self {
        Self {
            strict: true,
            ..self
        }
    }

    /// Cleartext HTTP/2.
    pub fn http2(self) -> Self {
        Self {
            protocol: Protocol::Http2,
            ..self
        }
    }

    /// The n-th request, from 0.
    pub fn request(self, make: impl Fn(u64) -> Request<Bytes> + Send + Sync + 'static) -> Self {
        Self {
            request: Arc::new(make),
            ..self
        }
    }

    /// What counts as a good answer; also the place to look at every answer.
    pub fn check(
        self,
        check: impl Fn(&Answer) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            check: Arc::new(check),
            ..self
        }
    }

    /// Sends for as long as told.
    pub async fn run(self, time: Duration) -> Report {
        let running = self.start();
        tokio::time::sleep(time).await;
        running.finish().await
    }

    /// Starts to send until [`RunningLoad::finish`]; dropping the handle stops it too.
    pub fn start(self) -> RunningLoad {
        let (stop, stopped) = watch::channel(());
        let shared = Arc::new(Shared::default());
        RunningLoad {
            stop,
            per_second: self.per_second,
            started: Instant::now(),
            shared: shared.clone(),
            task: tokio::spawn(drive(Arc::new(self), shared, stopped)),
        }
    }
}

/// Load that is being sent.
#[derive(Debug)]
pub struct RunningLoad {
    stop: watch::Sender<()>,
    per_second: u32,
    started: Instant,
    shared: Arc<Shared>,
    task: JoinHandle<Report>,
}

impl RunningLoad {
    /// Waits until so many more requests have been answered, well or not.
    pub async fn answers(&self, more: u64) -> Result<()> {
        let answered = || lock(&self.shared.report).statuses.values().sum::<u64>();
        let wanted = answered() + more;
        eventually("more answers to the load", PATIENCE, async || {
            let now = answered();
            ensure!(now >= wanted, "{now} of {wanted}");
            Ok(())
        })
        .await
    }

    /// Waits until a request has failed.
    pub async fn fails(&self) -> Result<()> {
        eventually("a request that fails", PATIENCE, async || {
            let failed = lock(&self.shared.report).failed;
            ensure!(failed > 0, "all have been answered well");
            Ok(())
        })
        .await
    }

    /// Sends on until at least `requests` were due, however fast what it accompanied was, then [finishes](Self::finish).
    pub async fn finish_after(self, requests: u32) -> Report {
        let needed = Duration::from_secs(1) * requests / self.per_second;
        tokio::time::sleep_until((self.started + needed).into()).await;
        self.finish().await
    }

    /// Starts no more requests, waits for those under way, and reports.
    pub async fn finish(self) -> Report {
        drop(self.stop);
        self.task
            .await
            .expect("a request function or a check panicked: see above")
    }
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Requests that were due.
    pub sent: u64,
    /// Answers by status, good or not.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, or with one that the check refused.
    pub failed: u64,
    /// Of these, those whose connection could not be made: refused, or not answered.
    pub unconnected: u64,
    /// The first few reasons.
    pub reasons: Vec<String>,
    /// From due to answered, of all that got an answer; ascending.
    pub latencies: Vec<Duration>,
}

impl Report {
    /// The latency that `percent` of the answers did not exceed (nearest rank); zero without answers.
    pub fn percentile(&self, percent: f64) -> Duration {
        percentile(&self.latencies, percent)
    }

    fn fail(&mut self, reason: String) {
        self.failed += 1;
        if self.reasons.len() < REASONS {
            self.reasons.push(reason);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [50.0, 99.0, 100.0].map(|p| self.percentile(p));
        write!(
            f,
            "{} sent, {} failed, {:?}, p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}",
            self.sent, self.failed, self.statuses
        )?;
        self.reasons
            .iter()
            .try_for_each(|reason| write!(f, "\n  {reason}"))
    }
}

/// The nearest-rank percentile of ascending values; zero of none.
pub fn percentile(ascending: &[Duration], percent: f64) -> Duration {
    let rank = (percent / 100.0 * ascending.len() as f64).ceil() as usize;
    ascending
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// Marks the errors of connections that could not be made.
#[derive(Debug)]
struct Unconnected;

impl fmt::Display for Unconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no connection")
    }
}

/// What the tasks of one load share.
#[derive(Debug, Default)]
struct Shared {
    idle: Mutex<Vec<Connection>>,
    report: Mutex<Report>,
}

/// Starts each request when it is due; after a pause of this task it starts all that have become due.
async fn drive(load: Arc<Load>, shared: Arc<Shared>, mut stopped: watch::Receiver<()>) -> Report {
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    let mut n = 0;
    loop {
        let due = began + Duration::from_secs_f64(n as f64 / f64::from(load.per_second));
        // Any outcome of `changed` means that the handle is gone.
        if tokio::time::timeout_at(due.into(), stopped.changed())
            .await
            .is_ok()
        {
            break;
        }
        while tasks.try_join_next().is_some() {}
        if tasks.len() < MOST_AT_ONCE {
            tasks.spawn(one(load.clone(), shared.clone(), n, due));
        } else {
            lock(&shared.report).fail(format!("{MOST_AT_ONCE} requests under way"));
        }
        n += 1;
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("a request function or a check panicked: see above");
    }
    let mut report = std::mem::take(&mut *lock(&shared.report));
    report.sent = n;
    report.latencies.sort_unstable();
    report
}

/// One request, from its due time to its entry in the report.
async fn one(load: Arc<Load>, shared: Arc<Shared>, n: u64, due: Instant) {
    let fresh = load.fresh_every > 0 && n.is_multiple_of(load.fresh_every);
    let outcome = tokio::time::timeout(PATIENCE, exchange(&load, &shared, n, fresh)).await;
    let latency = due.elapsed();
    let mut report = lock(&shared.report);
    match outcome {
        Ok(Ok(answer)) => {
            *report.statuses.entry(answer.status.as_u16()).or_default() += 1;
            report.latencies.push(latency);
            if let Err(reason) = (load.check)(&answer) {
                report.fail(format!("request {n}: {reason}"));
            }
        }
        Ok(Err(error)) => {
            report.unconnected += u64::from(error.is::<Unconnected>());
            report.fail(format!(
                "request {n}{}: {error:#}",
                if fresh { ", new connection" } else { "" }
            ));
        }
        Err(_) => report.fail(format!("request {n}: no answer in {PATIENCE:?}")),
    }
}

async fn exchange(load: &Load, shared: &Shared, n: u64, fresh: bool) -> Result<Answer> {
    let idle = if fresh { None } else { take_open(&shared.idle) };
    if let Some(mut connection) = idle {
        match connection.send((load.request)(n)).await {
            // The server closed an idle connection before this request was on it: no failure of the server's.
            Err(error) if !load.strict && never_sent(&error) => {}
            result => {
                keep(shared, connection);
                return result;
            }
        }
    }
    let mut connection = Connection::open(load.address, load.protocol)
        .await
        .map_err(|error| error.context(Unconnected))?;
    let answer = connection.send((load.request)(n)).await?;
    if !fresh {
        keep(shared, connection);
    }
    Ok(answer)
}

fn take_open(idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    let mut idle = lock(idle);
    std::iter::from_fn(|| idle.pop()).find(Connection::is_open)
}

fn keep(shared: &Shared, connection: Connection) {
    if connection.is_open() {
        lock(&shared.idle).push(connection);
    }
}

/// hyper says so where it still holds the request.
fn never_sent(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|e| e.downcast_ref::<hyper::Error>())
        .any(|e| e.is_canceled() || e.is_closed())
}

/// A panic of one task is seen where it is joined; the numbers stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50.0), Duration::from_millis(100));
        assert_eq!(percentile(&values, 99.0), Duration::from_millis(198));
        assert_eq!(percentile(&values, 100.0), Duration::from_millis(200));
        assert_eq!(percentile(&[], 99.0), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_failure() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let report = Load::against(closed)
            .per_second(50)
            .run(Duration::from_millis(200))
            .await;
        assert!(report.sent >= 8 && report.failed == report.sent, "{report}");
    }
}
