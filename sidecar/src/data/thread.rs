//! A data thread: its runtime, its listeners, its pools, and how it ends.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use sluice_process::{Clock, Condition, Shutdown};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, task::LocalSet};

use super::{
    connection::{
        Connection, ConnectionLimits, ConnectionPlace, OpenConnections, last_words::MAX_REFUSING,
        sweep::Sweep,
    },
    deadline::Ticker,
    dice::Dice,
    edge,
    hop::client::HopPools,
    http1::Scratch,
    serve::{self, Entrance},
    tls::client::Pools,
    upstream,
};
use crate::{
    capture::origin::Origins,
    cli::Inbound,
    listeners::ThreadListeners,
    log::{AccessLog, ThreadLog},
    metrics::ThreadTally,
    shared::Shared,
    tokens::Tokens,
};

/// Where a socket is that does not say.
const UNKNOWN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// What the data threads are to do.
#[derive(Clone)]
pub struct Plan {
    /// The ports to serve.
    pub inbound: Vec<Inbound>,
    /// The pod's own addresses: where a listener on all addresses is reached.
    pub pod_ips: Vec<IpAddr>,
    /// Whom redirected connections are for, where they are taken.
    pub capture: Option<Origins>,
    /// Where the listeners of a Gateway are opened, of an edge.
    pub edge: Option<IpAddr>,
    /// The bounds of connections.
    pub limits: ConnectionLimits,
    /// At the end: how long no request may have come before a thread ends. New connections are still accepted, for those
    /// who have not heard yet that this pod goes away.
    pub quiet: Duration,
    /// How long requests may take to end once shutdown has begun.
    pub drain_timeout: Duration,
    /// Where access log lines go.
    pub log: AccessLog,
    /// When to end.
    pub shutdown: Shutdown,
}

/// Data threads that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No runtime: it needs a few descriptors of its own.
    #[error(
        "no runtime for a data thread: {0}; is the limit of open files (RLIMIT_NOFILE) reached?"
    )]
    Runtime(std::io::Error),
    /// A bound listener cannot be waited on.
    #[error(
        "the listener of {address} cannot be served: {cause}; is it a socket that was handed over, and still open?"
    )]
    Listener {
        /// Where it should listen.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start a data thread: {0}; is the limit of processes reached?")]
    Thread(std::io::Error),
}

/// Data threads that run.
pub struct Running {
    threads: Vec<JoinHandle<Drained>>,
    /// Threads that have not been heard to end.
    left: usize,
    ended: mpsc::UnboundedReceiver<()>,
    /// What was bound, in the order of the plan: for a plan that left the port to the system.
    pub listening: Vec<SocketAddr>,
}

/// How a data thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing was left to do.
    Whole,
    /// Requests were cut off when the drain timeout had passed.
    CutOff,
}

/// What the tasks of one data thread share.
pub struct Thread {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Deadlines.
    pub ticker: Ticker,
    /// Randomness.
    pub dice: Dice,
    /// Room to read and write in.
    pub scratch: Rc<Scratch>,
    /// Upstream connections in the clear.
    pub pool: upstream::Pool,
    /// Upstream connections over TLS.
    pub tls_pools: Pools,
    /// Connections to other sidecars.
    pub hop_pools: HopPools,
    /// Tokens that verified lately.
    pub tokens: RefCell<Tokens>,
    /// Where lines go.
    pub log: ThreadLog,
    /// Counters.
    pub tally: Arc<ThreadTally>,
    /// When to end.
    pub shutdown: Shutdown,
    /// The bounds of connections.
    pub limits: ConnectionLimits,
    /// The open connections.
    sweep: Sweep,
    open: Arc<OpenConnections>,
    /// Own listeners: an endpoint with such an address is this pod.
    own: HashMap<SocketAddr, Inbound>,
    /// An endpoint that is captured here is this pod too.
    captured: Option<Origins>,
    waiting: Rc<Cell<usize>>,
    knocking: Rc<Cell<usize>>,
    mirroring: Rc<Cell<usize>>,
    refusing: Rc<Cell<usize>>,
    last_request_us: Cell<u64>,
    last_app: Cell<Option<SocketAddr>>,
}

/// A place among those that wait; free again when dropped.
#[derive(Debug)]
pub struct WaitingPlace(Rc<Cell<usize>>);

