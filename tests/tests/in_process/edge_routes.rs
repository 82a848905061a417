//! Routes of the Gateway API through edges: what an HTTPRoute rewrites and where it sends, TLS that passes and that ends, plain
//! TCP, and two edges of one Gateway of which one goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::pki::Authority;
use sluice_tests::tls::TlsClient;
use sluice_tests::{App, Client, Sidecar, With, World, eventually, get, isolated, seconds};

use crate::edge::{gateway, https, tls_secret};
use crate::place::{Place, Plan, documents, service};

/// How long a change may take to arrive.
const PATIENCE: u64 = 30;

/// A route of the Gateway API; `spec` is what follows its parents.
fn route(kind: &str, name: &str, gateway: &str, listener: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{name: {gateway}, sectionName: {listener}}}]
{spec}"
    )
}

const RULES: &str = "  hostnames: [a.example]
  rules:
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    - type: RequestMirror
      requestMirror: {backendRef: {name: watching, port: 80}}
    backendRefs:
    - name: origin
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-to, value: origin}]}}]
  - matches: [{path: {type: PathPrefix, value: /elsewhere}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /missing}}]
    backendRefs: [{name: nobody, port: 80}]
  - backendRefs: [{name: origin, port: 80}]
";

struct Edges<'w> {
    place: Place<'w>,
    public: Sidecar,
    second: Sidecar,
    inner: Sidecar,
    authority: Authority,
    _apps: [App; 2],
}

async fn start(world: &World) -> Result<Edges<'_>> {
    let authority = Authority::new("servers")?;
    let certified = |name: &str| authority.server(name, &[name.to_owned()]);
    let plan = Plan::new(world)?;
    let apps = [plan.member("origin").await?, plan.member("watching").await?];
    let passing = "{name: pass, port: 8443, protocol: TLS, hostname: \"a.example\", tls: {mode: Passthrough}}";
    let ending = "{name: end, port: 8443, protocol: TLS, hostname: \"b.example\", tls: {mode: Terminate, certificateRefs: [{name: b}]}}";
    let everywhere =
        |name: &str| format!("  rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]\n");
    let named = |host: &str, name: &str| format!("  hostnames: [{host}]\n{}", everywhere(name));
    plan.put(
        "edge",
        &documents(&[
            gateway(
                "public",
                &[
                    "{name: http, port: 8000, protocol: HTTP}",
                    passing,
                    ending,
                    "{name: tcp, port: 9000, protocol: TCP}",
                ],
                "",
            ),
            gateway("inner", &[&https("a", 8080, "a.example", "a")], ""),
            tls_secret("a", &certified("a.example")?),
            tls_secret("b", &certified("b.example")?),
            route("HTTPRoute", "rules", "public", "http", RULES),
            route("HTTPRoute", "inner", "inner", "a", &everywhere("origin")),
            route(
                "TLSRoute",
                "pass",
                "public",
                "pass",
                &named("a.example", "secure"),
            ),
            route(
                "TLSRoute",
                "end",
                "public",
                "end",
                &named("b.example", "origin"),
            ),
            route("TCPRoute", "bytes", "public", "tcp", &everywhere("origin")),
        ]),
    )?;
    let place = plan.start().await?;
    let mut inner = place.edge("inner").await?;
    let std::net::IpAddr::V4(ip) = inner.address.ip() else {
        anyhow::bail!("the tests are of IPv4");
    };
    place.put("service-secure", &service("secure", &[ip]))?;
    let mut public = place.edge("public").await?;
    let mut second = place.another_edge("public", "second").await?;
    for edge in [&mut public, &mut second, &mut inner] {
        edge.ready(seconds(PATIENCE)).await?;
    }
    Ok(Edges {
        place,
        public,
        second,
        inner,
        authority,
        _apps: apps,
    })
}

