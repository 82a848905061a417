//! WebSockets of a real library at both ends.

use super::*;
use sluice_tests::isolated;

/// Starts the server at an address.
pub fn server(address: SocketAddr) -> Result<Command> {
    let mut command = python("sockets.py");
    command.args(["serve", &address.to_string()]);
    Ok(command)
}

#[test]
fn websockets_pass_both_ways_and_are_counted() {
    isolated!(async |world| {
        let plan = Plan::new(world)?;
        let addresses = planned(&plan, world, "sockets", OPEN, "http")?;
        let place = plan.start().await?;
        let mut pods = front(world, &place, "sockets", addresses, server).await?;
        for (_, sidecar) in &pods {
            let mut command = python("sockets.py");
            command.args(["talk", &sidecar.address.to_string()]);
            let (out, _) = run(world, "talk", command).await?;
            let said = json(&out)?;
            ensure!(
                said == serde_json::json!({"small": 200, "large": 12, "closed": 1000}),
                "{said}"
            );
        }
        let (_, sidecar) = &mut pods[0];
        let mut command = python("sockets.py");
        command.args(["hold", &sidecar.address.to_string()]);
        let held = Running::start(world, "hold", command)?;
        eventually("an open WebSocket", seconds(20), async || {
            ensure!(held.stdout().contains("open"), "{}", held.log());
            let metrics = sidecar.scrape().await?;
            ensure!(
                metrics.contains("\nsluice_upgraded_connections 1\n"),
                "{metrics}"
            );
            ensure!(metrics.contains("\nsluice_upgrades_total 2\n"), "{metrics}");
            Ok(())
        })
        .await?;
        eventually("the line of the 101", seconds(10), async || {
            let log = sidecar.access_log();
            ensure!(log.iter().any(|line| line["status"] == 101), "{log:?}");
            Ok(())
        })
        .await?;
        Ok(())
    });
}
