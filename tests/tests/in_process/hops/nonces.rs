//! Nonces over hops: an edge claims one, the pods behind it do not, and nobody accepts it again. Two edges of one Gateway,
//! two pods, one Redis, and one provider of SluiceConfig that both routes name.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use sluice_tests::signature::{Signer, fresh_nonce};
use sluice_tests::{Client, Redis, Sidecar, With, World, eventually, get, isolated, seconds};

use super::PATIENCE;
use crate::place::{Place, Plan, config, documents, secret};

const KEY: &str = "a-signature-key-of-acme-0123456789abcdef";

const PROVIDER: &str = r#"authProviders:
- name: signed
  type: HTTPMessageSignature
  httpMessageSignature:
    keys: {secretRef: {name: acme}}
    algorithms: [hmac-sha256]
    requiredComponents: ["@method", "@target-uri"]
    nonce: {required: true, scope: Shared, storeRef: {name: default}, onStoreFailure: Deny}
"#;

const ROUTES: &str = r#"apiVersion: gateway.networking.k8s.io/v1
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
  auth: {anyOf: [{allOf: [signed]}]}
  rules: [{name: all, backendRefs: [{name: a, port: 80}]}]
---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: a, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: a}]
  auth: {anyOf: [{allOf: [signed]}]}
"#;

/// Who can be shown a signature.
struct Doors<'w> {
    place: Place<'w>,
    edges: [Client; 2],
    _edges: [Sidecar; 2],
    redis: Redis,
}

impl Doors<'_> {
    /// The edges, then the pods.
    fn all(&self) -> Vec<Client> {
        let pods = self.place.pods.iter().map(|pod| pod.sidecar.client());
        let edges = self.edges.iter().map(|edge| Client::new(edge.address()));
        edges.chain(pods).collect()
    }
}

async fn start(world: &World) -> Result<Doors<'_>> {
    let redis = Redis::start(world).await?;
    let mut plan = Plan::new(world)?;
    plan.hops("a")?;
    let key = secret("acme", "signature-keys", "acme-1", KEY);
    plan.put(
        "all",
        &documents(&[
            config(&[("default", redis.address())]) + PROVIDER,
            // Its Secrets are of the operator's namespace.
            key.replace("namespace: shop", "namespace: sluice-system"),
            ROUTES.to_owned(),
        ]),
    )?;
    let place = plan.start().await?;
    let mut edges = [
        place.edge("public").await?,
        place.another_edge("public", "second").await?,
    ];
    for edge in &mut edges {
        edge.ready(seconds(PATIENCE)).await?;
    }
    let doors = Doors {
        edges: [0, 1]
            .map(|edge: usize| Client::new(SocketAddr::from((edges[edge].address.ip(), 8000)))),
        _edges: edges,
        place,
        redis,
    };
    // Until an edge has its certificate, a pod is asked as anybody asks it, and knows the nonce already.
    for edge in &doors.edges {
        eventually("the edge's word counts", seconds(PATIENCE), async || {
            show(edge, &signed()).await.map(drop)
        })
        .await?;
    }
    Ok(doors)
}

/// A signer of one nonce.
fn signed() -> Signer {
    Signer {
        nonce: Some(fresh_nonce()),
        ..Signer::new("acme-1", KEY)
    }
}

/// Shows a signature; the pod that answered.
async fn show(door: &Client, signer: &Signer) -> Result<String> {
    let request = signer.sign(get("/").with("host", "gate.example"));
    let answer = door.send(request).await?.expect(200)?.json()?;
    let name = answer["name"].as_str().context("no name")?;
    Ok(name.to_owned())
}

/// Shows a signature of which somebody knows already.
async fn show_again(door: &Client, signer: &Signer) -> Result<()> {
    let request = signer.sign(get("/").with("host", "gate.example"));
    let problem = door.send(request).await?.expect(401)?.json()?;
    let replayed = |kind: &str| kind.ends_with("/nonce-replayed");
    ensure!(problem["type"].as_str().is_some_and(replayed), "{problem}");
    Ok(())
}

#[test]
fn a_nonce_is_accepted_once_by_whoever_comes_first() {
    isolated!(async |world| {
        let doors = start(world).await?;
        let mut pods = BTreeSet::new();
        for door in doors.all() {
            // Looked at until it is so: on a busy machine the store may answer too late, and then nothing is accepted.
            eventually("one use in all", seconds(PATIENCE), async || {
                for _ in 0..4 {
                    let once = signed();
                    pods.insert(show(&door, &once).await?);
                    for again in doors.all() {
                        show_again(&again, &once).await?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        ensure!(pods.len() == 2, "only {pods:?} were asked");

        // Each is claimed by one of the two that check it.
        eventually("one claim for each", seconds(PATIENCE), async || {
            doors.redis.reset_counts().await?;
            for edge in doors.edges.iter().cycle().take(10) {
                show(edge, &signed()).await?;
            }
            let counts = doors.redis.command_counts().await?;
            ensure!(counts.get("set") == Some(&10), "{counts:?}");
            Ok(())
        })
        .await
    });
}
