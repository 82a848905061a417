//! The HorizontalPodAutoscaler of a workload that ApiRoutes scale: dereferenced and merged by translation, validated
//! against what is there, built with the floor of replicas that schedules ask for at that moment, applied, and deleted when
//! nobody wants it any more. The workload itself is never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use prometheus::{IntCounterVec, Opts, Registry};
use serde_json::{Value, json};
use sluice_process::{Clock, Shutdown};
use sluice_translate::{HpaIntent, Kind, scaling::schedule::Floor};
use tokio::time::{Instant, sleep, timeout};

use super::Scalers;
use crate::{
    engine::Handle,
    leader::{Leadership, NotLeader},
    scaling::{MetricsApi, MetricsApiWatch},
    status::{
        conditions::Scaling,
        store::{FIELD_MANAGER, api_version},
    },
};

/// The label of everything that the operator makes.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// How often everything is applied anew, so that edits by others do not last.
const RESYNC: Duration = Duration::from_secs(60);
/// How often somebody else's metrics are looked for, by whether the HorizontalPodAutoscaler has any.
const METRICS_RESYNC: Duration = Duration::from_secs(15);
/// When to try again after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Changes are collected for as long.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps HorizontalPodAutoscalers.
pub struct Keeper {
    client: Client,
    engine: Handle,
    leadership: Leadership,
    scalers: Arc<Scalers>,
    metrics_api: MetricsApiWatch,
    clock: Clock,
    writes: IntCounterVec,
    /// What was applied and not changed since, and with which `minReplicas`.
    applied: BTreeMap<(String, String), (HpaIntent, Option<i32>)>,
}

/// What the keeper works with.
pub struct Wiring {
    /// The API server.
    pub client: Client,
    /// What should be there.
    pub engine: Handle,
    /// Whether to write.
    pub leadership: Leadership,
    /// Who is told how far it came.
    pub scalers: Arc<Scalers>,
    /// Who serves the metrics.
    pub metrics_api: MetricsApiWatch,
    /// What time it is.
    pub clock: Clock,
}

/// Why one is not as it should be.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(
        "HorizontalPodAutoscaler {0}/{1} exists and is not Sluice's: rename it, or remove spec.scaling"
    )]
    Taken(String, String),
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    #[error("the HorizontalPodAutoscaler could not be written: {0}")]
    Api(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    Timeout,
}

impl Keeper {
    /// A keeper that has applied nothing yet.
    pub fn new(wiring: Wiring, registry: &Registry) -> Result<Self, prometheus::Error> {
        let Wiring {
            client,
            engine,
            leadership,
            scalers,
            metrics_api,
            clock,
        } = wiring;
        let opts = Opts::new(
            "sluice_operator_hpa_writes_total",
            "Writes of HorizontalPodAutoscalers, by outcome",
        );
        let writes = IntCounterVec::new(opts, &["outcome"])?;
        registry.register(Box::new(writes.clone()))?;
        Ok(Self {
            client,
            engine,
            leadership,
            scalers,
            metrics_api,
            clock,
            writes,
            applied: BTreeMap::new(),
        })
    }

