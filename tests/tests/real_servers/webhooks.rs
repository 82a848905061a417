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
