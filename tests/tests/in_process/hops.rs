//! Hops: an edge and two Services with sidecars. What an edge proved and charged is not proved or charged again; nobody
//! else can say so; what a sidecar forwarded is not forwarded again; shares by weight.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::pki::Authority;
use sluice_tests::{Client, Sidecar, With, World, eventually, get, isolated, seconds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::place::{Place, Plan, config, documents, secret};

mod apart;
mod nonces;

const PATIENCE: u64 = 40;
const KEY: &str = "a-key-of-the-tests-0123456789";
/// Requests whose shares are counted.
const REQUESTS: usize = 10_000;

/// What a pod's route asks of everything but `/open`: an edge's word.
fn guarded(name: &str, more: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, name: {name}}}]
  auth:
    anyOf: [{{allOf: [edge]}}]
    providers: [{{name: edge, type: Hop, hop: {{from: [\"spiffe://shop.example/ns/shop/sa/default\"]}}}}]
  rules:
  - {{name: open, matches: [{{path: {{type: PathPrefix, value: /open}}}}], auth: {{anonymous: Allow}}}}
{more}  - {{name: all, matches: [{{path: {{type: PathPrefix, value: /}}}}]}}
"
    )
}

const GATE: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec: {gatewayClassName: sluice, listeners: [{name: http, port: 8000, protocol: HTTP}]}
---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: gate, namespace: shop}
spec:
  parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: public}]
  hostnames: [gate.example]
  auth:
    anyOf: [{allOf: [keys]}]
    providers: [{name: keys, type: APIKey, apiKey: {secretSelector: {matchLabels: {sluice.dev/use: api-keys}}}}]
  rules:
  - {name: only-a, matches: [{path: {type: PathPrefix, value: /only-a}}], backendRefs: [{name: a, port: 80}]}
  - {name: both, matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: a, port: 80, weight: 50}, {name: b, port: 80, weight: 50}]}
---
apiVersion: sluice.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: plans, namespace: shop}
spec:
  targetRefs: [{group: sluice.dev, kind: ApiRoute, name: gate}, {group: sluice.dev, kind: ApiRoute, name: a}]
  limits:
  - name: tenants
    key: [{type: Header, header: {name: X-Tenant}}]
    onMissingKey: Skip
    algorithm: {type: TokenBucket, tokenBucket: {requests: 5, per: 1h, burst: 5}}
"#;

async fn start(world: &World) -> Result<(Place<'_>, Sidecar)> {
    let mut plan = Plan::new(world)?;
    plan.hops("a")?;
    plan.hops("b")?;
    let to = |path: &str, other: &str| {
        format!(
            "  - {{name: {}, matches: [{{path: {{type: PathPrefix, value: {path}}}}}], auth: {{anonymous: Allow}}, backendRefs: [{{name: {other}, port: 80}}]}}\n",
            path.trim_start_matches('/')
        )
    };
    plan.put(
        "all",
        &documents(&[
            config(&[]).replace("stores:\n", ""),
            secret("acme", "api-keys", "acme-1", KEY),
            GATE.to_owned(),
            guarded("a", &(to("/round", "b") + &to("/forward", "b"))),
            guarded("b", &to("/round", "a")),
        ]),
    )?;
    let place = plan.start().await?;
    let mut edge = place.edge("public").await?;
    edge.ready(seconds(PATIENCE)).await?;
    let client = gate(&edge);
    // A certificate comes after the configuration: until then a pod is asked as anybody asks it, and refuses.
    for _ in 0..8 {
        eventually("the edge's word counts", seconds(PATIENCE), async || {
            client.send(asked("/")).await?.expect(200).map(drop)
        })
        .await?;
    }
    Ok((place, edge))
}

fn gate(edge: &Sidecar) -> Client {
    Client::new(SocketAddr::from((edge.address.ip(), 8000)))
}

fn asked(path: &str) -> http::Request<bytes::Bytes> {
    get(path)
        .with("host", "gate.example")
        .with("x-api-key", KEY)
}

