//! Capture, with the real init step, sidecar and application in pods with network namespaces of their own: what is
//! redirected, what is not, and what becomes of it. IPv4 and IPv6.

mod pod;

use std::net::SocketAddr;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use sluice_tests::process::Running;
use sluice_tests::{Client, With, World, eventually, get, isolated, seconds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::place::{Place, Plan, route};
use pod::{PATIENCE, Pod};

/// The application's port that has a route.
const HTTP: u16 = 8080;
/// A port of a Service that has no route yet.
const RAW: u16 = 7000;
/// A port that the init step leaves alone.
const EXCLUDED: u16 = 9100;
const NOT_REDIRECTED: &str = r#"sluice_capture_refused_total{reason="not-redirected"}"#;
const OWN_PORT: &str = r#"sluice_capture_refused_total{reason="own-port"}"#;

/// What runs in one pod.
struct Ran {
    pod: Pod,
    app: Running,
    sidecar: Running,
}

/// The pods `pod-1` and up behind the Services `api` (port 8080) and `raw` (port 7000), with the init step done, and an
/// application on 8080 that also listens on loopback.
async fn start<'w>(world: &'w World, count: u8) -> Result<(Place<'w>, Vec<Ran>)> {
    let pods: Vec<_> = (1..=count)
        .map(|number| Pod::make(world, "pod", number))
        .collect::<Result<_>>()?;
    let plan = Plan::new(world)?;
    for (name, port) in [("api", HTTP), ("raw", RAW)] {
        plan.put(&format!("service-{name}"), &service(name, port, &pods))?;
    }
    plan.put(
        "api",
        &route(
            "api",
            "  rules: [{name: v1, matches: [{path: {type: PathPrefix, value: /v1}}]}]\n",
        ),
    )?;
    let place = plan.start().await?;
    let mut ran = Vec::new();
    for pod in pods {
        succeeded(&pod.step(&["--exclude", &EXCLUDED.to_string()])?)?;
        let [v4, v6] = pod.both(HTTP);
        let app = pod
            .app(world, &[v4, v6, ([127, 0, 0, 1], 8081).into()])
            .await?;
        let sidecar = pod.sidecar(world, &place).await?;
        ran.push(Ran { pod, app, sidecar });
    }
    place.live("ApiRoute", "api").await?;
    Ok((place, ran))
}

fn service(name: &str, port: u16, pods: &[Pod]) -> String {
    let endpoints: String = pods
        .iter()
        .map(|pod| {
            format!(
                "\n- {{addresses: [{}], conditions: {{ready: true}}, targetRef: {{kind: Pod, namespace: shop, name: {}}}}}",
                pod.v4, pod.name
            )
        })
        .collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  ports: [{{name: main, port: 80, targetPort: {port}, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: main, port: {port}, protocol: TCP}}]
endpoints:{endpoints}
"
    )
}

