//! Counters of requests. Each data thread counts for itself; a scrape adds them up. Labels are names of resources and
//! closed lists: their number is bounded by configuration.

mod closing;
mod edge;
mod export;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use sluice_pipeline::{
    RejectReason, program::Rule, quick::QuickMap, ratelimit::Verdict, stable_id::StableId,
};
use sluice_snapshot::{UnitName, stream, unit::ObjectRef};

pub use closing::{Closing, Closings};
pub use edge::{EdgeTally, Handshaken, Mirrored, Streamed};
pub use export::Exporter;

use crate::capture::origin::Refused;

/// Upper bounds of the duration histogram, in microseconds.
const BOUNDS_US: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];

/// What the cache did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told by `name`
pub enum CacheEvent {
    Hit,
    Revalidated,
    Miss,
    Stale,
    Bypass,
}

impl CacheEvent {
    const ALL: [Self; 5] = [
        Self::Hit,
        Self::Revalidated,
        Self::Miss,
        Self::Stale,
        Self::Bypass,
    ];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
        }
    }
}

/// Why an upstream gave no answer, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told by `name`
pub enum UpstreamFailure {
    Connect,
    Reset,
    Timeout,
    Retried,
}

impl UpstreamFailure {
    const ALL: [Self; 4] = [Self::Connect, Self::Reset, Self::Timeout, Self::Retried];

    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Retried => "retried",
        }
    }
}

/// The counters of all data threads.
#[derive(Debug, Default)]
pub struct Metrics {
    threads: Mutex<Vec<Arc<ThreadTally>>>,
    /// Requests are not counted.
    uncounted: AtomicBool,
}

/// What a stream's reports have told so far: they count from its beginning. The first report begins it.
#[derive(Debug, Default)]
pub struct Told {
    /// Requests before the stream began.
    base: Option<u64>,
    /// All durations up to the last report.
    buckets: Durations,
}

/// Durations by bucket, not cumulative; the last is above all bounds.
type Durations = [u64; BOUNDS_US.len() + 1];

/// The counters of one data thread: the lock is its own but for scrapes.
#[derive(Debug, Default)]
pub struct ThreadTally {
    uncounted: bool,
    begun: AtomicU64,
    ended: AtomicU64,
    panics: AtomicU64,
    connections: AtomicU64,
    captured: AtomicU64,
    capture_refused: [AtomicU64; Refused::ALL.len()],
    passed: AtomicU64,
    passing: AtomicU64,
    upgrades: AtomicU64,
    upgraded: AtomicU64,
    upstream: [AtomicU64; UpstreamFailure::ALL.len()],
    /// Connections that were ended or refused.
    pub closings: Closings,
    /// What an edge counts.
    pub edge: EdgeTally,
    unaccepted: AtomicU64,
    by_object: Mutex<Tally>,
}

#[derive(Debug, Default, Clone)]
struct Tally {
    /// Of routes.
    rules: Parts<RuleTally>,
    /// What no rule matched.
    unmatched: RuleTally,
    /// Of RateLimitPolicies.
    limits: Parts<LimitTally>,
}

/// What is counted of parts of objects: found by one look-up of a hash that is there already.
#[derive(Debug, Clone)]
struct Parts<T> {
    places: QuickMap<StableId, usize>,
    parts: Vec<Part<T>>,
}

/// A part of an object.
#[derive(Debug, Clone)]
struct Part<T> {
    id: StableId,
    object: ObjectRef,
    name: String,
    tally: T,
}

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Self {
            places: QuickMap::default(),
            parts: Vec::new(),
        }
    }
}

impl<T: Default> Parts<T> {
    /// The counters of a part, which begin with its first.
    fn of(&mut self, id: &StableId, object: &ObjectRef, name: &str) -> &mut T {
        let place = match self.places.get(id) {
            Some(place) => *place,
            None => {
                self.parts.push(Part {
                    id: id.clone(),
                    object: object.clone(),
                    name: name.to_owned(),
                    tally: T::default(),
                });
                self.places.insert(id.clone(), self.parts.len() - 1);
                self.parts.len() - 1
            }
        };
        &mut self.parts[place].tally
    }
}

#[derive(Debug, Default, Clone)]
struct RuleTally {
    /// 1xx to 5xx.
    classes: [u64; 5],
    reasons: BTreeMap<&'static str, u64>,
    cache: [u64; CacheEvent::ALL.len()],
    buckets: Durations,
    sum_us: u64,
}

#[derive(Debug, Default, Clone)]
struct LimitTally {
    admitted: u64,
    refused: u64,
    shadowed: u64,
}

/// A request that has ended.
#[derive(Debug)]
pub struct Ended<'e> {
    /// The answer's status.
    pub status: u16,
    /// Why it was refused.
    pub reason: Option<RejectReason>,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// What the cache did.
    pub cache: Option<CacheEvent>,
    /// What the limits said.
    pub verdicts: &'e [Verdict],
}

impl Metrics {
    /// Copies of requests, of all threads.
    #[cfg(test)]
    pub fn mirrored(&self, how: Mirrored) -> u64 {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().map(|thread| thread.edge.mirrors(how)).sum()
    }
}

