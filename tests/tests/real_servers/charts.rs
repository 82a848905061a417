//! What users install, on a real API server: the kustomize base and every golden are valid, and Helm leaves alone what the
//! operator writes. That pods come of it is shown by the end-to-end tests.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::cluster::program;
use sluice_tests::{Cluster, eventually, isolated, seconds};

use super::install::{self, NAMESPACE, repository};

/// Applied as a user does, with the server's own check of every field.
const STRICT: [&str; 4] = ["apply", "--server-side", "--validate=strict", "-k"];

#[test]
fn the_kustomize_base_is_valid_whole_and_applying_it_again_changes_nothing() {
    isolated!(async |world| {
        let cluster = Cluster::start(world).await?;
        let base = repository("deploy/kustomize").display().to_string();
        let apply = || STRICT.into_iter().map(str::to_owned).chain([base.clone()]);
        // The kinds and the namespace are made by the same command as what needs them.
        cluster.kubectl().run(apply()).await?;
        let difference = ["diff", "--server-side", "-k", base.as_str()];
        cluster
            .kubectl()
            .run(difference)
            .await
            .context("a second apply would change something")?;

        let get = ["-n", NAMESPACE, "get", "deployment", "sluice-operator"];
        eventually("PodSecurity lets its pods in", seconds(30), async || {
            let deployment = cluster.kubectl().json(get).await?;
            let conditions = deployment["status"]["conditions"].to_string();
            ensure!(!conditions.contains("ReplicaFailure"), "{conditions}");
            let made = deployment["status"]["replicas"].as_u64();
            ensure!(made == Some(2), "{made:?} pods were made");
            Ok(())
        })
        .await
    });
}

#[test]
fn every_golden_is_what_an_api_server_takes() {
    isolated!(async |world| {
        let cluster = Cluster::start(world).await?;
        for namespace in [NAMESPACE, "platform"] {
            cluster.namespace(namespace, json!({})).await?;
        }
        let mut seen = 0;
        for name in ["bare", "keda", "prometheus"] {
            let path = repository(&format!("charts/golden/{name}.yaml"));
            let text = std::fs::read_to_string(&path)?;
            // Their kind is the Prometheus operator's, which is not there.
            let known: Vec<&str> = text
                .split("---\n")
                .filter(|part| !part.contains("kind: PodMonitor"))
                .collect();
            let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
            let said = cluster
                .kubectl()
                .with_input(apply, known.join("---\n"))
                .await
                .with_context(|| name)?;
            seen += said.lines().count();
        }
        ensure!(seen > 30, "only {seen} objects were looked at");
        Ok(())
    });
}

/// Helm with the cluster's administrator; its output.
async fn helm(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program("helm")?);
    command
        .args(args)
        .args(["--namespace", NAMESPACE])
        .current_dir(repository("charts"))
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("HELM_CACHE_HOME", std::env::temp_dir().join("sluice-helm"));
    let line = format!("helm {}", args.join(" "));
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let [out, err] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(output.status.success(), "{line}: {out}{err}");
    Ok(out)
}

/// The caBundles of both webhook configurations.
async fn bundles(cluster: &Cluster) -> Result<Vec<String>> {
    let get = [
        "get",
        "validatingwebhookconfiguration,mutatingwebhookconfiguration",
    ];
    let found = cluster.kubectl().json(get).await?;
    let bundle = |item: &Value| {
        item["webhooks"][0]["clientConfig"]["caBundle"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("{} has no caBundle", item["kind"]))
    };
    found["items"]
        .as_array()
        .context("a list")?
        .iter()
        .map(bundle)
        .collect()
}

#[test]
fn upgrade_and_rollback_keep_what_the_operator_wrote_and_uninstall_keeps_the_kinds() {
    isolated!(seconds(180), async |world| {
        let cluster = Cluster::start(world).await?;
        let create = "--create-namespace";
        helm(&cluster, &["install", "sluice-crds", "sluice-crds", create]).await?;
        let notes = helm(&cluster, &["install", "sluice", "sluice"]).await?;
        ensure!(notes.contains("rollout status"), "no next steps: {notes}");

        // A replica with no other rights than the chart's.
        let mut operator = install::operator(world, &cluster).await?;
        let written = eventually("both caBundles are written", seconds(30), async || {
            let bundles = bundles(&cluster).await?;
            ensure!(bundles.len() == 2, "{} configurations", bundles.len());
            Ok(bundles)
        })
        .await?;
        // From here on nobody writes them again.
        operator.process.kill();

        helm(
            &cluster,
            &["upgrade", "sluice", "sluice", "--set=replicas=3"],
        )
        .await?;
        ensure!(
            bundles(&cluster).await? == written,
            "the upgrade took it back"
        );
        helm(&cluster, &["rollback", "sluice", "1"]).await?;
        ensure!(
            bundles(&cluster).await? == written,
            "the rollback took it back"
        );
        let deployment = ["-n", NAMESPACE, "get", "deployment", "sluice-operator"];
        let replicas = &cluster.kubectl().json(deployment).await?["spec"]["replicas"];
        ensure!(replicas == 2, "the rollback left {replicas} replicas");

        helm(&cluster, &["uninstall", "sluice"]).await?;
        helm(&cluster, &["uninstall", "sluice-crds"]).await?;
        ensure!(bundles(&cluster).await?.is_empty(), "a webhook is left");
        let left = cluster
            .kubectl()
            .run(["get", "clusterroles,clusterrolebindings", "-o", "name"])
            .await?;
        ensure!(!left.contains("sluice"), "{left}");
        let kinds = cluster.kubectl().run(["get", "crd", "-o", "name"]).await?;
        ensure!(kinds.lines().count() == 3, "kinds: {kinds}");
        let secret = ["-n", NAMESPACE, "get", "secret", "sluice-ca"];
        cluster
            .kubectl()
            .run(secret)
            .await
            .context("a new installation would be a stranger to running sidecars")?;
        Ok(())
    });
}