    /// Keeps until shutdown, from the moment that this replica leads.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = self.leadership.won() => {}
        }
        let mut deltas = self.engine.deltas();
        let mut resync = Instant::now();
        loop {
            let started = |engine: &sluice_translate::Engine| engine.children().clone();
            let Ok(wanted) = self.engine.read(started).await else {
                shutdown.begun().await;
                return Ok(());
            };
            if Instant::now() >= resync {
                self.applied.clear();
            }
            let metrics_api = self.metrics_api.borrow_and_update().clone();
            let (mut done, peak) = self.apply_all(&wanted).await;
            let looks_again = self.judge_metrics(&metrics_api).await;
            if Instant::now() >= resync {
                done &= self.sweep(&wanted).await;
                resync = Instant::now() + RESYNC;
            }
            let wait = if done {
                resync.saturating_duration_since(Instant::now())
            } else {
                RETRY
            };
            let wait = wait.min(self.until(peak)).min(looks_again);
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                _ = deltas.recv() => {}
                changed = self.metrics_api.changed() => changed.context("nobody knows the metrics API any more")?,
                () = sleep(wait) => {}
            }
            sleep(PAUSE).await;
            while deltas.try_recv().is_ok() {}
        }
    }

    /// How long it is until a moment, given in seconds since 1970. A wall clock that is set meanwhile is noticed at the
    /// next resync.
    fn until(&self, moment_s: Option<i64>) -> Duration {
        let Some(moment_ms) = moment_s.and_then(|s| u64::try_from(s).ok()?.checked_mul(1_000))
        else {
            return Duration::MAX;
        };
        Duration::from_millis(moment_ms.saturating_sub(self.clock.wall_ms()))
    }

    /// Applies what differs and deletes what is not wanted any more: whether all of it succeeded, and when a schedule
    /// changes something next, in seconds since 1970.
    async fn apply_all(
        &mut self,
        wanted: &BTreeMap<(String, String), HpaIntent>,
    ) -> (bool, Option<i64>) {
        let now_s = self.clock.wall_s();
        let (mut done, mut peak) = (true, None::<i64>);
        let unwanted: Vec<_> = self
            .applied
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in unwanted {
            match self.delete(&name).await {
                Ok(()) => drop(self.applied.remove(&name)),
                Err(error) => done = self.failed(&name, &error),
            }
            self.scalers.set(&name, None);
        }
        for (name, intent) in wanted {
            let Floor {
                min_replicas,
                until_s,
            } = intent.floor(now_s);
            peak = peak.into_iter().chain(until_s).min();
            if self
                .applied
                .get(name)
                .is_some_and(|(applied, floor)| applied == intent && *floor == min_replicas)
            {
                continue;
            }
            let state = match self.apply(intent, min_replicas).await {
                Ok(()) => {
                    self.writes.with_label_values(&["applied"]).inc();
                    self.applied
                        .insert(name.clone(), (intent.clone(), min_replicas));
                    // What is known of its metrics stays known; it is looked at next.
                    match self.scalers.get(name) {
                        known @ Scaling::MetricsElsewhere(_) => known,
                        _ => Scaling::Applied,
                    }
                }
                Err(error) => {
                    done = self.failed(name, &error);
                    match error {
                        ApplyError::Taken(..) => Scaling::Taken(error.to_string()),
                        ApplyError::NotLeader(_) => continue,
                        ApplyError::Api(_) | ApplyError::Timeout => {
                            Scaling::Failed(error.to_string())
                        }
                    }
                }
            };
            self.scalers.set(name, Some(state));
        }
        (done, peak)
    }

    /// Where somebody else serves the metrics API, only the HorizontalPodAutoscaler itself knows whether it is given our
    /// metrics. The answer is when to look again.
    async fn judge_metrics(&self, metrics_api: &MetricsApi) -> Duration {
        for name in self.applied.keys() {
            let state = match metrics_api {
                MetricsApi::Unknown | MetricsApi::Ours => Scaling::Applied,
                MetricsApi::Elsewhere(what) => {
                    match within(self.api(&name.0).get_opt(&name.1)).await {
                        Ok(Some(hpa)) if has_metrics(&hpa) => Scaling::Applied,
                        Ok(_) => Scaling::MetricsElsewhere(what.clone()),
                        // What was known stays.
                        Err(error) => {
                            tracing::warn!(namespace = name.0, name = name.1, %error, "HorizontalPodAutoscaler");
                            continue;
                        }
                    }
                }
            };
            self.scalers.set(name, Some(state));
        }
        match metrics_api {
            MetricsApi::Elsewhere(_) if !self.applied.is_empty() => METRICS_RESYNC,
            _ => Duration::MAX,
        }
    }

    fn failed(&self, (namespace, name): &(String, String), error: &ApplyError) -> bool {
        self.writes.with_label_values(&["failed"]).inc();
        tracing::warn!(namespace, name, %error, "HorizontalPodAutoscaler");
        false
    }

    async fn apply(&self, intent: &HpaIntent, floor: Option<i32>) -> Result<(), ApplyError> {
        let api = self.api(&intent.namespace);
        let there = within(api.get_opt(&intent.name)).await?;
        if there.as_ref().is_some_and(|there| !is_ours(there)) {
            return Err(ApplyError::Taken(
                intent.namespace.clone(),
                intent.name.clone(),
            ));
        }
        // With the version that was looked at: what somebody makes or replaces in between is not taken over.
        let version = there.and_then(|there| there.metadata.resource_version);
        let object = build(intent, floor, version.as_deref());
        self.leadership.check()?;
        match version {
            Some(_) => {
                let params = PatchParams::apply(FIELD_MANAGER).force();
                within(api.patch(&intent.name, &params, &Patch::Apply(&object)))
                    .await
                    .map(drop)
            }
            None => {
                let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
                let params = kube::api::PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..kube::api::PostParams::default()
                };
                within(api.create(&params, &object)).await.map(drop)
            }
        }
    }

    async fn delete(&self, (namespace, name): &(String, String)) -> Result<(), ApplyError> {
        let api = self.api(namespace);
        let Some(there) = within(api.get_opt(name)).await?.filter(is_ours) else {
            return Ok(());
        };
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: there.uid(),
                resource_version: there.resource_version(),
            }),
            ..DeleteParams::default()
        };
        self.leadership.check()?;
        match within(api.delete(name, &params)).await {
            Ok(_) => {
                self.writes.with_label_values(&["deleted"]).inc();
                tracing::info!(
                    namespace,
                    name,
                    "HorizontalPodAutoscaler deleted: no ApiRoute asks for it"
                );
                Ok(())
            }
            Err(ApplyError::Api(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes what a former leader has left.
    async fn sweep(&self, wanted: &BTreeMap<(String, String), HpaIntent>) -> bool {
        let ours = ListParams::default().labels(&format!("{MANAGED_BY}={FIELD_MANAGER}"));
        let all: Api<HorizontalPodAutoscaler> = Api::all(self.client.clone());
        let list = match within(all.list(&ours)).await {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!(%error, "cannot list HorizontalPodAutoscalers");
                return false;
            }
        };
        let names: BTreeSet<_> = list
            .iter()
            .filter(|hpa| is_ours(hpa))
            .map(|hpa| (hpa.namespace().unwrap_or_default(), hpa.name_any()))
            .collect();
        let mut done = true;
        for name in names.iter().filter(|name| !wanted.contains_key(*name)) {
            if let Err(error) = self.delete(name).await {
                done = self.failed(name, &error);
            }
        }
        done
    }

    fn api(&self, namespace: &str) -> Api<HorizontalPodAutoscaler> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApplyError> {
    Ok(timeout(TIMEOUT, request)
        .await
        .map_err(|_| ApplyError::Timeout)??)
}

/// Made by the operator: its label, and an ApiRoute as owner.
fn is_ours(hpa: &HorizontalPodAutoscaler) -> bool {
    let labelled = hpa
        .labels()
        .get(MANAGED_BY)
        .is_some_and(|by| by == FIELD_MANAGER);
    labelled
        && hpa
            .owner_references()
            .iter()
            .any(|owner| owner.kind == Kind::ApiRoute.as_str())
}

/// Whether it was given the metrics it follows when its controller looked last.
fn has_metrics(hpa: &HorizontalPodAutoscaler) -> bool {
    let conditions = hpa.status.iter().flat_map(|status| &status.conditions);
    conditions
        .flatten()
        .any(|condition| condition.type_ == "ScalingActive" && condition.status == "True")
}

/// The object, whole, with the floor of this moment.
fn build(intent: &HpaIntent, floor: Option<i32>, version: Option<&str>) -> Value {
    let HpaIntent {
        namespace,
        name,
        target,
        min_replicas: _,
        max_replicas,
        metrics,
        behavior,
        schedules: _,
        owners,
    } = intent;
    let owner = |(id, uid): &(sluice_translate::ObjectId, String)| json!({"apiVersion": api_version(), "kind": id.kind.as_str(), "name": &*id.name, "uid": uid});
    let metric = |(metric, value): &(&str, String)| {
        json!({
            "type": "Pods",
            "pods": {"metric": {"name": metric}, "target": {"type": "AverageValue", "averageValue": value}},
        })
    };
    let mut object = json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {MANAGED_BY: FIELD_MANAGER},
            "ownerReferences": owners.iter().map(owner).collect::<Vec<_>>(),
        },
        "spec": {
            "scaleTargetRef": target,
            "maxReplicas": max_replicas,
            "metrics": metrics.iter().map(metric).collect::<Vec<_>>(),
        },
    });
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = version.into();
    }
    if let Some(floor) = floor {
        object["spec"]["minReplicas"] = floor.into();
    }
    if let Some(behavior) = behavior {
        object["spec"]["behavior"] = json!(behavior);
    }
    object
}

