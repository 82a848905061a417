//! What a CPU limit on the sidecar costs at 200 requests a second. Printed, not judged: it is why there is none by default.

use anyhow::ensure;
use sluice_e2e::wire::{Ask, LoadSpec};
use sluice_e2e::{ClientPod, Place, on_cluster, seconds};

#[test]
fn a_limit_of_100m_is_printed_beside_none() {
    on_cluster!("cpu-limit", seconds(240), async |place: &Place| {
        place.apply(include_str!("cpu_limit.yaml")).await?;
        for deployment in ["free", "limited"] {
            place.rolled_out(deployment).await?;
        }
        place.ready(&["apiroute/free", "apiroute/limited"]).await?;
        let client = ClientPod::start(place, "client").await?;
        for (kind, connections) in [("kept", 4), ("new", 0)] {
            for deployment in ["free", "limited"] {
                let load = client
                    .load(&LoadSpec {
                        ask: Ask::get(&format!("{deployment}:80"), "/"),
                        per_second: 200,
                        connections,
                        http2: false,
                        at_most_seconds: 12,
                    })
                    .await?;
                let seen = load.run_out().await?;
                println!(
                    "{deployment}, {kind} connections: p50 {:.1} ms, p99 {:.1} ms of {}",
                    seen.p50_ms, seen.p99_ms, seen.sent
                );
                ensure!(seen.sent > 1000 && seen.failed == 0, "{seen:?}");
            }
        }
        let limit =
            "jsonpath={.items[0].spec.initContainers[?(@.name=='sluice')].resources.limits.cpu}";
        let limit = place
            .kubectl(["get", "pods", "-l", "app=limited", "-o", limit])
            .await?;
        ensure!(limit == "100m", "the annotation set {limit:?}");
        Ok(())
    });
}
