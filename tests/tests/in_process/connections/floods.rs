//! Floods of HTTP/2: what costs a client nothing and a server work. The connection ends with ENHANCE_YOUR_CALM, and load
//! beside it sees nothing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_tests::isolated;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::raw::{PATIENCE, connect, frame, goaways, header_block, preface};
use super::{open_pod, others};

const ENHANCE_YOUR_CALM: u32 = 0xb;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Sends the pieces, with a breath after each so many, and gives all that the server said before it closed.
async fn flood(address: SocketAddr, pieces: &[Vec<u8>], breath_after: usize) -> Result<Vec<u8>> {
    let (mut reads, mut writes) = connect(address).await?.into_split();
    let said = tokio::spawn(async move {
        let mut said = Vec::new();
        while !matches!(reads.read_buf(&mut said).await, Ok(0) | Err(_)) {}
        said
    });
    let sending = async {
        writes.write_all(&preface()).await?;
        for pieces in pieces.chunks(breath_after) {
            writes.write_all(&pieces.concat()).await?;
            // Lets the server take them one by one: nothing is waited for.
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        std::io::Result::Ok(())
    };
    // It fails where the server has had enough.
    let _ = timeout(PATIENCE, sending)
        .await
        .context("the server reads no more")?;
    timeout(PATIENCE, said)
        .await
        .context("it was never closed")?
        .context("no panic")
}

/// A request and its cancellation, on `count` streams.
fn resets(count: u32) -> Vec<Vec<u8>> {
    let cancel = 8u32.to_be_bytes();
    let both = |number: u32| {
        let stream = 2 * number + 1;
        let ask = frame(HEADERS, END_STREAM | END_HEADERS, stream, &header_block());
        [ask, frame(RST_STREAM, 0, stream, &cancel)].concat()
    };
    (0..count).map(both).collect()
}

#[test]
fn floods_end_their_own_connection_and_cost_nobody_else() {
    isolated!(async |world| {
        let place = open_pod(world, &[]).await?;
        let sidecar = &place.pods[0].sidecar;
        let quiet = others(sidecar).run(Duration::from_secs(2)).await;
        let load = others(sidecar).start();
        let endless = [
            vec![frame(HEADERS, 0, 1, &header_block())],
            vec![frame(CONTINUATION, 0, 1, b""); 20_000],
        ];
        let floods = [
            ("resets at once", resets(10_000), 1_000),
            ("resets one by one", resets(10_000), 5),
            ("pings", vec![frame(PING, 0, 0, &[7; 8]); 20_000], 50),
            ("settings", vec![frame(SETTINGS, 0, 0, &[]); 20_000], 50),
            ("continuations", endless.concat(), 50),
        ];
        for (kind, pieces, breath_after) in floods {
            // Once for each data thread, as far as the kernel's choice has it.
            for _ in 0..4 {
                let said = flood(sidecar.address, &pieces, breath_after).await?;
                let codes = goaways(&said);
                ensure!(
                    codes.last() == Some(&ENHANCE_YOUR_CALM),
                    "{kind}: {codes:?}"
                );
            }
        }
        let load = load.finish_after(1_000).await;
        println!("before: {quiet}\nbeside the floods: {load}");
        ensure!(quiet.failed == 0 && load.failed == 0, "{load}");
        let closed = super::closed_for(sidecar, "flood").await?;
        println!(
            "{closed} connections were ended by the sidecar's own count, the others by the engine's"
        );
        ensure!(closed > 0, "no flood was counted");
        Ok(())
    });
}
