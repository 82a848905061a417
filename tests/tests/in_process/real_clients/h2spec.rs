//! The conformance suite of HTTP/2 and HPACK against the sidecar.

use super::*;
use sluice_tests::isolated;

/// The one case that fails: bytes that are no preface of HTTP/2 are taken for HTTP/1.1, which the same port speaks, and
/// answered with 400 in HTTP/1.1 before the connection ends; the suite waits for a frame.
const KNOWN: &str = "2: Sends invalid connection preface";

#[test]
fn the_suite_of_http2_passes() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put(
            "open",
            &crate::place::route("open", OPEN).replace("  hostnames: [open.example]\n", ""),
        )?;
        let place = plan.start().await?;
        place.live("ApiRoute", "open").await?;
        let address = place.pods[0].sidecar.address;
        let mut command = Command::new(built("h2spec")?);
        command.args([
            "--host",
            &address.ip().to_string(),
            "--port",
            &address.port().to_string(),
        ]);
        // Strict: the SHOULD of RFC 9113 section 5.4.1 too, the 146th case.
        command.args(["--path", "/", "--timeout", "3", "--strict"]);
        let mut running = Running::start(world, "h2spec", command)?;
        // It fails where a single case does.
        running.ended(seconds(50)).await?;
        let report = running.stdout();
        let line = report.lines().rev().find(|line| line.contains(" tests, "));
        let line = line.with_context(|| format!("no summary: {report}\n{}", running.stderr()))?;
        println!("{line}");
        let count = |what: &str| -> Result<u32> {
            let part = line.split(", ").find_map(|part| part.strip_suffix(what));
            Ok(part.with_context(|| line.to_owned())?.trim().parse()?)
        };
        let (all, failed) = (count(" tests")?, count(" failed")?);
        ensure!(all == 146 && failed <= 1, "{report}");
        let failed: Vec<_> = report.lines().filter(|line| line.contains('×')).collect();
        ensure!(
            failed.iter().all(|line| line.contains(KNOWN)),
            "{failed:#?}"
        );
        Ok(())
    });
}