#[cfg(test)]
mod tests {
    use sluice_translate::ObjectId;

    use super::*;

    fn intent() -> HpaIntent {
        let owner = |name: &str| {
            (
                ObjectId::new(Kind::ApiRoute, "shop", name),
                format!("uid-{name}"),
            )
        };
        HpaIntent {
            namespace: "shop".into(),
            name: "sluice-orders".into(),
            target: serde_json::from_value(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "orders"}),
            )
            .expect("a target"),
            min_replicas: Some(2),
            max_replicas: 40,
            metrics: vec![("sluice_requests_per_second", "150".into())],
            behavior: Some(
                serde_json::from_value(json!({"scaleDown": {"stabilizationWindowSeconds": 120}}))
                    .expect("a behavior"),
            ),
            schedules: Vec::new(),
            owners: vec![owner("orders"), owner("orders-admin")],
        }
    }

    #[test]
    fn the_object_is_owned_by_every_route_and_controlled_by_none() {
        let built = build(&intent(), Some(2), None);
        insta::assert_yaml_snapshot!("hpa", built);
        let typed: HorizontalPodAutoscaler =
            serde_json::from_value(built).expect("an HPA of the API's shape");
        assert!(is_ours(&typed));
        assert!(
            typed
                .owner_references()
                .iter()
                .all(|owner| owner.controller.is_none())
        );
    }

    #[test]
    fn what_was_looked_at_is_what_is_written_over() {
        assert_eq!(
            build(&intent(), None, Some("7"))["metadata"]["resourceVersion"],
            "7"
        );
    }

    #[test]
    fn a_foreign_object_is_not_ours_whatever_it_is_called() {
        let mut foreign: HorizontalPodAutoscaler =
            serde_json::from_value(build(&intent(), None, None)).expect("an HPA");
        foreign.metadata.owner_references = None;
        assert!(!is_ours(&foreign));
        let mut foreign: HorizontalPodAutoscaler =
            serde_json::from_value(build(&intent(), None, None)).expect("an HPA");
        foreign.metadata.labels = None;
        assert!(!is_ours(&foreign));
    }

    #[test]
    fn an_autoscaler_has_metrics_when_its_controller_says_so() {
        let says = |conditions: Value| -> HorizontalPodAutoscaler {
            let mut object = build(&intent(), None, None);
            object["status"] = json!({"desiredReplicas": 0, "conditions": conditions});
            serde_json::from_value(object).expect("an HPA")
        };
        let active = |status| json!([{"type": "AbleToScale", "status": "True"}, {"type": "ScalingActive", "status": status}]);
        assert!(has_metrics(&says(active("True"))));
        assert!(!has_metrics(&says(active("False"))));
        assert!(!has_metrics(&says(json!([]))), "nobody looked yet");
    }
}
