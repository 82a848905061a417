//! A pod without a kubelet: real objects, a real token, an address of the test's network. The processes that would be
//! its containers are started by the test, on that address.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Binding, Pod, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::control_plane::ISSUER;
use super::{Cluster, FIELD_MANAGER};
use crate::wait::{eventually, seconds};
use crate::world::World;

/// The node that every stand-in pod is bound to: without its Node object no EndpointSlice names a pod.
pub const NODE: &str = "node-1";

pub(super) fn node_manifest() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}})
}

/// A pod with an address, Running and Ready until told otherwise.
#[derive(Clone)]
pub struct StandInPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The uid that the API server gave it.
    pub uid: String,
    /// Its service account.
    pub service_account: String,
    /// Its address.
    pub ip: Ipv4Addr,
    client: Client,
    dir: PathBuf,
}

// The client has no Debug.
impl fmt::Debug for StandInPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}/{} at {}", self.namespace, self.name, self.ip)
    }
}

impl StandInPod {
    /// Creates a pod with these labels in an existing namespace.
    pub async fn create(
        world: &World,
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        labels: Value,
    ) -> Result<Self> {
        Self::create_as(world, cluster, namespace, name, labels, "default").await
    }

    /// [`Self::create`] with a service account other than `default`.
    pub async fn create_as(
        world: &World,
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        labels: Value,
        service_account: &str,
    ) -> Result<Self> {
        cluster
            .service_account_exists(namespace, service_account)
            .await?;
        let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
        let pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "serviceAccountName": service_account, "nodeName": NODE,
                // As an injected pod has it.
                "initContainers": [{"name": "sluice", "image": "localhost/none:1", "restartPolicy": "Always"}],
                "containers": [{"name": "app", "image": "localhost/none:1"}],
            },
        }))?;
        let created = pods
            .create(&PostParams::default(), &pod)
            .await
            .with_context(|| format!("creating pod {namespace}/{name}"))?;
        Self::adopt(world, cluster, &created).await
    }

    /// Takes over a pod that a controller made: binds it to the node as the scheduler would, then reports it Ready as
    /// the kubelet would.
    pub async fn adopt(world: &World, cluster: &Cluster, pod: &Pod) -> Result<Self> {
        let spec = pod.spec.as_ref().context("a pod has a spec")?;
        let this = Self {
            namespace: pod.namespace().context("a pod has a namespace")?,
            name: pod.name_any(),
            uid: pod.uid().context("adopt a pod as the API server gave it")?,
            service_account: spec
                .service_account_name
                .clone()
                .unwrap_or_else(|| "default".into()),
            ip: world.address(),
            client: cluster.client(),
            dir: world.dir().join("pods").join(format!(
                "{}.{}",
                pod.namespace().unwrap_or_default(),
                pod.name_any()
            )),
        };
        if spec.node_name.is_none() {
            let binding: Binding = serde_json::from_value(json!({
                "metadata": {"name": this.name, "namespace": this.namespace},
                "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
            }))?;
            // The answer is a Status.
            this.pods()
                .create_subresource::<_, Value>(
                    "binding",
                    &this.name,
                    &PostParams::default(),
                    &binding,
                )
                .await?;
        }
        this.set_ready(true).await?;
        Ok(this)
    }

    /// Waits for `count` pods with this label selector and adopts them, in the order of their names.
    pub async fn adopt_all(
        world: &World,
        cluster: &Cluster,
        namespace: &str,
        selector: &str,
        count: usize,
    ) -> Result<Vec<Self>> {
        let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
        let list = ListParams::default().labels(selector);
        let mut found = eventually(
            &format!("{count} pods of {selector} in {namespace}"),
            seconds(30),
            async || {
                let found = pods.list(&list).await?.items;
                anyhow::ensure!(found.len() == count, "there are {}", found.len());
                Ok(found)
            },
        )
        .await?;
        found.sort_by_key(ResourceExt::name_any);
        let mut adopted = Vec::new();
        for pod in &found {
            adopted.push(Self::adopt(world, cluster, pod).await?);
        }
        Ok(adopted)
    }

    /// Reports the pod Ready or not, as a kubelet would.
    pub async fn set_ready(&self, ready: bool) -> Result<()> {
        let ready = if ready { "True" } else { "False" };
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(|kind| {
            let status = if kind.ends_with("Ready") {
                ready
            } else {
                "True"
            };
            json!({"type": kind, "status": status})
        });
        let ip = self.ip.to_string();
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}});
        self.pods()
            .patch_status(
                &self.name,
                &PatchParams {
                    field_manager: Some(FIELD_MANAGER.into()),
                    ..Default::default()
                },
                &Patch::Strategic(status),
            )
            .await
            .with_context(|| format!("reporting the status of pod {}", self.name))?;
        Ok(())
    }

    /// A token for this audience, bound to this pod, as a kubelet projects it into a volume. Good for ten minutes, the
    /// least an API server gives.
    pub async fn token(&self, audience: &str) -> Result<String> {
        let request: TokenRequest = serde_json::from_value(json!({
            "metadata": {},
            "spec": {
                "audiences": [audience], "expirationSeconds": 600,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid},
            },
        }))?;
        let answer = self
            .accounts()
            .create_token_request(&self.service_account, &PostParams::default(), &request)
            .await?;
        answer
            .status
            .and_then(|status| status.token)
            .context("a token request is answered with a token")
    }

    /// [`Self::token`] in a file of mode 0600, written anew at each call.
    pub async fn token_file(&self, audience: &str) -> Result<PathBuf> {
        self.write_token(&self.token(audience).await?)
    }

    /// Puts any text where [`Self::token_file`] puts the token.
    pub fn write_token(&self, token: &str) -> Result<PathBuf> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::create_dir_all(&self.dir)?;
        let path = self.dir.join("token");
        let mut options = std::fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?
            .write_all(token.as_bytes())?;
        Ok(path)
    }

    /// The token that the API server would have given from `issued` to `expires` (Unix seconds), signed by the test
    /// with the API server's own key.
    pub async fn forged_token(
        &self,
        cluster: &Cluster,
        audience: &str,
        issued: u64,
        expires: u64,
    ) -> Result<String> {
        let account = self.accounts().get(&self.service_account).await?;
        cluster.service_account_key()?.sign(&json!({
            "iss": ISSUER, "aud": [audience], "iat": issued, "nbf": issued, "exp": expires,
            "sub": format!("system:serviceaccount:{}:{}", self.namespace, self.service_account),
            "kubernetes.io": {
                "namespace": self.namespace,
                "pod": {"name": self.name, "uid": self.uid},
                "serviceaccount": {"name": self.service_account, "uid": account.uid()},
            },
        }))
    }

    /// Waits until an EndpointSlice of this Service names the pod's address with this readiness.
    pub async fn in_slices(&self, service: &str, ready: bool, within: Duration) -> Result<()> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let list = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let ip = self.ip.to_string();
        eventually(
            &format!("{ip} in a slice of {service}, ready={ready}"),
            within,
            async || {
                let endpoints: Vec<_> = slices
                    .list(&list)
                    .await?
                    .items
                    .into_iter()
                    .flat_map(|s| s.endpoints.unwrap_or_default())
                    .collect();
                let named = endpoints.iter().any(|e| {
                    e.addresses.contains(&ip)
                        && e.conditions
                            .as_ref()
                            .is_some_and(|c| c.ready == Some(ready))
                });
                anyhow::ensure!(
                    named,
                    "the slices hold {:?}",
                    endpoints.iter().map(|e| &e.addresses).collect::<Vec<_>>()
                );
                Ok(())
            },
        )
        .await
    }

    /// Deletes the pod at once, as a kubelet does when its containers have ended.
    pub async fn delete(&self) -> Result<()> {
        self.pods()
            .delete(&self.name, &DeleteParams::default().grace_period(0))
            .await?;
        Ok(())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
