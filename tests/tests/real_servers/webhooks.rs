//! The API server of the test world calls a webhook that is a process of the test, by its Service's name and over TLS.
//! What the product's own webhooks answer is tested elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sluice_tests::pki::{Authority, Certified};
use sluice_tests::{Cluster, eventually, isolated, seconds};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Allows the object and adds a label to it.
async fn label(request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let patch =
        json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]).to_string();
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {
            "uid": review["request"]["uid"], "allowed": true,
            "patchType": "JSONPatch", "patch": STANDARD.encode(patch),
        },
    });
    Ok(Response::builder()
        .header("content-type", "application/json")
        .body(Full::new(answer.to_string().into()))?)
}

async fn serve(address: SocketAddr, identity: Certified) -> Result<()> {
    let chain = vec![CertificateDer::from_pem_slice(
        identity.certificate.as_bytes(),
    )?];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await?;
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(label))
                    .await
                    .context("serving")
            });
        }
    });
    Ok(())
}

#[test]
fn a_webhook_is_reached_by_its_service() {
    isolated!(async |world| {
        let cluster = Cluster::start(world).await?;
        cluster.namespace("hooks", json!({})).await?;
        let authority = Authority::new("hooks")?;
        let address = SocketAddr::from((world.address(), 9443));
        serve(
            address,
            authority.server("hook", &["hook.hooks.svc".into()])?,
        )
        .await?;
        cluster.expose("hooks", "hook", 443, address).await?;
        let config = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "hook"},
            "webhooks": [{
                "name": "hook.sluice.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Fail", "timeoutSeconds": 5,
                "clientConfig": {
                    "service": {"namespace": "hooks", "name": "hook", "path": "/label"},
                    "caBundle": STANDARD.encode(authority.pem()),
                },
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}],
            }],
        });
        cluster.apply_yaml(&config.to_string()).await?;
        let kubectl = cluster.kubectl();
        // The API server learns of the configuration and of the endpoint by watches of its own.
        eventually("a Secret comes out labelled", seconds(20), async || {
            let made = kubectl
                .json([
                    "create",
                    "secret",
                    "generic",
                    "s",
                    "--dry-run=server",
                    "-n",
                    "hooks",
                ])
                .await?;
            ensure!(made["metadata"]["labels"]["seen"] == "yes", "{made}");
            Ok(())
        })
        .await
    });
}

/// The product's own webhooks, called by the API server.
mod product {
    use anyhow::{Context, Result, ensure};
    use k8s_openapi::api::core::v1::Pod;
    use kube::{Api, api::ListParams};
    use serde_json::Value;
    use sluice_tests::{Cluster, eventually, isolated, seconds};

    use super::super::install;

