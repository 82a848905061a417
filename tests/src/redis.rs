//! redis-server, without persistence, at an address of its own. Which commands the product should send is the tests'.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;

use crate::process::Running;
use crate::wait::seconds;
use crate::world::World;

/// What connections say by themselves, and the fixture's own questions.
const CHATTER: [&str; 7] = [
    "client", "config", "hello", "info", "ping", "command", "auth",
];

/// A Redis server. `process` can be frozen, thawed and killed.
#[derive(Debug)]
pub struct Redis {
    /// The server as a process.
    pub process: Running,
    address: SocketAddr,
}

impl Redis {
    /// Starts one on an address of its own, port 6379, and waits for its PONG.
    pub async fn start(world: &World) -> Result<Self> {
        Self::start_at(world, world.address()).await
    }

    /// Starts one where an earlier one was killed; it begins empty.
    pub async fn start_at(world: &World, ip: Ipv4Addr) -> Result<Self> {
        let address = SocketAddr::from((ip, 6379));
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            &ip.to_string(),
            "--port",
            "6379",
            "--save",
            "",
            "--appendonly",
            "no",
            "--protected-mode",
            "no",
        ]);
        command.arg("--dir").arg(world.dir());
        let process = Running::start(world, &format!("redis-{ip}"), command)
            .context("`make tools` installs redis-server")?;
        let mut redis = Self { process, address };
        redis
            .process
            .ready(seconds(20), async || ping(address).await)
            .await?;
        Ok(redis)
    }

    /// `IP:PORT`, as a store's `addresses` wants it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls per command since the start or the last [`Self::reset_counts`], without what connections say by
    /// themselves. Commands that a script calls are counted beside the script.
    pub async fn command_counts(&self) -> Result<BTreeMap<String, u64>> {
        let text: String = redis::cmd("INFO")
            .arg("commandstats")
            .query_async(&mut connect(self.address).await?)
            .await?;
        Ok(parse_counts(&text))
    }

    /// The sum of [`Self::command_counts`].
    pub async fn command_count(&self) -> Result<u64> {
        Ok(self.command_counts().await?.values().sum())
    }

    /// Starts the counts anew.
    pub async fn reset_counts(&self) -> Result<()> {
        redis::cmd("CONFIG")
            .arg("RESETSTAT")
            .query_async::<()>(&mut connect(self.address).await?)
            .await?;
        Ok(())
    }

    /// All keys, sorted.
    pub async fn keys(&self) -> Result<Vec<String>> {
        let mut keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut connect(self.address).await?)
            .await?;
        keys.sort();
        Ok(keys)
    }
}

async fn connect(address: SocketAddr) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://{address}/"))?;
    client
        .get_multiplexed_async_connection()
        .await
        .with_context(|| format!("connecting to Redis at {address}"))
}

async fn ping(address: SocketAddr) -> Result<()> {
    redis::cmd("PING")
        .query_async::<()>(&mut connect(address).await?)
        .await?;
    Ok(())
}

/// Reads lines like `cmdstat_evalsha:calls=3,usec=5,...` and `cmdstat_client|setinfo:calls=2,...`.
fn parse_counts(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls = rest.split(',').next()?.parse().ok()?;
            let family = name.split('|').next()?;
            (!CHATTER.contains(&family)).then(|| (name.to_string(), calls))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chatter_is_not_counted() {
        let text = "# Commandstats\r\ncmdstat_evalsha:calls=3,usec=9\r\ncmdstat_client|setinfo:calls=2,usec=1\r\ncmdstat_info:calls=1,usec=1\r\n";
        assert_eq!(parse_counts(text), BTreeMap::from([("evalsha".into(), 3)]));
    }
}
