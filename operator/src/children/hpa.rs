//! The HorizontalPodAutoscaler of a workload that an ApiRoute scales: dereferenced by translation, validated against what
//! is there, built, applied, and deleted when nobody wants it any more. The workload itself is never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use prometheus::{IntCounterVec, Opts, Registry};
use serde_json::{Value, json};
use sluice_process::Shutdown;
use sluice_translate::{HpaIntent, Kind};
use tokio::time::{Instant, sleep, timeout};

use super::Scalers;
use crate::{
    engine::Handle,
    leader::{Leadership, NotLeader},
    status::{
        conditions::Scaling,
        store::{FIELD_MANAGER, api_version},
    },
};

/// The label of everything that the operator makes.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// How often everything is applied anew, so that edits by others do not last.
const RESYNC: Duration = Duration::from_secs(60);
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
    writes: IntCounterVec,
    /// What was applied and not changed since.
    applied: BTreeMap<(String, String), HpaIntent>,
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
    pub fn new(
        client: Client,
        engine: Handle,
        leadership: Leadership,
        scalers: Arc<Scalers>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
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
            let mut done = self.apply_all(&wanted).await;
            if Instant::now() >= resync {
                done &= self.sweep(&wanted).await;
                resync = Instant::now() + RESYNC;
            }
            let wait = if done {
                resync.saturating_duration_since(Instant::now())
            } else {
                RETRY
            };
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                _ = deltas.recv() => {}
                () = sleep(wait) => {}
            }
            sleep(PAUSE).await;
            while deltas.try_recv().is_ok() {}
        }
    }

    /// Applies what differs and deletes what is not wanted any more; whether all of it succeeded.
    async fn apply_all(&mut self, wanted: &BTreeMap<(String, String), HpaIntent>) -> bool {
        let mut done = true;
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
            if self.applied.get(name) == Some(intent) {
                continue;
            }
            let state = match self.apply(intent).await {
                Ok(()) => {
                    self.writes.with_label_values(&["applied"]).inc();
                    self.applied.insert(name.clone(), intent.clone());
                    Scaling::Applied
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
        done
    }

    fn failed(&self, (namespace, name): &(String, String), error: &ApplyError) -> bool {
        self.writes.with_label_values(&["failed"]).inc();
        tracing::warn!(namespace, name, %error, "HorizontalPodAutoscaler");
        false
    }

    async fn apply(&self, intent: &HpaIntent) -> Result<(), ApplyError> {
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
        let object = build(intent, version.as_deref());
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

/// The object, whole.
fn build(intent: &HpaIntent, version: Option<&str>) -> Value {
    let HpaIntent {
        namespace,
        name,
        target,
        min_replicas,
        max_replicas,
        metrics,
        behavior,
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
    if let Some(min_replicas) = min_replicas {
        object["spec"]["minReplicas"] = (*min_replicas).into();
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
            owners: vec![owner("orders"), owner("orders-admin")],
        }
    }

    #[test]
    fn the_object_is_owned_by_every_route_and_controlled_by_none() {
        let built = build(&intent(), None);
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
            build(&intent(), Some("7"))["metadata"]["resourceVersion"],
            "7"
        );
    }

    #[test]
    fn a_foreign_object_is_not_ours_whatever_it_is_called() {
        let mut foreign: HorizontalPodAutoscaler =
            serde_json::from_value(build(&intent(), None)).expect("an HPA");
        foreign.metadata.owner_references = None;
        assert!(!is_ours(&foreign));
        let mut foreign: HorizontalPodAutoscaler =
            serde_json::from_value(build(&intent(), None)).expect("an HPA");
        foreign.metadata.labels = None;
        assert!(!is_ours(&foreign));
    }
}
