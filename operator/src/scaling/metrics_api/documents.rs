//! The answers of the custom metrics API as JSON: discovery, values, refusals. Shapes are those of `k8s.io/metrics` and of
//! `metav1`; nothing is decided here.

use k8s_openapi::jiff::{SignedDuration, Timestamp, Unit};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{
    METRICS_GROUP, METRICS_VERSION,
    metric::{Metric, WINDOW},
};
use crate::load::PodLoad;

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    monotonic: Instant,
    wall: Timestamp,
}

impl Now {
    /// Reads both.
    pub fn read() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: Timestamp::now(),
        }
    }

    /// The wall clock's time of a moment, in whole seconds as the API writes it.
    fn time_of(&self, moment: Instant) -> Timestamp {
        let age = self.monotonic.saturating_duration_since(moment);
        let time = SignedDuration::try_from(age)
            .ok()
            .and_then(|age| self.wall.checked_sub(age).ok())
            .unwrap_or(self.wall);
        time.round(Unit::Second).unwrap_or(time)
    }
}

fn group_version() -> String {
    format!("{METRICS_GROUP}/{METRICS_VERSION}")
}

/// The one group.
pub fn group() -> Value {
    let version = json!({"groupVersion": group_version(), "version": METRICS_VERSION});
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": METRICS_GROUP,
        "versions": [version],
        "preferredVersion": version,
    })
}

/// The list of groups.
pub fn groups() -> Value {
    let mut group = group();
    if let Some(group) = group.as_object_mut() {
        group.remove("kind");
        group.remove("apiVersion");
    }
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})
}

/// The metrics, as resources.
pub fn resources() -> Value {
    let resources = Metric::ALL.map(|metric| {
        json!({
            "name": format!("pods/{}", metric.as_str()),
            "singularName": "",
            "namespaced": true,
            "kind": "MetricValueList",
            "verbs": ["get"],
        })
    });
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version(),
        "resources": resources,
    })
}

/// The values of one metric.
pub fn values(metric: Metric, loads: &[PodLoad], now: &Now) -> Value {
    let value = |load: &PodLoad| {
        json!({
            "describedObject": {"kind": "Pod", "apiVersion": "v1", "namespace": load.namespace, "name": load.pod},
            "metric": {"name": metric.as_str()},
            "timestamp": now.time_of(load.at).to_string(),
            "windowSeconds": WINDOW.as_secs(),
            "value": metric.quantity(load),
        })
    };
    json!({
        "kind": "MetricValueList",
        "apiVersion": group_version(),
        "metadata": {},
        "items": loads.iter().map(value).collect::<Vec<_>>(),
    })
}

/// A refusal.
pub fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn documents_have_the_shapes_of_the_api() {
        let now = Now {
            monotonic: Instant::now() + Duration::from_secs(60),
            wall: "2026-11-22T10:00:00.4Z".parse().expect("a time"),
        };
        let loads = ["web-0", "web-1"].map(|pod| PodLoad {
            namespace: "shop".into(),
            pod: pod.into(),
            uid: format!("uid-{pod}"),
            requests_per_second: 150.5,
            in_flight: 3.0,
            latency_p95_us: 12_500,
            at: now.monotonic - Duration::from_secs(2),
        });
        let version =
            json!({"groupVersion": "custom.metrics.k8s.io/v1beta2", "version": "v1beta2"});
        assert_eq!(
            groups(),
            json!({
                "kind": "APIGroupList", "apiVersion": "v1",
                "groups": [{"name": "custom.metrics.k8s.io", "versions": [version], "preferredVersion": version}],
            })
        );
        assert_eq!(group()["kind"], "APIGroup");
        let listed = resources();
        assert_eq!(
            (&listed["kind"], &listed["groupVersion"]),
            (&json!("APIResourceList"), &version["groupVersion"])
        );
        assert_eq!(
            listed["resources"][2],
            json!({"name": "pods/sluice_requests_per_second", "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]})
        );
        let values = values(Metric::RequestsPerSecond, &loads, &now);
        assert_eq!(
            (&values["kind"], &values["apiVersion"]),
            (&json!("MetricValueList"), &version["groupVersion"])
        );
        assert_eq!(
            values["items"][1],
            json!({
                "describedObject": {"kind": "Pod", "apiVersion": "v1", "namespace": "shop", "name": "web-1"},
                "metric": {"name": "sluice_requests_per_second"},
                "timestamp": "2026-11-22T09:59:58Z", "windowSeconds": 5, "value": "150500m",
            })
        );
        assert_eq!(status(403, "Forbidden", "no")["code"], 403);
    }
}
