//! The edge of a Gateway: listeners, certificates by server name, what clients must show, how certificates change under
//! load, how listeners come and go. Two data threads, and a second Gateway with an edge of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::pki::{Authority, Certified};
use sluice_tests::tls::TlsClient;
use sluice_tests::{App, Client, Sidecar, With, World, eventually, get, isolated, seconds};

use crate::place::{Place, Plan, documents};

/// How long a change may take to arrive.
const PATIENCE: u64 = 30;
/// From a written Secret to a handshake that shows what is in it, under load.
const LONGEST_ROTATION: Duration = Duration::from_secs(1);

/// A Secret of type `kubernetes.io/tls`.
pub fn tls_secret(name: &str, Certified { certificate, key }: &Certified) -> String {
    let block = |text: &str| {
        let lines = text.lines().map(|line| format!("\n    {line}"));
        lines.collect::<String>()
    };
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: shop}}
type: kubernetes.io/tls
stringData:
  tls.crt: |{}
  tls.key: |{}
",
        block(certificate),
        block(key)
    )
}

/// A ConfigMap with an authority.
pub fn authority(name: &str, pem: &str) -> String {
    let lines = pem.lines().map(|line| format!("\n    {line}"));
    let lines = lines.collect::<String>();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata:\n  ca.crt: |{lines}\n"
    )
}

/// A Gateway; each listener is one line of flow YAML.
pub fn gateway(name: &str, listeners: &[&str], rest: &str) -> String {
    let listeners = listeners.iter().map(|listener| format!("\n  - {listener}"));
    let listeners = listeners.collect::<String>();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec:
  gatewayClassName: sluice
{rest}  listeners:{listeners}
"
    )
}

/// A route of listeners of Gateway `public` that leads to the Service `origin`.
fn route(name: &str, parent: &str, hostnames: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, {parent}}}]
  hostnames: {hostnames}
  rules: [{{name: all, backendRefs: [{{name: origin, port: 80}}]}}]
"
    )
}

/// An HTTPS listener of a Gateway.
pub fn https(name: &str, port: u16, hostname: &str, secret: &str) -> String {
    format!(
        "{{name: {name}, port: {port}, protocol: HTTPS, hostname: \"{hostname}\", tls: {{certificateRefs: [{{name: {secret}}}]}}}}"
    )
}

/// What runs.
struct Edge<'w> {
    place: Place<'w>,
    public: Sidecar,
    inner: Sidecar,
    authority: Authority,
    clients: Authority,
    a: Certified,
    b: Certified,
    _origin: App,
}

impl Edge<'_> {
    fn at(&self, port: u16) -> SocketAddr {
        (self.public.address.ip(), port).into()
    }

    fn client(&self, port: u16, name: &str) -> Result<TlsClient> {
        TlsClient::new(self.at(port), name, self.authority.pem())
    }
}

async fn start(world: &World) -> Result<Edge<'_>> {
    let (authority_, clients) = (Authority::new("servers")?, Authority::new("clients")?);
    let certified = |name: &str| authority_.server(name, &[name.to_owned()]);
    let (a, b) = (certified("a.example")?, certified("b.example")?);
    let broken = Certified {
        certificate: certified("broken.example")?.certificate,
        key: a.key.clone(),
    };
    let plan = Plan::new(world)?;
    let origin = plan.member("origin").await?;
    let listeners = [
        "{name: http, port: 8000, protocol: HTTP}".to_owned(),
        https("a", 8443, "a.example", "a"),
        https("b", 8443, "b.example", "b"),
        https("wild", 8443, "*.wild.example", "wild"),
        https("broken", 8443, "broken.example", "broken"),
        https("clients", 9443, "a.example", "a"),
    ];
    let listeners: Vec<&str> = listeners.iter().map(String::as_str).collect();
    let rest = "  tls: {frontend: {perPort: [{port: 9443, tls: {validation: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: clients}]}}}]}}\n";
    plan.put(
        "edge",
        &documents(&[
            gateway("public", &listeners, rest),
            gateway("inner", &["{name: http, port: 8000, protocol: HTTP}"], ""),
            tls_secret("b", &b),
            tls_secret("wild", &certified("*.wild.example")?),
            tls_secret("broken", &broken),
            authority("clients", clients.pem()),
            route("http", "name: public, sectionName: http", "[a.example]"),
            route("a", "name: public, sectionName: a", "[a.example]"),
            route("b", "name: public, sectionName: b", "[b.example]"),
            route(
                "wild",
                "name: public, sectionName: wild",
                "[\"*.wild.example\"]",
            ),
            route(
                "broken",
                "name: public, sectionName: broken",
                "[broken.example]",
            ),
            route(
                "clients",
                "name: public, sectionName: clients",
                "[a.example]",
            ),
            route("inner", "name: inner", "[inner.example]"),
        ]),
    )?;
    plan.put("a", &tls_secret("a", &a))?;
    let place = plan.start().await?;
    let (mut public, mut inner) = (place.edge("public").await?, place.edge("inner").await?);
    public.ready(seconds(PATIENCE)).await?;
    inner.ready(seconds(PATIENCE)).await?;
    Ok(Edge {
        place,
        public,
        inner,
        authority: authority_,
        clients,
        a,
        b,
        _origin: origin,
    })
}

