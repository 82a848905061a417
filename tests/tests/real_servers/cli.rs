//! `kubectl-sluice status` against a real API server: what it says of good and broken objects of two kinds, and its exit
//! codes. What it prints of every case is snapshot-tested beside its code.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use sluice_tests::product::binary;
use sluice_tests::{Cluster, isolated};

use super::install::{self, until};

const POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: plans, namespace: shop}
spec:
  targetRefs: [{group: sluice.dev, kind: ApiRoute, name: web}]
  limits:
  - name: each
    key: [{type: ClientAddress, clientAddress: {}}]
    algorithm: {type: TokenBucket, tokenBucket: {requests: 100, per: 1s}}
";

const BROKEN: &str = "
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: far, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: far}]
  rules: [{name: far, backendRefs: [{kind: Service, name: stock, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: shop}
spec: {selector: {app: far}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// What it prints on a terminal that is none, and how it ends, with the rights of `kubeconfig`.
async fn status(kubeconfig: &std::path::Path, args: &[&str]) -> Result<(i32, String, String)> {
    let mut command = Command::new(binary("kubectl-sluice")?);
    command
        .arg("status")
        .args(args)
        .env("KUBECONFIG", kubeconfig);
    let Output {
        status,
        stdout,
        stderr,
    } = tokio::task::spawn_blocking(move || command.output()).await??;
    let [out, err] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((status.code().unwrap_or(-1), out, err))
}

/// The row of an object, its columns parted by one blank.
fn row(out: &str, name: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut rows = out.lines().map(words);
    rows.find(|row| row.starts_with(&format!("shop {name} ")))
        .unwrap_or_default()
}

async fn settled(cluster: &Cluster) -> Result<()> {
    until(cluster, "apiroute", "web", "Ready", "True/Ready").await?;
    until(cluster, "ratelimitpolicy", "plans", "Ready", "True/Ready").await?;
    Ok(())
}

#[test]
fn status_says_what_is_wrong_and_its_exit_code_whether_anything_is() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let _operator = install::operator(world, &cluster).await?;
        let admin = cluster.kubeconfig().to_owned();
        cluster
            .apply_yaml(&install::service_and_route("web"))
            .await?;
        cluster.apply_yaml(POLICY).await?;
        settled(&cluster).await?;

        // 0: everything is Ready.
        let (code, out, err) = status(&admin, &["-n", "shop"]).await?;
        ensure!(code == 0, "{code}: {out}{err}");
        ensure!(row(&out, "web").starts_with("shop web True 0/0"), "{out}");
        ensure!(row(&out, "plans").starts_with("shop plans True"), "{out}");
        ensure!(out.contains("All 2 objects are Ready"), "{out}");

        // 1: one is not, and it says why, where and what mends it.
        cluster.apply_yaml(BROKEN).await?;
        until(
            &cluster,
            "apiroute",
            "far",
            "Ready",
            "False/BackendNotFound",
        )
        .await?;
        let (code, out, err) = status(&admin, &["-n", "shop"]).await?;
        ensure!(code == 1, "{code}: {out}{err}");
        ensure!(row(&out, "far").starts_with("shop far False"), "{out}");
        ensure!(
            out.contains("ResolvedRefs False, BackendNotFound")
                && out.contains("spec.rules[0].backendRefs[0]: Service shop/stock does not exist"),
            "{out}"
        );
        ensure!(out.contains("2 of 3 objects are Ready"), "{out}");
        // Asked for the sound ones only, nothing is wrong; asked for one that is not there, something is.
        for (asked, expected) in [
            (&["-n", "shop", "rlp"][..], 0),
            (&["-n", "shop", "ar/web"], 0),
            (&["-n", "shop", "ar/far"], 1),
            (&["-n", "shop", "ss/none"], 1),
            (&["-n", "elsewhere"], 0),
            (&["-A"], 1),
        ] {
            let (code, out, err) = status(&admin, asked).await?;
            ensure!(code == expected, "{asked:?}: {code}: {out}{err}");
        }

        // 2: it may not look, or there is nobody to ask.
        let nobody = cluster.kubeconfig_of("nobody", &[])?;
        let (code, out, err) = status(&nobody, &["-n", "shop"]).await?;
        ensure!(code == 2 && out.is_empty(), "{code}: {out}{err}");
        ensure!(err.contains("not allowed to read"), "{err}");
        let (code, _, err) = status(&world.dir().join("no-such-file"), &["-n", "shop"]).await?;
        ensure!(code == 2 && err.contains("kubeconfig"), "{code}: {err}");
        Ok(())
    });
}
