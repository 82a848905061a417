//! Whether anything is left behind: connections that come and go, and routes that change, for a while. `make soak` runs it
//! for two minutes; CI a sample.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sluice_tests::{eventually, isolated, seconds};

use super::{open_pod, others};
use crate::place::route;

/// How long, in seconds, where not told.
const SAMPLE_S: u64 = 16;
/// The environment variable that tells.
const SECONDS: &str = "SLUICE_SOAK_SECONDS";
/// Between two looks, and between two changes of the routes.
const LOOK: Duration = Duration::from_millis(200);

/// Resident memory, in KiB.
fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(kib.parse()?)
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// By how much the values grow from first to last on the line that fits them best, as a share of their mean.
fn growth(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let middle = (count - 1.0) / 2.0;
    let places = || {
        values
            .iter()
            .enumerate()
            .map(|(at, value)| (at as f64 - middle, value - mean))
    };
    let slope = places().map(|(at, value)| at * value).sum::<f64>()
        / places().map(|(at, _)| at * at).sum::<f64>();
    slope * (count - 1.0) / mean
}

#[test]
fn growth_is_that_of_the_fitting_line() {
    let line: Vec<_> = (0..11).map(|at| 95.0 + f64::from(at)).collect();
    assert!((growth(&line) - 0.1).abs() < 1e-9);
    assert!(growth(&[5.0, 7.0, 5.0]).abs() < 1e-9);
}

#[test]
fn nothing_is_left_behind() {
    let told = std::env::var(SECONDS)
        .ok()
        .and_then(|told| told.parse().ok());
    let time = seconds(told.unwrap_or(SAMPLE_S));
    isolated!(time + seconds(120), async |world| {
        let mut place = open_pod(world, &[]).await?;
        let sidecar = &place.pods[0].sidecar;
        let pid = sidecar.process.pid();
        let before = descriptors(pid)?;
        // What is kept for good is there after the first few requests.
        let warm = others(sidecar).fresh_every(2).run(seconds(2)).await;
        ensure!(warm.failed == 0, "{warm}");

        let load = others(sidecar).per_second(200).fresh_every(1).start();
        let (began, mut memory, mut changes) = (Instant::now(), Vec::new(), 0);
        while began.elapsed() < time {
            changes += 1;
            // A few names that come and go: the counters of a rule outlive it.
            let name = changes % 5;
            let other = format!(
                "  rules: [{{name: r{name}, matches: [{{path: {{type: PathPrefix, value: /}}}}]}}]\n"
            );
            place.put("open", &route("open", &other))?;
            place.put(
                "churned",
                &route(&format!("churned-{}", changes % 7), &other),
            )?;
            tokio::time::sleep(LOOK).await;
            memory.push(resident(pid)?);
        }
        let report = load.finish().await;
        ensure!(report.failed == 0, "{report}");
        let last = &memory[memory.len() / 2..];
        let grown = growth(last);
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        println!(
            "{report}\n{changes} changes; RSS {mean:.0} KiB, {:+.2} % over the last half",
            grown * 100.0
        );
        ensure!(
            grown <= 0.01,
            "memory grows by {:.2} %: {memory:?}",
            grown * 100.0
        );
        // Connections to the application are kept for a minute, as long as it lives.
        place.pods[0].app.process.kill();
        eventually(
            "the descriptors of the beginning",
            seconds(20),
            async || {
                let after = descriptors(pid)?;
                ensure!(
                    after.abs_diff(before) <= 2,
                    "{before} before, {after} after"
                );
                Ok(())
            },
        )
        .await
    });
}
