//! The test world itself: the servers start, behave as a cluster does, and stop. Nothing of the product runs here.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::TokenReview;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use sluice_tests::product::AUDIENCE;
use sluice_tests::signature::unix_now;
use sluice_tests::{Cluster, Redis, StandInPod, World, eventually, isolated, seconds};

/// What the API server says about a token: the pod's uid, or why not.
async fn review(cluster: &Cluster, token: &str, audience: &str) -> Result<Result<String, String>> {
    let request: TokenReview = serde_json::from_value(
        json!({"metadata": {}, "spec": {"token": token, "audiences": [audience]}}),
    )?;
    let answer = Api::<TokenReview>::all(cluster.client())
        .create(&PostParams::default(), &request)
        .await?;
    let status = answer.status.context("a review has a status")?;
    if status.authenticated != Some(true) {
        return Ok(Err(status.error.unwrap_or_default()));
    }
    let extra = status
        .user
        .context("an authenticated user")?
        .extra
        .context("bound tokens carry extra")?;
    Ok(Ok(extra["authentication.kubernetes.io/pod-uid"][0].clone()))
}

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: app, image: localhost/none:1, ports: [{containerPort: 8080}]}]}
";

#[test]
fn a_cluster_behaves_like_one() {
    isolated!(async |world| {
        let began = Instant::now();
        let cluster = Cluster::start(world).await?;
        println!("control plane ready after {:.1?}", began.elapsed());
        cluster.namespace("shop", json!({"team": "shop"})).await?;

        cluster.apply_yaml(WEB).await?;
        let pods = StandInPod::adopt_all(world, &cluster, "shop", "app=web", 2).await?;
        for pod in &pods {
            pod.in_slices("web", true, seconds(20)).await?;
        }
        println!(
            "two pods of a Deployment in the Service's slice after {:.1?}",
            began.elapsed()
        );
        cluster
            .kubectl()
            .run([
                "-n",
                "shop",
                "rollout",
                "status",
                "deployment/web",
                "--timeout=20s",
            ])
            .await?;

        let single =
            StandInPod::create(world, &cluster, "shop", "single", json!({"app": "web"})).await?;
        single.in_slices("web", true, seconds(20)).await?;
        single.set_ready(false).await?;
        single.in_slices("web", false, seconds(20)).await?;
        Ok(())
    });
}

#[test]
fn tokens_prove_pods() {
    isolated!(async |world| {
        let cluster = Cluster::start(world).await?;
        cluster.namespace("shop", json!({})).await?;
        let pod =
            StandInPod::create(world, &cluster, "shop", "web-0", json!({"app": "web"})).await?;

        let token = pod.token(AUDIENCE).await?;
        ensure!(review(&cluster, &token, AUDIENCE).await? == Ok(pod.uid.clone()));
        ensure!(
            review(&cluster, &token, "other").await?.is_err(),
            "a token for another audience was accepted"
        );

        // The test's own signature is as good as the API server's, so only its age makes the second one bad.
        let now = unix_now();
        let forged = pod
            .forged_token(&cluster, AUDIENCE, now - 60, now + 60)
            .await?;
        ensure!(review(&cluster, &forged, AUDIENCE).await? == Ok(pod.uid.clone()));
        let expired = pod
            .forged_token(&cluster, AUDIENCE, now - 900, now - 300)
            .await?;
        let refused = review(&cluster, &expired, AUDIENCE).await?;
        ensure!(
            refused.as_ref().is_err_and(|e| e.contains("expired")),
            "{refused:?}"
        );

        pod.delete().await?;
        eventually(
            "the deleted pod's token is refused",
            seconds(30),
            async || {
                ensure!(
                    review(&cluster, &token, AUDIENCE).await?.is_err(),
                    "still accepted"
                );
                Ok(())
            },
        )
        .await
    });
}

#[test]
fn kubectl_takes_the_crds() {
    isolated!(async |world| {
        let cluster = Cluster::start(world).await?;
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
        cluster.install_crds(&crds).await?;
        let names = cluster
            .kubectl()
            .run(["api-resources", "--api-group=sluice.dev", "--output=name"])
            .await?;
        let mut names: Vec<_> = names.lines().collect();
        names.sort_unstable();
        ensure!(
            names
                == [
                    "apiroutes.sluice.dev",
                    "ratelimitpolicies.sluice.dev",
                    "shardsets.sluice.dev"
                ],
            "{names:?}"
        );
        Ok(())
    });
}

/// What a user types first works, and typing it again changes nothing.
#[test]
fn the_quickstart_applies_twice() {
    isolated!(async |world| {
        let cluster = Cluster::start(world).await?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        cluster.install_crds(&root.join("crds/yaml")).await?;
        let folders =
            ["examples/quickstart/base", "examples/quickstart/cluster"].map(|dir| root.join(dir));
        let folders = folders.each_ref().map(|dir| dir.as_path());
        cluster.apply_files(&folders).await?;
        let again = cluster.apply_files(&folders).await?;
        // kubectl cannot compare a Secret's stringData, which is written but never read back.
        let mut others = again.lines().filter(|line| !line.starts_with("secret/"));
        ensure!(
            again.lines().count() > 10 && others.all(|line| line.ends_with(" unchanged")),
            "{again}"
        );
        Ok(())
    });
}

/// A user of its own has no rights until RBAC gives them.
#[test]
fn a_users_rights_come_from_rbac() {
    isolated!(async |world| {
        let cluster = Cluster::start(world).await?;
        let kubeconfig = cluster.kubeconfig_of("reader", &[])?;
        let kubectl = sluice_tests::cluster::Kubectl::new(&kubeconfig, world.dir());
        let refused = kubectl
            .run(["get", "pods"])
            .await
            .expect_err("no rights yet");
        ensure!(
            format!("{refused:#}").contains("cannot list resource \"pods\""),
            "{refused:#}"
        );
        cluster.bind_cluster_role("reader", "view").await?;
        eventually("the rights of view", seconds(10), async || {
            kubectl.run(["get", "pods"]).await.map(drop)
        })
        .await
    });
}

#[test]
fn redis_counts_hangs_and_dies() {
    async fn commands(world: &World) -> Result<()> {
        let mut redis = Redis::start(world).await?;
        let client = redis::Client::open(format!("redis://{}/", redis.address()))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        for _ in 0..3 {
            redis::cmd("INCR")
                .arg("n")
                .query_async::<i64>(&mut connection)
                .await?;
        }
        ensure!(
            redis.command_count().await? == 3,
            "{:?}",
            redis.command_counts().await?
        );
        ensure!(redis.keys().await? == ["n"]);

        redis.process.freeze()?;
        let mut hung = redis::cmd("INCR");
        let hung = hung.arg("n").query_async::<i64>(&mut connection);
        ensure!(
            tokio::time::timeout(std::time::Duration::from_millis(200), hung)
                .await
                .is_err(),
            "it answered"
        );
        redis.process.thaw()?;
        eventually("answers again", seconds(10), async || {
            redis.command_count().await
        })
        .await?;

        redis.process.kill();
        ensure!(
            redis.command_count().await.is_err(),
            "it answered after its death"
        );
        Ok(())
    }
    isolated!(commands);
}
