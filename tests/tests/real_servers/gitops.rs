//! What a GitOps tool does all day: applying what is there already. Nothing may move, neither by that nor by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::{eventually, isolated, seconds};

use super::install;
use super::shop::{Shop, quickstart};

/// Objects that somebody in the test world writes or reads: Endpoints and Slices are the controller-manager's.
const OBJECTS: &str =
    "apiroute,ratelimitpolicy,shardset,service,secret,serviceaccount,deployment,hpa,pod";

/// For so long nothing may be written: several rounds of everything periodic in the operator but its resync.
const QUIET: Duration = seconds(15);

/// `kind/name -> resourceVersion`. The HorizontalPodAutoscaler's own controller reports no metrics every second, so of
/// that object the spec's generation counts.
async fn versions(shop: &Shop<'_>) -> Result<BTreeMap<String, String>> {
    let list = shop
        .cluster
        .kubectl()
        .json(["-n", "shop", "get", OBJECTS, "--show-managed-fields"])
        .await?;
    let items = list["items"].as_array().context("a list")?;
    Ok(items.iter().map(version).collect())
}

/// What the operator has done about statuses so far. A write that changes nothing moves no version.
#[derive(Debug)]
struct Count {
    looks: f64,
    writes: f64,
}

async fn operators_count(shop: &Shop<'_>) -> Result<Count> {
    let metrics = shop.operator.metrics().await?;
    let sum = |name: &str| {
        let values = metrics
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    };
    Ok(Count {
        looks: sum("sluice_operator_status_looks_total"),
        writes: sum("sluice_operator_status_writes_total{"),
    })
}

fn version(object: &Value) -> (String, String) {
    let name = format!("{}/{}", object["kind"], object["metadata"]["name"]).replace('"', "");
    let version = match object["kind"] == "HorizontalPodAutoscaler" {
        true => object["spec"].to_string(),
        false => object["metadata"]["resourceVersion"].to_string(),
    };
    (name, version)
}

#[test]
fn applying_again_and_doing_nothing_changes_nothing() {
    isolated!(seconds(300), async |world| {
        let shop = Shop::start(world).await?;
        let folders = [quickstart("base"), quickstart("cluster")];
        let folders = folders.each_ref().map(|folder| folder.as_path());
        shop.cluster.apply_files(&folders).await?;
        let _members = shop.members().await?;
        let [_orders, _inventory] = [shop.adopt("orders").await?, shop.adopt("inventory").await?];
        shop.all_ready().await?;

        // Settled: live everywhere, and the same twice in a row.
        let before = eventually("everything has settled", seconds(60), async || {
            let routes = shop
                .cluster
                .kubectl()
                .json(["-n", "shop", "get", "apiroute,ratelimitpolicy,shardset"])
                .await?;
            let items = routes["items"].as_array().context("a list")?;
            ensure!(
                items
                    .iter()
                    .all(|item| item["status"]["live"]["summary"] == "2/2"),
                "{items:?}"
            );
            let first = versions(&shop).await?;
            // That nothing is written any more nothing but time shows.
            tokio::time::sleep(seconds(2)).await;
            let second = versions(&shop).await?;
            ensure!(
                first == second,
                "still moving: {:?}",
                differing(&first, &second)
            );
            Ok(second)
        })
        .await?;

        let again = shop.cluster.apply_files(&folders).await?;
        let mut others = again.lines().filter(|line| !line.starts_with("secret/"));
        ensure!(others.all(|line| line.ends_with(" unchanged")), "{again}");
        // An object that has nothing to do with the others makes the operator look at all of them; what is missing there
        // makes it look again each second.
        let other = install::service_and_route("other").replace(
            "spec: {parentRefs: [{kind: Service, name: other}]}",
            "spec:
  parentRefs: [{kind: Service, name: other}]
  auth:
    anyOf: [{allOf: [keys]}]
    providers: [{name: keys, type: APIKey, apiKey: {secretRef: {name: nowhere}}}]",
        );
        shop.cluster.apply_yaml(&other).await?;
        let stalled = "True/SecretNotFound";
        install::until(&shop.cluster, "apiroute", "other", "Stalled", stalled).await?;
        let at_rest = operators_count(&shop).await?;
        // The time itself is what is tested here.
        tokio::time::sleep(QUIET).await;
        let later = operators_count(&shop).await?;
        ensure!(
            later.looks >= at_rest.looks + 5.0,
            "it looked too seldom for this to say anything: {at_rest:?} {later:?}"
        );
        ensure!(
            later.writes == at_rest.writes,
            "written although it says the same: {at_rest:?} {later:?}"
        );
        let mut after = versions(&shop).await?;
        after.retain(|name, _| before.contains_key(name) || !name.ends_with("/other"));
        ensure!(before == after, "changed: {:?}", differing(&before, &after));
        println!(
            "{} objects unchanged by a second apply and {QUIET:?} of rest",
            after.len()
        );
        Ok(())
    });
}

fn differing(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names = before
        .keys()
        .chain(after.keys())
        .filter(|name| before.get(*name) != after.get(*name));
    names.cloned().collect()
}
