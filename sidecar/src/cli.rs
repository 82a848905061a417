//! The command line: what is local to the machine is an argument here, what is policy comes over the stream.

mod connections;

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::OnceLock,
    time::Duration,
};

use clap::{Arg, Args, Command, FromArgMatches, ValueEnum, builder::ArgPredicate};
use clap_complete::Shell;

use crate::capture::{CAPTURE_PORT, step};

pub use connections::ConnectionArgs;

const EXAMPLES: &str = "\
Examples:
  One pod, one port: clients reach 10.1.2.3:8080, the application listens on 10.1.2.3:18080.
    sluice-sidecar --inbound 10.1.2.3:8080=10.1.2.3:18080 \\
      --operator sluice-operator.sluice-system.svc:8443 \\
      --token-file /var/run/secrets/sluice/token --state-dir /var/lib/sluice

  Without a cluster, beside `sluice-operator --manifests DIR --state-dir STATE`:
    sluice-sidecar --inbound 127.0.0.1:8080=127.0.0.1:18080 --operator 127.0.0.1:8443 \\
      --token-file STATE/join/shop.orders-0.token --roots STATE/roots.pem --state-dir /tmp/orders-0

  The edge of a Gateway, without a cluster:
    sluice-sidecar --edge 192.0.2.1 --operator 127.0.0.1:8443 \\
      --token-file STATE/join/edge.gateway.public.token --roots STATE/roots.pem --state-dir /tmp/public

  In a pod, as process 1, restarting itself, until the application is gone:
    sluice-sidecar supervise --capture '[::]:15006' --operator ... --token-file ... --state-dir ...

  What is loaded now, without secrets:
    curl http://127.0.0.1:15000/config

Exit codes:
  0  ended after SIGTERM or SIGINT, drained
  1  could not start, or a data thread died; the last log line says why
  2  the command line is wrong
  3  drained no further: --drain-timeout passed with requests still running
  of supervise: that of the last worker, or 128 and the signal that ended it

Until the first configuration is applied every request is answered 503; once it is, a port without a
route passes bytes as they are.";

/// What is asked for.
#[derive(Debug)]
pub enum Cli {
    /// A completion script for a shell.
    Completion(Shell),
    /// Serving.
    Serve(Box<ServeArgs>),
    /// Holding the sockets and restarting a worker that serves.
    Supervise(Box<Supervise>),
    /// Telling a sidecar to drain.
    Drain(DrainArgs),
    /// The init step: redirecting the pod's inbound connections.
    Capture(step::Settings),
}

/// What `supervise` is told.
#[derive(Debug)]
pub struct Supervise {
    /// How to serve, as the worker will understand it.
    pub args: ServeArgs,
    /// The same as it was written.
    pub line: Vec<OsString>,
}