fn der(certified: &Certified) -> Result<CertificateDer<'static>> {
    Ok(CertificateDer::from_pem_slice(
        certified.certificate.as_bytes(),
    )?)
}

/// One GET, with this host.
async fn ask(connection: &mut Connection, host: &str) -> Result<sluice_tests::Answer> {
    connection.send(get("/").with("host", host)).await
}

#[test]
fn hosts_have_their_certificates_and_nobody_gets_another_ones() {
    isolated!(async |world| {
        let edge = start(world).await?;
        // Server names choose certificates, ALPN chooses the version; the origin hears that it was https.
        for (name, certificate) in [
            ("a.example", Some(&edge.a)),
            ("b.example", Some(&edge.b)),
            ("x.wild.example", None),
        ] {
            for client in [edge.client(8443, name)?, edge.client(8443, name)?.http2()] {
                let (mut connection, shown) = client.connect().await?;
                if let Some(certificate) = certificate {
                    ensure!(
                        shown == der(certificate)?,
                        "{name} was shown another certificate"
                    );
                }
                let answer = ask(&mut connection, name).await?.expect(200)?.json()?;
                let headers = &answer["headers"];
                ensure!(headers["x-forwarded-proto"] == "https", "{headers}");
                ensure!(
                    headers["via"]
                        .as_str()
                        .is_some_and(|via| via.contains("sluice-edge-")),
                    "{headers}"
                );
            }
        }
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client =
                TlsClient::version(edge.at(8443), "a.example", edge.authority.pem(), version)?;
            ask(&mut client.connect().await?.0, "a.example")
                .await?
                .expect(200)?;
        }

        // No listener has the name, or there is none: refused, like the broken certificate, and its host alone.
        for name in ["c.example", "wild.example", "broken.example"] {
            let refused = edge.client(8443, name)?.handshake().await;
            ensure!(refused.is_err(), "{name} was served");
        }
        let nameless = edge.client(8443, "a.example")?.without_name();
        ensure!(
            nameless.handshake().await.is_err(),
            "a client that names nobody was served"
        );

        // What another listener serves is asked for on another connection; what none serves is not there.
        let (mut connection, _) = edge.client(8443, "a.example")?.connect().await?;
        ask(&mut connection, "b.example").await?.expect(421)?;
        ask(&mut connection, "c.example").await?.expect(404)?;
        ask(&mut connection, "a.example").await?.expect(200)?;
        eventually("both refusals are logged", seconds(10), async || {
            let log = edge.public.access_log();
            let reasons = log.iter().filter_map(|line| line["reason"].as_str());
            let refusals: Vec<_> = reasons.collect();
            ensure!(refusals == ["misdirected", "no-route"], "{log:?}");
            Ok(())
        })
        .await?;

        // The listener in the clear, and the other Gateway, which has no such route.
        let plain = Client::new(edge.at(8000));
        let answer = plain
            .send(get("/").with("host", "a.example"))
            .await?
            .expect(200)?
            .json()?;
        ensure!(answer["headers"]["x-forwarded-proto"] == "http", "{answer}");
        let inner = Client::new((edge.inner.address.ip(), 8000));
        inner
            .send(get("/").with("host", "inner.example"))
            .await?
            .expect(200)?;
        inner
            .send(get("/").with("host", "a.example"))
            .await?
            .expect(404)?;

        // What this edge has forwarded before it does not forward again.
        let via = answer["headers"]["via"]
            .as_str()
            .context("no Via")?
            .to_owned();
        plain
            .send(get("/").with("host", "a.example").with("via", &via))
            .await?
            .expect(508)?;
        Ok(())
    });
}

#[test]
fn clients_without_the_right_certificate_are_refused_where_one_is_asked_for() {
    isolated!(async |world| {
        let edge = start(world).await?;
        let own = edge.clients.client("alice", &[])?;
        let strangers = Authority::new("strangers")?.client("mallory", &[])?;
        let with =
            |own| TlsClient::certified(edge.at(9443), "a.example", edge.authority.pem(), own);
        let (mut connection, _) = with(&own)?.connect().await?;
        ask(&mut connection, "a.example").await?.expect(200)?;
        // In TLS 1.3 a client hears of it once it asks.
        for client in [edge.client(9443, "a.example")?, with(&strangers)?] {
            let asked = async {
                let (mut connection, _) = client.connect().await?;
                ask(&mut connection, "a.example").await
            };
            let asked = asked.await;
            ensure!(asked.is_err(), "{asked:?}");
        }
        // Nobody is asked for one elsewhere.
        ask(
            &mut edge.client(8443, "a.example")?.connect().await?.0,
            "a.example",
        )
        .await?
        .expect(200)?;
        Ok(())
    });
}