    fn route(name: &str, pattern: &str) -> String {
        format!(
            "
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, name: nowhere}}]
  rules: [{{name: one, matches: [{{path: {{type: RegularExpression, value: \"{pattern}\"}}}}]}}]
"
        )
    }

    #[test]
    fn only_what_no_other_object_can_mend_is_refused() {
        isolated!(async |world| {
            let cluster = install::cluster(world).await?;
            let operator = install::operator(world, &cluster).await?;
            // Stored before anybody could refuse it.
            cluster.apply_yaml(&route("old", "/v1/(")).await?;
            install::until(&cluster, "apiroute", "old", "Accepted", "False/Invalid").await?;
            install::webhooks(&cluster, &operator).await?;

            let apply =
                async |text: &str| cluster.kubectl().output(["apply", "-f", "-"], text).await;
            let refused = eventually("the API server calls", seconds(20), async || {
                let output = apply(&route("bad", "/v1/(")).await?;
                ensure!(!output.status.success(), "it was stored");
                Ok(String::from_utf8_lossy(&output.stderr).into_owned())
            })
            .await?;
            ensure!(
                refused.contains("validate.sluice.dev") && refused.contains("spec.rules[0]"),
                "{refused}"
            );

            // A missing Service is a warning: it may come.
            let warned = apply(&route("good", "/v1/orders")).await?;
            let words = String::from_utf8_lossy(&warned.stderr).into_owned();
            ensure!(
                warned.status.success() && words.contains("Warning: ParentNotFound"),
                "{words}"
            );

            // The bad one that is stored may be labelled and deleted; a change to another bad spec is refused.
            let kubectl = cluster.kubectl();
            kubectl
                .run(["-n", "shop", "label", "apiroute", "old", "a=b"])
                .await?;
            ensure!(
                !apply(&route("old", "/v2/(")).await?.status.success(),
                "a new bad spec was stored"
            );
            kubectl
                .run(["-n", "shop", "delete", "apiroute", "old"])
                .await?;

            // Without the operator nothing is refused: translation denies it anyway.
            drop(operator);
            let stored = apply(&route("bad", "/v1/(")).await?;
            ensure!(
                stored.status.success(),
                "{}",
                String::from_utf8_lossy(&stored.stderr)
            );
            Ok(())
        });
    }

    fn deployment(name: &str, labels: &str) -> String {
        format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}{labels}}}}}
    spec:
      initContainers: [{{name: migrate, image: localhost/none:1}}]
      containers: [{{name: app, image: localhost/none:1}}]
"
        )
    }

    async fn pod(cluster: &Cluster, namespace: &str, app: &str) -> Result<Value> {
        let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
        eventually(&format!("a pod of {app}"), seconds(30), async || {
            let found = pods
                .list(&ListParams::default().labels(&format!("app={app}")))
                .await?;
            Ok(serde_json::to_value(
                found.items.first().context("none yet")?,
            )?)
        })
        .await
    }

    #[test]
    fn pods_of_namespaces_that_opted_in_come_out_injected() {
        isolated!(async |world| {
            let cluster = install::cluster(world).await?;
            cluster.namespace("plain", serde_json::json!({})).await?;
            let operator = install::operator(world, &cluster).await?;
            install::webhooks(&cluster, &operator).await?;
            let kubectl = cluster.kubectl();
            // The API server learns of the configuration by a watch of its own.
            eventually("pods are injected", seconds(20), async || {
                let try_one = [
                    "-n",
                    "shop",
                    "run",
                    "probe",
                    "--image=localhost/none:1",
                    "--dry-run=server",
                ];
                let made = kubectl.json(try_one).await?;
                ensure!(
                    made["spec"]["initContainers"][0]["name"] == "sluice",
                    "{}",
                    made["spec"]
                );
                Ok(())
            })
            .await?;

            cluster.apply_yaml(&deployment("web", "")).await?;
            let injected = pod(&cluster, "shop", "web").await?;
            let first = &injected["spec"]["initContainers"][0];
            ensure!(
                (&first["name"], &first["restartPolicy"]) == (&"sluice".into(), &"Always".into()),
                "{first}"
            );
            ensure!(
                injected["spec"]["initContainers"][1]["name"] == "migrate",
                "{injected}"
            );
            let mounts = first["volumeMounts"].as_array().context("mounts")?;
            ensure!(
                mounts.len() == 3,
                "the API server mounted something else: {mounts:?}"
            );
            let roots = first["env"]
                .as_array()
                .and_then(|env| env.iter().find(|one| one["name"] == "SLUICE_ROOTS_PEM"));
            ensure!(
                roots.is_some_and(|roots| roots["value"]
                    .as_str()
                    .is_some_and(|pem| pem.contains("BEGIN CERT"))),
                "{first}"
            );
            kubectl
                .with_input(["diff", "-f", "-"], deployment("web", ""))
                .await
                .context("the Deployment was changed")?;

            // The same pod, asked for again as it came out: nothing more is added.
            let mut again = injected.clone();
            again["metadata"] = serde_json::json!({"name": "again", "namespace": "shop", "labels": {"app": "again"}});
            again["spec"]
                .as_object_mut()
                .context("a spec")?
                .remove("nodeName");
            again["apiVersion"] = "v1".into();
            again["kind"] = "Pod".into();
            let made: Value = serde_json::from_str(
                &kubectl
                    .with_input(
                        ["create", "--dry-run=server", "-o", "json", "-f", "-"],
                        again.to_string(),
                    )
                    .await?,
            )?;
            ensure!(
                made["spec"]["initContainers"].as_array().map(Vec::len) == Some(2),
                "{}",
                made["spec"]
            );

            cluster
                .apply_yaml(&deployment("out", ", sluice.dev/inject: \"false\""))
                .await?;
            let out = pod(&cluster, "shop", "out").await?;
            ensure!(
                out["spec"]["initContainers"].as_array().map(Vec::len) == Some(1),
                "{}",
                out["spec"]
            );
            cluster
                .apply_yaml(&deployment("plain", "").replace("namespace: shop", "namespace: plain"))
                .await?;
            let plain = pod(&cluster, "plain", "plain").await?;
            ensure!(
                plain["spec"]["initContainers"].as_array().map(Vec::len) == Some(1),
                "{}",
                plain["spec"]
            );
            Ok(())
        });
    }
}
