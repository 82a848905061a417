//! Which pods are outdated, and what renews them. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;
use sluice_translate::world::{PodFacts, SIDECAR_CONTAINER, Sidecar};

use crate::status::text::aligned;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The image that a new pod gets.
    pub wanted: String,
    /// Pods that have another, or none.
    pub pods: Vec<Row>,
    /// Whether pods without a sidecar could be told from those that want none.
    pub bare_known: bool,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// What made it, as `kind/name`; none where nobody did.
    pub owner: Option<String>,
    /// The image it runs; none where it has no sidecar.
    pub image: Option<String>,
    /// The command that renews it.
    pub renew: String,
}

impl Report {
    /// `injected` are the namespaces that ask for sidecars, as far as it is known.
    pub fn of(wanted: String, pods: &[Pod], injected: Option<&BTreeSet<String>>) -> Self {
        let rows = pods.iter().filter_map(|pod| row(pod, &wanted, injected));
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        Self {
            wanted,
            pods: rows,
            bare_known: injected.is_some(),
        }
    }

    /// For people: a table, then each command once.
    pub fn text(&self) -> String {
        let Self {
            wanted,
            pods,
            bare_known,
        } = self;
        let unknown = match bare_known {
            true => "",
            false => "Pods without any sidecar were not looked for: you may not read namespaces.\n",
        };
        if pods.is_empty() {
            return format!("Every sidecar is {wanted}.\n{unknown}");
        }
        let header = ["NAMESPACE", "POD", "OWNER", "SIDECAR"].map(str::to_owned);
        let cells = pods.iter().map(|row| {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
            vec![
                row.namespace.clone(),
                row.pod.clone(),
                or_none(&row.owner),
                or_none(&row.image),
            ]
        });
        let lines: Vec<Vec<String>> = [header.to_vec()].into_iter().chain(cells).collect();
        let commands: BTreeSet<&str> = pods.iter().map(|row| row.renew.as_str()).collect();
        let commands: String = commands
            .iter()
            .map(|command| format!("  {command}\n"))
            .collect();
        format!(
            "{}\nNew pods get {wanted}. To renew these:\n{commands}{unknown}",
            aligned(&lines)
        )
    }
}

fn row(pod: &Pod, wanted: &str, injected: Option<&BTreeSet<String>>) -> Option<Row> {
    let facts = PodFacts::from(pod);
    if facts.terminating {
        return None;
    }
    let namespace = pod.namespace().unwrap_or_default();
    let image = match facts.sidecar {
        Sidecar::Unwanted => return None,
        Sidecar::Absent if injected.is_some_and(|injected| injected.contains(&namespace)) => None,
        Sidecar::Absent => return None,
        Sidecar::Injected => match image(pod) {
            Some(image) if version(image) == version(wanted) => return None,
            image => image.map(str::to_owned),
        },
    };
    let (owner, renew) = owner(pod, &namespace);
    Some(Row {
        pod: pod.name_any(),
        namespace,
        owner,
        image,
        renew,
    })
}

fn image(pod: &Pod) -> Option<&str> {
    let mut containers = pod.spec.as_ref()?.init_containers.iter().flatten();
    containers
        .find(|container| container.name == SIDECAR_CONTAINER)?
        .image
        .as_deref()
}

/// Name, tag and digest, without the registry: a mirror changes nothing about what runs.
fn version(image: &str) -> &str {
    image.rsplit('/').next().unwrap_or(image)
}

/// What made the pod, and the command that makes a new one.
fn owner(pod: &Pod, namespace: &str) -> (Option<String>, String) {
    let name = pod.name_any();
    let delete = format!("kubectl -n {namespace} delete pod {name}");
    let owners = pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners
        .into_iter()
        .find(|owner| owner.controller == Some(true))
    else {
        return (
            None,
            format!("{delete}   # and create it again: nobody else does"),
        );
    };
    let (kind, name) = workload(pod, &owner.kind, &owner.name);
    let owner = format!("{}/{name}", kind.to_lowercase());
    let renew = match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" => {
            format!("kubectl -n {namespace} rollout restart {owner}")
        }
        // A pod that is deleted counts as one that failed.
        "Job" => format!("kubectl -n {namespace} wait --for=condition=complete {owner}"),
        _ => delete,
    };
    (Some(owner), renew)
}

/// A Deployment's ReplicaSet bears its name and the hash that is on the pod, too.
fn workload<'a>(pod: &Pod, kind: &'a str, name: &'a str) -> (&'a str, &'a str) {
    let hash = pod.labels().get("pod-template-hash");
    let deployment = hash.and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    match (kind, deployment) {
        ("ReplicaSet", Some(deployment)) => ("Deployment", deployment),
        other => (other.0, name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, owner: Option<(&str, &str)>, image: Option<&str>) -> Pod {
        let owners = owner.map(|(kind, name)| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}]));
        let sidecar = image
            .map(|image| json!([{"name": "sluice", "image": image, "restartPolicy": "Always"}]));
        read(json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"pod-template-hash": "7c9"}, "ownerReferences": owners},
            "spec": {"containers": [{"name": "app"}], "initContainers": sidecar},
        }))
    }

    fn read(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn what_people_read() {
        let mut out = pod("out", None, None);
        out.metadata
            .labels
            .get_or_insert_default()
            .insert("sluice.dev/inject".into(), "false".into());
        let mut elsewhere = pod("elsewhere", None, None);
        elsewhere.metadata.namespace = Some("plain".into());
        let mut done = pod("done", None, Some("r/sluice-sidecar:1"));
        done.status =
            Some(serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status"));
        let pods = [
            pod(
                "orders-7c9-a",
                Some(("ReplicaSet", "orders-7c9")),
                Some("r/sluice-sidecar:1"),
            ),
            pod("orders-7c9-b", Some(("ReplicaSet", "orders-7c9")), None),
            pod(
                "new",
                Some(("ReplicaSet", "orders-7c9")),
                Some("mirror/r/sluice-sidecar:2"),
            ),
            pod(
                "db-0",
                Some(("StatefulSet", "db")),
                Some("r/sluice-sidecar:1"),
            ),
            pod(
                "report-x",
                Some(("Job", "report")),
                Some("r/sluice-sidecar:1"),
            ),
            pod(
                "canary-x",
                Some(("Rollout", "canary")),
                Some("r/sluice-sidecar:1"),
            ),
            pod("lonely", None, Some("r/sluice-sidecar:1")),
            out,
            elsewhere,
            done,
        ];
        let injected = BTreeSet::from(["shop".to_owned()]);
        let report = Report::of("r/sluice-sidecar:2".into(), &pods, Some(&injected));
        insta::assert_snapshot!("outdated", report.text());
        insta::assert_json_snapshot!("outdated_json", report.pods[0]);

        let blind = Report::of("r/sluice-sidecar:1".into(), &pods[3..4], None);
        insta::assert_snapshot!(blind.text(), @r"
        Every sidecar is r/sluice-sidecar:1.
        Pods without any sidecar were not looked for: you may not read namespaces.
        ");
    }
}
