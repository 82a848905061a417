//! The product on the cluster: the charts, installed once per run, as a user installs them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sluice_tests::{eventually, seconds};
use tokio::sync::OnceCell;

use crate::place::Place;

/// Where the product is installed.
pub const NAMESPACE: &str = "sluice-system";
/// How long a release may take to be up.
const INSTALL: &str = "120s";
/// From the rollout's end until the webhook's Service answers.
const WEBHOOK: Duration = seconds(30);

static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// A file or folder of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// One of the programs the tests run, from `KUBEBUILDER_ASSETS`, else from the PATH.
pub fn program(name: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("KUBEBUILDER_ASSETS")
        .into_iter()
        .chain(std::env::var_os("PATH"));
    let folders: Vec<PathBuf> = folders
        .flat_map(|list| std::env::split_paths(&list).collect::<Vec<_>>())
        .collect();
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("{name} is not on the PATH: `make e2e` builds it"))
}

/// Runs helm against the cluster.
pub async fn helm<'a>(place: &Place, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let args: Vec<&str> = args.into_iter().collect();
    let output = tokio::process::Command::new(program("helm")?)
        .args(&args)
        .env("KUBECONFIG", place.kubeconfig())
        .stdin(Stdio::null())
        .output()
        .await?;
    if !output.status.success() {
        bail!(
            "helm {}: {}{}",
            args.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Installs the product where this run has not done so yet.
pub async fn ensure(place: &Place) -> Result<()> {
    INSTALLED.get_or_try_init(|| install(place)).await?;
    Ok(())
}

/// Installs or upgrades both charts and waits until the webhook answers.
pub async fn install(place: &Place) -> Result<()> {
    store(place).await?;
    let path = |path: &str| repository(path).display().to_string();
    let (crds, chart, values) = (
        path("charts/sluice-crds"),
        path("charts/sluice"),
        path("e2e/values.yaml"),
    );
    helm(
        place,
        [
            "upgrade",
            "--install",
            "sluice-crds",
            &crds,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
        ],
    )
    .await?;
    let prefix = place.registry();
    let operator = format!("image.repository={prefix}sluice-operator");
    let sidecar = format!("sidecarImage.repository={prefix}sluice-sidecar");
    helm(
        place,
        [
            "upgrade",
            "--install",
            "sluice",
            &chart,
            "--namespace",
            NAMESPACE,
            "--values",
            &values,
            "--set",
            &operator,
            "--set",
            &sidecar,
            "--wait",
            "--timeout",
            INSTALL,
        ],
    )
    .await?;
    webhook_answers(place).await
}

/// The Redis that `e2e/values.yaml` names.
async fn store(place: &Place) -> Result<()> {
    let manifests = std::fs::read_to_string(repository("e2e/redis.yaml"))?;
    place.apply_anywhere(&manifests).await?;
    let redis = "deployment/redis";
    place
        .cluster([
            "-n",
            "sluice-e2e",
            "rollout",
            "status",
            "--timeout=60s",
            redis,
        ])
        .await
        .map(drop)
}

/// A Service answers a moment after its pods are Ready, and the webhook refuses pods until it does.
pub async fn webhook_answers(place: &Place) -> Result<()> {
    let pod = "apiVersion: v1
kind: Pod
metadata: {name: probe, labels: {app: probe}}
spec: {containers: [{name: app, image: none}]}
";
    let other = place_for_probe(place).await?;
    let answered = eventually("the injecting webhook answers", WEBHOOK, async || {
        let output = other
            .output(["create", "--dry-run=server", "-o", "json", "-f", "-"], pod)
            .await?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        let pod: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        anyhow::ensure!(
            pod["spec"]["initContainers"].is_array(),
            "the pod was not injected"
        );
        Ok(())
    })
    .await;
    other.remove().await?;
    answered
}

async fn place_for_probe(place: &Place) -> Result<Place> {
    place
        .beside(
            "probe",
            serde_json::json!({"sluice.dev/injection": "enabled"}),
        )
        .await
}

/// The metrics of all replicas of the operator, one after the other.
pub async fn metrics(place: &Place) -> Result<String> {
    let selector = "app.kubernetes.io/name=sluice-operator";
    let jsonpath = "jsonpath={.items[*].metadata.name}";
    let names = place
        .cluster([
            "-n",
            NAMESPACE,
            "get",
            "pods",
            "-l",
            selector,
            "--field-selector=status.phase=Running",
            "-o",
            jsonpath,
        ])
        .await?;
    let mut metrics = String::new();
    for name in names.split_whitespace() {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:8081/proxy/metrics");
        metrics += &place.cluster(["get", "--raw", &path]).await?;
    }
    Ok(metrics)
}

/// Sets the number of the operator's replicas and waits until that many are there: one that ends still writes.
pub async fn scale(place: &Place, replicas: usize) -> Result<()> {
    let operator = "deployment/sluice-operator";
    let wanted = format!("--replicas={replicas}");
    place
        .cluster(["-n", NAMESPACE, "scale", operator, &wanted])
        .await?;
    place
        .cluster([
            "-n",
            NAMESPACE,
            "rollout",
            "status",
            "--timeout=60s",
            operator,
        ])
        .await?;
    eventually("no other operator is there", seconds(60), async || {
        let selector = "app.kubernetes.io/name=sluice-operator";
        let pods = place
            .cluster(["-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "name"])
            .await?;
        let found = pods.lines().count();
        anyhow::ensure!(found == replicas, "{found} pods");
        Ok(())
    })
    .await
}
