//! What stays off hops: certificates that our own root signed for somebody else, and copies of requests.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use sluice_tests::pki::Authority;
use sluice_tests::{Client, With, eventually, get, isolated, seconds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{PATIENCE, forged, knock, start};
use crate::place::{documents, service};

#[test]
fn the_own_root_is_not_enough_to_be_believed() {
    isolated!(async |world| {
        let (place, _edge) = start(world).await?;
        let of_the_operator =
            |file: &str| std::fs::read_to_string(place.state.join("ca").join(file));
        let root = Authority::from_pem(&of_the_operator("ca.crt")?, &of_the_operator("ca.key")?)?;
        let at = SocketAddr::from((place.pods[0].sidecar.address.ip(), 15_008));
        let forged = forged();
        let answer = async |ids: &[&str]| -> Result<String> {
            let own = root.of_uris(ids)?;
            let answer = knock(at, Some(&own), &forged).await?;
            let head = String::from_utf8_lossy(&answer).into_owned();
            Ok(head.lines().next().unwrap_or_default().to_owned())
        };
        // A pod of the namespace is believed; one of another namespace is asked like anybody.
        let [own, other] = ["shop", "bank"].map(|ns| format!("spiffe://shop.example/ns/{ns}/sa/x"));
        let line = answer(&[&own]).await?;
        ensure!(line == "HTTP/1.1 200 OK", "{line:?}");
        let line = answer(&[&other]).await?;
        ensure!(line == "HTTP/1.1 401 Unauthorized", "{line:?}");
        // Another trust domain's gets no answer, nor does one that names two pods, or none.
        let stranger = "spiffe://other.domain/ns/shop/sa/default";
        for ids in [&[stranger][..], &[&own, stranger], &[stranger, &own], &[]] {
            let line = answer(ids).await?;
            ensure!(line.is_empty(), "{ids:?}: {line:?}");
        }
        Ok(())
    });
}

/// The Service `watching`, which takes hops by what its manifest says, and a route whose requests it is sent copies of.
fn watched(ip: Ipv4Addr) -> String {
    let labels = "labels: {kubernetes.io/service-name";
    let marked = format!("annotations: {{sluice.dev/hop-port: \"15008\"}}, {labels}");
    documents(&[
        service("watching", &[ip]).replace(labels, &marked),
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: watched, namespace: shop}
spec:
  parentRefs: [{name: public}]
  hostnames: [watched.example]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: watching, port: 80}}}]
    backendRefs: [{name: a, port: 80}]
"
        .to_owned(),
    ])
}

#[test]
fn a_copy_is_no_hop_and_asserts_nothing() {
    isolated!(async |world| {
        let (place, edge) = start(world).await?;
        let ip = world.address();
        let (own, hops) = (
            TcpListener::bind((ip, 8080)).await?,
            std::net::TcpListener::bind((ip, 15_008))?,
        );
        hops.set_nonblocking(true)?;
        place.put("watched", &watched(ip))?;
        let gate = Client::new(SocketAddr::from((edge.address.ip(), 8000)));
        let forged = forged();
        let ask = async || {
            let request = get("/open").with("host", "watched.example");
            let answer = gate.send(request.with("sluice-hop", &forged)).await?;
            answer.expect(200).map(drop)
        };
        eventually("the route", seconds(PATIENCE), ask).await?;
        let copy = async {
            let (mut stream, _) = own.accept().await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
            anyhow::Ok(String::from_utf8(head)?)
        };
        let head = tokio::time::timeout(seconds(PATIENCE), copy)
            .await
            .context("no copy")??;
        ensure!(head.starts_with("GET /open HTTP/1.1\r\n"), "{head}");
        ensure!(!head.to_ascii_lowercase().contains("sluice-hop"), "{head}");
        let hop = hops.accept();
        ensure!(hop.is_err(), "a hop to one who watches: {hop:?}");
        Ok(())
    });
}