#[test]
fn what_an_edge_decided_counts_once_and_nobody_else_can_say_so() {
    isolated!(async |world| {
        let (place, edge) = start(world).await?;
        let gate = gate(&edge);
        let pod = place.pods[0].sidecar.client();

        // The pods' routes ask for the edge's word: it is there, and none but it.
        gate.send(get("/").with("host", "gate.example"))
            .await?
            .expect(401)?;
        pod.send(get("/").with("host", "gate.example"))
            .await?
            .expect(401)?;
        let asks = world.address();
        let socket = TcpSocket::new_v4()?;
        socket.bind((asks, 0).into())?;
        let stream = socket.connect(gate.address()).await?;
        let mut connection = Connection::over(stream, Protocol::Http1, "gate.example").await?;
        let answer = connection.send(asked("/only-a")).await?;
        let answer = answer.expect(200)?.json()?;
        ensure!(answer["headers"].get("sluice-hop").is_none(), "{answer}");

        // Who asks, the edge says; what anybody else says of it is not believed.
        let asks = asks.to_string();
        let said = |answer: &serde_json::Value| answer["headers"]["x-forwarded-for"].to_string();
        ensure!(
            said(&answer).starts_with(&format!("\"{asks}, ")),
            "{answer}"
        );
        let lied = get("/open").with("x-forwarded-for", "192.0.2.7");
        let answer = pod.send(lied).await?.expect(200)?.json()?;
        ensure!(!said(&answer).contains("192.0.2.7"), "{answer}");
        eventually("the pods log the client", seconds(PATIENCE), async || {
            let pods = place.pods[..2].iter();
            let mut lines = pods.flat_map(|pod| pod.sidecar.access_log());
            ensure!(lines.any(|line| line["client"] == *asks), "nobody does");
            Ok(())
        })
        .await?;

        // The limit is the edge's and the pod's, and is charged by one of them: all five pass, and the pod's own bucket
        // is still full.
        for _ in 0..5 {
            gate.send(asked("/only-a").with("x-tenant", "t"))
                .await?
                .expect(200)?;
        }
        gate.send(asked("/only-a").with("x-tenant", "t"))
            .await?
            .expect(429)?;
        for pod in &place.pods[..2] {
            let client = pod.sidecar.client();
            for _ in 0..5 {
                client
                    .send(get("/open").with("x-tenant", "t"))
                    .await?
                    .expect(200)?;
            }
            client
                .send(get("/open").with("x-tenant", "t"))
                .await?
                .expect(429)?;
        }

        // Forged: a sidecar's word, by somebody who came to the Service's port.
        let forged = forged();
        let with_forged = |path: &str| {
            get(path)
                .with("host", "x.example")
                .with("sluice-hop", &forged)
        };
        pod.send(with_forged("/")).await?.expect(401)?;
        let answer = pod.send(with_forged("/open")).await?.expect(200)?.json()?;
        ensure!(answer["headers"].get("sluice-hop").is_none(), "{answer}");

        // A sidecar's forward to a route that asks for more is not asked again; one that leads back is a loop.
        let forwarded = async || pod.send(get("/forward")).await?.expect(200)?.json();
        let answer = eventually("a sidecar's forward", seconds(PATIENCE), forwarded).await?;
        ensure!(
            answer["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("b-")),
            "{answer}"
        );
        pod.send(get("/round")).await?.expect(508)?;

        // Another trust domain's certificate, or none: not a byte is answered.
        let at = SocketAddr::from((place.pods[0].sidecar.address.ip(), 15_008));
        let strangers = Authority::new("strangers")?;
        let stranger = strangers.client("spiffe", &[])?;
        for own in [Some(&stranger), None] {
            let refused = knock(at, own, &forged).await?;
            ensure!(refused.is_empty(), "{}", String::from_utf8_lossy(&refused));
        }
        Ok(())
    });
}

#[test]
fn shares_by_weight_are_kept_over_hops() {
    isolated!(async |world| {
        let (_place, edge) = start(world).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let client = gate(&edge);
            tasks.spawn(async move {
                let mut of_a = 0_usize;
                for _ in 0..REQUESTS / 8 {
                    let answer = client.send(asked("/")).await?.expect(200)?.json()?;
                    let name = answer["name"].as_str().context("no name")?;
                    of_a += usize::from(name.starts_with("a-"));
                }
                anyhow::Ok(of_a)
            });
        }
        let mut of_a = 0;
        while let Some(count) = tasks.join_next().await {
            of_a += count??;
        }
        let share = of_a as f64 / REQUESTS as f64;
        eprintln!(
            "{of_a} of {REQUESTS} requests went to a: {:.2} %",
            share * 100.0
        );
        ensure!((share - 0.5).abs() <= 0.015, "{share}");
        Ok(())
    });
}

/// A sidecar's word, by whoever sends it.
fn forged() -> String {
    let forged = r#"{"from":"Sidecar","port":8080,"route":"shop/gate","rule":"all"}"#;
    let engine = &base64::engine::general_purpose::URL_SAFE_NO_PAD;
    format!("1.{}", base64::Engine::encode(engine, forged))
}

/// Sends a request over TLS to whoever is there, and gives what came back.
async fn knock(
    at: SocketAddr,
    own: Option<&sluice_tests::pki::Certified>,
    forged: &str,
) -> Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(own.certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(own.key.as_bytes())?,
        )?,
    };
    let name = ServerName::try_from("p8080.hop.sluice")?;
    let stream = TcpStream::connect(at).await?;
    // With TLS 1.3 a client hears of its refusal only after the handshake.
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let request =
        format!("GET / HTTP/1.1\r\nhost: x\r\nsluice-hop: {forged}\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = tokio::time::timeout(seconds(10), stream.read_to_end(&mut answer)).await?;
    }
    Ok(answer)
}

/// Takes any certificate: the test is about what the server takes.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
        ]
    }
}
