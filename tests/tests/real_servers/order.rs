//! The quickstart's files in any order come to the same end: conditions, what sidecars hold, and the child object.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{eventually, isolated, seconds};

use super::shop::{Served, Shop, quickstart};

const ROUNDS: u64 = 20;
/// What is deleted between rounds. Service accounts stay: a token is of one account, by uid.
const OBJECTS: &str = "apiroute,ratelimitpolicy,shardset,service,secret";

/// A small generator of numbers, so that a failing round can be run again (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize;
        high % end
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

/// The files of base without the namespace, which must be first in any order.
fn files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(quickstart("base"))? {
        let path = entry?.path();
        if !path.ends_with("00-namespace.yaml") {
            files.push(path);
        }
    }
    files.sort();
    ensure!(files.len() > 8, "{files:?}");
    Ok(files)
}

#[test]
fn every_order_of_apply_comes_to_the_same_end() {
    isolated!(seconds(600), async |world| {
        let shop = Shop::start(world).await?;
        let base = quickstart("base");
        // Pods and accounts are there in all rounds; their Services come and go.
        shop.cluster
            .apply_files(&[
                &base.join("00-namespace.yaml"),
                &base.join("service-accounts.yaml"),
            ])
            .await?;
        shop.cluster.apply_files(&[&quickstart("cluster")]).await?;
        let mut files = files()?;
        apply(&shop, &files).await?;
        let members = shop.members().await?;
        let [orders, inventory] = [shop.adopt("orders").await?, shop.adopt("inventory").await?];
        let ips: Vec<_> = members
            .iter()
            .map(|member| member.pod.ip.to_string())
            .collect();
        let pods: Vec<&Served> = orders.iter().chain(&inventory).collect();

        let first = end(&shop, &pods, &ips).await?;
        println!("the end: {}", first["conditions"]);
        for seed in 1..=ROUNDS {
            clear(&shop, &pods).await?;
            let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            dice.shuffle(&mut files);
            let began = Instant::now();
            // In two parts, so that the operator has seen the first without the second.
            let (some, rest) = files.split_at(1 + dice.below(files.len() - 1));
            apply(&shop, some).await?;
            apply(&shop, rest).await?;
            let order = || {
                files
                    .iter()
                    .filter_map(|file| file.file_stem())
                    .collect::<Vec<_>>()
            };
            let again = end(&shop, &pods, &ips)
                .await
                .with_context(|| format!("seed {seed}: {:?}", order()))?;
            let differing = differing("", &first, &again);
            ensure!(
                differing.is_empty(),
                "seed {seed}, {:?}:\n{}",
                order(),
                differing.join("\n")
            );
            println!("seed {seed}: the same after {:.1?}", began.elapsed());
        }
        let deployment = shop
            .cluster
            .kubectl()
            .json(["-n", "shop", "get", "deployment", "orders"])
            .await?;
        ensure!(
            deployment["spec"]["replicas"] == 2,
            "a user's replicas: {deployment}"
        );
        Ok(())
    });
}

/// Where two values differ, and how: one line per leaf.
fn differing(path: &str, one: &Value, other: &Value) -> Vec<String> {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            let of = |name: &String| differing(&format!("{path}/{name}"), &one[name], &other[name]);
            names.into_iter().flat_map(of).collect()
        }
        _ if one == other => Vec::new(),
        _ => vec![format!("{path}: {one} / {other}")],
    }
}

async fn apply(shop: &Shop<'_>, files: &[PathBuf]) -> Result<()> {
    let paths: Vec<_> = files.iter().map(PathBuf::as_path).collect();
    shop.cluster.apply_files(&paths).await.map(drop)
}

