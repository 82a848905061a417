//! `kubectl-sluice explain` against a real API server: what it says of its objects is what it says of the same objects in a
//! file; what is not installed is as if there were none, and what may not be read is said. That its answers are what edges
//! do is shown in process.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::product::binary;
use sluice_tests::{Cluster, eventually, isolated, seconds};

use super::gateways::definition;
use super::install;

const ROUTES: &str = "
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: orders}]
  rules:
  - {name: open, matches: [{path: {value: /open}}]}
  - {name: read, matches: [{path: {value: /read}, method: GET}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orders, namespace: shop, labels: {kubernetes.io/service-name: orders}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: orders-0, namespace: shop}}]
";

const EDGE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec:
  gatewayClassName: sluice
  listeners: [{name: http, port: 8000, protocol: HTTP, hostname: shop.example}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: public}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /web}}]
    backendRefs: [{name: orders, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /gone}}]
    backendRefs: [{name: nobody, port: 80}]
";

const SERVICE: &str = "service/shop/orders:80";
const GATEWAY: &str = "gateway/shop/public:8000";

/// Its exit code, the answer where it gives one, and what it complains of.
struct Explained {
    code: Option<i32>,
    answer: Value,
    complaints: String,
}

async fn explain(kubeconfig: &Path, args: &[&str]) -> Result<Explained> {
    let mut command = Command::new(binary("kubectl-sluice")?);
    command.args(["explain", "-o", "json"]).args(args);
    command.env("KUBECONFIG", kubeconfig);
    let Output {
        status,
        stdout,
        stderr,
    } = tokio::task::spawn_blocking(move || command.output()).await??;
    let complaints = String::from_utf8_lossy(&stderr).into_owned();
    let answer = match stdout.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&stdout).with_context(|| complaints.clone())?,
    };
    Ok(Explained {
        code: status.code(),
        answer,
        complaints,
    })
}

/// Asks the API server and the file; they say the same, and whether it is served is as expected.
async fn same(cluster: &Cluster, file: &Path, at: &str, asked: &[(&str, bool)]) -> Result<()> {
    let file = file.to_str().context("a path of plain letters")?;
    for (url, served) in asked {
        let live = explain(cluster.kubeconfig(), &["--at", at, url]).await?;
        let offline = explain(cluster.kubeconfig(), &["--at", at, "-f", file, url]).await?;
        let complaints = format!("{}{}", live.complaints, offline.complaints);
        ensure!(complaints.is_empty(), "{url}: {complaints}");
        ensure!(
            live.answer == offline.answer,
            "{url}: {:#}\nbut the file says {:#}",
            live.answer,
            offline.answer
        );
        ensure!(live.answer["served"] == *served, "{url}: {:#}", live.answer);
        ensure!(live.code == Some(i32::from(!served)), "{:?}", live.code);
    }
    Ok(())
}

#[test]
fn explain_says_of_a_cluster_what_it_says_of_the_same_objects_in_a_file() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        let file = world.dir().join("manifests.yaml");

        // The Gateway API is not installed: there are no Gateways, and nothing to complain of.
        std::fs::write(&file, ROUTES)?;
        cluster.apply_yaml(ROUTES).await?;
        let requests = [
            ("http://orders.shop/open?page=2", true),
            ("http://orders.shop/read", true),
            ("http://orders.shop/other", false),
        ];
        same(&cluster, &file, SERVICE, &requests).await?;
        let url = "http://shop.example:8000/web";
        let none = explain(cluster.kubeconfig(), &["--at", GATEWAY, url]).await?;
        ensure!(none.code == Some(2), "{:?}", none.code);
        ensure!(
            none.complaints.contains("there is no gateway/shop/public")
                && none.complaints.contains("service/shop/orders"),
            "{}",
            none.complaints
        );

        // It is.
        let definitions =
            definition("Gateway", "gateways", "v1") + &definition("HTTPRoute", "httproutes", "v1");
        cluster.apply_yaml(&definitions).await?;
        eventually("the API server serves Gateways", seconds(30), async || {
            cluster.apply_yaml(EDGE).await
        })
        .await?;
        std::fs::write(&file, format!("{ROUTES}---{EDGE}"))?;
        let requests = [
            (url, true),
            ("http://shop.example:8000/gone", false),
            ("http://shop.example:8000/", false),
            ("http://elsewhere.example:8000/web", false),
        ];
        same(&cluster, &file, GATEWAY, &requests).await?;
        same(
            &cluster,
            &file,
            SERVICE,
            &[("http://orders.shop/open", true)],
        )
        .await?;

        // Who may not look is told what was not looked at, and gets no answer that would be taken for one.
        let nobody = cluster.kubeconfig_of("nobody", &[])?;
        let refused = explain(&nobody, &["--at", GATEWAY, url]).await?;
        ensure!(refused.code == Some(2), "{:?}", refused.code);
        ensure!(refused.answer.is_null(), "{:#}", refused.answer);
        for plural in ["gateways", "httproutes", "services", "secrets"] {
            let said = format!("not allowed to read {plural}: ");
            ensure!(refused.complaints.contains(&said), "{}", refused.complaints);
        }
        Ok(())
    });
}
