//! Point 7 in file mode: one broken object of each kind. Its status says why and what to do, its routes answer 503
//! `config-*`, and every other route is unharmed. Of two routes for one hostname the elder goes on.

use anyhow::{Context, Result, ensure};
use sluice_tests::{App, Load, With, eventually, get, isolated, seconds};

use crate::place::{Place, Plan, documents, route, shard_set};

/// A broken object: what is applied, whose status tells, and what its route answers.
struct Broken {
    /// The route, and the file.
    name: &'static str,
    manifests: String,
    /// Kind and name of the object whose status tells.
    object: (&'static str, &'static str),
    condition: (&'static str, &'static str),
    /// Words of the message: what is wrong, and what mends it.
    says: [&'static str; 2],
    problem: &'static str,
}

fn keys_of(secret: &str) -> String {
    format!(
        "  auth:
    anyOf: [{{allOf: [keys]}}]
    providers: [{{name: keys, type: APIKey, apiKey: {{secretRef: {{name: {secret}}}}}}}]
"
    )
}

fn to_shards(set: &str) -> String {
    format!(
        "  rules: [{{name: all, backendRefs: [{{group: sluice.dev, kind: ShardSet, name: {set}}}]}}]\n"
    )
}

/// A ShardSet of one shard, which leads to the Service `member`.
fn one_shard(name: &str, placement: &str) -> String {
    let placement = format!("  placement: [{placement}]\n");
    shard_set(name, &[("s0", "member")], &placement)
}

fn one_of_each() -> Vec<Broken> {
    vec![
        Broken {
            name: "regex",
            manifests: route(
                "regex",
                "  rules: [{name: all, matches: [{path: {type: RegularExpression, value: \"/(\"}}]}]\n",
            ),
            object: ("ApiRoute", "regex"),
            condition: ("Accepted", "Invalid"),
            says: ["unclosed group", "correct the value"],
            problem: "config-invalid",
        },
        Broken {
            name: "no-secret",
            manifests: route("no-secret", &keys_of("nowhere")),
            object: ("ApiRoute", "no-secret"),
            condition: ("ResolvedRefs", "SecretNotFound"),
            says: ["nowhere", "sluice.dev/use"],
            problem: "config-secret-not-found",
        },
        Broken {
            name: "no-label",
            manifests: documents(&[
                route("no-label", &keys_of("unlabelled")),
                "apiVersion: v1
kind: Secret
metadata: {name: unlabelled, namespace: shop}
type: sluice.dev/api-keys
stringData: {acme-1: an-api-key-of-acme-0123456789}
"
                .into(),
            ]),
            object: ("ApiRoute", "no-label"),
            condition: ("ResolvedRefs", "SecretNotUsable"),
            says: [
                "lacks the label sluice.dev/use: api-keys",
                "give the Secret the label",
            ],
            problem: "config-secret-not-usable",
        },
        Broken {
            name: "no-shards",
            manifests: route("no-shards", &to_shards("nowhere")),
            object: ("ApiRoute", "no-shards"),
            condition: ("ResolvedRefs", "BackendNotFound"),
            says: ["nowhere", "create it"],
            problem: "config-backend-not-found",
        },
        Broken {
            name: "twice",
            manifests: documents(&[
                route("twice", &to_shards("twice")),
                one_shard(
                    "twice",
                    "{slots: \"0-9000\", shard: s0}, {slots: \"9000-16383\", shard: s0}",
                ),
            ]),
            object: ("ShardSet", "twice"),
            condition: ("Accepted", "SlotsUncovered"),
            says: ["9000", "exactly once"],
            problem: "config-slots-uncovered",
        },
        Broken {
            name: "gap",
            manifests: documents(&[
                route("gap", &to_shards("gap")),
                one_shard(
                    "gap",
                    "{slots: \"0-8999\", shard: s0}, {slots: \"9001-16383\", shard: s0}",
                ),
            ]),
            object: ("ShardSet", "gap"),
            condition: ("Accepted", "SlotsUncovered"),
            says: ["9000", "exactly once"],
            problem: "config-slots-uncovered",
        },
        Broken {
            name: "no-store",
            manifests: documents(&[
                route("no-store", "  requestLimits: {maxBodySize: 1Mi}\n"),
                crate::place::policy(
                    "no-store",
                    "    algorithm: {type: TokenBucket, tokenBucket: {requests: 1, per: 1s}}
    scope: Global
    global: {storeRef: {name: nowhere}}
",
                ),
            ]),
            object: ("RateLimitPolicy", "no-store"),
            condition: ("ResolvedRefs", "StoreNotFound"),
            says: ["nowhere", "SluiceConfig"],
            problem: "config-store-not-found",
        },
    ]
}

/// Its status says why and what to do.
async fn tells(place: &Place<'_>, broken: &Broken) -> Result<()> {
    let ((kind, name), (type_, reason)) = (broken.object, broken.condition);
    let message = place.condition(kind, name, type_, "False", reason).await?;
    println!("{kind} {name}: {message}");
    for words in broken.says {
        ensure!(
            message.contains(words),
            "{kind} {name} does not say {words:?}: {message}"
        );
    }
    place
        .condition(kind, name, "Ready", "False", reason)
        .await
        .map(drop)
}

/// Its route answers 503 `config-*` on every sidecar.
async fn denies(place: &Place<'_>, broken: &Broken) -> Result<()> {
    for pod in &place.pods {
        eventually(broken.problem, seconds(20), async || {
            let request = get("/")
                .with("host", &format!("{}.example", broken.name))
                .with("x-tenant", "acme")
                .with("x-api-key", "an-api-key-of-acme-0123456789");
            let answer = pod.sidecar.client().send(request).await?.expect(503)?;
            let problem = answer.json()?;
            let type_ = problem["type"].as_str().context("a problem has a type")?;
            ensure!(
                type_.ends_with(broken.problem),
                "{}: {problem}",
                broken.name
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[test]
fn one_broken_object_of_each_kind_harms_no_other() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        let _member: App = plan.member("member").await?;
        plan.put(
            "fine",
            &route("fine", "  requestLimits: {maxBodySize: 1Mi}\n"),
        )?;
        let place = plan.start().await?;
        place.live("ApiRoute", "fine").await?;
        let loads: Vec<_> = place
            .pods
            .iter()
            .map(|pod| {
                Load::against(pod.sidecar.address)
                    .per_second(50)
                    .fresh_every(5)
                    .request(|_| get("/").with("host", "fine.example"))
                    .start()
            })
            .collect();

        let all = one_of_each();
        for broken in &all {
            place.put(broken.name, &broken.manifests)?;
        }
        for broken in &all {
            tells(&place, broken).await?;
            denies(&place, broken).await?;
        }
        // Beside all of them the good one is live, and one of them can be mended.
        place.live("ApiRoute", "fine").await?;
        place.put("regex", &route("regex", "  rules: [{name: all, matches: [{path: {type: RegularExpression, value: \"/.*\"}}]}]\n"))?;
        place.live("ApiRoute", "regex").await?;
        for pod in &place.pods {
            let request = get("/").with("host", "regex.example");
            pod.sidecar.client().send(request).await?.expect(200)?;
        }
        for load in loads {
            let report = load.finish().await;
            println!("the route beside them: {report}");
            ensure!(report.failed == 0, "{report}");
        }
        Ok(())
    });
}

/// A route for `shared.example` of a given age, which says its name.
fn claimant(name: &str, born: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: {name}, namespace: shop, creationTimestamp: \"{born}\"}}
spec:
  parentRefs: [{{kind: Service, name: api}}]
  hostnames: [shared.example]
  rules:
  - name: all
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Route, value: {name}}}]}}}}]
"
    )
}