/// Deletes what the files made, and waits until sidecars and garbage collector have seen it.
async fn clear(shop: &Shop<'_>, pods: &[&Served]) -> Result<()> {
    shop.kubectl(["delete", OBJECTS, "--all"]).await?;
    for served in pods {
        served
            .holds("nothing", |units| {
                !units.to_string().contains("route/shop/")
            })
            .await?;
    }
    eventually(
        "the HorizontalPodAutoscaler goes with its route",
        seconds(30),
        async || {
            let left = shop
                .cluster
                .kubectl()
                .json(["-n", "shop", "get", "hpa"])
                .await?;
            ensure!(
                left["items"].as_array().is_some_and(Vec::is_empty),
                "{left}"
            );
            Ok(())
        },
    )
    .await
}

/// The settled state: all Ready and live on both pods, conditions, what each pod holds, and the HorizontalPodAutoscaler.
async fn end(shop: &Shop<'_>, pods: &[&Served], members: &[String]) -> Result<Value> {
    let conditions = eventually(
        "all objects are Ready on their pods",
        seconds(60),
        async || {
            let list = shop
                .cluster
                .kubectl()
                .json(["-n", "shop", "get", "apiroute,ratelimitpolicy,shardset"])
                .await?;
            let items = list["items"].as_array().context("a list")?;
            let said: BTreeMap<String, Value> = items.iter().map(said).collect();
            ensure!(said.len() == 5, "{said:?}");
            ensure!(
                said.values().all(|said| said["Ready"] == "True/Ready"
                    && said["live"] == "2/2"
                    && scales(said)),
                "{said:?}"
            );
            Ok(said)
        },
    )
    .await?;
    let mut units = BTreeMap::new();
    for served in pods {
        let orders = served.pod.name.starts_with("orders");
        let whole =
            |units: &Value| !orders || members.iter().all(|ip| units.to_string().contains(ip));
        let held = served.holds("the members' endpoints", whole).await?;
        units.insert(served.pod.name.clone(), comparable(&held)?);
    }
    let hpa = shop
        .cluster
        .kubectl()
        .json(["-n", "shop", "get", "hpa", "sluice-orders"])
        .await?;
    let owner = &hpa["metadata"]["ownerReferences"];
    ensure!(
        owner[0]["kind"] == "ApiRoute" && owner[0]["name"] == "orders",
        "{owner}"
    );
    Ok(json!({"conditions": conditions, "units": units, "hpa": hpa["spec"]}))
}

/// Whether what an object says of its scaling is settled: `Ready` does not wait for it.
fn scales(said: &Value) -> bool {
    said.get("Scaling")
        .is_none_or(|scaling| scaling == "True/Scaling")
}

/// What an object says, without times and messages.
fn said(object: &Value) -> (String, Value) {
    let name = format!("{}/{}", object["kind"], object["metadata"]["name"]).replace('"', "");
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut said: serde_json::Map<_, _> = conditions
        .iter()
        .map(|one| {
            (
                text(&one["type"]),
                json!(format!("{}/{}", text(&one["status"]), text(&one["reason"]))),
            )
        })
        .collect();
    said.insert("live".into(), object["status"]["live"]["summary"].clone());
    (name, Value::Object(said))
}

/// Units without what a new object of the same content changes: the ShardSet's uid, the generated names of EndpointSlices,
/// and the hashes that follow from them.
fn comparable(units: &Value) -> Result<Value> {
    let mut text = units.to_string();
    let names = units
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name);
    for slice in names.filter(|name| name.starts_with("endpoints/")) {
        let (service, _generated) = slice.rsplit_once('-').context("a generated name")?;
        text = text.replace(slice, service);
    }
    let mut units: Value = serde_json::from_str(&text)?;
    for (name, unit) in units.as_object_mut().into_iter().flatten() {
        let Some(unit) = unit.as_object_mut() else {
            continue;
        };
        if ["backend/", "shards/"]
            .iter()
            .any(|kind| name.starts_with(kind))
        {
            unit.remove("hash");
        }
        if let Some(body) = unit.get_mut("body").and_then(Value::as_object_mut) {
            body.remove("uid");
        }
    }
    Ok(units)
}
