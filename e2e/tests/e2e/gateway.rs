//! A Gateway and an HTTPRoute on a real cluster: the operator runs two edges, they serve, an update of them fails no request,
//! and of one that is killed only what was under way on it. What the Gateway API itself asks for, `make conformance` shows.

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_e2e::wire::Ask;
use sluice_e2e::{ClientPod, Place, eventually, on_cluster, seconds};

use super::rollout::{KEPT, MOST_UNDER_WAY, under_load};

const EDGE: &str = "public-sluice";
const SELECTOR: &str = "gateway.networking.k8s.io/gateway-name=public";

/// The edges that are not on their way out.
async fn edges(place: &Place) -> Result<Vec<String>> {
    place.pod_names(SELECTOR).await
}

/// Kills an edge without its time to leave, and waits until another serves in its place.
async fn killed(place: &Place, victim: &str) -> Result<()> {
    let kill = ["delete", "pod", victim, "--grace-period=0", "--force"];
    place.kubectl(kill).await?;
    eventually("another edge", seconds(60), async || {
        let pods = place.pods(SELECTOR).await?;
        let is_ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        let names: Vec<_> = pods.iter().map(|pod| &pod["metadata"]["name"]).collect();
        ensure!(
            pods.len() == 2
                && pods.iter().all(is_ready)
                && names.iter().all(|name| **name != victim),
            "{names:?}"
        );
        Ok(())
    })
    .await
}

#[test]
fn an_update_of_two_edges_fails_no_request_and_a_kill_what_was_under_way() {
    on_cluster!("gateway", seconds(400), async |place: &Place| {
        place.apply(include_str!("gateway.yaml")).await?;
        place.rolled_out("shop").await?;
        place
            .kubectl([
                "wait",
                "--for=condition=Programmed",
                "--timeout=120s",
                "gateway/public",
            ])
            .await?;
        place.rolled_out(EDGE).await?;
        let former = edges(place).await?;
        ensure!(former.len() == 2, "{former:?}");
        for pod in place.pods(SELECTOR).await? {
            let containers = pod["spec"]["containers"].as_array().map(Vec::len);
            // In a namespace that asks for sidecars, an edge has none.
            ensure!(
                containers == Some(1) && pod["spec"]["initContainers"].is_null(),
                "{}",
                pod["spec"]
            );
        }
        let gateway = place.json(["get", "gateway", "public"]).await?;
        let service = place.json(["get", "service", EDGE]).await?;
        let address = &gateway["status"]["addresses"][0]["value"];
        ensure!(
            *address == service["spec"]["clusterIP"],
            "{}",
            gateway["status"]
        );
        ensure!(
            gateway["status"]["listeners"][0]["attachedRoutes"] == 1,
            "{}",
            gateway["status"]
        );

        let to = format!("{}:80", address.as_str().unwrap_or_default());
        let client = ClientPod::start(place, "client").await?;
        eventually("the edge serves", seconds(30), async || {
            client.ask(Ask::get(&to, "/")).await?.expect(200).map(drop)
        })
        .await?;
        let seen = under_load(place, "edge", &to, async || {
            let object = format!("deployment/{EDGE}");
            place.kubectl(["rollout", "restart", &object]).await?;
            place.rolled_out(EDGE).await?;
            eventually("the former edges are gone", seconds(90), async || {
                let now = place.pods(SELECTOR).await?;
                ensure!(now.len() == 2, "{} pods", now.len());
                Ok(())
            })
            .await
        })
        .await?;
        seen.print("edges");
        seen.enough()?;
        ensure!(seen.failed() == 0, "an update of the edges");
        let now = edges(place).await?;
        ensure!(now.iter().all(|pod| !former.contains(pod)), "{now:?}");

        let seen = under_load(place, "killed", &to, async || {
            for victim in &now {
                killed(place, victim).await?;
            }
            Ok(())
        })
        .await?;
        seen.print("two edges killed, one after the other");
        seen.enough()?;
        ensure!(
            seen.new.failed <= 2 * MOST_UNDER_WAY && seen.kept.failed <= 2 * u64::from(KEPT),
            "more than what was under way on the edges"
        );

        place.kubectl(["delete", "gateway", "public"]).await?;
        eventually("the edge goes with its Gateway", seconds(90), async || {
            let left = edges(place).await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await
    });
}
