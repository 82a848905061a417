//! Upgrade: a sidecar that lacks one feature, as one of a former version does, beside a current one and today's operator.
//! Both serve; what the older one cannot honour is denied there, and there only, and the status names its pod.

use anyhow::{Result, ensure};
use sluice_tests::{With, eventually, get, isolated, seconds};

use crate::place::{Place, Plan, route};

/// The pod whose sidecar is older, and the build for tests that plays it.
const OLDER: usize = 1;
const BUILD: &str = "sluice-sidecar-without-cache";

const CACHED: &str = "  rules: [{name: all, cache: {mode: Enabled, scope: Standard, levels: {memory: {maxBytes: 1Mi}}}}]\n";

/// The status of an answer for the route of this name, and its text.
async fn ask(place: &Place<'_>, pod: usize, route: &str) -> Result<(u16, String)> {
    let request = get("/orders").with("host", &format!("{route}.example"));
    let answer = place.pods[pod].sidecar.client().send(request).await?;
    Ok((answer.status.as_u16(), answer.text()))
}

async fn outdated(place: &Place<'_>, count: usize) -> Result<()> {
    let line = format!("sluice_operator_outdated_sidecars {count}");
    eventually(&line, seconds(20), async || {
        let metrics = place.operator.metrics().await?;
        ensure!(
            metrics.lines().any(|found| found == line),
            "not among the metrics"
        );
        Ok(())
    })
    .await
}

#[test]
fn an_older_sidecar_serves_and_denies_what_it_cannot_honour() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put("plain", &route("plain", "  rules: [{name: all}]\n"))?;
        plan.put("cached", &route("cached", CACHED))?;
        let mut place = plan.start().await?;
        place.live("ApiRoute", "cached").await?;
        outdated(&place, 0).await?;

        place
            .change_sidecar(OLDER, |options| options.program(BUILD))
            .await?;
        let said = place
            .condition("ApiRoute", "cached", "Stalled", "True", "SidecarTooOld")
            .await?;
        ensure!(said.contains("api-1 SidecarTooOld: restart it"), "{said}");
        for (pod, route, status) in [
            (0, "plain", 200),
            (OLDER, "plain", 200),
            (0, "cached", 200),
            (OLDER, "cached", 503),
        ] {
            let (found, text) = ask(&place, pod, route).await?;
            ensure!(found == status, "{route} at pod {pod}: {found} {text}");
            ensure!(
                status == 200 || text.contains("config-sidecar-too-old"),
                "{text}"
            );
        }
        // What it can honour is live there, too.
        place.live("ApiRoute", "plain").await?;
        let live = place.status("ApiRoute", "plain")?["live"].clone();
        ensure!(live["summary"] == "2/2" && live["outdated"] == 1, "{live}");
        outdated(&place, 1).await?;

        // The restart that is asked for.
        place
            .change_sidecar(OLDER, |options| options.program("sluice-sidecar"))
            .await?;
        place.live("ApiRoute", "cached").await?;
        let (found, text) = ask(&place, OLDER, "cached").await?;
        ensure!(found == 200, "{found} {text}");
        let live = place.status("ApiRoute", "plain")?["live"].clone();
        ensure!(live.get("outdated").is_none(), "{live}");
        outdated(&place, 0).await
    });
}
