//! A data thread: its runtime, its listeners, its pools, and how it ends.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use sluice_process::{Clock, Shutdown};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::mpsc, task::LocalSet};

use super::{deadline::Ticker, dice::Dice, serve, upstream};
use crate::{
    cli::Inbound,
    log::{AccessLog, ThreadLog},
    metrics::ThreadTally,
    shared::Shared,
    tokens::Tokens,
};

/// Connections the kernel keeps for a listener until they are accepted.
const BACKLOG: i32 = 4096;
/// While draining: how long no request may have come before the thread ends. New connections are still accepted, for
/// those who have not heard yet that this pod goes away.
const QUIET: Duration = Duration::from_millis(500);

/// What the data threads are to do.
#[derive(Clone)]
pub struct Plan {
    /// The ports to serve.
    pub inbound: Vec<Inbound>,
    /// How many threads.
    pub threads: u16,
    /// How long requests may take to end once shutdown has begun.
    pub drain_timeout: Duration,
    /// Where access log lines go.
    pub log: AccessLog,
    /// When to end.
    pub shutdown: Shutdown,
}

/// Listeners that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error(
        "cannot listen on {address}: {cause}; is another process there, or the address not of this machine?"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// The system gives no thread or no runtime.
    #[error("cannot start a data thread: {0}")]
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
    /// Upstream connections.
    pub pool: upstream::Pool,
    /// Tokens that verified lately.
    pub tokens: RefCell<Tokens>,
    /// Where lines go.
    pub log: ThreadLog,
    /// Counters.
    pub tally: Arc<ThreadTally>,
    /// When to end.
    pub shutdown: Shutdown,
    /// Own listeners: an endpoint with such an address is this pod.
    own: HashMap<SocketAddr, Inbound>,
    waiting: Rc<Cell<usize>>,
    last_request_us: Cell<u64>,
}

/// A place among the requests that wait for a move; free again when dropped.
pub struct WaitingPlace(Rc<Cell<usize>>);

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Thread {
    /// The state of a new thread.
    pub fn new(shared: Arc<Shared>, plan: &Plan) -> Rc<Self> {
        let ticker = Ticker::new(shared.clock);
        Rc::new(Self {
            pool: upstream::Pool::new(shared.clock, ticker.clone()),
            ticker,
            dice: Dice::new(),
            tokens: RefCell::default(),
            log: ThreadLog::new(plan.log.clone()),
            tally: shared.metrics.thread(),
            shutdown: plan.shutdown.clone(),
            own: plan
                .inbound
                .iter()
                .map(|inbound| (inbound.listen, *inbound))
                .collect(),
            waiting: Rc::default(),
            last_request_us: Cell::new(0),
            shared,
        })
    }

    /// The clock of everything that decides.
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// Whether an endpoint is this pod itself; with its application.
    pub fn own(&self, endpoint: SocketAddr) -> Option<Inbound> {
        self.own.get(&endpoint).copied()
    }

    /// A place among those that wait, of which there are `most`.
    pub fn waiting_place(&self, most: usize) -> Option<WaitingPlace> {
        if self.waiting.get() >= most {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        Some(WaitingPlace(Rc::clone(&self.waiting)))
    }

    /// Notes that a request came.
    pub fn touch(&self, now_us: u64) {
        self.last_request_us.set(now_us);
    }

    /// The background tasks of the thread.
    fn start_tasks(self: &Rc<Self>) {
        tokio::task::spawn_local(self.ticker.clone().run());
        tokio::task::spawn_local(self.log.clone().run());
        tokio::task::spawn_local(upstream::keep_tidy(self.pool.clone()));
    }

    /// Whether nothing is left to do.
    fn is_quiet(&self, since_us: u64) -> bool {
        let last = self.last_request_us.get().max(since_us);
        let quiet_us = self.clock().now_us().saturating_sub(last);
        self.tally.in_flight() == 0 && u128::from(quiet_us) >= QUIET.as_micros()
    }

    /// Waits until nothing is left to do.
    async fn drained(&self) {
        let since_us = self.clock().now_us();
        while !self.is_quiet(since_us) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Says that its thread ends, in a panic too.
struct Farewell(mpsc::UnboundedSender<()>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // Nobody listens any more: nobody has to know.
        let _ = self.0.send(());
    }
}

/// Binds every listener of every thread, then starts the threads: either all of them serve, or none.
pub fn start(shared: &Arc<Shared>, plan: &Plan) -> Result<Running, StartError> {
    let mut plan = plan.clone();
    let mut sockets: Vec<Vec<Socket>> = Vec::new();
    for index in 0..plan.threads.max(1) {
        let mut bound = Vec::new();
        for inbound in &mut plan.inbound {
            let bind = |address| bind(address).map_err(|cause| StartError::Bind { address, cause });
            let socket = bind(inbound.listen)?;
            if index == 0 {
                let local = socket
                    .local_addr()
                    .ok()
                    .and_then(|address| address.as_socket());
                inbound.listen = local.unwrap_or(inbound.listen);
            }
            bound.push(socket);
        }
        sockets.push(bound);
    }
    let (farewell, ended) = mpsc::unbounded_channel();
    let mut threads = Vec::new();
    for (index, sockets) in sockets.into_iter().enumerate() {
        let (shared, plan) = (Arc::clone(shared), plan.clone());
        let farewell = Farewell(farewell.clone());
        let body = move || {
            let _farewell = farewell;
            run(&shared, &plan, sockets)
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

/// Every data thread has a socket of its own for each port: the kernel spreads the connections.
fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn run(shared: &Arc<Shared>, plan: &Plan, sockets: Vec<Socket>) -> Drained {
    // Without a runtime this thread cannot serve: its end ends the process.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime for a data thread: {error}"),
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let thread = Thread::new(Arc::clone(shared), plan);
        thread.start_tasks();
        for (socket, inbound) in sockets.into_iter().zip(&plan.inbound) {
            match TcpListener::from_std(socket.into()) {
                Ok(listener) => {
                    tokio::task::spawn_local(serve::accept(Rc::clone(&thread), listener, *inbound));
                }
                Err(error) => panic!("a bound listener cannot be served: {error}"),
            }
        }
        plan.shutdown.begun().await;
        let drained = tokio::time::timeout(plan.drain_timeout, thread.drained()).await;
        thread.log.flush();
        if drained.is_ok() {
            Drained::Whole
        } else {
            Drained::CutOff
        }
    })
}