impl WaitingPlace {
    fn take(taken: &Rc<Cell<usize>>, most: usize) -> Option<Self> {
        if taken.get() >= most {
            return None;
        }
        taken.set(taken.get() + 1);
        Some(Self(Rc::clone(taken)))
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Thread {
    /// The state of a new thread.
    pub fn new(shared: Arc<Shared>, plan: &Plan) -> Rc<Self> {
        let ticker = Ticker::new(shared.clock);
        let scratch = Rc::<Scratch>::default();
        Rc::new(Self {
            pool: upstream::Pool::new(shared.clock, ticker.clone(), Rc::clone(&scratch)),
            tls_pools: Pools::default(),
            hop_pools: HopPools::default(),
            ticker,
            dice: Dice::new(),
            scratch,
            tokens: RefCell::default(),
            log: ThreadLog::new(plan.log.clone()),
            tally: shared.metrics.thread(),
            shutdown: plan.shutdown.clone(),
            limits: plan.limits,
            sweep: Sweep::default(),
            open: Arc::default(),
            own: own(plan),
            captured: plan.capture.clone(),
            waiting: Rc::default(),
            knocking: Rc::default(),
            mirroring: Rc::default(),
            refusing: Rc::default(),
            last_request_us: Cell::new(0),
            last_app: Cell::new(None),
            shared,
        })
    }

    /// One that serves nobody, for tests of what needs a thread.
    #[cfg(test)]
    pub fn idle() -> Rc<Self> {
        let (shared, _inbox) = Shared::new(crate::shared::SharedLimits::default());
        let plan = Plan {
            inbound: Vec::new(),
            pod_ips: Vec::new(),
            capture: None,
            edge: None,
            limits: ConnectionLimits::default(),
            quiet: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            log: AccessLog::off(),
            shutdown: Shutdown::default(),
        };
        Self::new(shared, &plan)
    }

    /// The clock of everything that decides.
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// Whether an endpoint is this pod itself; with its application.
    pub fn own(&self, endpoint: SocketAddr) -> Option<Inbound> {
        let captured = || self.captured.as_ref()?.own(endpoint);
        self.own.get(&endpoint).copied().or_else(captured)
    }

    /// A place among those that wait for a move, of which there are `most`.
    pub fn waiting_place(&self, most: usize) -> Option<WaitingPlace> {
        WaitingPlace::take(&self.waiting, most)
    }

    /// A place among those that wait for the application to listen, of which there are `most`.
    pub fn knocking_place(&self, most: usize) -> Option<WaitingPlace> {
        WaitingPlace::take(&self.knocking, most)
    }

    /// A place among the copies of requests that are under way, of which there are `most`.
    pub fn mirroring_place(&self, most: usize) -> Option<WaitingPlace> {
        WaitingPlace::take(&self.mirroring, most)
    }

    /// A place among the connections that are being refused.
    pub fn refusing_place(&self) -> Option<WaitingPlace> {
        WaitingPlace::take(&self.refusing, MAX_REFUSING)
    }

    /// A place among the connections that are open; none: there are as many as there may be.
    pub fn connection_place(&self) -> Option<ConnectionPlace> {
        let ConnectionLimits {
            max,
            max_per_thread,
            ..
        } = self.limits;
        ConnectionPlace::take(&self.shared.connections, &self.open, max, max_per_thread)
    }

    /// A connection that begins now, and is looked at from now on.
    pub fn connect(
        &self,
        peer: SocketAddr,
        inbound: Inbound,
        place: ConnectionPlace,
    ) -> Rc<Connection> {
        let now_ms = self.clock().now_ms();
        // Connections that were made together do not all end together: a tenth more or less.
        let old_at_ms = self.limits.max_age_ms.map(|age_ms| {
            let spread = age_ms / 5;
            let share = u64::from(self.dice.roll32()) * spread / u64::from(u32::MAX);
            now_ms + age_ms - spread / 2 + share
        });
        let connection = Connection::new(peer, inbound, now_ms, old_at_ms, place);
        self.sweep.add(&connection);
        connection
    }

    /// Notes that a request came.
    pub fn touch(&self, now_us: u64) {
        self.last_request_us.set(now_us);
    }

    /// Notes that the application answers there.
    pub fn reached(&self, app: SocketAddr) {
        if self.last_app.replace(Some(app)) != Some(app) {
            self.shared.apps.reached(app);
        }
    }

    /// The background tasks of the thread.
    fn start_tasks(self: &Rc<Self>) {
        tokio::task::spawn_local(self.ticker.clone().run());
        tokio::task::spawn_local(self.log.clone().run());
        tokio::task::spawn_local(upstream::keep_tidy(self.pool.clone()));
        let thread = Rc::clone(self);
        tokio::task::spawn_local(async move { thread.tls_pools.keep_tidy().await });
        let thread = Rc::clone(self);
        tokio::task::spawn_local(async move { thread.hop_pools.keep_tidy().await });
        let thread = Rc::clone(self);
        tokio::task::spawn_local(async move {
            thread.sweep.run(thread.clock(), &thread.limits).await;
        });
    }

    /// Whether nothing is left to do.
    fn is_quiet(&self, since_us: u64, quiet: Duration) -> bool {
        let last = self.last_request_us.get().max(since_us);
        let quiet_us = self.clock().now_us().saturating_sub(last);
        self.tally.in_flight() == 0 && u128::from(quiet_us) >= quiet.as_micros()
    }

    /// Waits until nothing is left to do, and nothing has come for a while.
    async fn drained(&self, quiet: Duration) {
        let since_us = self.clock().now_us();
        while !self.is_quiet(since_us, quiet) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The addresses at which the plan's listeners are reached.
fn own(plan: &Plan) -> HashMap<SocketAddr, Inbound> {
    let reached = |listen: SocketAddr| {
        let at_all = listen.ip().is_unspecified();
        let others = plan.pod_ips.iter().filter(move |_| at_all);
        let others = others.map(move |ip| SocketAddr::new(*ip, listen.port()));
        others.chain([listen])
    };
    plan.inbound
        .iter()
        .flat_map(|inbound| reached(inbound.listen).map(|address| (address, *inbound)))
        .collect()
}

/// Says that its thread ends, in a panic too.
struct Farewell(mpsc::UnboundedSender<()>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // Nobody listens any more: nobody has to know.
        let _ = self.0.send(());
    }
}

/// Starts one thread for each entry of `listeners`. What can fail is done before a thread is started: one that runs, serves.
pub fn start(
    shared: &Arc<Shared>,
    plan: &Plan,
    listeners: Vec<ThreadListeners>,
) -> Result<Running, StartError> {
    let mut plan = plan.clone();
    for (inbound, socket) in plan
        .inbound
        .iter_mut()
        .zip(listeners.iter().flat_map(|thread| &thread.inbound))
    {
        // The system may have chosen the port.
        inbound.listen = socket.local_addr().unwrap_or(inbound.listen);
    }
    let equipped: Vec<_> = listeners
        .into_iter()
        .map(|listeners| Equipped::new(&plan, listeners))
        .collect::<Result<_, _>>()?;
    let listening = plan
        .edge
        .map(|_| shared.readiness.condition("edge listeners"));
    let (farewell, ended) = mpsc::unbounded_channel();
    let mut threads = Vec::new();
    for (index, equipped) in equipped.into_iter().enumerate() {
        let (shared, plan) = (Arc::clone(shared), plan.clone());
        let farewell = Farewell(farewell.clone());
        let listening = listening.clone();
        let body = move || {
            let _farewell = farewell;
            run(&shared, &plan, equipped, listening)
        };
        let builder = std::thread::Builder::new().name(format!("data-{index}"));
        threads.push(builder.spawn(body).map_err(StartError::Thread)?);
    }
    Ok(Running {
        left: threads.len(),
        ended,
        threads,
        listening: plan.inbound.iter().map(|inbound| inbound.listen).collect(),
    })
}

/// What a thread is given to serve with.
struct Equipped {
    runtime: Runtime,
    /// Each belongs to the runtime's reactor.
    listeners: Vec<(TcpListener, Entrance)>,
}

impl Equipped {
    fn new(plan: &Plan, listeners: ThreadListeners) -> Result<Self, StartError> {
        let ThreadListeners {
            inbound,
            capture,
            hop,
        } = listeners;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let ports = plan.inbound.iter().copied().map(Entrance::Port);
        let captured = plan.capture.clone().map(Entrance::Capture);
        let sockets = inbound
            .into_iter()
            .zip(ports)
            .chain(capture.into_iter().zip(captured))
            .chain(hop.map(|socket| (socket, Entrance::Hop(Arc::default()))));
        let listeners = {
            let _reactor = runtime.enter();
            let register = |(socket, entrance): (std::net::TcpListener, Entrance)| {
                let address = socket.local_addr().unwrap_or(UNKNOWN);
                // The reactor panics where it would have to block.
                socket
                    .set_nonblocking(true)
                    .and_then(|()| TcpListener::from_std(socket))
                    .map(|listener| (listener, entrance))
                    .map_err(|cause| StartError::Listener { address, cause })
            };
            sockets.map(register).collect::<Result<_, _>>()?
        };
        Ok(Self { runtime, listeners })
    }
}

impl Running {
    /// Waits until a thread ends, by itself or in a panic.
    pub async fn one_ended(&mut self) {
        if self.left > 0 {
            // None: all have ended, which was heard before.
            let _ = self.ended.recv().await;
            self.left -= 1;
        }
    }

    /// Waits until every thread has ended.
    pub async fn all_ended(&mut self) {
        while self.left > 0 {
            self.one_ended().await;
        }
    }

    /// Waits for the threads; none: one of them panicked.
    pub fn join(self) -> Option<Drained> {
        let ends: Vec<_> = self
            .threads
            .into_iter()
            .map(|thread| thread.join().ok())
            .collect();
        let all: Option<Vec<_>> = ends.into_iter().collect();
        all.map(|ends| {
            if ends.contains(&Drained::CutOff) {
                Drained::CutOff
            } else {
                Drained::Whole
            }
        })
    }
}

/// `listening`: whether every listener of an edge is open.
fn run(
    shared: &Arc<Shared>,
    plan: &Plan,
    equipped: Equipped,
    listening: Option<Condition>,
) -> Drained {
    let Equipped { runtime, listeners } = equipped;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let thread = Thread::new(Arc::clone(shared), plan);
        thread.start_tasks();
        for (listener, entrance) in listeners {
            tokio::task::spawn_local(serve::accept(Rc::clone(&thread), listener, entrance));
        }
        if let (Some(ip), Some(listening)) = (plan.edge, listening) {
            tokio::task::spawn_local(edge::keep(Rc::clone(&thread), ip, listening));
        }
        plan.shutdown.begun().await;
        let drained = tokio::time::timeout(plan.drain_timeout, thread.drained(plan.quiet)).await;
        thread.log.flush();
        if drained.is_ok() {
            Drained::Whole
        } else {
            Drained::CutOff
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::SharedLimits;

    #[test]
    fn an_endpoint_of_this_pod_is_no_other_pod() {
        let at = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        let pod_ips: Vec<IpAddr> = vec![[10, 1, 2, 3].into()];
        let moved = Inbound {
            listen: at("0.0.0.0:15100"),
            app: at("10.1.2.3:8080"),
        };
        let plan = Plan {
            inbound: vec![moved],
            capture: Some(Origins::new(pod_ips.clone(), [15_100])),
            edge: None,
            pod_ips,
            limits: ConnectionLimits::default(),
            quiet: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            log: AccessLog::off(),
            shutdown: Shutdown::default(),
        };
        let (shared, _inbox) = Shared::new(SharedLimits::default());
        let thread = Thread::new(shared, &plan);
        let app = |endpoint| thread.own(at(endpoint)).map(|inbound| inbound.app);
        assert_eq!(app("10.1.2.3:15100"), Some(moved.app));
        assert_eq!(app("10.1.2.3:9000"), Some(at("10.1.2.3:9000")));
        assert_eq!(app("10.1.2.4:15100"), None);
        assert_eq!(app("10.1.2.3:15006"), None);
    }

    #[test]
    fn a_socket_that_cannot_be_served_is_an_error_and_no_panic_of_a_thread() {
        use std::os::fd::OwnedFd;
        let file = tempfile::tempfile().expect("a file");
        let no_socket = std::net::TcpListener::from(OwnedFd::from(file));
        let listen = UNKNOWN;
        let plan = Plan {
            edge: None,
            inbound: vec![Inbound {
                listen,
                app: SocketAddr::from(([127, 0, 0, 1], 9)),
            }],
            capture: None,
            pod_ips: Vec::new(),
            limits: ConnectionLimits::default(),
            quiet: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            log: AccessLog::off(),
            shutdown: Shutdown::default(),
        };
        let (shared, _inbox) = Shared::new(SharedLimits::default());
        let listeners = ThreadListeners {
            inbound: vec![no_socket],
            capture: None,
            hop: None,
        };
        // The kernel's poller takes no regular file.
        match start(&shared, &plan, vec![listeners]) {
            Err(error @ StartError::Listener { .. }) => {
                assert!(error.to_string().contains("still open?"), "{error}");
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it started"),
        }
    }
}
