//! The sidecar as it ships, configured by the real operator in file mode.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{Server, free, http, poll, running::Running};
use crate::{
    credentials::Keys,
    world::{self, NAMESPACE, gateway::Gateway},
};

/// How long anything may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// The two pods: the second one writes an access log.
const PODS: [(&str, Ipv4Addr); 2] = [
    ("gateway-0", Ipv4Addr::new(127, 0, 0, 1)),
    ("gateway-1", Ipv4Addr::new(127, 0, 0, 2)),
];

/// Routes of the gateway beside the one that is measured.
const OTHER_ROUTES: usize = 99;

/// The binaries.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `sluice-sidecar`.
    pub sidecar: PathBuf,
    /// `sluice-operator`.
    pub operator: PathBuf,
    /// A program, with arguments, that the quiet sidecar runs under; none: by itself.
    pub under: Vec<OsString>,
}

/// A running operator and two sidecars.
pub struct Sluice {
    /// Writes no access log.
    pub quiet: Server,
    /// Writes one.
    pub logged: Server,
    /// Ended last.
    _operator: Running,
}

impl Programs {
    /// As named, else beside this program, else (the operator) in the folder of the dev build beside it.
    pub fn find(sidecar: Option<&Path>, operator: Option<&Path>) -> Result<Self> {
        let here = std::env::current_exe().context("this program does not know where it is")?;
        let folder = here.parent().context("this program is in no folder")?;
        let dev = folder.with_file_name("debug");
        let find = |named: Option<&Path>, name: &str, folders: &[&Path]| {
            let places = folders.iter().map(|folder| folder.join(name));
            let found = named
                .map(Path::to_owned)
                .into_iter()
                .chain(places)
                .find(|file| file.is_file());
            found.with_context(|| format!("{name} is not built"))
        };
        Ok(Self {
            sidecar: find(sidecar, "sluice-sidecar", &[folder])?,
            operator: find(operator, "sluice-operator", &[folder, &dev])?,
            under: Vec::new(),
        })
    }

    /// Starts all on two cores, the sidecars on the first, and waits until they enforce the gateway's rules.
    pub fn start(
        &self,
        cores: [usize; 2],
        dir: &Path,
        keys: &Keys,
        origin: SocketAddr,
    ) -> Result<Sluice> {
        let port = common_port()?;
        let [manifests, state] = ["manifests", "operator"].map(|name| dir.join(name));
        folder(&manifests)?;
        let pods = PODS
            .map(|(pod, address)| (pod.to_owned(), address.to_string()))
            .into();
        fs::write(
            manifests.join("bench.yaml"),
            world::text(
                &Gateway {
                    port,
                    pods,
                    others: OTHER_ROUTES,
                }
                .documents(keys)?,
            ),
        )?;
        let listen = free()?;
        let mut command = Command::new(&self.operator);
        command
            .arg("--manifests")
            .arg(&manifests)
            .arg("--state-dir")
            .arg(&state);
        command.args([
            "--listen",
            &listen.to_string(),
            "--health",
            &free()?.to_string(),
        ]);
        let mut operator = Running::start("operator", cores[1], dir, &mut command)?;
        let token = |pod: &str| state.join(format!("join/{NAMESPACE}.{pod}.token"));
        poll::until(PATIENCE, || {
            operator.check()?;
            let files = [state.join("roots.pem"), token(PODS[0].0), token(PODS[1].0)];
            ensure!(
                files.iter().all(|file| file.exists()),
                "the operator writes no tokens"
            );
            Ok(())
        })?;
        let sidecar = |(pod, address): (&'static str, Ipv4Addr),
                       log: &str,
                       under: &[OsString]|
         -> Result<Server> {
            let address = SocketAddr::from((address, port));
            let kept = dir.join(format!("{pod}-state"));
            folder(&kept)?;
            let mut words = under.iter().map(OsString::as_os_str);
            let mut command = Command::new(words.next().unwrap_or(self.sidecar.as_os_str()));
            if !under.is_empty() {
                command.args(words).arg(&self.sidecar);
            }
            command.arg("--inbound").arg(format!("{address}={origin}"));
            command.args([
                "--operator",
                &listen.to_string(),
                "--data-threads",
                "1",
                "--access-log",
                log,
            ]);
            command.args([
                "--admin",
                &free()?.to_string(),
                "--metrics",
                &free()?.to_string(),
            ]);
            command
                .arg("--token-file")
                .arg(token(pod))
                .arg("--roots")
                .arg(state.join("roots.pem"));
            command.arg("--state-dir").arg(&kept);
            let mut running = Running::start(pod, cores[0], dir, &mut command)?;
            poll::until(PATIENCE, || {
                running.check()?;
                enforces(address)
            })?;
            Ok(Server { running, address })
        };
        Ok(Sluice {
            quiet: sidecar(PODS[0], "off", &self.under)?,
            logged: sidecar(PODS[1], "stdout", &[])?,
            _operator: operator,
        })
    }
}

/// Whether the rules are in force: each feature that is measured must show that it is there.
fn enforces(address: SocketAddr) -> Result<()> {
    let ask =
        |target: &str, more: &[(&str, &str)]| http::exchange(address, &http::get(target, more));
    let status = |target: &str| Ok::<_, anyhow::Error>(ask(target, &[])?.status());
    ensure!(
        status("/no-rule-names-this")? == 404,
        "the sidecar does not enforce the routes"
    );
    ensure!(
        status("/plain/128")? == 200,
        "the sidecar does not reach the upstream"
    );
    ensure!(
        status("/rs256/128")? == 401,
        "the sidecar asks for no token"
    );
    let limited = ask("/limited/128", &[(world::gateway::CLIENT_HEADER, "one")])?;
    ensure!(
        limited.value("ratelimit").is_some(),
        "the sidecar does not limit"
    );
    for size in [1024, 32768] {
        let target = format!("/cached/{size}");
        ask(&target, &[])?;
        let again = ask(&target, &[])?;
        ensure!(
            again
                .value("cache-status")
                .is_some_and(|said| said.contains("hit")),
            "the sidecar does not cache"
        );
    }
    Ok(())
}

/// A new folder for its owner only.
fn folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .context("cannot make a folder")
}

/// A port that is free on both pods' addresses: the targetPort is one number.
fn common_port() -> Result<u16> {
    poll::until(PATIENCE, || {
        let port = free()?.port();
        for (_, address) in PODS {
            TcpListener::bind((address, port)).context("the port is taken on another address")?;
        }
        Ok(port)
    })
}
