//! Clients and servers that others wrote, through a real sidecar fed by a real operator: what the tables of cases say is
//! what real programs make of it. `make tools` installs and builds them; none is left out where it is missing.

mod grpc;
mod h2spec;
mod http;
mod websocket;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::{Running, Sidecar, World, eventually, seconds};

use crate::place::{Place, Plan, service};

/// A route for every host to the pods' own application.
const OPEN: &str = "  rules: [{name: all}]\n";

/// A Service `NAME` with two pods, to be started with [`front`]; its addresses.
fn planned(
    plan: &Plan<'_>,
    world: &World,
    name: &str,
    route: &str,
    protocol: &str,
) -> Result<[Ipv4Addr; 2]> {
    let addresses = [world.address(), world.address()];
    let spoken = format!("targetPort: 8080, appProtocol: {protocol}, protocol: TCP");
    let yaml = service(name, &addresses).replacen("targetPort: 8080, protocol: TCP", &spoken, 1);
    ensure!(
        yaml.contains(protocol),
        "the Service has no such line: {yaml}"
    );
    plan.put(&format!("service-{name}"), &yaml)?;
    let route = format!(
        "apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, name: {name}}}]
{route}"
    );
    plan.put(&format!("route-{name}"), &route)?;
    Ok(addresses)
}

/// Two pods of a Service: each an application that `command` starts for an address, and the sidecar in front.
async fn front(
    world: &World,
    place: &Place<'_>,
    name: &str,
    addresses: [Ipv4Addr; 2],
    command: impl Fn(SocketAddr) -> Result<Command>,
) -> Result<Vec<(Running, Sidecar)>> {
    let mut pods = Vec::new();
    for (number, ip) in addresses.into_iter().enumerate() {
        let pod = format!("{name}-{number}");
        let app = SocketAddr::from((ip, 18_080));
        let mut running = Running::start(world, &format!("app-{pod}"), command(app)?)?;
        running
            .ready(seconds(20), async || {
                tokio::net::TcpStream::connect(app).await?;
                Ok(())
            })
            .await?;
        pods.push((running, place.sidecar(&pod, ip).await?));
    }
    place.live("ApiRoute", name).await?;
    Ok(pods)
}

/// Runs a client to its end; its standard output and error. A client that fails, or takes longer than half a minute, is an
/// error with both.
async fn run(world: &World, name: &str, command: Command) -> Result<(String, String)> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    // A name of its own: what an earlier one printed is not this one's.
    let name = format!("{name}-{}", RUNS.fetch_add(1, Ordering::Relaxed));
    let mut running = Running::start(world, &name, command)?;
    let ended = running.ended(seconds(30)).await?;
    let (out, err) = (running.stdout(), running.stderr());
    ensure!(ended.success(), "{name}: {ended}\n{out}\n{err}");
    Ok((out, err))
}

/// The JSON that a client printed.
fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))
}

/// A program of `tests/clients`, which `hack/clients.sh` builds.
fn built(name: &str) -> Result<PathBuf> {
    let script = root().join("hack/clients.sh");
    let out = Command::new(&script).output();
    let out = out.with_context(|| format!("running {}", script.display()))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success(),
        "{}: {said}; `make tools` builds them",
        script.display()
    );
    let folder = String::from_utf8(out.stdout)?;
    Ok(Path::new(folder.trim()).join(name))
}

/// A script of `tests/clients`, and what runs it.
fn script(interpreter: &str, name: &str) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(root().join("tests/clients/scripts").join(name));
    command
}

/// Debian's, where its packages are.
fn python(name: &str) -> Command {
    script("/usr/bin/python3", name)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
