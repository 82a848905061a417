//! The kubelet's probes, performed by the sidecar: they pass a route that lets nobody in, and nothing else does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use sluice_tests::pki::Authority;
use sluice_tests::{Client, Sidecar, With, World, get, isolated, seconds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::place::{Place, Plan, route, secret};

const DENY_ALL: &str = "  auth:
    anyOf: [{allOf: [keys]}]
    providers: [{name: keys, type: APIKey, apiKey: {secretRef: {name: acme}}}]
";
const KEY: &str = "an-api-key-of-acme-0123456789";
/// The application's port.
const APP: u16 = 18_080;

async fn start(world: &World) -> Result<Place<'_>> {
    let mut plan = Plan::new(world)?;
    plan.group("api")?;
    plan.put("route", &route("orders", DENY_ALL))?;
    plan.put("secret", &secret("acme", "api-keys", "acme-1", KEY))?;
    let place = plan.start().await?;
    place.live("ApiRoute", "orders").await?;
    Ok(place)
}

/// A server whose certificate nobody knows.
async fn serve_tls(address: SocketAddr) -> Result<()> {
    let certified = Authority::new("nobody knows it")?.server("app", &["app.example".into()])?;
    let certificate = CertificateDer::from_pem_slice(certified.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(certified.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await?;
                let well = head[..length].starts_with(b"GET /tls ");
                let status = if well { "200 OK" } else { "404 Not Found" };
                stream
                    .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await?;
                stream.shutdown().await
            });
        }
    });
    Ok(())
}

async fn probe(sidecar: &Sidecar, path: &str) -> Result<u16> {
    let request = get(path).with("user-agent", "kube-probe/1.36");
    let answer = Client::new(sidecar.metrics).send_fresh(request).await?;
    ensure!(
        answer.status == 404 || answer.body.is_empty(),
        "{path}: {}",
        answer.text()
    );
    Ok(answer.status.as_u16())
}

#[test]
fn probes_reach_the_application_behind_a_route_that_lets_nobody_in() {
    isolated!(async |world| {
        let mut place = start(world).await?;
        place.pods[0]
            .sidecar
            .client()
            .send_fresh(get("/healthz").with("host", "orders.example"))
            .await?
            .expect(401)?;
        let ip = place.pods[0].sidecar.address.ip();
        serve_tls((ip, 18_443).into()).await?;
        let table = json!({
            "app/startup": {"httpGet": {"port": APP, "path": "/healthz"}},
            "app/readiness": {"httpGet": {"port": 18_443, "path": "/tls", "scheme": "HTTPS"}, "timeoutSeconds": 5},
            "app/liveness": {"grpc": {"port": APP, "service": "orders"}, "timeoutSeconds": 5},
            "app/preStop": {"httpGet": {"port": APP, "path": "/?status=418"}},
            "db/readiness": {"tcpSocket": {"port": APP}},
            "db/liveness": {"tcpSocket": {"port": 19_999}},
            "db/startup": {"grpc": {"port": 18_443}, "timeoutSeconds": 5},
        });
        place
            .change_sidecar(0, |options| {
                options
                    .supervised()
                    .env("POD_IPS", &ip.to_string())
                    .env("SLUICE_PROBES", &table.to_string())
            })
            .await?;
        let sidecar = &place.pods[0].sidecar;
        let mut found = BTreeMap::new();
        for name in [
            "app/startup",
            "app/readiness",
            "app/liveness",
            "app/preStop",
            "db/readiness",
            "db/liveness",
            "db/startup",
        ] {
            found.insert(name, probe(sidecar, &format!("/probe/{name}")).await?);
        }
        let expected = BTreeMap::from([
            ("app/startup", 200),
            ("app/readiness", 200),
            ("app/liveness", 200),
            ("app/preStop", 418),
            ("db/readiness", 200),
            ("db/liveness", 503),
            ("db/startup", 503),
        ]);
        ensure!(found == expected, "{found:?}");
        // A path chooses an entry, and nothing in it is a port or a path of the application.
        for path in [
            "/probe/app",
            "/probe/18080/healthz",
            "/probe/app/startup/",
            "/probe/app/startup/../preStop",
            "/probe/",
            "/probe",
        ] {
            let status = probe(sidecar, path).await?;
            ensure!(status == 404, "{path}: {status}");
        }
        let status = probe(sidecar, "/probe/app/startup?port=19999&path=/%3Fstatus=500").await?;
        ensure!(status == 200, "the query says nothing: {status}");
        place.pods[0].app.process.kill();
        let status = probe(&place.pods[0].sidecar, "/probe/db/readiness").await?;
        ensure!(status == 503, "a TCP port that is dead now: {status}");
        Ok(())
    });
}

#[test]
fn a_sidecar_does_not_start_with_a_probe_of_itself() {
    isolated!(async |world| {
        let ip = world.address();
        for port in [15_020, 15_000, 15_006, 15_008, 8080] {
            let table = json!({"app/readiness": {"httpGet": {"port": port}}}).to_string();
            let mut sidecar = Sidecar::options(world, &format!("sidecar-{port}"), ip)?
                .operator((world.address(), 8443).into())
                .token_file(&world.file("token", "none")?)
                .roots_pem(Authority::new("any")?.pem())
                .env("POD_IPS", &ip.to_string())
                .env("SLUICE_PROBES", &table)
                .start(world)?;
            let status = sidecar.process.ended(seconds(20)).await?;
            let log = sidecar.process.stderr();
            ensure!(
                status.code() == Some(1) && log.contains("own"),
                "{port}: {status} {log}"
            );
        }
        Ok(())
    });
}