impl Cli {
    /// Reads the process's arguments; prints help or what is wrong with them, and ends the process.
    pub fn parse() -> Self {
        Self::read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn read(
        line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let line: Vec<OsString> = line.into_iter().map(Into::into).collect();
        let matches = command().try_get_matches_from(&line)?;
        let serve = || ServeArgs::from_arg_matches(&matches).map(|args| Self::Serve(args.into()));
        match matches.subcommand() {
            Some(("completion", matches)) => match matches.get_one::<Shell>("shell") {
                Some(shell) => Ok(Self::Completion(*shell)),
                None => serve(),
            },
            Some(("supervise", matches)) => {
                let args = ServeArgs::from_arg_matches(matches)?;
                // Nothing but the program's name stands before a subcommand.
                let line = line.into_iter().skip(2).collect();
                Ok(Self::Supervise(Supervise { args, line }.into()))
            }
            Some(("drain", matches)) => DrainArgs::from_arg_matches(matches).map(Self::Drain),
            Some(("capture", matches)) => {
                CaptureArgs::from_arg_matches(matches).map(|args| Self::Capture(args.into()))
            }
            _ => serve(),
        }
    }
}

/// The whole command line.
pub fn command() -> Command {
    let shell = Arg::new("shell")
        .help("The shell")
        .required(true)
        .value_parser(clap::value_parser!(Shell));
    let completion = Command::new("completion")
        .about("Prints a completion script for a shell")
        .arg(shell);
    let supervise = ServeArgs::augment_args(Command::new("supervise"))
        .about("Process 1 of a pod's container: holds the sockets, starts a worker with these arguments, and the next one at once when it ends unasked");
    let drain = DrainArgs::augment_args(Command::new("drain"))
        .about("Tells the sidecar of this pod to send its clients elsewhere; it goes on serving (the container's preStop hook)");
    let capture = CaptureArgs::augment_args(Command::new("capture"))
        .about("The init step: redirects the pod's inbound TCP connections to the sidecar; needs NET_ADMIN and uid 0");
    ServeArgs::augment_args(Command::new("sluice-sidecar"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("The sidecar: enforces what the operator compiled from ApiRoutes, RateLimitPolicies and ShardSets")
        .after_long_help(EXAMPLES)
        .subcommand(completion)
        .subcommand(supervise)
        .subcommand(drain)
        .subcommand(capture)
        .args_conflicts_with_subcommands(true)
        .subcommand_negates_reqs(true)
}

/// How to serve.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// A port to serve and the application behind it, as LISTEN=APP; may be repeated.
    ///
    /// The number of the LISTEN port is the Service's targetPort: it chooses the routes. Without any the sidecar holds
    /// its configuration and serves nothing: as it is injected where nothing leads traffic to it yet.
    #[arg(long = "inbound", value_name = "LISTEN=APP")]
    pub inbound: Vec<Inbound>,

    /// Where connections arrive that the pod's packet filter redirected; the port they were meant for chooses the routes.
    #[arg(long, value_name = "ADDR", requires = "pod_ips")]
    pub capture: Option<SocketAddr>,

    /// The pod's own addresses, at which the applications behind --capture are dialled: never at loopback.
    #[arg(long, value_name = "IP,...", env = "POD_IPS", value_delimiter = ',', value_parser = pod_ip)]
    pub pod_ips: Vec<IpAddr>,

    /// Where edges and other sidecars forward requests to this one, over TLS with certificates of the trust domain.
    #[arg(long, value_name = "ADDR", conflicts_with = "edge")]
    pub hop: Option<SocketAddr>,

    /// Be an edge: open the ports of the Gateway's listeners at this address, as they come and go. The token says which
    /// Gateway.
    #[arg(long, value_name = "IP", conflicts_with_all = ["inbound", "capture"])]
    pub edge: Option<IpAddr>,

    /// The stream to the operator.
    #[command(flatten)]
    pub control: ControlArgs,

    /// Threads that serve requests; each has its own listener and upstream connections. With --edge one for each core.
    #[arg(long, value_name = "N", default_value_t = 1, default_value_if("edge", ArgPredicate::IsPresent, cores()), value_parser = clap::value_parser!(u16).range(1..=256))]
    pub data_threads: u16,

    /// Debug endpoint: /config, /version, /readyz, POST /drain. Loopback only.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000", value_parser = loopback)]
    pub admin: SocketAddr,

    /// Prometheus metrics, health, and the probes of SLUICE_PROBES: /metrics, /readyz, /healthz, /probe/CONTAINER/KIND.
    #[arg(long, value_name = "ADDR", default_value = "[::]:15020")]
    pub metrics: SocketAddr,

    /// On SIGTERM, serve on until the application's ports refuse connections and nothing is in flight. Set by `supervise`.
    #[arg(long)]
    pub wait_for_app: bool,

    /// How long ending may take after SIGTERM, like 30s or 1m30s [default: 25s; with --wait-for-app 1h: the kubelet ends
    /// a pod at the end of its grace period].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,

    /// The bounds of connections.
    #[command(flatten)]
    pub connections: ConnectionArgs,

    /// How the sidecar's own log is written, on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// Where one JSON line per request goes.
    #[arg(long, value_enum, default_value_t = AccessLog::Stdout)]
    pub access_log: AccessLog,

    /// Count no requests: for `make bench`, which measures what counting them costs.
    #[arg(long, hide = true)]
    pub uncounted: bool,
}

/// The number of cores, as a default of the command line.
fn cores() -> &'static str {
    static CORES: OnceLock<String> = OnceLock::new();
    CORES.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        cores.min(256).to_string()
    })
}

