//! Where the time of a change goes: the histograms watch -> translate -> sent -> acked, one observation for each step that
//! was taken, and together no more than the clock says.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sluice_tests::{With, eventually, get, isolated, seconds};

use crate::place::{Place, Plan, changed};

/// Changes of the route, one after the other.
const CHANGES: u64 = 5;
/// From its source to its translation, and that.
const ONCE: [&str; 2] = [
    "sluice_operator_engine_seen_to_begun_seconds",
    "sluice_operator_engine_translate_seconds",
];
/// From its publication to each sidecar, and from there back.
const EACH: [&str; 2] = [
    "sluice_operator_stream_step_seconds{step=\"sent\"}",
    "sluice_operator_stream_step_seconds{step=\"acked\"}",
];
/// All of it, for each sidecar.
const WHOLE: &str = "sluice_operator_stream_seen_to_acked_seconds";

/// Observations of a histogram, and their sum in seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    count: u64,
    sum: f64,
}

impl Seen {
    fn since(self, former: Self) -> Self {
        Self {
            count: self.count - former.count,
            sum: self.sum - former.sum,
        }
    }
}

/// Every histogram without labels, or with its labels, by its name.
async fn histograms(place: &Place<'_>) -> Result<BTreeMap<String, Seen>> {
    let metrics = place.operator.metrics().await?;
    let mut all: BTreeMap<String, Seen> = BTreeMap::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').context("a value")?;
        let (name, labels) = series
            .find('{')
            .map_or((series, ""), |at| series.split_at(at));
        if let Some(name) = name.strip_suffix("_count") {
            all.entry(format!("{name}{labels}")).or_default().count = value.parse()?;
        } else if let Some(name) = name.strip_suffix("_sum") {
            all.entry(format!("{name}{labels}")).or_default().sum = value.parse()?;
        }
    }
    Ok(all)
}

#[test]
fn each_step_of_a_change_is_measured_once_and_the_whole_is_their_sum() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put("route", &changed(0))?;
        let place = plan.start().await?;
        place.live("ApiRoute", "orders").await?;
        let sidecars = place.pods.len() as u64;

        // A sidecar that joins waits for nothing: of its first version no time is told.
        let before = histograms(&place).await?;
        let began = Instant::now();
        for n in 1..=CHANGES {
            place.put("route", &changed(n))?;
            for pod in &place.pods {
                eventually("the change", seconds(20), async || {
                    let ask = get("/").with("host", "orders.example");
                    let answer = pod.sidecar.client().send_fresh(ask).await?;
                    let shown = answer.header("x-change");
                    ensure!(shown == Some(&*n.to_string()), "{shown:?}");
                    Ok(())
                })
                .await?;
            }
        }
        // An answer may show the change before its Ack has come.
        let seen = eventually("every Ack", seconds(20), async || {
            let after = histograms(&place).await?;
            let seen = |name: &str| {
                let of = |all: &BTreeMap<String, Seen>| all.get(name).copied().unwrap_or_default();
                of(&after).since(of(&before))
            };
            let acks = seen(WHOLE).count;
            ensure!(acks == CHANGES * sidecars, "{acks} in {after:?}");
            Ok([ONCE[0], ONCE[1], EACH[0], EACH[1], WHOLE].map(seen))
        })
        .await?;
        let elapsed = began.elapsed().as_secs_f64();
        println!("{CHANGES} changes, {sidecars} sidecars, {elapsed:.3} s: {seen:?}");
        let [waited, translated, sent, acked, whole] = seen;
        // A change of the directory may come in two parts, one of which changes no unit.
        ensure!(
            waited.count >= CHANGES && translated.count >= CHANGES,
            "{waited:?} {translated:?}"
        );
        ensure!(
            sent.count == CHANGES * sidecars && acked.count == CHANGES * sidecars,
            "{sent:?} {acked:?}"
        );
        ensure!(
            translated.sum > 0.0 && sent.sum > 0.0 && acked.sum > 0.0,
            "{seen:?}"
        );
        // The whole has all the steps, of each sidecar. What a part without a unit took is in no whole.
        let mut steps = sent.sum + acked.sum;
        if translated.count == CHANGES {
            steps += (waited.sum + translated.sum) * sidecars as f64;
        }
        ensure!(
            whole.sum >= steps && whole.sum <= elapsed * sidecars as f64,
            "{whole:?} of {elapsed} s, its steps {steps} s"
        );
        Ok(())
    });
}