fn succeeded(output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Who a listener says has connected to it: the client itself, or the sidecar.
async fn peer(listener: &TcpListener) -> Result<SocketAddr> {
    let (_, peer) = tokio::time::timeout(seconds(PATIENCE), listener.accept())
        .await
        .context("nobody connected")??;
    Ok(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
}

async fn read(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    let mut found = vec![0; bytes.len()];
    tokio::time::timeout(seconds(PATIENCE), stream.read_exact(&mut found))
        .await
        .context("nothing to read")??;
    ensure!(found == bytes, "{found:?}");
    Ok(())
}

/// Waits for the end of a connection, whichever way it comes, without a byte before it.
async fn ended(stream: &mut TcpStream) -> Result<()> {
    let read = tokio::time::timeout(seconds(PATIENCE), stream.read(&mut [0; 64])).await;
    match read.context("it did not end")? {
        Ok(0) | Err(_) => Ok(()),
        Ok(bytes) => anyhow::bail!("{bytes} bytes came"),
    }
}

#[test]
fn redirected_requests_of_both_families_are_enforced() {
    isolated!(async |world| {
        let (_place, ran) = start(world, 2).await?;
        for Ran { pod, .. } in &ran {
            let clients = [pod.client_v4.to_string(), pod.client_v6.to_string()];
            for (address, client) in pod.both(HTTP).into_iter().zip(clients) {
                // Enough connections for both data threads to get some.
                for _ in 0..8 {
                    let ask = |path| get(path).with("host", "api.example");
                    let answer = Client::new(address).send(ask("/v1/orders")).await?;
                    let seen = answer.expect(200)?.json()?;
                    ensure!(seen["name"] == pod.name, "{seen}");
                    ensure!(seen["headers"]["via"] == "1.1 sluice", "{seen}");
                    ensure!(seen["headers"]["x-forwarded-for"] == client, "{seen}");
                    let missed = Client::new(address).send(ask("/v2")).await?.expect(404)?;
                    ensure!(missed.text().contains("no-route"), "{}", missed.text());
                }
            }
            ensure!(pod.metric("sluice_captured_connections_total").await? == 32);
        }
        Ok(())
    });
}

/// The mode without privilege, with the address of one family or the other put in as the kubelet does it.
#[test]
fn moved_names_are_served_to_both_families_whichever_the_pods_first_address_is() {
    const MOVED: u16 = 15_100;
    isolated!(async |world| {
        let pods = [Pod::make(world, "pod", 1)?, Pod::make(world, "pod", 2)?];
        let plan = Plan::new(world)?;
        plan.put("service-api", &service("api", MOVED, &pods))?;
        plan.put("api", &route("api", "  rules: [{name: all}]\n"))?;
        let place = plan.start().await?;
        let mut running = Vec::new();
        for (pod, pod_ip) in pods
            .iter()
            .zip([pods[0].v4.to_string(), pods[1].v6.to_string()])
        {
            // It listens at the pod's first address alone.
            let app = SocketAddr::new(pod_ip.parse()?, HTTP);
            running.push(pod.app(world, &[app]).await?);
            let inbound = format!("--inbound=[::]:{MOVED}={pod_ip}:{HTTP}");
            running.push(pod.sidecar_of(world, &place, &[&inbound]).await?);
            for address in pod.both(MOVED) {
                let ask = get("/").with("host", "api.example");
                let answer = Client::new(address).send(ask).await?.expect(200)?;
                let seen = answer.json()?;
                ensure!(seen["name"] == pod.name, "{seen}");
                ensure!(seen["headers"]["via"] == "1.1 sluice", "{seen}");
            }
        }
        place.live("ApiRoute", "api").await
    });
}

#[test]
fn some_connections_are_not_captured() {
    isolated!(async |world| {
        let (_place, mut ran) = start(world, 1).await?;
        let Ran { pod, app, .. } = &mut ran[0];
        // A port left alone is reached as if there were no sidecar.
        let excluded = pod.listen(EXCLUDED)?;
        for (address, client) in pod
            .both(EXCLUDED)
            .into_iter()
            .zip([pod.client_v4.into(), std::net::IpAddr::from(pod.client_v6)])
        {
            let _client = TcpStream::connect(address).await?;
            ensure!(peer(&excluded).await?.ip() == client, "{address}");
        }
        // So is everything from inside the pod.
        for address in pod.both(HTTP) {
            let mut inside = pod.connect(address)?;
            inside
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await?;
            let mut answer = String::new();
            inside.read_to_string(&mut answer).await?;
            ensure!(
                answer.contains("200 OK") && !answer.contains("via"),
                "{answer}"
            );
        }
        // What listens on loopback is for those inside.
        pod.connect(([127, 0, 0, 1], 8081).into())?;
        for address in pod.both(8081) {
            ended(&mut TcpStream::connect(address).await?).await?;
        }
        app.alive()?;
        let [captured, refused] = ["sluice_captured_connections_total", OWN_PORT];
        ensure!(pod.metric(captured).await? == 2 && pod.metric(refused).await? == 0);

        // The capture port itself leads nowhere, and not to itself.
        for _ in 0..10 {
            for address in pod.both(15_006) {
                ended(&mut TcpStream::connect(address).await?).await?;
            }
        }
        ended(&mut pod.connect(([127, 0, 0, 1], 15_006).into())?).await?;
        ensure!(
            pod.metric(refused).await? == 21,
            "{}",
            pod.metric(refused).await?
        );
        ensure!(
            pod.metric(captured).await? == 2 && pod.metric("sluice_connections_total").await? == 23
        );

        // Without rules nothing is known of a connection's destination.
        succeeded(&pod.step(&["--cleanup"])?)?;
        ended(&mut TcpStream::connect((pod.v4, 15_006)).await?).await?;
        ensure!(pod.metric(NOT_REDIRECTED).await? == 1);
        Ok(())
    });
}

#[test]
fn bytes_pass_where_no_route_is_until_one_comes() {
    isolated!(async |world| {
        let (place, mut ran) = start(world, 1).await?;
        let Ran { pod, sidecar, .. } = &mut ran[0];
        let app = pod.listen(RAW)?;
        let [v4, v6] = pod.both(RAW);
        let mut open = Vec::new();
        for address in [v4, v6] {
            // The client says nothing before the server does.
            let mut client = TcpStream::connect(address).await?;
            let (mut server, peer) =
                tokio::time::timeout(seconds(PATIENCE), app.accept()).await??;
            ensure!(peer.ip().to_canonical() == address.ip(), "{peer}");
            server.write_all(b"220 ready\r\n").await?;
            read(&mut client, b"220 ready\r\n").await?;
            client
                .write_all(b"\x16\x03\x01\x00GET / HTTP/1.1\r\n")
                .await?;
            read(&mut server, b"\x16\x03\x01\x00GET / HTTP/1.1\r\n").await?;
            // One direction ends, the other does not.
            client.shutdown().await?;
            ended(&mut server).await?;
            server.write_all(b"bye").await?;
            read(&mut client, b"bye").await?;
            open.push((client, server));
        }
        let mut kept = TcpStream::connect(v4).await?;
        let (mut server, _) = app.accept().await?;
        ensure!(pod.metric("sluice_passing_connections").await? == 3);

        let late = "apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: raw, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: raw}]
  hostnames: [raw.example]
  rules: [{name: v1, matches: [{path: {type: PathPrefix, value: /v1}}]}]
";
        place.put("raw", late)?;
        ended(&mut kept).await?;
        ended(&mut server).await?;
        for address in [v4, v6] {
            let ask = get("/v2").with("host", "raw.example");
            Client::new(address).send(ask).await?.expect(404)?;
        }
        eventually("no connection that passes", seconds(PATIENCE), async || {
            let passing = pod.metric("sluice_passing_connections").await?;
            ensure!(passing == 0, "{passing}");
            Ok(())
        })
        .await?;
        ensure!(pod.metric("sluice_passed_connections_total").await? == 3);
        sidecar.alive()
    });
}

#[test]
fn the_init_step_can_be_run_again_and_undone() {
    isolated!(async |world| {
        let pod = Pod::make(world, "pod", 1)?;
        let listener = pod.listen(EXCLUDED)?;
        // Nobody listens on the capture port: what is redirected is refused.
        let reached = async |expected: bool| -> Result<()> {
            for address in pod.both(EXCLUDED) {
                let reached = TcpStream::connect(address).await.is_ok();
                ensure!(reached == expected, "{address} reached: {reached}");
                if reached {
                    peer(&listener).await?;
                }
            }
            Ok(())
        };
        let exclude = ["--exclude", "9100"];
        reached(true).await?;

        let text = succeeded(&pod.step(&[&exclude[..], &["--dry-run"]].concat())?)?;
        ensure!(
            text.contains("elements = { 9100, 15000, 15006, 15008, 15020 }"),
            "{text}"
        );
        let refused = pod.step_without_right()?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(!refused.status.success(), "{said}");
        ensure!(
            said.contains("NET_ADMIN") && said.contains("NamedPorts"),
            "{said}"
        );
        reached(true).await?;

        succeeded(&pod.step(&[])?)?;
        reached(false).await?;
        for _ in 0..2 {
            succeeded(&pod.step(&exclude)?)?;
            reached(true).await?;
        }
        succeeded(&pod.step(&[])?)?;
        reached(false).await?;
        for _ in 0..2 {
            succeeded(&pod.step(&["--cleanup"])?)?;
            reached(true).await?;
        }
        Ok(())
    });
}
