//! What is broken says so, denies what it covers, and harms nothing else. No webhook is registered: these are the objects
//! that it would refuse.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::load::RunningLoad;
use sluice_tests::{Answer, Load, With, eventually, get, isolated, seconds};

use super::install::{condition, get as object, until};
use super::shop::{Served, Shop, header};

/// The Service of all routes here, and one that shards lead to.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: data, namespace: shop}
spec: {selector: {app: data}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// An ApiRoute on Service web for the host `NAME.example`, with more of a spec.
fn route(name: &str, more: &str) -> String {
    route_for(name, &format!("{name}.example"), more)
}

fn route_for(name: &str, host: &str, more: &str) -> String {
    format!(
        "---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, name: web}}]
  hostnames: [{host}]
{more}"
    )
}

/// Marks answers of the route.
fn marked(value: &str) -> String {
    format!(
        "  rules:
  - name: all
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: {value}}}]}}}}]
"
    )
}

fn keys(secret: &str) -> String {
    format!(
        "  auth:
    anyOf: [{{allOf: [keys]}}]
    providers: [{{name: keys, type: APIKey, apiKey: {{secretRef: {{name: {secret}}}}}}}]
"
    )
}

fn sharded(set: &str) -> String {
    format!(
        "  rules: [{{name: all, backendRefs: [{{group: sluice.dev, kind: ShardSet, name: {set}}}]}}]\n"
    )
}

fn shard_set(name: &str, protocol: &str, placement: &str) -> String {
    format!(
        "---
apiVersion: sluice.dev/v1alpha1
kind: ShardSet
metadata: {{name: {name}, namespace: shop}}
spec:
  protocol: {protocol}
  keyspace: {{slots: 16384, hash: CRC16}}
  key: {{from: [{{type: Header, header: {{name: X-Tenant}}}}]}}
  shards:
  - {{name: s0, members: [{{name: a, role: Primary, backendRef: {{kind: Service, name: data, port: 80}}}}]}}
  placement: [{placement}]
"
    )
}

fn policy(name: &str, target: &str, mode: &str, reach: &str) -> String {
    format!(
        "---
apiVersion: sluice.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: sluice.dev, kind: ApiRoute, name: {target}}}]
  mode: {mode}
  limits:
  - name: all
    algorithm: {{type: TokenBucket, tokenBucket: {{requests: 1000, per: 1s, burst: 1000}}}}
    {reach}
"
    )
}

fn secret(name: &str, label: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: shop, labels: {{{label}}}}}
type: sluice.dev/signature-keys
stringData: {{k1: 0123456789abcdef0123456789abcdef}}
"
    )
}

/// What an object must say and its host must answer.
struct Broken {
    kind: &'static str,
    name: &'static str,
    condition: &'static str,
    says: &'static str,
    /// Words of the message: what, where, and what to do.
    words: &'static [&'static str],
    host: &'static str,
    reason: &'static str,
}

const BROKEN: [Broken; 8] = [
    Broken {
        kind: "apiroute",
        name: "bad-regex",
        condition: "Accepted",
        says: "False/Invalid",
        words: &[
            "spec.rules[0]",
            "/v1/(unclosed",
            "unclosed group",
            "correct the value",
        ],
        host: "bad-regex.example",
        reason: "config-invalid",
    },
    Broken {
        kind: "apiroute",
        name: "no-secret",
        condition: "ResolvedRefs",
        says: "False/SecretNotFound",
        words: &[
            "spec.auth.providers[0]",
            "nowhere",
            "create it in the same namespace with label sluice.dev/use",
        ],
        host: "no-secret.example",
        reason: "config-secret-not-found",
    },
    Broken {
        kind: "apiroute",
        name: "no-label",
        condition: "ResolvedRefs",
        says: "False/SecretNotFound",
        words: &[
            "spec.auth.providers[0]",
            "unlabelled",
            "with label sluice.dev/use",
        ],
        host: "no-label.example",
        reason: "config-secret-not-found",
    },
    Broken {
        kind: "apiroute",
        name: "other-use",
        condition: "ResolvedRefs",
        says: "False/SecretNotUsable",
        words: &[
            "spec.auth.providers[0]",
            "for-signatures",
            "give the Secret the label and type of this use",
        ],
        host: "other-use.example",
        reason: "config-secret-not-usable",
    },
    Broken {
        kind: "apiroute",
        name: "no-set",
        condition: "ResolvedRefs",
        says: "False/BackendNotFound",
        words: &[
            "spec.rules[0].backendRefs[0]",
            "nowhere",
            "create it in the same namespace",
        ],
        host: "no-set.example",
        reason: "config-backend-not-found",
    },
    Broken {
        kind: "shardset",
        name: "twice",
        condition: "Accepted",
        says: "False/SlotsUncovered",
        words: &["spec.placement", "8000", "each of 0-16383 exactly once"],
        host: "twice.example",
        reason: "config-slots-uncovered",
    },
    Broken {
        kind: "shardset",
        name: "gap",
        condition: "Accepted",
        says: "False/SlotsUncovered",
        words: &["spec.placement", "16383", "each of 0-16383 exactly once"],
        host: "gap.example",
        reason: "config-slots-uncovered",
    },
    Broken {
        kind: "ratelimitpolicy",
        name: "no-store",
        condition: "ResolvedRefs",
        says: "False/StoreNotFound",
        words: &[
            "spec.limits[0]",
            "nowhere",
            "declare the store in SluiceConfig",
        ],
        host: "no-store.example",
        reason: "config-store-not-found",
    },
];

