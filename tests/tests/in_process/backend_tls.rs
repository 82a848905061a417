//! TLS to backends as a BackendTLSPolicy asks for it: whom it trusts, which name it wants, what it says when it cannot, and
//! that nothing is sent in the clear in its place. The origins are real TLS servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sluice_tests::pki::{Authority, Certified};
use sluice_tests::{Client, With, eventually, get, isolated, seconds};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::edge::authority;
use crate::place::{Plan, documents};

/// A TLS server. It answers with the server name that it was asked for, the version, and how many connections it has had.
struct Origin {
    handle: AbortHandle,
    clear: Arc<AtomicUsize>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Origin {
    async fn start(
        address: SocketAddr,
        Certified { certificate, key }: &Certified,
    ) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(key.as_bytes())?,
            )?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address).await?;
        let (connections, clear) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&clear);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, connections, clear) = (
                    acceptor.clone(),
                    Arc::clone(&connections),
                    Arc::clone(&counted),
                );
                tokio::spawn(async move {
                    let mut first = [0];
                    // A handshake record (RFC 8446 section 5.1), or something that was sent in the clear.
                    if stream.peek(&mut first).await.is_ok_and(|read| read == 1) && first[0] != 22 {
                        clear.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let connection = connections.fetch_add(1, Ordering::Relaxed) + 1;
                    let name = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
                    let service = service_fn(move |request: Request<_>| {
                        let _: &hyper::body::Incoming = request.body();
                        let told = format!("{name} {:?} {connection}", request.version());
                        async move {
                            Ok::<_, std::convert::Infallible>(Response::new(Full::new(
                                Bytes::from(told),
                            )))
                        }
                    });
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self {
            handle: task.abort_handle(),
            clear,
        })
    }
}

fn service(name: &str, ip: Ipv4Addr, protocol: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{name: web, port: 80, targetPort: 8080{protocol}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: web, port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [{ip}], conditions: {{ready: true}}}}]
"
    )
}

fn policy(name: &str, authority: &str, rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {name}}}]
  validation: {{caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: {authority}}}], {rest}}}
"
    )
}

#[test]
fn backends_are_asked_as_their_policy_wants_or_not_at_all() {
    isolated!(async |world| {
        let (right, wrong) = (Authority::new("right")?, Authority::new("wrong")?);
        let names = ["origin.example".to_owned(), "other.example".to_owned()];
        let certified = right.server("origin.example", &names)?;
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        let ip = world.address();
        let origin = Origin::start((ip, 8080).into(), &certified).await?;
        let name = "hostname: origin.example";
        let cases = [
            ("right", "", "right", name),
            ("http2", ", appProtocol: kubernetes.io/h2c", "right", name),
            ("wrong-authority", "", "wrong", name),
            ("wrong-name", "", "right", "hostname: another.example"),
            (
                "one-of-names",
                "",
                "right",
                "hostname: sent.example, subjectAltNames: [{type: Hostname, hostname: nobody.example}, {type: Hostname, hostname: other.example}]",
            ),
            (
                "none-of-names",
                "",
                "right",
                "hostname: origin.example, subjectAltNames: [{type: URI, uri: \"spiffe://nobody\"}]",
            ),
            ("no-authority", "", "nowhere", name),
        ];
        let mut manifests = vec![
            authority("right", right.pem()),
            authority("wrong", wrong.pem()),
        ];
        let mut rules = String::new();
        for (case, protocol, authority, rest) in cases {
            manifests.push(service(case, ip, protocol));
            manifests.push(policy(case, authority, rest));
            rules += &format!(
                "  - {{name: {case}, matches: [{{path: {{value: /{case}}}}}], backendRefs: [{{name: {case}, port: 80}}]}}\n"
            );
        }
        manifests.push(format!(
            "{}  rules:\n{rules}",
            crate::place::route("api", "")
        ));
        plan.put("backends", &documents(&manifests))?;
        let place = plan.start().await?;
        for pod in &place.pods {
            let client: Client = pod.sidecar.client();
            let ask = async |case: &str| {
                client
                    .send(get(&format!("/{case}")).with("host", "api.example"))
                    .await
            };
            for (case, told) in [
                ("right", "origin.example HTTP/1.1"),
                ("http2", "origin.example HTTP/2.0"),
                ("one-of-names", "sent.example HTTP/1.1"),
            ] {
                let (first, second) = (
                    ask(case).await?.expect(200)?.text(),
                    ask(case).await?.expect(200)?.text(),
                );
                ensure!(first.starts_with(told), "{case}: {first}");
                ensure!(
                    first == second,
                    "{case}: the connection was not kept: {first}, {second}"
                );
            }
            for case in ["wrong-authority", "wrong-name", "none-of-names"] {
                ask(case).await?.expect(502)?;
                let policy = format!("BackendTLSPolicy shop/{case}");
                eventually("the log names the policy", seconds(10), async || {
                    let log = pod.sidecar.access_log();
                    let named = log.iter().any(|line| {
                        let line = line.to_string();
                        line.contains("upstream-connect") && line.contains(&policy)
                    });
                    ensure!(named, "{log:?}");
                    Ok(())
                })
                .await?;
            }
            let answer = ask("no-authority").await?.expect(503)?.text();
            ensure!(answer.contains("config-reference-not-found"), "{answer}");
        }
        ensure!(
            origin.clear.load(Ordering::Relaxed) == 0,
            "something was sent in the clear"
        );

        // A policy that goes leaves the Service as it was: in the clear, which this origin does not understand.
        let rest = documents(&manifests).replace(&policy("right", "right", name), "");
        place.put("backends", &rest)?;
        eventually("the policy is gone", seconds(30), async || {
            let client = place.pods[0].sidecar.client();
            let answer = client
                .send(get("/right").with("host", "api.example"))
                .await?;
            answer.expect(502).map(drop)
        })
        .await?;
        ensure!(
            origin.clear.load(Ordering::Relaxed) > 0,
            "the origin tells nobody"
        );
        Ok(())
    });
}
