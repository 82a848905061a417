//! The three programs and their flags, certificates and keys. How a test talks to them is the parent module's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;

use crate::jwt::TokenKey;
use crate::pki::Authority;
use crate::process::Running;
use crate::wait::seconds;
use crate::world::{API_SERVER, World};

const ETCD: &str = "http://127.0.0.1:2379";
const SERVICE_NETWORK: &str = "10.124.0.0/16";
/// The first address of the service network is the API server's own Service.
const SERVICE_ADDRESS: &str = "10.124.0.1";

/// The issuer of service-account tokens.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Room for a machine that runs other tests at the same time; alone it takes 3 to 5 seconds.
const STARTUP: std::time::Duration = seconds(90);

/// The programs, in the order they are stopped.
#[derive(Debug)]
pub(super) struct ControlPlane {
    _controllers: Running,
    pub(super) api_server: Running,
    _etcd: Running,
}

impl ControlPlane {
    /// Starts etcd and the API server, and the controllers once it is ready.
    pub(super) async fn start(world: &World, credentials: &Credentials) -> Result<Self> {
        let files = credentials.write(world)?;
        let etcd = Running::start(world, "etcd", etcd(world)?)?;
        // The API server itself waits for etcd.
        let mut api_server = Running::start(world, "kube-apiserver", api_server(&files)?)?;
        let probe = kubectl_probe(world, credentials)?;
        api_server
            .ready(STARTUP, async || {
                probe.run(["get", "--raw", "/readyz"]).await.map(drop)
            })
            .await?;
        let controllers = Running::start(
            world,
            "kube-controller-manager",
            controllers(world, &files)?,
        )?;
        Ok(Self {
            _controllers: controllers,
            api_server,
            _etcd: etcd,
        })
    }
}

fn kubectl_probe(world: &World, credentials: &Credentials) -> Result<super::Kubectl> {
    let kubeconfig = world.file(
        "cluster/probe.conf",
        credentials.kubeconfig("probe", &["system:masters"])?,
    )?;
    Ok(super::Kubectl::new(&kubeconfig, world.dir()))
}

/// Finds a Kubernetes program in the folder that KUBEBUILDER_ASSETS or `hack/kube.sh` names.
pub fn program(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = match FOLDER.get() {
        Some(folder) => folder,
        None => {
            let found = programs()?;
            FOLDER.get_or_init(|| found)
        }
    };
    let path = folder.join(name);
    ensure!(
        path.exists(),
        "{} does not exist: `make tools` builds it, or KUBEBUILDER_ASSETS names another folder",
        path.display()
    );
    Ok(path)
}

fn programs() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        return Ok(folder.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/kube.sh");
    let output = Command::new(&script)
        .output()
        .with_context(|| format!("starting {}", script.display()))?;
    let [folder, said] =
        [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).trim().to_string());
    ensure!(output.status.success(), "{}: {said}", script.display());
    Ok(folder.into())
}

fn etcd(world: &World) -> Result<Command> {
    let mut command = Command::new(program("etcd")?);
    command
        .arg("--data-dir")
        .arg(world.dir().join("cluster/etcd"));
    command.args([
        "--listen-client-urls",
        ETCD,
        "--advertise-client-urls",
        ETCD,
    ]);
    command.args([
        "--listen-peer-urls",
        "http://127.0.0.1:2380",
        "--logger",
        "zap",
        "--log-level",
        "error",
    ]);
    Ok(command)
}

fn api_server(files: &Files) -> Result<Command> {
    let mut command = Command::new(program("kube-apiserver")?);
    let ip = API_SERVER.to_string();
    command.args([
        "--etcd-servers",
        ETCD,
        "--bind-address",
        &ip,
        "--advertise-address",
        &ip,
    ]);
    command.args([
        "--service-cluster-ip-range",
        SERVICE_NETWORK,
        "--authorization-mode",
        "RBAC",
        "--profiling=false",
    ]);
    // No kube-proxy here: a webhook named by its Service is reached at the Service's endpoints.
    command.arg("--enable-aggregator-routing=true");
    files.option(&mut command, "--client-ca-file", "ca.crt");
    files.option(&mut command, "--tls-cert-file", "server.crt");
    files.option(&mut command, "--tls-private-key-file", "server.key");
    command.args(["--service-account-issuer", ISSUER]);
    files.option(&mut command, "--service-account-key-file", "sa.pub");
    files.option(&mut command, "--service-account-signing-key-file", "sa.key");
    files.option(
        &mut command,
        "--requestheader-client-ca-file",
        "front-proxy-ca.crt",
    );
    command.args([
        "--requestheader-allowed-names",
        "front-proxy",
        "--requestheader-username-headers",
        "X-Remote-User",
    ]);
    command.args([
        "--requestheader-group-headers",
        "X-Remote-Group",
        "--requestheader-extra-headers-prefix",
        "X-Remote-Extra-",
    ]);
    files.option(&mut command, "--proxy-client-cert-file", "front-proxy.crt");
    files.option(&mut command, "--proxy-client-key-file", "front-proxy.key");
    Ok(command)
}

