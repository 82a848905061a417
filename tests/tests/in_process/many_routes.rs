//! Thousands of HTTPRoutes with names as long as they may be, at two edges of one Gateway: more than one unit could list.
//! None is left out, and one that comes or goes is one that comes or goes. What that costs is measured in a cluster
//! (`make churn`), what it changes is counted beside the engine.

use std::fmt::Write;

use anyhow::{Result, ensure};
use sluice_tests::http::{Connection, Protocol};
use sluice_tests::{Sidecar, eventually, get, isolated, seconds};

use super::edge::gateway;
use super::place::Plan;

/// Their names alone are more than a megabyte, of which a unit has half.
const ROUTES: usize = 5_200;
/// Routes of one file.
const OF_A_FILE: usize = 400;
/// Debug builds on a busy machine.
const PATIENCE: u64 = 90;

/// The name of an object has 253 characters at most.
fn name(n: usize) -> String {
    format!("{}-{n:04}", "long".repeat(60))
}

fn route(n: usize) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {}, namespace: shop}}
spec:
  parentRefs: [{{name: public}}]
  rules:
  - matches: [{{path: {{type: Exact, value: /{n}}}}}]
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: \"{n}\"}}]}}}}]
    backendRefs: [{{name: origin, port: 80}}]
",
        name(n)
    )
}

/// The routes of these numbers that an edge does not serve, of so many.
async fn missing(edge: &Sidecar, numbers: impl Iterator<Item = usize>) -> Result<Vec<usize>> {
    let address = (edge.address.ip(), 8000).into();
    let mut connection = Connection::open(address, Protocol::Http1).await?;
    let mut missing = Vec::new();
    for n in numbers {
        let answer = connection.send(get(&format!("/{n}"))).await?;
        let by = answer.header("x-route").map(str::to_owned);
        if answer.status != 200 || by != Some(n.to_string()) {
            missing.push(n);
        }
    }
    Ok(missing)
}

#[test]
fn none_of_thousands_of_routes_is_left_out() {
    isolated!(seconds(300), async |world| {
        let plan = Plan::new(world)?;
        let _origin = plan.member("origin").await?;
        let listener = "{name: http, port: 8000, protocol: HTTP}";
        plan.put("edge", &gateway("public", &[listener], ""))?;
        for first in (0..ROUTES).step_by(OF_A_FILE) {
            let mut file = String::new();
            for n in first..first + OF_A_FILE {
                write!(file, "---\n{}", route(n))?;
            }
            plan.put(&format!("routes-{first}"), &file)?;
        }
        let place = plan.start().await?;
        let mut edges = [
            place.edge("public").await?,
            place.another_edge("public", "second").await?,
        ];
        for edge in &mut edges {
            edge.ready(seconds(PATIENCE)).await?;
        }
        for edge in &edges {
            let missing = missing(edge, 0..ROUTES).await?;
            ensure!(missing.is_empty(), "{} are missing", missing.len());
        }
        // One more, then one less; all others stay.
        for served in [true, false] {
            match served {
                true => place.put("one-more", &route(ROUTES))?,
                false => place.delete("one-more")?,
            }
            for edge in &edges {
                eventually("the change at an edge", seconds(PATIENCE), async || {
                    let gone = missing(edge, ROUTES..=ROUTES).await?;
                    ensure!(gone.is_empty() == served, "not yet");
                    Ok(())
                })
                .await?;
                let missing = missing(edge, (0..ROUTES).step_by(7)).await?;
                ensure!(missing.is_empty(), "{missing:?}");
            }
        }
        Ok(())
    });
}
