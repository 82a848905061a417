//! One test on the cluster of KUBECONFIG: a namespace of its own, kubectl in it, and what is printed when it fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sluice_tests::cluster::Kubectl;
use sluice_tests::eventually;

use crate::product;

/// Put before the image names in a test's YAML, for clusters that pull: `registry.example/sluice/`.
const REGISTRY: &str = "SLUICE_E2E_REGISTRY";
/// The tag of all our images.
const TAG: &str = env!("CARGO_PKG_VERSION");
/// How long a namespace may take to come or to go.
const NAMESPACE: Duration = Duration::from_secs(120);
/// Lines of each log that a failing test prints.
const LOG_LINES: &str = "--tail=40";

/// Where one test happens.
#[derive(Debug)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    kubectl: Kubectl,
    program: PathBuf,
    kubeconfig: PathBuf,
    registry: String,
    _home: tempfile::TempDir,
}

/// Runs one test: `on_cluster!("hpa", seconds(300), async |place| { ...; Ok(()) })`. Its namespace is `e2e-hpa`,
/// labelled for injection.
#[macro_export]
macro_rules! on_cluster {
    ($name:expr, $limit:expr, $body:expr) => {
        $crate::place::run($name, $limit, $body)
    };
}

/// What [`on_cluster!`] calls.
pub fn run(name: &str, limit: Duration, body: impl AsyncFnOnce(&Place) -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(async {
        let place = Place::new(&format!("e2e-{name}"))?;
        product::ensure(&place).await?;
        place.make().await?;
        let outcome = match tokio::time::timeout(limit, body(&place)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("it did not end within {limit:?}")),
        };
        if outcome.is_err() {
            place.print_state().await;
        }
        let removed = place.remove().await;
        outcome.and(removed)
    });
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}