impl ServeArgs {
    /// Whether the end waits for an application. An edge has none.
    pub fn waits_for_app(&self) -> bool {
        self.wait_for_app && self.edge.is_none()
    }

    /// How long ending may take.
    pub fn drain_timeout(&self) -> Duration {
        let default = if self.waits_for_app() {
            Duration::from_secs(3600)
        } else {
            Duration::from_secs(25)
        };
        self.drain_timeout.unwrap_or(default)
    }
}

/// Whom to tell.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The sidecar's debug endpoint.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000", value_parser = loopback)]
    pub admin: SocketAddr,

    /// How long to stay after it was told: the kubelet sends SIGTERM when this program has ended. An edge's, whose clients
    /// come until every node knows that it goes.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub wait: Duration,
}

/// What to redirect.
#[derive(Debug, Args)]
struct CaptureArgs {
    /// Port that connections are redirected to: that of the sidecar's --capture.
    #[arg(long, value_name = "PORT", default_value_t = CAPTURE_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// A port whose connections stay as they are; may be repeated. The sidecar's own are left alone anyway.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    exclude: Vec<u16>,

    /// Print the rules in nft syntax and change nothing.
    #[arg(long, conflicts_with = "cleanup")]
    dry_run: bool,

    /// Remove the rules.
    #[arg(long)]
    cleanup: bool,
}

impl From<CaptureArgs> for step::Settings {
    fn from(args: CaptureArgs) -> Self {
        let CaptureArgs {
            port,
            exclude,
            dry_run,
            cleanup,
        } = args;
        let action = match (dry_run, cleanup) {
            (true, _) => step::Action::Print,
            (false, true) => step::Action::CleanUp,
            (false, false) => step::Action::Redirect,
        };
        Self {
            port,
            exclude,
            action,
        }
    }
}

/// How to reach the operator, and what to keep for the time it is away.
#[derive(Debug, Clone, Args)]
pub struct ControlArgs {
    /// Address of the operator's stream, as HOST:PORT.
    #[arg(long, value_name = "ADDR")]
    pub operator: String,

    /// Name that the operator's certificate must bear, whatever address is dialled.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "sluice-operator.sluice-system.svc"
    )]
    pub operator_name: String,

    /// File with the token that proves who this pod is; read again for every connection.
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,

    /// PEM file with the first roots. Without it, SLUICE_ROOTS_PEM is read.
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,

    /// Directory of the last-known-good configuration: memory-backed, for this pod only.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
}

/// One listener and its application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inbound {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub app: SocketAddr,
}

/// A mapping that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InboundError {
    /// No `=`.
    #[error("expected LISTEN=APP, like 10.1.2.3:8080=10.1.2.3:18080")]
    Shape,
    /// A side is no address.
    #[error("{0:?} is not an address and port; host names are not resolved here")]
    Address(String),
    /// The sidecar would call itself.
    #[error("LISTEN and APP are the same address: the sidecar would forward to itself")]
    Same,
}

impl FromStr for Inbound {
    type Err = InboundError;

    fn from_str(text: &str) -> Result<Self, InboundError> {
        let (listen, app) = text.split_once('=').ok_or(InboundError::Shape)?;
        let address = |side: &str| address(side).ok_or_else(|| InboundError::Address(side.into()));
        let (listen, app) = (address(listen)?, address(app)?);
        if listen == app {
            Err(InboundError::Same)
        } else {
            Ok(Self { listen, app })
        }
    }
}