impl ThreadTally {
    /// A request begins.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has ended.
    pub fn end(&self, rule: Option<&Rule>, ended: &Ended<'_>) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if self.uncounted {
            return;
        }
        let mut tally = self.lock();
        match rule {
            Some(rule) => {
                let tally = tally.rules.of(&rule.id, &rule.object, &rule.name);
                tally.count(ended);
            }
            None => tally.unmatched.count(ended),
        }
        for verdict in ended.verdicts {
            let limit = &verdict.limit;
            let limit = tally.limits.of(&limit.id, &limit.object, &limit.name);
            match (verdict.admitted, verdict.shadow) {
                (true, _) => limit.admitted += 1,
                (false, false) => limit.refused += 1,
                (false, true) => limit.shadowed += 1,
            }
        }
    }

    /// A request that panicked.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that panicked.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// A connection was accepted.
    pub fn accepted(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that waits could not be accepted.
    pub fn unaccepted(&self) {
        self.unaccepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection came to the capture port, and was for this application or for none.
    pub fn captured<T>(&self, led: Result<T, Refused>) {
        match led {
            Ok(_) => self.captured.fetch_add(1, Ordering::Relaxed),
            Err(refused) => self.capture_refused[refused as usize].fetch_add(1, Ordering::Relaxed),
        };
    }

    /// A connection whose bytes pass as they are, until the guard is dropped.
    pub fn passing(&self) -> Passing<'_> {
        self.passed.fetch_add(1, Ordering::Relaxed);
        self.passing.fetch_add(1, Ordering::Relaxed);
        Passing(self)
    }

    /// A connection that stopped speaking HTTP, until the guard is dropped. The pod is not done before it has ended.
    pub fn upgraded(&self) -> Upgraded<'_> {
        self.upgrades.fetch_add(1, Ordering::Relaxed);
        self.upgraded.fetch_add(1, Ordering::Relaxed);
        Upgraded(self)
    }

    /// An upstream gave no answer.
    pub fn upstream(&self, failure: UpstreamFailure) {
        self.upstream[failure as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that have begun and not ended, connections that some of them turned into another protocol, and those that
    /// an edge passes on.
    pub fn in_flight(&self) -> u64 {
        let ended = self.ended.load(Ordering::Relaxed);
        let running = self.begun.load(Ordering::Relaxed).saturating_sub(ended);
        running + self.upgraded.load(Ordering::Relaxed) + self.edge.open_streams()
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.by_object
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose bytes pass as they are.
#[derive(Debug)]
pub struct Passing<'t>(&'t ThreadTally);

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.0.passing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that stopped speaking HTTP.
#[derive(Debug)]
pub struct Upgraded<'t>(&'t ThreadTally);

impl Drop for Upgraded<'_> {
    fn drop(&mut self) {
        self.0.upgraded.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RuleTally {
    fn count(&mut self, ended: &Ended<'_>) {
        let class = usize::from(ended.status / 100).clamp(1, 5) - 1;
        self.classes[class] += 1;
        if let Some(reason) = ended.reason {
            *self.reasons.entry(reason.describe().name).or_default() += 1;
        }
        if let Some(event) = ended.cache {
            self.cache[event as usize] += 1;
        }
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < ended.duration_us)] += 1;
        self.sum_us += ended.duration_us;
    }

    fn add(&mut self, other: &Self) {
        let Self {
            classes,
            reasons,
            cache,
            buckets,
            sum_us,
        } = other;
        add_all(&mut self.classes, classes);
        add_all(&mut self.cache, cache);
        add_all(&mut self.buckets, buckets);
        for (reason, count) in reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.sum_us += sum_us;
    }

    fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

fn add_all(into: &mut [u64], from: &[u64]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += from;
    }
}

impl Metrics {
    /// Data threads that start from now on count no requests: what counting costs is measured so.
    pub fn count_nothing(&self) {
        self.uncounted.store(true, Ordering::Relaxed);
    }

    /// The counters of a new data thread.
    pub fn thread(&self) -> Arc<ThreadTally> {
        let tally = Arc::new(ThreadTally {
            uncounted: self.uncounted.load(Ordering::Relaxed),
            ..ThreadTally::default()
        });
        self.lock().push(Arc::clone(&tally));
        tally
    }

    /// Requests in flight in all threads.
    pub fn in_flight(&self) -> u64 {
        self.lock().iter().map(|thread| thread.in_flight()).sum()
    }