fn controllers(world: &World, files: &Files) -> Result<Command> {
    let mut command = Command::new(program("kube-controller-manager")?);
    for option in [
        "--kubeconfig",
        "--authentication-kubeconfig",
        "--authorization-kubeconfig",
    ] {
        files.option(&mut command, option, "controllers.conf");
    }
    files.option(&mut command, "--root-ca-file", "ca.crt");
    files.option(&mut command, "--service-account-private-key-file", "sa.key");
    // With the client's own identity no pod ever came; each controller needs its service account.
    command.args(["--use-service-account-credentials", "--leader-elect=false"]);
    // Nobody renews the node's heartbeat: these two would mark it unreachable and evict.
    command.arg("--controllers=*,-node-lifecycle-controller,-taint-eviction-controller");
    // The default of 20 calls a second delays the first pods by seconds.
    command.args(["--kube-api-qps", "300", "--kube-api-burst", "300"]);
    command.args([
        "--horizontal-pod-autoscaler-sync-period",
        "1s",
        "--bind-address",
        "127.0.0.1",
    ]);
    command.arg("--cert-dir").arg(world.dir().join("cluster"));
    Ok(command)
}

/// Keys and certificates of one cluster.
#[derive(Debug)]
pub(super) struct Credentials {
    authority: Authority,
    front_proxy: Authority,
    service_accounts: KeyPair,
}

impl Credentials {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            authority: Authority::new("cluster")?,
            front_proxy: Authority::new("front-proxy")?,
            service_accounts: KeyPair::generate()?,
        })
    }

    pub(super) fn authority(&self) -> &str {
        self.authority.pem()
    }

    pub(super) fn service_account_key(&self) -> Result<TokenKey> {
        TokenKey::es256_from_pem(&self.service_accounts.serialize_pem())
    }

    /// A kubeconfig with a new client certificate in it.
    pub(super) fn kubeconfig(&self, user: &str, groups: &[&str]) -> Result<String> {
        let client = self.authority.client(user, groups)?;
        let [authority, certificate, key] =
            [self.authority(), &client.certificate, &client.key].map(|pem| STANDARD.encode(pem));
        Ok(format!(
            "apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: 'https://{API_SERVER}:6443', certificate-authority-data: {authority}}}}}]
users: [{{name: test, user: {{client-certificate-data: {certificate}, client-key-data: {key}}}}}]
"
        ))
    }

    /// Writes the files that the flags name.
    fn write(&self, world: &World) -> Result<Files> {
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "localhost",
            SERVICE_ADDRESS,
            "127.0.0.1",
        ];
        let mut names: Vec<String> = names.map(String::from).into();
        names.push(API_SERVER.to_string());
        let server = self.authority.server("kube-apiserver", &names)?;
        let front_proxy = self.front_proxy.client("front-proxy", &[])?;
        let controllers = self.kubeconfig("system:kube-controller-manager", &[])?;
        for (name, content) in [
            ("ca.crt", self.authority()),
            ("server.crt", &server.certificate),
            ("server.key", &server.key),
            ("front-proxy-ca.crt", self.front_proxy.pem()),
            ("front-proxy.crt", &front_proxy.certificate),
            ("front-proxy.key", &front_proxy.key),
            ("sa.key", &self.service_accounts.serialize_pem()),
            ("sa.pub", &self.service_accounts.public_key_pem()),
            ("controllers.conf", &controllers),
        ] {
            world.file(&format!("cluster/{name}"), content)?;
        }
        Ok(Files {
            dir: world.dir().join("cluster"),
        })
    }
}

/// The folder of [`Credentials::write`].
struct Files {
    dir: PathBuf,
}

impl Files {
    fn option(&self, command: &mut Command, name: &str, file: &str) {
        command.arg(name).arg(self.dir.join(file));
    }
}