#[test]
fn routes_of_every_kind_are_served() {
    isolated!(async |world| {
        let edges = start(world).await?;
        let ip = edges.public.address.ip();
        let http = Client::new((ip, 8000));
        let ask = async |path: &str| http.send(get(path).with("host", "a.example")).await;
        eventually("the route", seconds(PATIENCE), async || {
            ask("/").await?.expect(200).map(drop)
        })
        .await?;
        let told = ask("/old/a?b=c").await?.expect(200)?.json()?;
        ensure!(told["path"] == "/new/a", "{told}");
        ensure!(told.to_string().contains("inner.example"), "{told}");
        ensure!(told.to_string().contains("x-to"), "{told}");
        let moved = ask("/elsewhere?b=c").await?.expect(301)?;
        let location = moved.header("location").context("no Location")?;
        ensure!(
            location == "http://a.example:8000/elsewhere?b=c",
            "{location}"
        );
        ask("/missing").await?.expect(500)?;
        eventually("the copy", seconds(PATIENCE), async || {
            let metrics = edges.public.scrape().await?;
            let sent = "sluice_mirrored_requests_total{result=\"sent\"} 1";
            ensure!(metrics.contains(sent), "no copy was sent");
            Ok(())
        })
        .await?;

        // The certificate is that of the edge behind: TLS has passed.
        let over = async |name: &str| -> Result<()> {
            let client = TlsClient::new((ip, 8443), name, edges.authority.pem())?;
            // TLS that ends before bytes that may be anything chooses no protocol; what passes is offered one.
            let client = match name {
                "b.example" => client.without_alpn(),
                _ => client,
            };
            let (mut connection, _) = client.connect().await?;
            connection
                .send(get("/").with("host", name))
                .await?
                .expect(200)
                .map(drop)
        };
        for name in ["a.example", "b.example"] {
            eventually(name, seconds(PATIENCE), async || over(name).await).await?;
        }
        ensure!(over("c.example").await.is_err(), "nobody has that name");
        eventually("the inner edge's log", seconds(PATIENCE), async || {
            let ended = !edges.inner.access_log().is_empty();
            ensure!(ended, "TLS for a.example did not end at the inner edge");
            Ok(())
        })
        .await?;
        let bytes = Client::new((ip, 9000));
        bytes.get("/").await?.expect(200)?;
        let metrics = edges.public.scrape().await?;
        for counted in [
            "sluice_handshakes_total{result=\"done\"}",
            "sluice_stream_connections_total{result=\"passed\"}",
            "sluice_stream_connections_total{result=\"no-route\"}",
        ] {
            let line = metrics.lines().find(|line| line.starts_with(counted));
            let count = line.and_then(|line| line.rsplit(' ').next());
            ensure!(
                count.is_some_and(|count| count != "0"),
                "{counted}: {line:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn two_edges_serve_one_gateway_and_one_may_go() {
    isolated!(async |world| {
        let mut edges = start(world).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let address = (edges.public.address.ip(), 8000).into();
        let load = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move {
                let mut asked = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    let mut connection = Connection::open(address, Protocol::Http1).await?;
                    connection
                        .send(get("/").with("host", "a.example"))
                        .await?
                        .expect(200)?;
                    asked += 1;
                }
                anyhow::Ok(asked)
            }
        });
        let second = Client::new((edges.second.address.ip(), 8000));
        eventually("the other edge", seconds(PATIENCE), async || {
            second
                .send(get("/").with("host", "a.example"))
                .await?
                .expect(200)
                .map(drop)
        })
        .await?;
        let ended = edges.second.process.terminate(seconds(PATIENCE)).await?;
        ensure!(ended.success(), "{ended}");
        stop.store(true, Ordering::Relaxed);
        ensure!(load.await?? > 0, "nothing was asked");
        edges.place.operator.process.alive()
    });
}

/// Both prove themselves by one token. Were they one pod to the operator, each would end the other's session for ever.
#[test]
fn two_edges_stand_beside_each_other_at_one_operator() {
    isolated!(async |world| {
        let plan = Plan::new(world)?;
        let _origin = plan.member("origin").await?;
        let listener = "{name: http, port: 8000, protocol: HTTP}";
        plan.put("public", &gateway("public", &[listener], ""))?;
        let public = |hostname: &str| {
            format!(
                "apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: public, namespace: shop}}
spec:
  parentRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: public}}]
  hostnames: [{hostname}]
  rules: [{{name: all, backendRefs: [{{name: origin, port: 80}}]}}]
"
            )
        };
        plan.put("route", &public("a.example"))?;
        let place = plan.start().await?;
        let mut first = place.edge("public").await?;
        let mut second = place.another_edge("public", "second").await?;
        for edge in [&mut first, &mut second] {
            edge.ready(seconds(PATIENCE)).await?;
        }
        let live = async |expected: &str| {
            eventually(expected, seconds(PATIENCE), async || {
                let status = place.status("ApiRoute", "public")?;
                let summary = &status["live"]["summary"];
                ensure!(summary == expected, "it is {summary}");
                Ok(())
            })
            .await
        };
        live("2/2").await?;

        // A change reaches both, over the session that each began with.
        place.put("route", &public("b.example"))?;
        for edge in [&first, &second] {
            let client = Client::new((edge.address.ip(), 8000));
            eventually("the new hostname", seconds(PATIENCE), async || {
                let answer = client.send(get("/").with("host", "b.example")).await?;
                answer.expect(200).map(drop)
            })
            .await?;
            // Another Gateway is nothing to these.
            place.put("other", &gateway("other", &[listener], ""))?;
            place
                .condition("Gateway", "other", "Accepted", "True", "Accepted")
                .await?;
            let metrics = edge.scrape().await?;
            for once in [
                "sluice_stream_connected 1",
                "sluice_stream_connections_total 1",
            ] {
                ensure!(metrics.lines().any(|line| line == once), "not {once}");
            }
        }
        live("2/2").await?;

        // Nobody said how many there are to be: whoever goes is not missed while the other serves.
        let ended = second.process.terminate(seconds(PATIENCE)).await?;
        ensure!(ended.success(), "{ended}");
        live("1/1").await
    });
}