    /// What scaling and fleet facts are computed from: requests since the stream began, and the latency of those that ended
    /// since its last report. It is counted in requests: what the sidecar itself costs is no part of it.
    pub fn report(
        &self,
        told: &mut Told,
        observed: impl Fn(&str) -> (&'static str, u64),
    ) -> stream::Report {
        let tally = self.sum();
        let mut all = RuleTally::default();
        let rules = tally.rules.parts.iter().map(|part| &part.tally);
        for rule in rules.chain([&tally.unmatched]) {
            all.add(rule);
        }
        let limits = tally.limits.parts.iter().map(|part| {
            let (state, overshoot_ppm) = observed(part.id.as_str());
            stream::LimitReport {
                policy: UnitName::policy(&part.object.namespace, &part.object.name).to_string(),
                limit: part.name.clone(),
                state: state.into(),
                overshoot_ppm,
                shadowed: part.tally.shadowed,
            }
        });
        let Told { base, buckets } = told;
        if base.is_none() {
            *buckets = all.buckets;
        }
        let base = *base.get_or_insert(all.total());
        let former = std::mem::replace(buckets, all.buckets);
        let interval: Vec<u64> = std::iter::zip(all.buckets, former)
            .map(|(now, former)| now.saturating_sub(former))
            .collect();
        stream::Report {
            requests: all.total().saturating_sub(base),
            in_flight: self.in_flight(),
            latency_p95_us: percentile(&interval, 95),
            limits: limits.collect(),
        }
    }

    /// Connections without a route that are open, of all threads.
    pub fn passing(&self) -> u64 {
        let passing = |thread: &Arc<ThreadTally>| thread.passing.load(Ordering::Relaxed);
        self.lock().iter().map(passing).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<ThreadTally>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sum(&self) -> Tally {
        let mut sum = Tally::default();
        for thread in self.lock().iter() {
            let tally = thread.lock();
            sum.unmatched.add(&tally.unmatched);
            for part in &tally.rules.parts {
                let rule = sum.rules.of(&part.id, &part.object, &part.name);
                rule.add(&part.tally);
            }
            for part in &tally.limits.parts {
                let LimitTally {
                    admitted,
                    refused,
                    shadowed,
                } = &part.tally;
                let limit = sum.limits.of(&part.id, &part.object, &part.name);
                limit.admitted += admitted;
                limit.refused += refused;
                limit.shadowed += shadowed;
            }
        }
        sum
    }
}

/// The upper bound of the bucket in which the percentile lies.
fn percentile(buckets: &[u64], percent: u64) -> u64 {
    let total: u64 = buckets.iter().sum();
    let rank = (total * percent).div_ceil(100);
    let mut seen = 0;
    for (count, bound) in buckets.iter().zip(BOUNDS_US.iter().chain([&u64::MAX])) {
        seen += count;
        if total > 0 && seen >= rank {
            return (*bound).min(BOUNDS_US[BOUNDS_US.len() - 1]);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u16, duration_us: u64) -> Ended<'static> {
        Ended {
            status,
            reason: None,
            duration_us,
            cache: None,
            verdicts: &[],
        }
    }

    #[test]
    fn threads_add_up_in_the_report() {
        let (metrics, mut told) = (Metrics::default(), Told::default());
        let threads = [metrics.thread(), metrics.thread()];
        threads[0].begin();
        threads[0].end(None, &ended(200, 9_000_000));
        let report = metrics.report(&mut told, |_| ("Local", 0));
        assert_eq!(
            (report.requests, report.latency_p95_us),
            (0, 0),
            "what was before the stream is not reported on it"
        );
        for thread in &threads {
            for _ in 0..10 {
                thread.begin();
                thread.end(None, &ended(200, 900));
            }
            thread.begin();
        }
        let report = metrics.report(&mut told, |_| ("Local", 0));
        assert_eq!(
            (report.requests, report.in_flight, report.latency_p95_us),
            (20, 2, 1000)
        );
    }

    #[test]
    fn latency_is_of_the_last_interval_and_requests_count_on() {
        let (metrics, mut told) = (Metrics::default(), Told::default());
        let thread = metrics.thread();
        let mut report = |count, duration_us| {
            for _ in 0..count {
                thread.begin();
                thread.end(None, &ended(200, duration_us));
            }
            let report = metrics.report(&mut told, |_| ("Local", 0));
            (report.requests, report.latency_p95_us)
        };
        assert_eq!(report(0, 0), (0, 0));
        assert_eq!(report(1000, 400_000), (1000, 500_000));
        assert_eq!(report(10, 900), (1010, 1000), "the slow ones are over");
        assert_eq!(report(0, 0), (1010, 0), "nothing ended");
    }

    #[test]
    fn a_percentile_is_the_bound_of_its_bucket() {
        assert_eq!(percentile(&[0; 15], 95), 0);
        let mut buckets = [0; 15];
        (buckets[0], buckets[3]) = (95, 5);
        assert_eq!(percentile(&buckets, 95), 250);
        assert_eq!(percentile(&buckets, 96), 2500);
        buckets[14] = 1000;
        assert_eq!(percentile(&buckets, 95), 10_000_000);
    }

    #[test]
    fn a_reason_has_its_own_count() {
        let mut rule = RuleTally::default();
        rule.count(&Ended {
            reason: Some(RejectReason::LimitExceeded),
            ..ended(429, 10)
        });
        assert_eq!(
            (rule.classes, rule.reasons["limit-exceeded"]),
            ([0, 0, 0, 1, 0], 1)
        );
        let mut sum = RuleTally::default();
        sum.add(&rule);
        sum.add(&rule);
        assert_eq!((sum.total(), sum.reasons["limit-exceeded"]), (2, 2));
    }
}
