//! The operator away: what needs no sidecar starts, what needs one waits and comes by itself, what runs goes on. And pods
//! that were made while nobody injected are listed.

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_e2e::wire::{Ask, LoadSpec};
use sluice_e2e::{ClientPod, Place, eventually, on_cluster, product, seconds};

#[test]
fn pods_wait_for_the_operator_and_start_by_themselves() {
    on_cluster!("outage", seconds(300), async |place: &Place| {
        place.apply(include_str!("outage.yaml")).await?;
        place.rolled_out("web").await?;
        place.ready(&["apiroute/web"]).await?;
        let elsewhere = place.beside("elsewhere", json!({})).await?;
        let client = ClientPod::start(place, "client").await?;
        let load = client
            .load(&LoadSpec {
                ask: Ask::get("web:80", "/"),
                per_second: 50,
                connections: 4,
                http2: false,
                at_most_seconds: 120,
            })
            .await?;

        product::scale(place, 0).await?;
        let away = std::time::Instant::now();
        let outcome = while_away(place, &elsewhere).await;
        product::scale(place, 2).await?;
        outcome?;
        let back = std::time::Instant::now();
        place.rolled_out("late").await?;
        println!(
            "outage {:.1?}; the waiting pod was Ready {:.1?} after the return",
            back.duration_since(away),
            back.elapsed()
        );
        place.ready(&["apiroute/web"]).await?;
        let seen = load.finish().await?;
        println!("meanwhile: {seen:?}");
        ensure!(seen.sent > 300 && seen.failed == 0, "{seen:?}");
        elsewhere.remove().await
    });
}

async fn while_away(place: &Place, elsewhere: &Place) -> Result<()> {
    elsewhere.apply(include_str!("outage-late.yaml")).await?;
    elsewhere.rolled_out("late").await?;
    place.apply(include_str!("outage-late.yaml")).await?;
    eventually(
        "the labelled one waits and says why",
        seconds(20),
        async || {
            let set = place.json(["get", "replicasets", "-l", "app=late"]).await?;
            let said = set["items"][0]["status"]["conditions"].to_string();
            ensure!(said.contains("inject.sluice.dev"), "{said}");
            Ok(())
        },
    )
    .await?;
    ensure!(
        place.pods("app=late").await?.is_empty(),
        "it was made without a sidecar"
    );
    Ok(())
}

#[test]
fn a_pod_made_while_nobody_injected_is_listed() {
    on_cluster!("bare", seconds(240), async |place: &Place| {
        place.apply(include_str!("outage.yaml")).await?;
        place.rolled_out("web").await?;
        place.ready(&["apiroute/web"]).await?;
        let webhook = ["mutatingwebhookconfiguration", "sluice-operator"];
        place.cluster(["delete"].into_iter().chain(webhook)).await?;
        let made = place
            .kubectl(["scale", "deployment/web", "--replicas=3"])
            .await;
        let listed = match made {
            Ok(_) => bare_is_listed(place).await,
            Err(error) => Err(error),
        };
        product::install(place).await?;
        listed
    });
}

async fn bare_is_listed(place: &Place) -> Result<()> {
    place.rolled_out("web").await?;
    let bare = place
        .pods("app=web")
        .await?
        .into_iter()
        .find(|pod| pod["spec"]["initContainers"].is_null());
    let name = bare
        .as_ref()
        .and_then(|pod| pod["metadata"]["name"].as_str())
        .unwrap_or("none is bare")
        .to_owned();
    eventually("the status names it", seconds(10), async || {
        let said = place.condition("apiroute/web", "Programmed").await?;
        ensure!(said.contains(&name), "{name} is not in {said}");
        Ok(())
    })
    .await?;
    eventually("the metric counts it", seconds(10), async || {
        let metrics = product::metrics(place).await?;
        ensure!(
            metrics
                .lines()
                .any(|line| line.starts_with("sluice_operator_bare_pods") && !line.ends_with(" 0")),
            "no sluice_operator_bare_pods above 0"
        );
        Ok(())
    })
    .await
}
