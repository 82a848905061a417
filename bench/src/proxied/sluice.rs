//! The sidecar as it ships, configured by the real operator in file mode.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Server, cells::PLAIN, free, http, poll, running::Running, tls};
use crate::{
    credentials::Keys,
    world::{self, NAMESPACE, gateway::Gateway},
};

/// How long anything may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pods: the second one writes an access log, the third counts no requests.
const PODS: [(&str, Ipv4Addr); 3] = [
    ("gateway-0", Ipv4Addr::new(127, 0, 0, 1)),
    ("gateway-1", Ipv4Addr::new(127, 0, 0, 2)),
    ("gateway-2", Ipv4Addr::new(127, 0, 0, 3)),
];
/// Where the edge is.
const EDGE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// Between two tries to be answered by a sidecar that starts.
const LOOK: Duration = Duration::from_micros(500);
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

/// A running operator, sidecars of one application, and an edge.
pub struct Sluice {
    /// Writes no access log.
    pub quiet: Server,
    /// Writes one.
    pub logged: Server,
    /// Writes none and counts nothing.
    pub bare: Server,
    /// Speaks TLS.
    pub edge: Server,
    /// How the quiet one can be started again.
    again: Again,
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
        let gateway = Gateway {
            port,
            pods,
            others: OTHER_ROUTES,
        };
        let mut documents = gateway.documents(keys)?;
        documents.extend(world::edge::documents(keys, port, origin));
        fs::write(manifests.join("bench.yaml"), world::text(&documents))?;
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
        let edge = format!("gateway.{}", world::edge::GATEWAY);
        let token = |name: &str| state.join(format!("join/{NAMESPACE}.{name}.token"));
        poll::until(PATIENCE, || {
            operator.check()?;
            let tokens = PODS.map(|(pod, _)| token(pod));
            let files = [state.join("roots.pem"), token(&edge)];
            ensure!(
                files.iter().chain(&tokens).all(|file| file.exists()),
                "the operator writes no tokens"
            );
            Ok(())
        })?;
        let start = |name: &'static str, place: &[String], token: PathBuf, under: &[OsString]| {
            let kept = dir.join(format!("{name}-state"));
            folder(&kept)?;
            let mut arguments: Vec<OsString> = place.iter().map(Into::into).collect();
            arguments.extend(["--token-file".into(), token.into()]);
            arguments.extend(["--roots".into(), state.join("roots.pem").into()]);
            arguments.extend(["--state-dir".into(), kept.into()]);
            let again = Again {
                sidecar: self.sidecar.clone(),
                core: cores[0],
                arguments,
            };
            let running = again.start(name, dir, &listen.to_string(), under)?;
            Ok::<_, anyhow::Error>((again, running))
        };
        let pod = |(pod, address): (&'static str, Ipv4Addr), more: &[&str], under: &[OsString]| {
            let address = SocketAddr::from((address, port));
            let mut place = vec!["--inbound".to_owned(), format!("{address}={origin}")];
            place.extend(more.iter().map(|word| (*word).to_owned()));
            let (again, mut running) = start(pod, &place, token(pod), under)?;
            poll::until(PATIENCE, || {
                running.check()?;
                enforces(address)
            })?;
            let server = Server {
                running,
                address,
                secure: None,
                http2: Some(address),
            };
            Ok::<_, anyhow::Error>((again, server))
        };
        let (again, quiet) = pod(PODS[0], &["--access-log", "off"], &self.under)?;
        let (_, logged) = pod(PODS[1], &["--access-log", "stdout"], &[])?;
        let (_, bare) = pod(PODS[2], &["--access-log", "off", "--uncounted"], &[])?;
        let place = ["--edge", &EDGE.to_string(), "--access-log", "off"].map(str::to_owned);
        let (_, mut running) = start("edge", &place, token(&edge), &[])?;
        let address = SocketAddr::from((EDGE, port));
        let client = tls::Client::new(keys)?;
        poll::until(PATIENCE, || {
            running.check()?;
            client.keep(address, &http::get(PLAIN, &[]))
        })?;
        let edge = Server {
            running,
            address,
            secure: Some(address),
            http2: None,
        };
        Ok(Sluice {
            quiet,
            logged,
            bare,
            edge,
            again,
            _operator: operator,
        })
    }
}

/// How a sidecar is started, a second time too: then it has its last-known-good.
struct Again {
    sidecar: PathBuf,
    core: usize,
    arguments: Vec<OsString>,
}

impl Again {
    fn start(
        &self,
        name: &'static str,
        dir: &Path,
        operator: &str,
        under: &[OsString],
    ) -> Result<Running> {
        let mut words = under.iter().map(OsString::as_os_str);
        let mut command = Command::new(words.next().unwrap_or(self.sidecar.as_os_str()));
        if !under.is_empty() {
            command.args(words).arg(&self.sidecar);
        }
        command
            .args(&self.arguments)
            .args(["--operator", operator, "--data-threads", "1"]);
        for page in ["--admin", "--metrics"] {
            command.args([page, &free()?.to_string()]);
        }
        Running::start(name, self.core, dir, &mut command)
    }
}

impl Sluice {
    /// Ends the quiet sidecar and starts it `times`, without its operator: how long each time until the first answer.
    pub fn starts(self, dir: &Path, times: usize) -> Result<Vec<Duration>> {
        let Self { quiet, again, .. } = self;
        let address = quiet.address;
        drop(quiet);
        let nobody = free()?.to_string();
        let request = http::get(PLAIN, &[]);
        (0..times)
            .map(|_| {
                let begun = Instant::now();
                let mut running = again.start("restarted", dir, &nobody, &[])?;
                while http::keep(address, &request).is_err() {
                    ensure!(begun.elapsed() < PATIENCE, "it serves no last-known-good");
                    running.check()?;
                    std::thread::sleep(LOOK);
                }
                Ok(begun.elapsed())
            })
            .collect()
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
        for address in PODS.map(|(_, address)| address).into_iter().chain([EDGE]) {
            TcpListener::bind((address, port)).context("the port is taken on another address")?;
        }
        Ok(port)
    })
}