#[test]
fn of_two_routes_for_a_hostname_the_elder_serves_throughout() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put("elder", &claimant("elder", "2026-01-01T00:00:00Z"))?;
        let place = plan.start().await?;
        place.live("ApiRoute", "elder").await?;
        let loads: Vec<_> = place
            .pods
            .iter()
            .map(|pod| {
                Load::against(pod.sidecar.address)
                    .per_second(100)
                    .request(|_| get("/").with("host", "shared.example"))
                    .check(
                        |answer| match (answer.status.as_u16(), answer.header("x-route")) {
                            (200, Some("elder")) => Ok(()),
                            (status, route) => Err(format!("{status} by {route:?}")),
                        },
                    )
                    .start()
            })
            .collect();

        // Its name and its file come first: only its age speaks against it.
        place.put("a-younger", &claimant("a-younger", "2026-02-01T00:00:00Z"))?;
        let message = place
            .condition("ApiRoute", "a-younger", "Accepted", "False", "Conflicted")
            .await?;
        println!("{message}");
        ensure!(
            message.contains("elder") && message.contains("shared.example"),
            "{message}"
        );
        place.live("ApiRoute", "elder").await?;
        // Deleting the younger changes nothing either.
        place.delete("a-younger")?;
        place.put(
            "marker",
            &route("marker", "  requestLimits: {maxBodySize: 1Mi}\n"),
        )?;
        place.live("ApiRoute", "marker").await?;
        for load in loads {
            let report = load.finish().await;
            println!("the elder: {report}");
            ensure!(report.failed == 0, "{report}");
        }

        // When the elder is deleted, the younger takes over.
        place.put("a-younger", &claimant("a-younger", "2026-02-01T00:00:00Z"))?;
        place
            .condition("ApiRoute", "a-younger", "Accepted", "False", "Conflicted")
            .await?;
        place.delete("elder")?;
        place.live("ApiRoute", "a-younger").await?;
        let answer = place.pods[0]
            .sidecar
            .client()
            .send(get("/").with("host", "shared.example"))
            .await?
            .expect(200)?;
        ensure!(answer.header("x-route") == Some("a-younger"), "{answer:?}");
        Ok(())
    });
}
