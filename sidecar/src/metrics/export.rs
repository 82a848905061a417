//! The counters as Prometheus reads them, added up over the threads at each scrape.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use sluice_snapshot::unit::ObjectRef;

use super::{
    BOUNDS_US, CacheEvent, Closing, Handshaken, LimitTally, Mirrored, RuleTally, Streamed, Tally,
    ThreadTally, UpstreamFailure,
};
use crate::{capture::origin::Refused, log::AccessLog, shared::Shared};

/// Shows the counters to Prometheus.
pub struct Exporter {
    shared: Arc<Shared>,
    log: AccessLog,
    desc: Desc,
}

impl Exporter {
    /// An exporter to register.
    pub fn new(shared: Arc<Shared>, log: AccessLog) -> Result<Self, prometheus::Error> {
        let desc = Desc::new(
            "sluice_requests_total".into(),
            "Requests that have ended.".into(),
            ["namespace", "route", "rule", "class"]
                .map(Into::into)
                .to_vec(),
            HashMap::new(),
        )?;
        Ok(Self { shared, log, desc })
    }
}

impl Collector for Exporter {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = &self.shared.metrics;
        let tally = metrics.sum();
        let mut families = requests(&tally).to_vec();
        families.extend(limits(&tally));
        let threads = metrics.lock();
        let sum = |count: fn(&ThreadTally) -> u64| {
            threads.iter().map(|thread| count(thread)).sum::<u64>()
        };
        let failures = UpstreamFailure::ALL.map(|failure| {
            let count = threads
                .iter()
                .map(|thread| thread.upstream[failure as usize].load(Ordering::Relaxed))
                .sum();
            counter(&[("failure", failure.name())], count)
        });
        let refused = Refused::ALL.map(|refused| {
            let count = threads
                .iter()
                .map(|thread| thread.capture_refused[refused as usize].load(Ordering::Relaxed))
                .sum();
            counter(&[("reason", refused.name())], count)
        });
        let closings = Closing::ALL.map(|closing| {
            let count = threads.iter().map(|thread| thread.closings.get(closing));
            counter(&[("reason", closing.name())], count.sum())
        });
        let handshakes = Handshaken::ALL.map(|how| {
            let count = threads.iter().map(|thread| thread.edge.handshakes(how));
            counter(&[("result", how.name())], count.sum())
        });
        let streams = Streamed::ALL.map(|how| {
            let count = threads.iter().map(|thread| thread.edge.streams(how));
            counter(&[("result", how.name())], count.sum())
        });
        let mirrors = Mirrored::ALL.map(|how| {
            let count = threads.iter().map(|thread| thread.edge.mirrors(how));
            counter(&[("result", how.name())], count.sum())
        });
        let plain =
            |name, help, count| family(name, help, MetricType::COUNTER, vec![counter(&[], count)]);
        families.extend([
            family(
                "sluice_requests_in_flight",
                "Requests that run.",
                MetricType::GAUGE,
                vec![gauge(sum(ThreadTally::in_flight))],
            ),
            plain(
                "sluice_connections_total",
                "Connections that were accepted.",
                sum(|t| t.connections.load(Ordering::Relaxed)),
            ),
            family(
                "sluice_open_connections",
                "Connections from clients that are open.",
                MetricType::GAUGE,
                vec![gauge(self.shared.connections.count() as u64)],
            ),
            family(
                "sluice_connections_closed_total",
                "Connections from clients that this sidecar ended or refused, by reason.",
                MetricType::COUNTER,
                closings.to_vec(),
            ),
            family(
                "sluice_handshakes_total",
                "TLS handshakes of clients of an edge, by how they ended.",
                MetricType::COUNTER,
                handshakes.to_vec(),
            ),
            family(
                "sluice_stream_connections_total",
                "Connections of listeners of protocol TLS and TCP, by what became of them.",
                MetricType::COUNTER,
                streams.to_vec(),
            ),
            family(
                "sluice_stream_connections",
                "Connections of listeners of protocol TLS and TCP that pass now.",
                MetricType::GAUGE,
                vec![gauge(sum(|t| t.edge.open_streams()))],
            ),
            family(
                "sluice_mirrored_requests_total",
                "Copies of requests for RequestMirror, by what became of them.",
                MetricType::COUNTER,
                mirrors.to_vec(),
            ),
            plain(
                "sluice_accept_failures_total",
                "Tries to accept a connection that failed: descriptors or memory ran out.",
                sum(|t| t.unaccepted.load(Ordering::Relaxed)),
            ),
            plain(
                "sluice_captured_connections_total",
                "Redirected connections that were led to their application.",
                sum(|t| t.captured.load(Ordering::Relaxed)),
            ),
            family(
                "sluice_capture_refused_total",
                "Connections to the capture port that were for no application, by reason.",
                MetricType::COUNTER,
                refused.to_vec(),
            ),
            plain(
                "sluice_passed_connections_total",
                "Connections to ports without a route, whose bytes pass as they are.",
                sum(|t| t.passed.load(Ordering::Relaxed)),
            ),
            family(
                "sluice_passing_connections",
                "Connections to ports without a route that are open.",
                MetricType::GAUGE,
                vec![gauge(sum(|t| t.passing.load(Ordering::Relaxed)))],
            ),
            plain(
                "sluice_upgrades_total",
                "Requests that turned their connection into another protocol.",
                sum(|t| t.upgrades.load(Ordering::Relaxed)),
            ),
            family(
                "sluice_upgraded_connections",
                "Connections that speak another protocol and are open.",
                MetricType::GAUGE,
                vec![gauge(sum(|t| t.upgraded.load(Ordering::Relaxed)))],
            ),
            plain(
                "sluice_panics_total",
                "Requests that ended in a panic.",
                sum(ThreadTally::panics),
            ),
            plain(
                "sluice_access_log_dropped_total",
                "Access log lines that were dropped.",
                self.log.dropped(),
            ),
            family(
                "sluice_upstream_failures_total",
                "Tries without an answer.",
                MetricType::COUNTER,
                failures.to_vec(),
            ),
            family(
                "sluice_cache_bytes",
                "Memory that stored answers take.",
                MetricType::GAUGE,
                vec![gauge(self.shared.cache.bytes())],
            ),
            family(
                "sluice_limit_buckets",
                "Rate limit buckets in memory.",
                MetricType::GAUGE,
                vec![gauge(self.shared.limits.buckets())],
            ),
        ]);
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

/// By route and rule: status classes, reasons, cache events, durations.
fn requests(tally: &Tally) -> [MetricFamily; 4] {
    let (mut totals, mut rejects, mut cache, mut durations) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let nowhere = ObjectRef::new("", "", "");
    let rules = tally.rules.parts.iter();
    let rules = rules.map(|part| (&part.object, part.name.as_str(), &part.tally));
    for (object, name, rule) in rules.chain([(&nowhere, "", &tally.unmatched)]) {
        // An HTTPRoute may have the name of an ApiRoute.
        let route = match object.kind.as_str() {
            "" | "ApiRoute" => Cow::Borrowed(object.name.as_str()),
            kind => Cow::Owned(format!("{kind}/{}", object.name)),
        };
        let base = [
            ("namespace", object.namespace.as_str()),
            ("route", &route),
            ("rule", name),
        ];
        let with = |name, value| [base[0], base[1], base[2], (name, value)];
        for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .iter()
            .zip(rule.classes)
            .filter(|(_, count)| *count > 0)
        {
            totals.push(counter(&with("class", class), count));
        }
        for (reason, count) in &rule.reasons {
            rejects.push(counter(&with("reason", reason), *count));
        }
        for (event, count) in CacheEvent::ALL
            .iter()
            .zip(rule.cache)
            .filter(|(_, count)| *count > 0)
        {
            cache.push(counter(&with("event", event.name()), count));
        }
        if rule.total() > 0 {
            durations.push(histogram(&base, rule));
        }
    }
    [
        family(
            "sluice_requests_total",
            "Requests that have ended.",
            MetricType::COUNTER,
            totals,
        ),
        family(
            "sluice_rejects_total",
            "Requests that were refused, by reason.",
            MetricType::COUNTER,
            rejects,
        ),
        family(
            "sluice_cache_events_total",
            "What the cache did.",
            MetricType::COUNTER,
            cache,
        ),
        family(
            "sluice_request_duration_seconds",
            "Until the last byte of the answer.",
            MetricType::HISTOGRAM,
            durations,
        ),
    ]
}

fn limits(tally: &Tally) -> Option<MetricFamily> {
    let mut counts = Vec::new();
    for part in &tally.limits.parts {
        let LimitTally {
            admitted,
            refused,
            shadowed,
        } = &part.tally;
        for (result, count) in [
            ("admitted", admitted),
            ("refused", refused),
            ("shadowed", shadowed),
        ] {
            let labels = [
                ("namespace", part.object.namespace.as_str()),
                ("policy", &part.object.name),
                ("limit", &part.name),
                ("result", result),
            ];
            counts.push(counter(&labels, *count));
        }
    }
    (!counts.is_empty()).then(|| {
        family(
            "sluice_limit_requests_total",
            "What limits said.",
            MetricType::COUNTER,
            counts,
        )
    })
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    pairs.iter().map(pair).collect()
}

#[allow(clippy::cast_precision_loss)] // Prometheus counts in floats
fn counter(pairs: &[(&str, &str)], count: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_counter(counter);
    metric
}

#[allow(clippy::cast_precision_loss)]
fn gauge(value: u64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value as f64);
    Metric::from_gauge(gauge)
}