fn broken_objects() -> String {
    let regex = "  rules: [{name: all, matches: [{path: {type: RegularExpression, value: \"/v1/(unclosed\"}}]}]\n";
    [
        route("bad-regex", regex),
        route("no-secret", &keys("nowhere")),
        secret("unlabelled", "").replace("sluice.dev/signature-keys", "sluice.dev/api-keys"),
        route("no-label", &keys("unlabelled")),
        secret("for-signatures", "sluice.dev/use: signature-keys"),
        route("other-use", &keys("for-signatures")),
        route("no-set", &sharded("nowhere")),
        shard_set(
            "twice",
            "HTTP",
            "{slots: 0-8191, shard: s0}, {slots: 8000-16383, shard: s0}",
        ),
        route("twice", &sharded("twice")),
        shard_set("gap", "HTTP", "{slots: 0-16382, shard: s0}"),
        route("gap", &sharded("gap")),
        policy(
            "no-store",
            "no-store",
            "Enforce",
            "scope: Global\n    global: {storeRef: {name: nowhere}}",
        ),
        route("no-store", &marked("limited")),
    ]
    .concat()
}

async fn ask(served: &Served, host: &str) -> Result<Answer> {
    served
        .client()
        .send_fresh(get("/v1/x").with("host", host).with("x-tenant", "acme"))
        .await
}

/// Requests for `host` at both sidecars, every one of which must be answered 200 by the route marked `mark`.
fn steady(pair: &[Served; 2], host: &'static str, mark: &'static str) -> Vec<RunningLoad> {
    let load = |served: &Served| {
        Load::against(served.address)
            .per_second(50)
            .fresh_every(5)
            .request(move |_| get("/").with("host", host))
            .check(
                move |answer| match (answer.status.as_u16(), answer.header("x-route")) {
                    (200, Some(route)) if route == mark => Ok(()),
                    _ => Err(format!("{answer:?}")),
                },
            )
            .start()
    };
    pair.iter().map(load).collect()
}

async fn unharmed(loads: Vec<RunningLoad>) -> Result<()> {
    for load in loads {
        let report = load.finish_after(60).await;
        println!("the others meanwhile: {report}");
        ensure!(report.sent > 50 && report.failed == 0, "{report}");
    }
    Ok(())
}

