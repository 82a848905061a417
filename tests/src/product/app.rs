//! The sample application: answers with its own name and what it was asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::Result;

use super::binary;
use crate::http::Client;
use crate::process::Running;
use crate::wait::seconds;
use crate::world::World;

/// The port on which applications listen where a sidecar has the well-known one.
pub const PORT: u16 = 18_080;

/// A running sample application.
#[derive(Debug)]
pub struct App {
    /// The application as a process.
    pub process: Running,
    /// Where it listens.
    pub address: SocketAddr,
}

impl App {
    /// Starts one on `ip`, port 18080: behind a sidecar.
    pub async fn start(world: &World, name: &str, ip: Ipv4Addr) -> Result<Self> {
        Self::start_at(world, name, (ip, PORT).into()).await
    }

    /// Starts one anywhere: a port of its own stands for a pod without sidecar.
    pub async fn start_at(world: &World, name: &str, address: SocketAddr) -> Result<Self> {
        let mut command = Command::new(binary("sluice-example-app")?);
        command.args(["--name", name, "--listen", &address.to_string()]);
        let mut process = Running::start(world, &format!("app-{name}"), command)?;
        let client = Client::new(address);
        process
            .ready(seconds(20), async || {
                client.get("/healthz").await?.expect(200).map(drop)
            })
            .await?;
        Ok(Self { process, address })
    }
}
