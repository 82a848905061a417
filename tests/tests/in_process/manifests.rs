//! File mode: what is wrong with a file is said with file and line, in log, metric and state folder, and takes nothing
//! away that was served before.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::{With, eventually, get, isolated, seconds};

use crate::place::{Place, Plan, route};

/// A route whose answers carry `version`.
fn versioned(version: &str) -> String {
    let rules = format!(
        "  rules:
  - name: all
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Version, value: \"{version}\"}}]}}}}]
"
    );
    route("orders", &rules)
}

/// The version that each sidecar serves.
async fn served(place: &Place<'_>) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    for pod in &place.pods {
        let request = get("/").with("host", "orders.example");
        let answer = pod.sidecar.client().send(request).await?.expect(200)?;
        let version = answer.header("x-version").context("no X-Version")?;
        versions.push(version.to_owned());
    }
    Ok(versions)
}

async fn serves(place: &Place<'_>, version: &str) -> Result<()> {
    eventually(&format!("version {version}"), seconds(30), async || {
        let versions = served(place).await?;
        ensure!(versions.iter().all(|v| v == version), "{versions:?}");
        Ok(())
    })
    .await
}

/// What the operator says about the file `NAME.yaml`: its findings as the state folder has them, once there are `n`.
async fn findings(place: &Place<'_>, name: &str, n: usize) -> Result<Vec<Value>> {
    let path = place.manifest(name).display().to_string();
    eventually(
        &format!("{n} findings of {name}.yaml"),
        seconds(20),
        async || {
            let mut all = Vec::new();
            let dir = place.state.join("status/file/-");
            let entries = if dir.exists() {
                fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?
            } else {
                Vec::new()
            };
            for entry in entries {
                let whole: Value = serde_saphyr::from_str(&fs::read_to_string(entry.path())?)?;
                if whole["path"] == path {
                    all.extend(whole["findings"].as_array().cloned().unwrap_or_default());
                }
            }
            ensure!(all.len() == n, "{all:?}");
            Ok(all)
        },
    )
    .await
}

async fn counted(place: &Place<'_>, n: usize) -> Result<()> {
    let line = format!("sluice_operator_manifest_findings {n}");
    eventually(&line, seconds(20), async || {
        let metrics = place.operator.metrics().await?;
        ensure!(metrics.lines().any(|found| found == line), "{metrics}");
        Ok(())
    })
    .await
}

/// As kubectl, file mode refuses an object with a field that the schema does not know: a misspelt `auth` must not open a
/// route. What was good before stays in force.
#[test]
fn an_unknown_field_is_a_finding_with_file_and_line() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put("orders", &versioned("1"))?;
        let place = plan.start().await?;
        place.live("ApiRoute", "orders").await?;
        counted(&place, 0).await?;

        let text = format!("{}  requestLimit: {{maxBodySize: 1Ki}}\n", versioned("2"));
        let line = text.lines().count();
        place.put("orders", &text)?;
        let found = findings(&place, "orders", 1).await?.remove(0);
        ensure!(
            found["line"] == line && found["path"] == "spec.requestLimit",
            "{found}"
        );
        counted(&place, 1).await?;
        let file = place.manifest("orders").display().to_string();
        let log = place.operator.process.stderr();
        let said = log.lines().find(|said| said.contains("requestLimit"));
        let said = said.with_context(|| format!("the log does not name the field: {log}"))?;
        println!("{said}");
        ensure!(said.contains(&format!("{file}:{line}:")), "{said}");
        let message = place
            .condition("ApiRoute", "orders", "Accepted", "False", "Undecodable")
            .await?;
        ensure!(
            message.contains(&format!("orders.yaml:{line}:")) && message.contains("requestLimits"),
            "{message}"
        );
        ensure!(
            served(&place).await? == ["1", "1"],
            "the last good form is not in force"
        );

        place.put("orders", &versioned("3"))?;
        serves(&place, "3").await?;
        findings(&place, "orders", 0).await?;
        counted(&place, 0).await?;
        place.live("ApiRoute", "orders").await
    });
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_objects() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put("orders", &versioned("1"))?;
        plan.put(
            "other",
            &route("other", "  requestLimits: {maxBodySize: 1Mi}\n"),
        )?;
        let place = plan.start().await?;
        place.live("ApiRoute", "orders").await?;

        place.put(
            "orders",
            &versioned("2").replace("kind: ApiRoute", "kind: [ApiRoute"),
        )?;
        let found = findings(&place, "orders", 1).await?.remove(0);
        println!("{found}");
        ensure!(
            found["line"].as_u64().is_some_and(|line| line > 1),
            "{found}"
        );
        // What is told to other files goes on meanwhile.
        place.put(
            "other",
            &route("other", "  requestLimits: {maxTargetLength: \"16\"}\n"),
        )?;
        let pod = &place.pods[0];
        eventually("the other file's change", seconds(30), async || {
            let long = get("/more-than-sixteen-bytes").with("host", "other.example");
            pod.sidecar.client().send(long).await?.expect(414).map(drop)
        })
        .await?;
        ensure!(
            served(&place).await? == ["1", "1"],
            "the broken file changed what is served"
        );

        place.put("orders", &versioned("3"))?;
        serves(&place, "3").await?;
        findings(&place, "orders", 0).await.map(drop)
    });
}

#[test]
fn an_object_that_breaks_its_schema_denies_alone_and_a_second_declaration_is_told() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put("orders", &versioned("1"))?;
        plan.put(
            "broken",
            &route(
                "broken",
                "  rules: [{name: all, timeouts: {request: soon}}]\n",
            ),
        )?;
        let place = plan.start().await?;
        place.live("ApiRoute", "orders").await?;
        let found = findings(&place, "broken", 1).await?.remove(0);
        ensure!(
            found["line"] == 7 && found["path"] == "spec.rules[0].timeouts.request",
            "{found}"
        );
        for pod in &place.pods {
            // It is present and denies: never passed to the application without its policy.
            let request = get("/").with("host", "broken.example");
            let answer = pod.sidecar.client().send(request).await?;
            ensure!([404, 503].contains(&answer.status.as_u16()), "{answer:?}");
        }

        // The first by name counts: `orders.yaml` before `second.yaml`.
        place.put("second", &versioned("9"))?;
        let found = findings(&place, "second", 1).await?.remove(0);
        let message = found["message"].as_str().unwrap_or_default();
        ensure!(message.contains("orders.yaml"), "{found}");
        ensure!(
            served(&place).await? == ["1", "1"],
            "the second declaration counts"
        );
        place.delete("second")?;
        findings(&place, "second", 0).await.map(drop)
    });
}