#[allow(clippy::cast_precision_loss)]
fn histogram(pairs: &[(&str, &str)], rule: &RuleTally) -> Metric {
    let mut cumulative = 0;
    let buckets = BOUNDS_US.iter().zip(&rule.buckets).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e6);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(rule.total());
    histogram.set_sample_sum(rule.sum_us as f64 / 1e6);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, Registry, TextEncoder};
    use sluice_pipeline::RejectReason;

    use super::{super::Ended, *};
    use crate::shared::SharedLimits;

    #[test]
    fn a_scrape_adds_up_the_threads_and_reads_as_prometheus_text() {
        let (shared, _inbox) = Shared::new(SharedLimits::default());
        for thread in [shared.metrics.thread(), shared.metrics.thread()] {
            thread.begin();
            let reason = Some(RejectReason::NoRoute);
            thread.end(
                None,
                &Ended {
                    status: 404,
                    reason,
                    duration_us: 300,
                    cache: None,
                    verdicts: &[],
                },
            );
        }
        let registry = Registry::new();
        let exporter =
            Exporter::new(Arc::clone(&shared), AccessLog::off()).expect("describes itself");
        registry.register(Box::new(exporter)).expect("registers");
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&registry.gather(), &mut text)
            .expect("encodes");
        let text = String::from_utf8(text).expect("text");
        for line in [
            r#"sluice_requests_total{namespace="",route="",rule="",class="4xx"} 2"#,
            r#"sluice_rejects_total{namespace="",route="",rule="",reason="no-route"} 2"#,
            r#"sluice_request_duration_seconds_bucket{namespace="",route="",rule="",le="0.00025"} 0"#,
            r#"sluice_request_duration_seconds_bucket{namespace="",route="",rule="",le="0.0005"} 2"#,
            "sluice_requests_in_flight 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
