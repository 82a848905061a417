//! The Gateway API on a real API server: it is installed after the operator has started, objects of it are read, and a real
//! edge serves by them over TLS, towards a backend that its policy protects.

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_tests::pki::Authority;
use sluice_tests::product::AUDIENCE;
use sluice_tests::tls::TlsClient;
use sluice_tests::{App, Cluster, Sidecar, StandInPod, With, eventually, get, isolated, seconds};

use super::install::{self, until};
use super::status;

/// As much of the Gateway API's definitions as says that there are such kinds: names and version.
pub fn definition(kind: &str, plural: &str, version: &str) -> String {
    let singular = kind.to_lowercase();
    format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {plural}.gateway.networking.k8s.io
  annotations: {{api-approved.kubernetes.io: unapproved}}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {{plural: {plural}, singular: {singular}, kind: {kind}, listKind: {kind}List}}
  versions:
  - name: {version}
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
---
"
    )
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("\n    {line}")).collect()
}

const ROUTE: &str = "
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: shop, namespace: shop}
spec:
  parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: public, sectionName: https}]
  hostnames: [shop.example]
  rules:
  - {name: secure, matches: [{path: {value: /secure}}], backendRefs: [{name: secure, port: 80}]}
  - {name: all, backendRefs: [{name: origin, port: 80}]}
";

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: https, port: 8443, protocol: HTTPS, hostname: shop.example, tls: {certificateRefs: [{name: shop}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: secure, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: secure}]
  validation: {hostname: secure.example, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: authority}]}
";

async fn services(cluster: &Cluster, origin: &App) -> Result<()> {
    cluster.expose("shop", "origin", 80, origin.address).await?;
    cluster.expose("shop", "secure", 80, origin.address).await
}

#[test]
fn gateways_installed_later_are_served_by_an_edge() {
    isolated!(async |world| {
        let cluster = install::cluster(world).await?;
        // One of a former version is no Gateway that could be listed: the operator must not wait for it.
        cluster
            .apply_yaml(&definition(
                "BackendTLSPolicy",
                "backendtlspolicies",
                "v1alpha3",
            ))
            .await?;
        let operator = install::operator(world, &cluster).await?;
        let origin = App::start_at(world, "origin", (world.address(), 8080).into()).await?;
        services(&cluster, &origin).await?;
        cluster.apply_yaml(ROUTE).await?;
        until(
            &cluster,
            "apiroute",
            "shop",
            "ResolvedRefs",
            "False/ParentNotFound",
        )
        .await?;

        let authority = Authority::new("servers")?;
        let certified = authority.server("shop.example", &["shop.example".to_owned()])?;
        cluster
            .apply_yaml(&format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop, namespace: shop}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |{}\n  tls.key: |{}\n",
                indented(&certified.certificate),
                indented(&certified.key)
            ))
            .await?;
        let both = definition("Gateway", "gateways", "v1")
            + &definition("BackendTLSPolicy", "backendtlspolicies", "v1");
        cluster
            .kubectl()
            .run([
                "delete",
                "crd",
                "backendtlspolicies.gateway.networking.k8s.io",
            ])
            .await?;
        cluster.apply_yaml(&both).await?;
        eventually("the API server serves them", seconds(30), async || {
            cluster.apply_yaml(GATEWAY).await
        })
        .await?;

        let labels = json!({"gateway.networking.k8s.io/gateway-name": "public"});
        let pod = StandInPod::create(world, &cluster, "shop", "edge-0", labels).await?;
        let mut edge = Sidecar::options(world, "edge-0", pod.ip)?
            .operator(operator.stream)
            .token_file(&pod.token_file(AUDIENCE).await?)
            .roots_pem(&status::roots(&cluster).await?)
            .edge()
            .start(world)?;
        edge.ready(seconds(40)).await?;
        until(&cluster, "apiroute", "shop", "Accepted", "True/Accepted").await?;
        let client = TlsClient::new((pod.ip, 8443), "shop.example", authority.pem())?;
        let ask = async |path: &str| {
            let (mut connection, _) = client.connect().await?;
            connection
                .send(get(path).with("host", "shop.example"))
                .await
        };
        ask("/").await?.expect(200)?;

        // The policy names an authority that is not there: refused. Once it is there, this origin does not speak TLS.
        let refused = ask("/secure").await?.expect(503)?;
        ensure!(
            refused.text().contains("config-reference-not-found"),
            "{}",
            refused.text()
        );
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: authority, namespace: shop}}\ndata:\n  ca.crt: |{}\n",
            indented(authority.pem())
        );
        cluster.apply_yaml(&map).await?;
        eventually("the policy is in force", seconds(30), async || {
            ask("/secure").await?.expect(502).map(drop)
        })
        .await?;
        // Without the policy it is a Service like any other.
        cluster
            .kubectl()
            .run(["-n", "shop", "delete", "backendtlspolicy", "secure"])
            .await?;
        eventually("the policy is gone", seconds(30), async || {
            ask("/secure").await?.expect(200).map(drop)
        })
        .await?;
        Ok(())
    });
}
