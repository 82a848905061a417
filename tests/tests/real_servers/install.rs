//! An installed operator for the tests of this tier: the CRDs, its namespace and rights as they are installed, replicas
//! that run with no more than those. What it should do is the tests'.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use sluice_tests::product::OperatorOptions;
use sluice_tests::{Cluster, Operator, World, eventually, seconds};

/// The operator's namespace.
pub const NAMESPACE: &str = "sluice-system";
const USER: &str = "system:serviceaccount:sluice-system:sluice-operator";
const GROUPS: [&str; 2] = [
    "system:serviceaccounts",
    "system:serviceaccounts:sluice-system",
];

/// A file or folder of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A control plane with CRDs, the namespaces `sluice-system` and `shop`, and the operator's rights.
pub async fn cluster(world: &World) -> Result<Cluster> {
    let cluster = bare_cluster(world).await?;
    cluster.install_crds(&repository("crds/yaml")).await?;
    Ok(cluster)
}

/// The same without CRDs.
pub async fn bare_cluster(world: &World) -> Result<Cluster> {
    let cluster = Cluster::start(world).await?;
    cluster.namespace(NAMESPACE, json!({})).await?;
    cluster
        .namespace("shop", json!({"sluice.dev/injection": "enabled"}))
        .await?;
    cluster
        .apply_files(&[&repository("deploy/kustomize/rbac.yaml")])
        .await?;
    Ok(cluster)
}

/// A replica of this name, started and not waited for.
pub fn replica(world: &World, cluster: &Cluster, name: &str) -> Result<Operator> {
    options(world, cluster, name)?.start(world)
}

/// How a replica is started. Its lease lasts three seconds.
pub fn options(world: &World, cluster: &Cluster, name: &str) -> Result<OperatorOptions> {
    options_with_lease(world, cluster, name, 3)
}

/// [`options`] with a lease of so many seconds.
pub fn options_with_lease(
    world: &World,
    cluster: &Cluster,
    name: &str,
    lease_seconds: u64,
) -> Result<OperatorOptions> {
    let kubeconfig = cluster.kubeconfig_of(USER, &GROUPS)?;
    let options = Operator::options(world, name).kubeconfig(&kubeconfig);
    let lease = format!("--lease-seconds={lease_seconds}");
    Ok(options.env("POD_NAME", name).arg(lease))
}

/// The next operator at the address of one that was killed, ready.
pub async fn successor(world: &World, cluster: &Cluster, former: &Operator) -> Result<Operator> {
    let std::net::IpAddr::V4(ip) = former.stream.ip() else {
        anyhow::bail!("the world's addresses are IPv4");
    };
    let kubeconfig = cluster.kubeconfig_of(USER, &GROUPS)?;
    let mut operator = Operator::options(world, "operator-next")
        .ip(ip)
        .kubeconfig(&kubeconfig)
        .env("POD_NAME", "operator-next")
        .arg("--lease-seconds=3")
        .start(world)?;
    operator.ready(seconds(40)).await?;
    Ok(operator)
}

/// One replica, ready.
pub async fn operator(world: &World, cluster: &Cluster) -> Result<Operator> {
    let mut operator = replica(world, cluster, "operator-0")?;
    operator.ready(seconds(40)).await?;
    Ok(operator)
}

/// The webhooks, registered, reached through the operator's Service, with the roots in place.
pub async fn webhooks(cluster: &Cluster, operator: &Operator) -> Result<()> {
    cluster
        .expose(NAMESPACE, "sluice-operator", 443, operator.webhook)
        .await?;
    cluster
        .apply_files(&[&repository("deploy/kustomize/webhooks.yaml")])
        .await?;
    eventually("both caBundles are written", seconds(20), async || {
        for kind in [
            "validatingwebhookconfiguration",
            "mutatingwebhookconfiguration",
        ] {
            let found = cluster
                .kubectl()
                .json(["get", kind, "sluice-operator"])
                .await?;
            let bundle = &found["webhooks"][0]["clientConfig"]["caBundle"];
            anyhow::ensure!(
                bundle.as_str().is_some_and(|bundle| !bundle.is_empty()),
                "{kind} has none"
            );
        }
        Ok(())
    })
    .await
}

/// An object of ours in namespace `shop`.
pub async fn get(cluster: &Cluster, kind: &str, name: &str) -> Result<Value> {
    cluster
        .kubectl()
        .json(["-n", "shop", "get", kind, name])
        .await
}

/// `type=status/reason` of one condition of an object, and its message.
pub fn condition(object: &Value, kind: &str) -> (String, String) {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.and_then(|conditions| {
        conditions
            .iter()
            .find(|condition| condition["type"] == kind)
    });
    let text = |field: &str| {
        found
            .and_then(|found| found[field].as_str())
            .unwrap_or("?")
            .to_owned()
    };
    (
        format!("{}/{}", text("status"), text("reason")),
        text("message"),
    )
}

/// Waits until a condition says `status/reason`; gives the object.
pub async fn until(
    cluster: &Cluster,
    kind: &str,
    name: &str,
    type_: &str,
    says: &str,
) -> Result<Value> {
    eventually(
        &format!("{kind} {name}: {type_}={says}"),
        seconds(30),
        async || {
            let object = get(cluster, kind, name).await?;
            let (found, message) = condition(&object, type_);
            anyhow::ensure!(found == says, "it is {found}: {message}");
            Ok(object)
        },
    )
    .await
}

/// A Service `name` of namespace `shop` and an ApiRoute on it.
pub fn service_and_route(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: {name}, namespace: shop}}
spec: {{parentRefs: [{{kind: Service, name: {name}}}]}}
"
    )
}
