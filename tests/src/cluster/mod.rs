//! A Kubernetes control plane of one test: etcd, kube-apiserver, kube-controller-manager, all real. There is no kubelet:
//! [`StandInPod`] plays a pod's part. Nothing of Sluice is known here.

mod control_plane;
mod kubectl;
mod pod;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Node, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

pub use control_plane::program;
pub use kubectl::Kubectl;
pub use pod::{NODE, StandInPod};

use crate::jwt::TokenKey;
use crate::process::Running;
use crate::wait::{eventually, seconds};
use crate::world::World;
use control_plane::{ControlPlane, Credentials};

/// The name under which the fixture writes.
const FIELD_MANAGER: &str = "sluice-tests";

/// A running control plane with one Node object.
pub struct Cluster {
    processes: ControlPlane,
    credentials: Credentials,
    kubeconfig: PathBuf,
    client: Client,
    dir: PathBuf,
}

impl Cluster {
    /// Starts all three programs and waits until the API server is ready and the Node object exists.
    pub async fn start(world: &World) -> Result<Self> {
        let credentials = Credentials::new()?;
        let dir = world.folder("cluster")?;
        let processes = ControlPlane::start(world, &credentials).await?;
        let kubeconfig = world.file(
            "cluster/admin.conf",
            credentials.kubeconfig("admin", &["system:masters"])?,
        )?;
        let client = client(&kubeconfig).await?;
        let cluster = Self {
            processes,
            credentials,
            kubeconfig,
            client,
            dir,
        };
        cluster
            .ensure::<Node>(Api::all(cluster.client()), NODE, pod::node_manifest())
            .await?;
        Ok(cluster)
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A kubeconfig that may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig of another user, for components that should run with no more rights than they get in a cluster:
    /// `("system:serviceaccount:NS:NAME", &["system:serviceaccounts"])`. Rights come from RBAC objects of the test.
    pub fn kubeconfig_of(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let path = self
            .dir
            .join(format!("{}.conf", user.replace([':', '/'], "-")));
        std::fs::write(&path, self.credentials.kubeconfig(user, groups)?)?;
        Ok(path)
    }

    /// The real kubectl, as administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.kubeconfig, &self.dir)
    }

    /// The certificate authority of the API server, as PEM.
    pub fn authority(&self) -> &str {
        self.credentials.authority()
    }

    /// The API server's own service-account key: with it a test signs the token that the API server never would.
    pub fn service_account_key(&self) -> Result<TokenKey> {
        self.credentials.service_account_key()
    }

    /// The API server as a process.
    pub fn api_server(&mut self) -> &mut Running {
        &mut self.processes.api_server
    }

    /// Makes a namespace with these labels and waits until pods may be created in it.
    pub async fn namespace(&self, name: &str, labels: Value) -> Result<()> {
        let manifest = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.ensure::<Namespace>(Api::all(self.client()), name, manifest)
            .await?;
        self.service_account_exists(name, "default").await
    }

    /// Waits for a service account: without it the API server refuses its pods.
    pub async fn service_account_exists(&self, namespace: &str, name: &str) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        eventually(
            &format!("service account {namespace}/{name}"),
            seconds(30),
            async || Ok(accounts.get(name).await.map(drop)?),
        )
        .await
    }

    /// Gives a user of [`Self::kubeconfig_of`] an existing ClusterRole.
    pub async fn bind_cluster_role(&self, user: &str, role: &str) -> Result<()> {
        let name = format!("{role}-{}", user.replace([':', '/'], "-"));
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        self.ensure::<ClusterRoleBinding>(Api::all(self.client()), &name, binding)
            .await
    }

    /// Makes a Service without selector whose only endpoint is `target`: how the API server finds a webhook that runs
    /// as a process of the test.
    pub async fn expose(
        &self,
        namespace: &str,
        service: &str,
        port: u16,
        target: SocketAddr,
    ) -> Result<()> {
        let metadata = json!({"name": service, "namespace": namespace});
        let manifest = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"ports": [{"name": "main", "port": port, "targetPort": target.port()}]},
        });
        self.ensure::<Service>(Api::namespaced(self.client(), namespace), service, manifest)
            .await?;
        let manifest = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "main", "port": target.port()}],
            "endpoints": [{"addresses": [target.ip()], "conditions": {"ready": true}}],
        });
        self.ensure::<EndpointSlice>(Api::namespaced(self.client(), namespace), service, manifest)
            .await
    }

    /// Server-side apply of one object of a kind that k8s-openapi knows.
    async fn ensure<K>(&self, api: Api<K>, name: &str, manifest: Value) -> Result<()>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        api.patch(
            name,
            &PatchParams::apply(FIELD_MANAGER),
            &Patch::Apply(manifest),
        )
        .await
        .with_context(|| format!("making {name}"))?;
        Ok(())
    }

    /// `kubectl apply -f` of YAML text.
    pub async fn apply_yaml(&self, yaml: &str) -> Result<String> {
        self.kubectl().with_input(["apply", "-f", "-"], yaml).await
    }

    /// `kubectl apply -f` of files or folders.
    pub async fn apply_files(&self, paths: &[&Path]) -> Result<String> {
        let mut args = vec!["apply".to_string()];
        args.extend(
            paths
                .iter()
                .flat_map(|path| ["-f".to_string(), path.display().to_string()]),
        );
        self.kubectl().run(args).await
    }

    /// Applies a folder of CRDs and waits until the API server serves them.
    pub async fn install_crds(&self, dir: &Path) -> Result<()> {
        self.apply_files(&[dir]).await?;
        let dir = dir.display().to_string();
        self.kubectl()
            .run([
                "wait",
                "--for=condition=Established",
                "--timeout=30s",
                "-f",
                &dir,
            ])
            .await?;
        Ok(())
    }
}

/// A client without client-side limits.
async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(
        Kubeconfig::read_from(kubeconfig)?,
        &KubeConfigOptions::default(),
    )
    .await?;
    Ok(Client::try_from(config)?)
}
