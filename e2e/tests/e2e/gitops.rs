//! What Argo CD and Flux rely on: applying again changes nothing, conditions say how things stand, a diff is clean, and a
//! second writer is told so.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_e2e::{Place, eventually, on_cluster, product, seconds};

const OBJECTS: &str = "apiroute,ratelimitpolicy,shardset,service,deployment,hpa";
/// Counters of the operator's writes.
const WRITES: [&str; 2] = [
    "sluice_operator_status_writes_total{",
    "sluice_operator_hpa_writes_total{",
];
const LOOKS: &str = "sluice_operator_status_looks_total ";

/// `Current`, `InProgress` or `Failed`, by the rules of kstatus for a custom resource: generation first, then
/// Reconciling and Stalled, then Ready.
fn kstatus(object: &Value) -> &'static str {
    let says = |type_: &str, status: &str| {
        let conditions = object["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|one| one["type"] == type_ && one["status"] == status)
    };
    if object["metadata"]["generation"] != object["status"]["observedGeneration"] {
        "InProgress"
    } else if says("Stalled", "True") {
        "Failed"
    } else if says("Reconciling", "True") || says("Ready", "False") || says("Ready", "Unknown") {
        "InProgress"
    } else {
        "Current"
    }
}

async fn becomes(place: &Place, route: &str, wanted: &str) -> Result<()> {
    eventually(&format!("{route} is {wanted}"), seconds(40), async || {
        let object = place.json(["get", "apiroute", route]).await?;
        ensure!(
            kstatus(&object) == wanted,
            "{}: {}",
            kstatus(&object),
            object["status"]
        );
        Ok(())
    })
    .await
}

/// What the operator has not seen yet is in progress: a new object, and a new generation of one that was current.
async fn pending(place: &Place) -> Result<()> {
    product::scale(place, 0).await?;
    let seen = async {
        place.apply(include_str!("gitops-owned.yaml")).await?;
        place
            .kubectl([
                "patch",
                "apiroute",
                "web",
                "--type=merge",
                "-p",
                r#"{"spec":{"hostnames":["web.example"]}}"#,
            ])
            .await?;
        becomes(place, "owned", "InProgress").await?;
        becomes(place, "web", "InProgress").await
    };
    let seen = seen.await;
    product::scale(place, 2).await?;
    seen?;
    becomes(place, "owned", "Current").await?;
    place.apply(include_str!("gitops.yaml")).await?;
    place
        .kubectl([
            "patch",
            "apiroute",
            "web",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/spec/hostnames"}]"#,
        ])
        .await?;
    becomes(place, "web", "Current").await?;
    place
        .kubectl(["delete", "apiroute", "owned"])
        .await
        .map(drop)
}

/// What there is at rest, as the API server and the operator's replicas have it.
#[derive(Debug, PartialEq)]
struct Rest {
    /// Versions of all objects that nobody else writes.
    versions: Vec<String>,
    /// The replicas' counters of writes: one that changes nothing moves no version.
    writes: Vec<String>,
}

impl Rest {
    async fn read(place: &Place) -> Result<Self> {
        let metrics = product::metrics(place).await?;
        let is_write = |line: &&str| WRITES.iter().any(|name| line.starts_with(name));
        Ok(Self {
            versions: versions(place).await?,
            writes: metrics.lines().filter(is_write).map(Into::into).collect(),
        })
    }
}

/// How often the operator has looked at every status; the unresolved reference of `broken` has it do so each second.
async fn looks(place: &Place) -> Result<f64> {
    let metrics = product::metrics(place).await?;
    let counts = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(LOOKS)?.trim().parse::<f64>().ok());
    Ok(counts.sum())
}

/// Waits until the operator has looked at everything that is there now; the first look may have begun before.
async fn looked_again(place: &Place) -> Result<()> {
    let before = looks(place).await?;
    eventually("the operator has looked again", seconds(40), async || {
        let now = looks(place).await?;
        ensure!(now >= before + 3.0, "{} times", now - before);
        Ok(())
    })
    .await
}

async fn versions(place: &Place) -> Result<Vec<String>> {
    let list = place.json(["get", OBJECTS]).await?;
    let items = list["items"].as_array().context("a list")?;
    Ok(items
        .iter()
        .map(|item| {
            let version = match item["kind"] == "HorizontalPodAutoscaler" {
                // Its controller writes its status.
                true => &item["spec"],
                false => &item["metadata"]["resourceVersion"],
            };
            format!("{}/{}: {version}", item["kind"], item["metadata"]["name"])
        })
        .collect())
}

#[test]
fn applying_again_is_nothing_and_conditions_are_understood() {
    on_cluster!("gitops", seconds(300), async |place: &Place| {
        let manifests = include_str!("gitops.yaml");
        place.apply(manifests).await?;
        place.rolled_out("web").await?;
        becomes(place, "web", "Current").await?;
        becomes(place, "broken", "Failed").await?;
        pending(place).await?;

        let before = eventually("everything has settled", seconds(60), async || {
            let one = Rest::read(place).await?;
            looked_again(place).await?;
            let two = Rest::read(place).await?;
            ensure!(one == two, "it still moves");
            Ok(one)
        })
        .await?;
        let events = place.kubectl(["get", "events", "-o", "name"]).await?;
        let said = place.apply(manifests).await?;
        ensure!(
            !said.contains("configured") && !said.contains("created"),
            "{said}"
        );
        let output = place
            .output(["diff", "-f", "-"], &place.with_images(manifests))
            .await?;
        ensure!(
            output.status.code() == Some(0),
            "kubectl diff: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        looked_again(place).await?;
        let after = Rest::read(place).await?;
        ensure!(before == after, "{before:#?}\n{after:#?}");
        let later = place.kubectl(["get", "events", "-o", "name"]).await?;
        ensure!(
            events.lines().count() == later.lines().count(),
            "new Events: {later}"
        );

        let other = r#"{"apiVersion":"sluice.dev/v1alpha1","kind":"ApiRoute","metadata":{"name":"owned"},"spec":{"hostnames":["other.example"]}}"#;
        let first = include_str!("gitops-owned.yaml");
        let args = |manager| ["apply", "--server-side", manager, "-f", "-"];
        let output = place.output(args("--field-manager=first"), first).await?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let output = place.output(args("--field-manager=second"), other).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success()
                && said.contains("conflict with \"first\"")
                && said.contains(".spec.hostnames"),
            "{said}"
        );
        Ok(())
    });
}
