//! Moves of shard slots through operator and sidecars: committed when every pod has settled, given up when one is frozen,
//! finished by the next operator when one is killed. What requests see meanwhile is tested elsewhere.

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_tests::{Cluster, eventually, isolated, seconds};

use super::install::{self, condition, get, until};
use super::status::serve;

/// Two shards and a route to them.
pub fn objects() -> String {
    let service = |name: &str| {
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"
        )
    };
    let shard = |name: &str| {
        format!(
            "
  - name: {name}
    members: [{{name: a, role: Primary, backendRef: {{kind: Service, name: {name}, port: 80}}}}]"
        )
    };
    format!(
        "{}{}{}---
apiVersion: sluice.dev/v1alpha1
kind: ShardSet
metadata: {{name: orders, namespace: shop}}
spec:
  keyspace: {{slots: 16384, hash: CRC16}}
  key: {{from: [{{type: Header, header: {{name: X-Tenant}}}}]}}
  shards: {}{}
  placement: [{{slots: 0-8191, shard: s0}}, {{slots: 8192-16383, shard: s1}}]
---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: web, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, name: web}}]
  rules: [{{name: all, backendRefs: [{{group: sluice.dev, kind: ShardSet, name: orders}}]}}]
",
        service("web"),
        service("s0"),
        service("s1"),
        shard("s0"),
        shard("s1"),
    )
}

/// Asks for `s0` to own the slots below `boundary`.
pub async fn wish(cluster: &Cluster, boundary: u16) -> Result<()> {
    let patch = serde_json::json!({"spec": {"placement": [
        {"slots": format!("0-{}", boundary - 1), "shard": "s0"}, {"slots": format!("{boundary}-16383"), "shard": "s1"},
    ]}});
    let patch = patch.to_string();
    let args = [
        "-n",
        "shop",
        "patch",
        "shardset",
        "orders",
        "--type=merge",
        "-p",
        &patch,
    ];
    cluster.kubectl().run(args).await.map(drop)
}

/// Waits until a placement is in force.
pub async fn in_force(cluster: &Cluster, epoch: i64, boundary: u16) -> Result<Value> {
    eventually(
        &format!("epoch {epoch} with boundary {boundary}"),
        seconds(60),
        async || {
            let set = get(cluster, "shardset", "orders").await?;
            let status = &set["status"];
            let first = &status["placement"][0]["slots"];
            ensure!(
                status["epoch"] == epoch && *first == format!("0-{}", boundary - 1),
                "{status}"
            );
            Ok(set)
        },
    )
    .await
}

#[test]
fn slots_move_when_every_pod_has_settled_and_not_before() {
    isolated!(seconds(300), async |world| {
        let cluster = install::cluster(world).await?;
        let mut operator = install::operator(world, &cluster).await?;
        cluster.apply_yaml(&objects()).await?;
        in_force(&cluster, 1, 8192).await?;
        let mut first = serve(world, &cluster, operator.stream, "web", "web-0").await?;
        let second = serve(world, &cluster, operator.stream, "web", "web-1").await?;
        first.sidecar.ready(seconds(40)).await?;
        eventually("both pods hold the map", seconds(40), async || {
            let set = get(&cluster, "shardset", "orders").await?;
            ensure!(
                set["status"]["live"]["summary"] == "2/2",
                "{}",
                set["status"]
            );
            Ok(())
        })
        .await?;

        wish(&cluster, 4096).await?;
        in_force(&cluster, 2, 4096).await?;
        let set = until(&cluster, "shardset", "orders", "Ready", "True/Ready").await?;
        ensure!(set["status"]["move"].is_null(), "{}", set["status"]);

        // A frozen sidecar cannot settle: the move is given up, says why, and comes about once it can.
        second.sidecar.process.freeze()?;
        wish(&cluster, 2048).await?;
        let given_up = eventually("the move is given up", seconds(30), async || {
            let set = get(&cluster, "shardset", "orders").await?;
            ensure!(
                set["status"]["move"]["attempts"].as_i64() >= Some(1),
                "{}",
                set["status"]
            );
            Ok(set)
        })
        .await?;
        ensure!(given_up["status"]["epoch"] == 2, "{}", given_up["status"]);
        // Tried again and again: while requests are held the message names nobody yet.
        eventually("the condition names the pod", seconds(30), async || {
            let set = get(&cluster, "shardset", "orders").await?;
            let (says, message) = condition(&set, "Programmed");
            ensure!(
                says == "False/MovePending" && message.contains("web-1"),
                "{says}: {message}"
            );
            Ok(())
        })
        .await?;
        second.sidecar.process.thaw()?;
        in_force(&cluster, 3, 2048).await?;

        // Killed in the middle: the next operator reads where it was.
        second.sidecar.process.freeze()?;
        wish(&cluster, 8192).await?;
        eventually("a move is under way", seconds(30), async || {
            let set = get(&cluster, "shardset", "orders").await?;
            ensure!(
                set["status"]["move"]["phase"] == "Holding",
                "{}",
                set["status"]["move"]
            );
            Ok(())
        })
        .await?;
        operator.process.kill();
        second.sidecar.process.thaw()?;
        let _next = install::successor(world, &cluster, &operator).await?;
        in_force(&cluster, 4, 8192).await?;
        until(&cluster, "shardset", "orders", "Ready", "True/Ready").await?;
        Ok(())
    });
}
