//! Changes of an ApiRoute under load: each one is seen in an answer of every sidecar, and no request pays for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sluice_crds::ApiRoute;
use sluice_tests::load::percentile;
use sluice_tests::{Answer, Load, eventually, isolated, seconds};

use super::shop::{NAMESPACE, Shop};

const CHANGES: u32 = 200;
const TIME: Duration = seconds(60);
/// Requests a second, of each of two sidecars.
const RATE: u32 = 260;

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// The route at its n-th change.
fn change(n: u32) -> Value {
    let set = json!([{"name": "x-change", "value": n.to_string()}]);
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "ApiRoute", "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"kind": "Service", "name": "web"}],
            "rules": [{"name": "all", "filters": [
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": set}},
            ]}],
        },
    })
}

/// When the answers of one sidecar showed each change first.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<u32, Instant>>>);

impl Seen {
    /// Notes an answer; one without the route's header was not given by any of its versions.
    fn note(&self, answer: &Answer) -> Result<(), String> {
        let change = answer
            .header("x-change")
            .and_then(|value| value.parse().ok());
        match (answer.status.as_u16(), change) {
            (200, Some(n)) => {
                self.0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(n)
                    .or_insert_with(Instant::now);
                Ok(())
            }
            _ => Err(format!("{answer:?}")),
        }
    }

    fn first(&self, n: u32) -> Option<Instant> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&n)
            .copied()
    }
}

#[test]
fn every_change_is_seen_and_no_request_fails() {
    isolated!(seconds(300), async |world| {
        let shop = Shop::start(world).await?;
        shop.cluster.apply_yaml(WEB).await?;
        shop.cluster.apply_yaml(&change(0).to_string()).await?;
        let pair = shop.pair("web").await?;
        shop.all_ready().await?;

        let seen = [Seen::default(), Seen::default()];
        let loads: Vec<_> = pair
            .iter()
            .zip(seen.clone())
            // Half on kept connections, half on new ones.
            .map(|(served, seen)| {
                let load = Load::against(served.address)
                    .per_second(RATE)
                    .fresh_every(2);
                load.check(move |answer| seen.note(answer)).start()
            })
            .collect();
        for seen in &seen {
            eventually("the load has begun", seconds(20), async || {
                ensure!(seen.first(0).is_some(), "no answer yet");
                Ok(())
            })
            .await?;
        }

        let routes: Api<ApiRoute> = Api::namespaced(shop.cluster.client(), NAMESPACE);
        let began = Instant::now();
        let mut asked = Vec::new();
        for n in 1..=CHANGES {
            tokio::time::sleep_until((began + TIME * (n - 1) / CHANGES).into()).await;
            asked.push((n, Instant::now()));
            routes
                .patch("web", &PatchParams::default(), &Patch::Merge(change(n)))
                .await?;
            for seen in &seen {
                eventually(
                    &format!("change {n} in an answer"),
                    seconds(10),
                    async || {
                        ensure!(seen.first(n).is_some(), "not seen yet");
                        Ok(())
                    },
                )
                .await?;
            }
        }
        let took = began.elapsed();
        let mut delays: Vec<_> = asked
            .iter()
            .flat_map(|(n, at)| {
                seen.iter()
                    .filter_map(move |seen| Some(seen.first(*n)?.saturating_duration_since(*at)))
            })
            .collect();
        delays.sort_unstable();
        let [p50, p99, most] = [50.0, 99.0, 100.0].map(|percent| percentile(&delays, percent));
        println!(
            "{CHANGES} changes in {took:.1?}; patch -> first new answer: p50 {p50:.1?}, p99 {p99:.1?}, max {most:.1?}"
        );
        let (mut sent, mut failed) = (0, 0);
        for load in loads {
            let report = load.finish().await;
            println!("{report}");
            (sent, failed) = (sent + report.sent, failed + report.failed);
        }
        ensure!(
            delays.len() == 2 * CHANGES as usize,
            "{} were seen",
            delays.len()
        );
        ensure!(failed == 0, "{failed} requests failed");
        // A tenth more than planned: somebody else's machine may be busy.
        ensure!(took <= TIME * 11 / 10, "the changes took {took:?}");
        ensure!(
            sent as f64 / took.as_secs_f64() >= 500.0,
            "{sent} requests in {took:?}"
        );
        Ok(())
    });
}