#[test]
fn a_certificate_changes_under_load_without_an_error() {
    isolated!(async |world| {
        let edge = start(world).await?;
        let stop = Arc::new(AtomicBool::new(false));
        // One connection is kept all the time, others are made anew for each request.
        let client = edge.client(8443, "a.example")?;
        let load = |fresh: bool| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut connection, mut shown) = client.connect().await?;
                let (mut asked, mut seen) = (0_u32, vec![shown.clone()]);
                while !stop.load(Ordering::Relaxed) {
                    if fresh {
                        (connection, shown) = client.connect().await?;
                        if seen.last() != Some(&shown) {
                            seen.push(shown.clone());
                        }
                    }
                    ask(&mut connection, "a.example").await?.expect(200)?;
                    asked += 1;
                }
                anyhow::Ok((asked, seen))
            })
        };
        let loads = [load(false), load(true), load(true)];
        let mut wanted = vec![der(&edge.a)?];
        for _ in 0..2 {
            let next = edge
                .authority
                .server("a.example", &["a.example".to_owned()])?;
            let secret = tls_secret("a", &next);
            let next = der(&next)?;
            edge.place.put("a", &secret)?;
            let written = Instant::now();
            eventually("the new certificate", seconds(PATIENCE), async || {
                // Each data thread has it at its own moment.
                for _ in 0..8 {
                    let (_, shown) = edge.client(8443, "a.example")?.connect().await?;
                    ensure!(shown == next, "the former one is shown");
                }
                Ok(())
            })
            .await?;
            let served = written.elapsed();
            println!("a new certificate is served {served:.0?} after its Secret was written");
            ensure!(served <= LONGEST_ROTATION, "served only after {served:?}");
            wanted.push(next);
        }
        // A broken one takes its host down, for new connections, and no other; the next good one brings it back.
        stop.store(true, Ordering::Relaxed);
        for (number, load) in loads.into_iter().enumerate() {
            let (asked, seen) = load.await??;
            ensure!(asked > 0, "load {number} asked nothing");
            if number > 0 {
                // Each data thread has the new one at its own moment: what matters is that nobody saw anything else.
                ensure!(
                    seen.iter().all(|shown| wanted.contains(shown)),
                    "another certificate was shown"
                );
                ensure!(
                    seen.last() == wanted.last(),
                    "load {number} ended with a former certificate"
                );
            }
        }
        let (mut kept, _) = edge.client(8443, "a.example")?.connect().await?;
        let broken = Certified {
            certificate: edge.a.certificate.clone(),
            key: edge.b.key.clone(),
        };
        edge.place.put("a", &tls_secret("a", &broken))?;
        eventually("handshakes are refused", seconds(PATIENCE), async || {
            let refused = edge.client(8443, "a.example")?.handshake().await;
            ensure!(refused.is_err(), "it is still served");
            Ok(())
        })
        .await?;
        ask(&mut kept, "a.example").await?.expect(200)?;
        ask(
            &mut edge.client(8443, "b.example")?.connect().await?.0,
            "b.example",
        )
        .await?
        .expect(200)?;
        edge.place.put("a", &tls_secret("a", &edge.a))?;
        eventually("it is back", seconds(PATIENCE), async || {
            edge.client(8443, "a.example")?.handshake().await.map(drop)
        })
        .await
    });
}

#[test]
fn listeners_come_and_go_and_a_route_says_why_it_has_none() {
    isolated!(async |world| {
        let edge = start(world).await?;
        let mut kept =
            Connection::open((edge.inner.address.ip(), 8000).into(), Protocol::Http1).await?;
        ask(&mut kept, "inner.example").await?.expect(200)?;
        edge.place.put(
            "more",
            &route("more", "name: inner, sectionName: later", "[more.example]"),
        )?;
        edge.place
            .condition("ApiRoute", "more", "Accepted", "False", "NoMatchingParent")
            .await?;
        let manifests = std::fs::read_to_string(edge.place.manifest("edge"))?;
        let former = gateway("inner", &["{name: http, port: 8000, protocol: HTTP}"], "");
        ensure!(
            manifests.contains(&former),
            "the Gateway is written as this test thinks"
        );
        let now = gateway("inner", &["{name: later, port: 8001, protocol: HTTP}"], "");
        edge.place.put("edge", &manifests.replace(&former, &now))?;
        let later = Client::new((edge.inner.address.ip(), 8001));
        eventually("the new listener", seconds(PATIENCE), async || {
            let answer = later.send(get("/").with("host", "more.example")).await?;
            answer.expect(200).map(drop)
        })
        .await?;
        edge.place.live("ApiRoute", "more").await?;
        // The old one is closed: nobody connects, and who was connected has been told.
        eventually(
            "the former listener is gone",
            seconds(PATIENCE),
            async || {
                let refused = tokio::net::TcpStream::connect((edge.inner.address.ip(), 8000)).await;
                ensure!(refused.is_err(), "it still accepts");
                ensure!(!kept.is_open(), "a connection through it is still open");
                Ok(())
            },
        )
        .await
    });
}