/// `IP:PORT`, of an IPv6 address also without brackets: where the kubelet puts a pod's address in, it has none.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = || {
        let (ip, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    };
    text.parse().ok().or_else(bare)
}

/// How the sidecar's own log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Where access log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "expected an address and port, like 127.0.0.1:15000".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("the debug endpoint is served on loopback only: it shows configuration and can drain the sidecar".into())
    }
}

/// An address of a pod: an application bound to loopback is for the pod's own containers.
fn pod_ip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| {
        format!("{text:?} is no IP address; expected status.podIPs, like 10.1.2.3,fd00::3")
    })?;
    if address.is_loopback() || address.is_unspecified() {
        Err(format!("{address} is no address of a pod"))
    } else {
        Ok(address)
    }
}

/// A GEP-2257 duration: `h`, `m`, `s` and `ms` parts in this order, each at most once.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let malformed = || format!("{text:?} is not a duration; write 30s, 1m30s or 500ms");
    let (mut rest, mut total, mut next) = (text, 0u64, 0);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let letters = after.len()
            - after
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let (unit, after) = after.split_at(letters);
        let index = UNITS
            .iter()
            .position(|(name, _)| *name == unit)
            .filter(|index| *index >= next)
            .ok_or_else(malformed)?;
        let value: u64 = number
            .parse()
            .ok()
            .filter(|_| digits <= 5)
            .ok_or_else(malformed)?;
        total += value * UNITS[index].1;
        (rest, next) = (after, index + 1);
    }
    if text.is_empty() {
        Err(malformed())
    } else {
        Ok(Duration::from_millis(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: [&str; 9] = [
        "sluice-sidecar",
        "--inbound",
        "10.1.2.3:8080=10.1.2.3:18080",
        "--operator",
        "127.0.0.1:8443",
        "--token-file",
        "token",
        "--state-dir",
        "state",
    ];

    #[test]
    fn the_least_command_line_has_the_documented_defaults() {
        command().debug_assert();
        let Ok(Cli::Serve(serve)) = Cli::read(LEAST) else {
            panic!("parses")
        };
        assert_eq!(serve.inbound[0].listen.port(), 8080);
        assert_eq!(serve.admin.to_string(), "127.0.0.1:15000");
        assert_eq!(serve.metrics.to_string(), "[::]:15020");
        assert_eq!(serve.drain_timeout(), Duration::from_secs(25));
        assert_eq!(
            serve.control.operator_name,
            "sluice-operator.sluice-system.svc"
        );
        assert_eq!(serve.data_threads, 1);
        let edge = LEAST
            .iter()
            .filter(|word| !word.contains("inbound") && !word.contains('='))
            .chain(&["--edge", "192.0.2.1"]);
        let Ok(Cli::Serve(edge)) = Cli::read(edge) else {
            panic!("parses")
        };
        assert_eq!(edge.data_threads.to_string(), cores());
        assert!(Cli::read(LEAST.iter().chain(&["--edge", "192.0.2.1"])).is_err());
    }

    #[test]
    fn an_injected_sidecar_has_no_port_to_serve_yet() {
        let line = [LEAST[0]].into_iter().chain(LEAST[3..].iter().copied());
        assert!(matches!(Cli::read(line), Ok(Cli::Serve(serve)) if serve.inbound.is_empty()));
    }

    #[test]
    fn the_debug_endpoint_is_refused_anywhere_but_on_loopback() {
        for address in ["0.0.0.0:15000", "10.1.2.3:15000", "nonsense"] {
            let line = LEAST.into_iter().chain(["--admin", address]);
            assert!(Cli::read(line).is_err(), "{address}");
        }
        assert!(Cli::read(LEAST.into_iter().chain(["--admin", "[::1]:15000"])).is_ok());
    }

    #[test]
    fn mappings_are_two_different_addresses() {
        // As the kubelet puts an address of either family in.
        for (text, app) in [
            ("[::]:15100=10.1.2.3:8080", "10.1.2.3:8080"),
            ("[::]:15100=fd00::3:8080", "[fd00::3]:8080"),
            ("[::]:15100=[fd00::3]:8080", "[fd00::3]:8080"),
        ] {
            let inbound: Inbound = text.parse().expect("parses");
            assert_eq!(inbound.listen.to_string(), "[::]:15100");
            assert_eq!(inbound.app.to_string(), app);
        }
        assert_eq!("10.1.2.3:8080".parse::<Inbound>(), Err(InboundError::Shape));
        assert_eq!(
            "a:1=10.1.2.3:1".parse::<Inbound>(),
            Err(InboundError::Address("a:1".into()))
        );
        assert_eq!(
            "10.1.2.3:1=10.1.2.3:1".parse::<Inbound>(),
            Err(InboundError::Same)
        );
    }

    #[test]
    fn durations_are_gep_2257() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "1", "s", "30s1m", "1s1s", "-1s", "999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_supervisor_hands_its_arguments_on_as_they_are() {
        let written = &LEAST[1..];
        let line = [LEAST[0], "supervise"]
            .into_iter()
            .chain(written.iter().copied());
        let Ok(Cli::Supervise(supervise)) = Cli::read(line) else {
            panic!("parses")
        };
        assert_eq!(supervise.line, written);
        assert_eq!(supervise.args.inbound.len(), 1);
        assert!(
            Cli::read([LEAST[0], "supervise"]).is_err(),
            "they are needed"
        );
        let drain = |more: &[&str]| Cli::read([&[LEAST[0], "drain"], more].concat());
        assert!(
            matches!(drain(&[]), Ok(Cli::Drain(args)) if args.admin.port() == 15000 && args.wait.is_zero())
        );
        assert!(drain(&["--admin", "10.1.2.3:15000"]).is_err());
    }

    #[test]
    fn capturing_needs_the_pods_own_addresses() {
        let read = |more: &[&str]| Cli::read([&LEAST[..], more].concat());
        let capture = ["--capture", "[::]:15006"];
        let ips = |ips| read(&[&capture[..], &["--pod-ips", ips]].concat());
        assert!(read(&capture).is_err());
        let Ok(Cli::Serve(serve)) = ips("10.1.2.3,fd00::3") else {
            panic!("parses")
        };
        assert_eq!(serve.pod_ips.len(), 2);
        for bad in ["127.0.0.1", "10.1.2.3,::1", "0.0.0.0", "localhost", ""] {
            assert!(ips(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_init_step_needs_no_other_argument() {
        let read = |more: &[&str]| match Cli::read([&["sluice-sidecar", "capture"], more].concat())
        {
            Ok(Cli::Capture(settings)) => Some(settings),
            _ => None,
        };
        let plain = read(&[]).expect("parses");
        assert_eq!((plain.port, plain.exclude.len()), (15_006, 0));
        let more = [
            "--port",
            "15106",
            "--exclude",
            "9090",
            "--exclude",
            "9100",
            "--dry-run",
        ];
        let more = read(&more).expect("parses");
        assert_eq!((more.port, &more.exclude[..]), (15_106, &[9090, 9100][..]));
        assert_eq!(more.action, step::Action::Print);
        for bad in [
            &["--port", "0"][..],
            &["--exclude", "65536"],
            &["--dry-run", "--cleanup"],
        ] {
            assert!(read(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn completion_needs_no_other_argument() {
        let cli = Cli::read(["sluice-sidecar", "completion", "bash"]).expect("parses");
        assert!(matches!(cli, Cli::Completion(Shell::Bash)));
        assert!(
            Cli::read(["sluice-sidecar"]).is_err(),
            "serving needs its arguments"
        );
    }
}
