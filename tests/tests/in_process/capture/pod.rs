//! A pod in a network namespace of its own, joined to the test's by a veth: what enters it does so by an interface, as in a
//! cluster, and the packet filter sees it. No expectation lives here.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sluice_tests::process::Running;
use sluice_tests::product::{OPERATOR_NAME, binary};
use sluice_tests::{Client, World, eventually, seconds};
use tokio::net::{TcpListener, TcpStream};

use crate::place::Place;

/// How long anything may take to become ready: debug builds on a busy machine.
pub const PATIENCE: u64 = 40;

/// A network namespace with one interface besides loopback.
#[derive(Debug)]
pub struct Pod {
    /// The name of its interface's other end, and of the pod.
    pub name: String,
    /// Its addresses.
    pub v4: Ipv4Addr,
    /// Its addresses.
    pub v6: Ipv6Addr,
    /// The address of the test's end, of IPv4: who a client is.
    pub client_v4: Ipv4Addr,
    /// The same of IPv6.
    pub client_v6: Ipv6Addr,
    namespace: PathBuf,
}

impl Pod {
    /// The pod `NAME-NUMBER`.
    pub fn make(world: &World, name: &str, number: u8) -> Result<Self> {
        let v6 = |end| Ipv6Addr::new(0xfd00, 0x124, number.into(), 0, 0, 0, 0, end);
        let pod = Self {
            name: format!("{name}-{number}"),
            v4: Ipv4Addr::new(10, 124, number, 2),
            v6: v6(2),
            client_v4: Ipv4Addr::new(10, 124, number, 1),
            client_v6: v6(1),
            namespace: world.file(&format!("netns-{name}-{number}"), "")?,
        };
        let (link, path) = (&pod.name, path(&pod.namespace)?);
        sh(&format!(
            "unshare --net={path} true
             nsenter --net={path} ip link add eth0 type veth peer name {link} netns 1
             ip address add {}/24 dev {link}
             ip address add {}/64 dev {link} nodad
             ip link set {link} up",
            pod.client_v4, pod.client_v6
        ))?;
        pod.sh(&format!(
            "ip link set lo up
             ip address add {}/24 dev eth0
             ip address add {}/64 dev eth0 nodad
             ip link set eth0 up
             ip route add default via {}
             ip -6 route add default via {}",
            pod.v4, pod.v6, pod.client_v4, pod.client_v6
        ))?;
        Ok(pod)
    }

    /// Its addresses with a port.
    pub fn both(&self, port: u16) -> [SocketAddr; 2] {
        [(self.v4, port).into(), (self.v6, port).into()]
    }

    /// A program to be started in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace.display()))
            .arg("--")
            .arg(program);
        command
    }

    fn sh(&self, script: &str) -> Result<()> {
        let mut command = self.command("sh");
        succeed(command.args(["-ec", script]))
    }

    /// Runs the init step with these arguments.
    pub fn step(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command(binary("sluice-sidecar")?);
        Ok(command.arg("capture").args(args).output()?)
    }

    /// The same without the right to change rules.
    pub fn step_without_right(&self) -> Result<Output> {
        let mut command = self.command("setpriv");
        command
            .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
            .arg(binary("sluice-sidecar")?)
            .arg("capture");
        Ok(command.output()?)
    }

    /// Listens in it, at all addresses of both families.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        let socket =
            self.inside(move || std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from_std(socket)?)
    }

    /// Connects from inside it.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        let socket = self.inside(move || std::net::TcpStream::connect(address))?;
        socket.set_nonblocking(true)?;
        Ok(TcpStream::from_std(socket)?)
    }

    /// What a thread inside it does. A socket stays in the namespace it was made in.
    fn inside<T: Send>(&self, act: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T> {
        let namespace = File::open(&self.namespace)?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                act()
            });
            thread.join().map_err(|_| anyhow!("a thread panicked"))
        })?
        .with_context(|| format!("inside {}", self.name))
    }

    /// Starts the sample application, which answers with the pod's name.
    pub async fn app(&self, world: &World, listen: &[SocketAddr]) -> Result<Running> {
        let mut command = self.command(binary("sluice-example-app")?);
        command.args(["--name", &self.name]);
        for address in listen {
            command.args(["--listen", &address.to_string()]);
        }
        let mut app = Running::start(world, &format!("app-{}", self.name), command)?;
        let first = listen[0];
        app.ready(seconds(PATIENCE), async || self.connect(first).map(drop))
            .await?;
        Ok(app)
    }

    /// Starts the sidecar that serves what is redirected.
    pub async fn sidecar(&self, world: &World, place: &Place<'_>) -> Result<Running> {
        self.sidecar_of(world, place, &["--capture", "[::]:15006"])
            .await
    }

    /// Starts the sidecar with two data threads and these arguments, with what it needs of a place's operator.
    pub async fn sidecar_of(
        &self,
        world: &World,
        place: &Place<'_>,
        serving: &[&str],
    ) -> Result<Running> {
        let token = place.operator.join_token("shop", &self.name);
        let token = token.context("file mode writes tokens")?;
        let roots = place.operator.roots().context("file mode writes roots")?;
        eventually("a token and the roots", seconds(PATIENCE), async || {
            ensure!(token.exists() && roots.exists(), "{}", token.display());
            Ok(())
        })
        .await?;
        let mut command = self.command(binary("sluice-sidecar")?);
        command
            .env("POD_IPS", format!("{},{}", self.v4, self.v6))
            .args(serving)
            .args(["--data-threads", "2"])
            .args(["--operator", &place.operator.stream.to_string()])
            .args(["--operator-name", OPERATOR_NAME, "--drain-timeout", "1s"])
            .arg("--token-file")
            .arg(token)
            .arg("--roots")
            .arg(roots)
            .arg("--state-dir")
            .arg(world.folder(&format!("state-{}", self.name))?);
        let mut sidecar = Running::start(world, &format!("sidecar-{}", self.name), command)?;
        let pages = Client::new((self.v4, 15_020));
        sidecar
            .ready(seconds(PATIENCE), async || {
                pages.get("/readyz").await?.expect(200).map(drop)
            })
            .await?;
        Ok(sidecar)
    }

    /// The value of a metric of the sidecar, by its name and labels as they are written.
    pub async fn metric(&self, line: &str) -> Result<u64> {
        let text = Client::new((self.v4, 15_020)).get("/metrics").await?;
        let text = text.expect(200)?.text();
        let value = text
            .lines()
            .find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        let value = value.with_context(|| format!("no {line} in {text}"))?;
        Ok(value.trim().parse()?)
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

fn sh(script: &str) -> Result<()> {
    succeed(Command::new("sh").args(["-ec", script]))
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}