/// Waits until both sidecars refuse requests for `host` with this reason.
async fn denied(pair: &[Served; 2], host: &str, reason: &str) -> Result<()> {
    for served in pair {
        eventually(
            &format!("{} denies {host}: {reason}", served.pod.name),
            seconds(30),
            async || {
                let answer = ask(served, host).await?.expect(503)?;
                ensure!(
                    header(&answer, "content-type")? == "application/problem+json",
                    "{answer:?}"
                );
                let problem = answer.json()?;
                ensure!(
                    problem["type"] == format!("https://sluice.dev/problems/{reason}"),
                    "{problem}"
                );
                ensure!(
                    problem
                        .as_object()
                        .is_some_and(|members| members.len() == 3),
                    "it says too much: {problem}"
                );
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}

/// A good route on two pods, under load.
async fn good(shop: &Shop<'_>) -> Result<([Served; 2], Vec<RunningLoad>)> {
    shop.cluster
        .apply_yaml(&[SERVICES, &route("good", &marked("good"))].concat())
        .await?;
    let pair = shop.pair("web").await?;
    until(&shop.cluster, "apiroute", "good", "Ready", "True/Ready").await?;
    let loads = steady(&pair, "good.example", "good");
    Ok((pair, loads))
}

#[test]
fn one_broken_object_of_each_kind_harms_no_other() {
    isolated!(seconds(300), async |world| {
        let shop = Shop::start(world).await?;
        let (pair, loads) = good(&shop).await?;
        shop.cluster.apply_yaml(&broken_objects()).await?;
        for Broken {
            kind,
            name,
            condition: type_,
            says,
            words,
            host,
            reason,
        } in BROKEN
        {
            let found = until(&shop.cluster, kind, name, type_, says).await?;
            let (_, message) = condition(&found, type_);
            println!("{kind} {name}: {type_}={says}: {message}");
            for word in words {
                ensure!(
                    message.contains(word),
                    "{kind} {name} does not say {word:?}: {message}"
                );
            }
            ensure!(
                condition(&found, "Ready").0 == says,
                "{kind} {name}: {}",
                found["status"]
            );
            denied(&pair, host, reason).await?;
        }
        let good = until(&shop.cluster, "apiroute", "good", "Ready", "True/Ready").await?;
        ensure!(
            condition(&good, "Stalled").0 == "False/Progressing",
            "{}",
            good["status"]
        );
        unharmed(loads).await?;

        // Mended, each serves.
        let mended = route(
            "bad-regex",
            "  rules: [{name: all, matches: [{path: {type: RegularExpression, value: \"/v1/(closed|x)\"}}]}]\n",
        );
        shop.cluster.apply_yaml(&mended).await?;
        until(
            &shop.cluster,
            "apiroute",
            "bad-regex",
            "Ready",
            "True/Ready",
        )
        .await?;
        for served in &pair {
            ask(served, "bad-regex.example").await?.expect(200)?;
        }
        Ok(())
    });
}

#[test]
fn of_two_routes_for_a_host_the_elder_serves() {
    isolated!(async |world| {
        let shop = Shop::start(world).await?;
        let (pair, loads) = good(&shop).await?;
        let younger = route_for("younger", "good.example", &marked("younger"));
        shop.cluster.apply_yaml(&younger).await?;
        let found = until(
            &shop.cluster,
            "apiroute",
            "younger",
            "Accepted",
            "False/Conflicted",
        )
        .await?;
        let (_, message) = condition(&found, "Accepted");
        ensure!(
            message.contains("good.example") && message.contains("shop/good"),
            "{message}"
        );
        // Its next version is as young.
        shop.kubectl(["annotate", "apiroute", "younger", "seen=yes"])
            .await?;
        shop.cluster
            .apply_yaml(&younger.replace("value: younger", "value: second"))
            .await?;
        let generation =
            &object(&shop.cluster, "apiroute", "younger").await?["metadata"]["generation"];
        eventually("the next version is judged", seconds(20), async || {
            let found = object(&shop.cluster, "apiroute", "younger").await?;
            ensure!(
                &found["status"]["observedGeneration"] == generation,
                "{}",
                found["status"]
            );
            ensure!(
                condition(&found, "Accepted").0 == "False/Conflicted",
                "{}",
                found["status"]
            );
            Ok(())
        })
        .await?;
        until(&shop.cluster, "apiroute", "good", "Ready", "True/Ready").await?;
        unharmed(loads).await?;

        shop.kubectl(["delete", "apiroute", "good"]).await?;
        until(&shop.cluster, "apiroute", "younger", "Ready", "True/Ready").await?;
        for served in &pair {
            let answer = ask(served, "good.example").await?.expect(200)?;
            ensure!(header(&answer, "x-route")? == "second", "{answer:?}");
        }
        Ok(())
    });
}

#[test]
fn kubectl_refuses_an_unknown_field_by_its_path() {
    isolated!(async |world| {
        let cluster = super::install::cluster(world).await?;
        let objects = [
            (
                route(
                    "odd",
                    "  rules: [{name: all, cache: {mode: Enabled, bloom: {}}}]\n",
                ),
                "spec.rules[0].cache.bloom",
            ),
            (
                policy("odd", "odd", "Enforce", "onExceeded: {status: 429}"),
                "spec.limits[0].onExceeded",
            ),
            (
                shard_set("odd", "HTTP", "{slots: 0-16383, shard: s0, term: 3}"),
                "spec.placement[0].term",
            ),
        ];
        for (yaml, path) in objects {
            let output = cluster.kubectl().output(["apply", "-f", "-"], yaml).await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                !output.status.success() && said.contains(&format!("unknown field \"{path}\"")),
                "{said}"
            );
        }
        let left = cluster
            .kubectl()
            .json(["-n", "shop", "get", "apiroute,ratelimitpolicy,shardset"])
            .await?;
        ensure!(
            left["items"].as_array().is_some_and(Vec::is_empty),
            "{left}"
        );
        Ok(())
    });
}

/// Lets the definitions know one value more, or not any more.
async fn knows(shop: &Shop<'_>, more: bool) -> Result<()> {
    for (crd, path, known, new) in [
        (
            "apiroutes",
            "rules/items/properties/cache/properties/mode",
            vec!["Enabled", "Disabled"],
            "Dream",
        ),
        (
            "ratelimitpolicies",
            "mode",
            vec!["Enforce", "Shadow"],
            "Dream",
        ),
        ("shardsets", "protocol", vec!["HTTP"], "Dream"),
    ] {
        let path = format!(
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/{path}/enum"
        );
        let values: Vec<_> = known.into_iter().chain(more.then_some(new)).collect();
        let patch = json!([{"op": "replace", "path": path, "value": values}]).to_string();
        let crd = format!("{crd}.sluice.dev");
        shop.cluster
            .kubectl()
            .run(["patch", "crd", &crd, "--type=json", "-p", &patch])
            .await?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_decoded_stops_nothing() {
    isolated!(seconds(300), async |world| {
        let shop = Shop::start(world).await?;
        let (pair, loads) = good(&shop).await?;
        let later = route("later", &marked("later"));
        shop.cluster.apply_yaml(&later).await?;
        until(&shop.cluster, "apiroute", "later", "Ready", "True/Ready").await?;

        knows(&shop, true).await?;
        let dream = "  rules: [{name: all, cache: {mode: Dream}}]\n";
        let odd = [
            route("odd", dream),
            // It was good once.
            later.replace("    filters:", "    cache: {mode: Dream}\n    filters:"),
            policy("odd-policy", "under-policy", "Dream", ""),
            route("under-policy", &marked("limited")),
            shard_set("odd-set", "Dream", "{slots: 0-16383, shard: s0}"),
            route("over-set", &sharded("odd-set")),
        ]
        .concat();
        eventually(
            "the API server has learnt the values",
            seconds(20),
            async || shop.cluster.apply_yaml(&odd).await.map(drop),
        )
        .await?;
        knows(&shop, false).await?;

        for (kind, name, path) in [
            ("apiroute", "odd", "spec.rules[0].cache.mode"),
            ("apiroute", "later", "spec.rules[0].cache.mode"),
            ("ratelimitpolicy", "odd-policy", "spec.mode"),
            ("shardset", "odd-set", "spec.protocol"),
        ] {
            let found: Value =
                until(&shop.cluster, kind, name, "Accepted", "False/Undecodable").await?;
            let (_, message) = condition(&found, "Accepted");
            println!("{kind} {name}: {message}");
            ensure!(message.contains(path), "{message}");
        }
        denied(&pair, "odd.example", "config-invalid").await?;
        denied(&pair, "under-policy.example", "config-invalid").await?;
        denied(&pair, "over-set.example", "config-invalid").await?;
        for served in &pair {
            let answer = ask(served, "later.example").await?.expect(200)?;
            ensure!(
                header(&answer, "x-route")? == "later",
                "its last good form serves: {answer:?}"
            );
        }

        // Everything else goes on: also what comes now.
        shop.cluster
            .apply_yaml(&route("new", &marked("new")))
            .await?;
        until(&shop.cluster, "apiroute", "new", "Ready", "True/Ready").await?;
        for served in &pair {
            ask(served, "new.example").await?.expect(200)?;
        }
        unharmed(loads).await.context("the good route")
    });
}
