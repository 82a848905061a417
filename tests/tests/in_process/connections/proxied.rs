//! The PROXY protocol in front of the sidecar.

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_tests::{Sidecar, eventually, isolated, seconds};

use super::closed_for;
use super::raw::{connect, last_answer};
use crate::place::{Plan, policy, route};

const ASK: &str = "GET / HTTP/1.1\r\nhost: open.example\r\nconnection: close\r\n\r\n";
/// One request an hour for each address.
const ONCE: &str = "    key: [{type: ClientAddress}]\n    algorithm: {type: TokenBucket, tokenBucket: {requests: 1, per: 1h}}\n";

/// A header of version 2 for 192.0.2.77, with a TLV.
fn binary() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
    header.extend([192, 0, 2, 77, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb]);
    header.extend([0xea, 0, 1, 7]);
    header
}

async fn status(sidecar: &Sidecar, header: &[u8]) -> Result<u16> {
    let bytes = [header, ASK.as_bytes()].concat();
    Ok(last_answer(connect(sidecar.address).await?, &bytes)
        .await?
        .status())
}

async fn peers(sidecar: &Sidecar, wanted: &[&str]) -> Result<()> {
    eventually("the addresses in the log", seconds(10), async || {
        let lines = sidecar.access_log();
        for peer in wanted {
            let is = |line: &&Value| line["peer"] == *peer;
            ensure!(lines.iter().any(|line| is(&line)), "{peer} in {lines:?}");
        }
        Ok(())
    })
    .await
}

fn config(proxy_protocol: &str) -> String {
    format!(
        "apiVersion: config.sluice.dev/v1alpha1\nkind: SluiceConfig\ntrustDomain: shop.example\ntrustedHops: {{proxyProtocol: {proxy_protocol}}}\n"
    )
}

#[test]
fn the_header_names_whom_limits_and_log_mean() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put("open", &route("open", ""))?;
        plan.put("once", &policy("open", ONCE))?;
        plan.put("config", &config("Required"))?;
        let place = plan.start().await?;
        place.live("ApiRoute", "open").await?;
        place.live("RateLimitPolicy", "open").await?;
        let sidecar = &place.pods[0].sidecar;

        let line = |client: &str| format!("PROXY TCP4 {client} 198.51.100.1 4711 443\r\n");
        for (header, expected) in [
            (line("192.0.2.1").into_bytes(), 200),
            (line("192.0.2.1").into_bytes(), 429),
            (line("192.0.2.2").into_bytes(), 200),
            (binary(), 200),
            (binary(), 429),
            (b"PROXY UNKNOWN\r\n".to_vec(), 200),
            (Vec::new(), 0),
            (b"PROXY TCP4 somebody 198.51.100.1 1 2\r\n".to_vec(), 0),
        ] {
            let got = status(sidecar, &header).await?;
            ensure!(
                got == expected,
                "{got} for {:?}",
                String::from_utf8_lossy(&header)
            );
        }
        peers(sidecar, &["192.0.2.1:4711", "192.0.2.77:56324"]).await?;
        ensure!(closed_for(sidecar, "proxy-header-missing").await? == 1);
        ensure!(closed_for(sidecar, "proxy-header-malformed").await? == 1);

        place.put("config", &config("Optional"))?;
        eventually("a connection without a header", seconds(20), async || {
            let status = status(sidecar, b"").await?;
            ensure!(matches!(status, 200 | 429), "{status}");
            Ok(())
        })
        .await?;
        let got = status(sidecar, line("192.0.2.3").as_bytes()).await?;
        ensure!(got == 200, "{got}");
        Ok(())
    });
}
