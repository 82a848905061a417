//! The client that the tests on a real cluster run in a pod. JSON in, JSON out.

use anyhow::{Result, ensure};
use clap::Parser;
use sluice_e2e::wire::Ask;
use sluice_e2e::{calls, latency, processes};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, stdin};

/// What to do with the JSON on standard input.
#[derive(Debug, Clone, Parser)]
#[command(name = "sluice-e2e-client", version)]
enum Command {
    /// Nothing, until SIGTERM: what the pod does between two calls
    Idle,
    /// Sends requests one after the other, each on a connection of its own
    Send,
    /// Sends at a constant rate until standard input ends; what to send is its first line
    Load,
    /// Opens a raw connection
    Tcp,
    /// Changes a route and times each change until all pods answer with it
    Latency,
    /// Sends one GET and succeeds where it is answered 200
    Get {
        /// host:port
        #[arg(long)]
        to: String,
        /// What goes on the request line
        #[arg(long, default_value = "/")]
        path: String,
        /// Any answer will do
        #[arg(long)]
        any: bool,
    },
    /// Prints the id of a process of the sidecar, where the pod's containers share their processes
    Find {
        /// Which
        role: processes::Role,
    },
    /// Kills a process, as a crash would
    Kill {
        /// Its id
        pid: u32,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let answer = match Command::parse() {
        Command::Idle => {
            let mut end =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            end.recv().await;
            return Ok(());
        }
        Command::Get { to, path, any } => {
            let told = calls::send(vec![Ask::get(&to, &path)]).await;
            ensure!(
                told.iter()
                    .all(|told| told.status() == 200 || (any && told.status() > 0)),
                "{told:?}"
            );
            return Ok(());
        }
        Command::Find { role } => processes::find(role)?.to_string(),
        Command::Kill { pid } => {
            processes::kill(pid)?;
            return Ok(());
        }
        Command::Send => serde_json::to_string(&calls::send(input().await?).await)?,
        Command::Tcp => serde_json::to_string(&calls::tcp(input().await?).await)?,
        Command::Latency => {
            // With two providers in a build, rustls would not choose.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            serde_json::to_string(&latency::measure(input().await?).await?)?
        }
        Command::Load => {
            let mut input = BufReader::new(stdin());
            let mut line = String::new();
            input.read_line(&mut line).await?;
            let end = async {
                // Its end is what counts, not its content.
                let _ = input.read_to_end(&mut Vec::new()).await;
            };
            serde_json::to_string(&calls::load(serde_json::from_str(&line)?, end).await?)?
        }
    };
    println!("{answer}");
    // Not by returning: where a load ended by its own bound, a read of standard input would be waited for.
    std::process::exit(0)
}

/// The whole of standard input.
async fn input<T: serde::de::DeserializeOwned>() -> Result<T> {
    let mut text = String::new();
    stdin().read_to_string(&mut text).await?;
    Ok(serde_json::from_str(&text)?)
}