impl Place {
    fn new(namespace: &str) -> Result<Self> {
        let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from).context(
            "KUBECONFIG is not set: `make e2e` starts a cluster of its own, or set it to one that may be used",
        )?;
        let home = tempfile::tempdir()?;
        let program = product::program("kubectl")?;
        Ok(Self {
            namespace: namespace.into(),
            kubectl: Kubectl::new(&kubeconfig, home.path()),
            program,
            kubeconfig,
            registry: std::env::var(REGISTRY).unwrap_or_default(),
            _home: home,
        })
    }

    /// A place beside this one, in another namespace, which it makes; the caller removes it.
    pub async fn beside(&self, suffix: &str, labels: Value) -> Result<Self> {
        let other = Self::new(&format!("{}-{suffix}", self.namespace))?;
        other.make_with(labels).await?;
        Ok(other)
    }

    async fn make(&self) -> Result<()> {
        self.make_with(json!({"sluice.dev/injection": "enabled"}))
            .await
    }

    async fn make_with(&self, labels: Value) -> Result<()> {
        // What an interrupted run left is in the way.
        self.remove().await?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}});
        self.cluster_with_input(["create", "-f", "-"], &namespace.to_string())
            .await?;
        eventually("its default service account", NAMESPACE, async || {
            self.kubectl(["get", "serviceaccount", "default"])
                .await
                .map(drop)
        })
        .await
    }

    /// Deletes the namespace and waits until it is gone.
    pub async fn remove(&self) -> Result<()> {
        let timeout = format!("--timeout={}s", NAMESPACE.as_secs());
        self.cluster([
            "delete",
            "namespace",
            &self.namespace,
            "--ignore-not-found",
            &timeout,
        ])
        .await
        .map(drop)
    }

    /// The name of one of our images, as this cluster finds it.
    pub fn image(&self, name: &str) -> String {
        format!("{}{name}:{TAG}", self.registry)
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The images' prefix, empty on a cluster that has them.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `kubectl -n NAMESPACE ...`
    pub async fn kubectl<A: Into<String>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        self.kubectl.run(self.namespaced(args)).await
    }

    fn namespaced<A: Into<String>>(&self, args: impl IntoIterator<Item = A>) -> Vec<String> {
        let namespace = ["-n".to_owned(), self.namespace.clone()];
        namespace
            .into_iter()
            .chain(args.into_iter().map(Into::into))
            .collect()
    }

    /// `kubectl ...` in no namespace of ours.
    pub async fn cluster<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        self.kubectl.run(args).await
    }

    async fn cluster_with_input<'a>(
        &self,
        args: impl IntoIterator<Item = &'a str>,
        input: &str,
    ) -> Result<String> {
        self.kubectl.with_input(args, input).await
    }

    /// An object or a list as JSON.
    pub async fn json<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Value> {
        let text = self.kubectl(args.into_iter().chain(["-o", "json"])).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Exit status and outputs, whatever they are.
    pub async fn output<'a>(
        &self,
        args: impl IntoIterator<Item = &'a str>,
        input: &str,
    ) -> Result<std::process::Output> {
        self.kubectl.output(self.namespaced(args), input).await
    }

    /// Applies YAML or JSON in this namespace. `image: sluice-...` without a tag becomes the image of this build.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        let manifests = self.with_images(manifests);
        self.cluster_with_input(["-n", &self.namespace, "apply", "-f", "-"], &manifests)
            .await
    }

    /// [`Self::apply`] for manifests that name their namespaces.
    pub async fn apply_anywhere(&self, manifests: &str) -> Result<String> {
        let manifests = self.with_images(manifests);
        self.cluster_with_input(["apply", "-f", "-"], &manifests)
            .await
    }

    /// The manifests as [`Self::apply`] sends them.
    pub fn with_images(&self, manifests: &str) -> String {
        let lines = manifests
            .lines()
            .map(|line| match line.split_once("image: sluice-") {
                Some((before, name)) if !name.contains(':') => {
                    format!("{before}image: {}", self.image(&format!("sluice-{name}")))
                }
                _ => line.to_owned(),
            });
        lines.map(|line| line + "\n").collect()
    }

    /// Waits until a Deployment has rolled out.
    pub async fn rolled_out(&self, deployment: &str) -> Result<()> {
        self.kubectl([
            "rollout",
            "status",
            "--timeout=120s",
            &format!("deployment/{deployment}"),
        ])
        .await
        .map(drop)
    }

    /// Waits until objects are Ready, as a user does.
    pub async fn ready(&self, objects: &[&str]) -> Result<()> {
        let mut args = vec!["wait", "--for=condition=Ready", "--timeout=60s"];
        args.extend(objects);
        self.kubectl(args).await.map(drop)
    }

    /// The pods of a label selector.
    pub async fn pods(&self, selector: &str) -> Result<Vec<Value>> {
        let list = self.json(["get", "pods", "-l", selector]).await?;
        list["items"].as_array().cloned().context("a list")
    }

    /// Names of the pods of a label selector that are not being deleted.
    pub async fn pod_names(&self, selector: &str) -> Result<Vec<String>> {
        let pods = self.pods(selector).await?;
        let names = pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| pod["metadata"]["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// A kubectl whose streams the caller holds.
    pub fn command<'a>(
        &self,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<tokio::process::Command> {
        ensure!(self.program.is_file(), "{} is gone", self.program.display());
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(["-n", &self.namespace])
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }

    /// One condition of an object, as `status/reason: message`.
    pub async fn condition(&self, object: &str, type_: &str) -> Result<String> {
        let value = self.json(["get", object]).await?;
        let conditions = value["status"]["conditions"].as_array();
        let found = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == type_);
        match found {
            None => bail!("{object} has no condition {type_}: {}", value["status"]),
            Some(found) => Ok(format!(
                "{}/{}: {}",
                found["status"].as_str().unwrap_or_default(),
                found["reason"].as_str().unwrap_or_default(),
                found["message"].as_str().unwrap_or_default()
            )),
        }
    }

    /// What helps whoever reads a failure. Errors of its own are printed, not returned.
    async fn print_state(&self) {
        let system = product::NAMESPACE;
        let looks: [&[&str]; 5] = [
            &[
                "-n",
                &self.namespace,
                "get",
                "pods,apiroutes,hpa",
                "-o",
                "wide",
            ],
            &[
                "-n",
                &self.namespace,
                "get",
                "events",
                "--sort-by=.lastTimestamp",
            ],
            &["-n", system, "get", "pods", "-o", "wide"],
            &[
                "-n",
                system,
                "logs",
                "-l",
                "app.kubernetes.io/name=sluice-operator",
                "--prefix",
                LOG_LINES,
            ],
            &[
                "-n",
                &self.namespace,
                "logs",
                "-l",
                "app",
                "--all-containers",
                "--prefix",
                "--max-log-requests=30",
                LOG_LINES,
            ],
        ];
        for look in looks {
            println!("---- kubectl {}", look.join(" "));
            match self.cluster(look.iter().copied()).await {
                Ok(text) => println!("{text}"),
                Err(error) => println!("{error:#}"),
            }
        }
    }
}
