//! The sockets that clients reach: bound here, or inherited from the parent process, which holds them while workers come
//! and go so that no waiting connection is lost. The hand-over is that of socket activation (`sd_listen_fds(3)`):
//! `LISTEN_FDS` descriptors from 3 on, called what `LISTEN_FDNAMES` says. Nothing is accepted here.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

use crate::cli::ServeArgs;

/// The environment variable with the sockets' names, separated by colons.
pub const NAMES_VARIABLE: &str = "LISTEN_FDNAMES";
/// The environment variable with their number.
pub const COUNT_VARIABLE: &str = "LISTEN_FDS";
/// Connections the kernel keeps for a listener until they are accepted; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Sockets that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
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
    /// The parent handed over other sockets than this command line asks for.
    #[error(
        "inherited sockets are called {found:?}, these arguments need {wanted:?}; is {COUNT_VARIABLE} set by something else than `supervise`?"
    )]
    Names {
        /// What was handed over.
        found: String,
        /// What should have been.
        wanted: String,
    },
    /// A descriptor is no listening TCP socket of that port.
    #[error("inherited descriptor {name} is not a TCP listener of {address}")]
    NotIt {
        /// Its name.
        name: String,
        /// Where it should listen.
        address: SocketAddr,
    },
}

/// Everything that listens to the network.
#[derive(Debug)]
pub struct Listeners {
    /// Health, metrics, probes.
    pub pages: TcpListener,
    /// Those of the data threads, one entry for each thread.
    pub threads: Vec<ThreadListeners>,
}

/// The sockets of one data thread. Each thread has its own for every address: the kernel spreads the connections.
#[derive(Debug)]
pub struct ThreadListeners {
    /// One for each `--inbound`, in their order.
    pub inbound: Vec<TcpListener>,
    /// Connections that the pod's packet filter redirected.
    pub capture: Option<TcpListener>,
    /// Hops of edges and other sidecars.
    pub hop: Option<TcpListener>,
}

impl Listeners {
    /// The parent's sockets where there is a parent, else bound now.
    pub fn inherit_or_bind(args: &ServeArgs) -> Result<Self, ListenError> {
        let names = std::env::var(NAMES_VARIABLE).unwrap_or_default();
        let mut inherited = ListenFd::from_env();
        if inherited.len() == 0 {
            return Self::bind(args);
        }
        let wanted = names_of(args);
        if names != wanted.join(":") || inherited.len() != wanted.len() {
            return Err(ListenError::Names {
                found: names.chars().take(200).collect(),
                wanted: wanted.join(":"),
            });
        }
        let mut at = 0;
        Self::make(args, |address, _shared| {
            let taken = inherited.take_tcp_listener(at).ok().flatten();
            let name = wanted.get(at).cloned().unwrap_or_default();
            at += 1;
            taken
                .filter(|socket| is_it(socket, address))
                .ok_or(ListenError::NotIt { name, address })
        })
    }

    /// Binds all of them, or none.
    pub fn bind(args: &ServeArgs) -> Result<Self, ListenError> {
        Self::make(args, bind)
    }

    /// Names and sockets, in the order in which they are handed over.
    pub fn named(&self) -> Vec<(String, &TcpListener)> {
        let Self { pages, threads } = self;
        let sockets = threads.iter().flat_map(|thread| {
            let ThreadListeners {
                inbound,
                capture,
                hop,
            } = thread;
            inbound.iter().chain(capture).chain(hop)
        });
        let names = names(
            threads.len(),
            threads.first().map_or(0, |thread| thread.inbound.len()),
            threads
                .first()
                .is_some_and(|thread| thread.capture.is_some()),
            threads.first().is_some_and(|thread| thread.hop.is_some()),
        );
        names
            .into_iter()
            .zip([pages].into_iter().chain(sockets))
            .collect()
    }

    /// Has `socket` make each one in the order of [`Listeners::named`]: where, and whether others listen there too.
    fn make(
        args: &ServeArgs,
        mut socket: impl FnMut(SocketAddr, bool) -> Result<TcpListener, ListenError>,
    ) -> Result<Self, ListenError> {
        let pages = socket(args.metrics, false)?;
        let inbound: Vec<_> = args.inbound.iter().map(|inbound| inbound.listen).collect();
        let threads = of_threads(
            &inbound,
            (args.capture, args.hop),
            args.data_threads,
            socket,
        )?;
        Ok(Self { pages, threads })
    }
}

/// Binds a socket that each data thread has one of.
pub fn bind_shared(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address, true)
}

/// Binds the sockets of data threads. Port 0 is chosen by the system for the first thread; the others share it.
pub fn bind_threads(
    inbound: &[SocketAddr],
    capture: Option<SocketAddr>,
    threads: u16,
) -> Result<Vec<ThreadListeners>, ListenError> {
    of_threads(inbound, (capture, None), threads, bind)
}

fn of_threads(
    inbound: &[SocketAddr],
    (mut capture, mut hop): (Option<SocketAddr>, Option<SocketAddr>),
    threads: u16,
    mut socket: impl FnMut(SocketAddr, bool) -> Result<TcpListener, ListenError>,
) -> Result<Vec<ThreadListeners>, ListenError> {
    let mut inbound = inbound.to_vec();
    let mut shared = |address: &mut SocketAddr| {
        let socket = socket(*address, true)?;
        if let (0, Ok(bound)) = (address.port(), socket.local_addr()) {
            *address = bound;
        }
        Ok(socket)
    };
    (0..threads.max(1))
        .map(|_| {
            Ok(ThreadListeners {
                inbound: inbound
                    .iter_mut()
                    .map(&mut shared)
                    .collect::<Result<_, _>>()?,
                capture: capture.as_mut().map(&mut shared).transpose()?,
                hop: hop.as_mut().map(&mut shared).transpose()?,
            })
        })
        .collect()
}

fn names_of(args: &ServeArgs) -> Vec<String> {
    let threads = usize::from(args.data_threads.max(1));
    names(
        threads,
        args.inbound.len(),
        args.capture.is_some(),
        args.hop.is_some(),
    )
}

/// Names have no colon: it separates them.
fn names(threads: usize, inbound: usize, capture: bool, hop: bool) -> Vec<String> {
    let mut names = vec!["pages".to_owned()];
    for thread in 0..threads {
        names.extend((0..inbound).map(|index| format!("inbound-{index}-{thread}")));
        names.extend(capture.then(|| format!("capture-{thread}")));
        names.extend(hop.then(|| format!("hop-{thread}")));
    }
    names
}

/// Whether an inherited descriptor listens where it should.
fn is_it(socket: &TcpListener, address: SocketAddr) -> bool {
    let listens = socket2::SockRef::from(socket).is_listener();
    let there = socket
        .local_addr()
        .is_ok_and(|bound| address.port() == 0 || bound.port() == address.port());
    listens.unwrap_or(false) && there && socket.set_nonblocking(true).is_ok()
}

fn bind(address: SocketAddr, shared: bool) -> Result<TcpListener, ListenError> {
    let bound = match listen(address, shared) {
        // A kernel without IPv6: all addresses are those of IPv4.
        Err(error) if is_any_ipv6(address) && error.kind() != ErrorKind::AddrInUse => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into(), shared)
        }
        bound => bound,
    };
    bound.map_err(|cause| ListenError::Bind { address, cause })
}

fn listen(address: SocketAddr, shared: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if is_any_ipv6(address) {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn is_any_ipv6(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_listens_on_every_address_and_a_free_port_is_the_same_for_all() {
        let free: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let threads = bind_threads(&[free, free], Some(free), 3).expect("binds");
        let ports = |thread: &ThreadListeners| -> Vec<u16> {
            let sockets = thread.inbound.iter().chain(&thread.capture);
            let address = |socket: &TcpListener| socket.local_addr().expect("bound").port();
            sockets.map(address).collect()
        };
        assert_eq!(threads.len(), 3);
        assert_eq!(ports(&threads[0]), ports(&threads[2]));
        assert_eq!(ports(&threads[0]).len(), 3);
        assert_ne!(ports(&threads[0])[0], ports(&threads[0])[1]);
    }

    #[test]
    fn sockets_and_their_names_are_in_one_order() {
        let free: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let listeners = Listeners {
            pages: bind(free, false).expect("binds"),
            threads: bind_threads(&[free, free], Some(free), 2).expect("binds"),
        };
        let named = listeners.named();
        let names: Vec<_> = named.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names.join(":"),
            "pages:inbound-0-0:inbound-1-0:capture-0:inbound-0-1:inbound-1-1:capture-1"
        );
        let port = |at: usize| named[at].1.local_addr().expect("bound").port();
        assert_eq!((port(1), port(2), port(3)), (port(4), port(5), port(6)));
    }

    #[test]
    fn a_socket_that_does_not_listen_there_is_not_it() {
        let free: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let socket = bind(free, false).expect("binds");
        let bound = socket.local_addr().expect("bound");
        assert!(is_it(&socket, bound));
        let other = SocketAddr::new(bound.ip(), bound.port() ^ 1);
        assert!(!is_it(&socket, other));
    }

    #[test]
    fn all_addresses_are_those_of_both_families() {
        let any = bind("[::]:0".parse().expect("an address"), false).expect("binds");
        let port = any.local_addr().expect("bound").port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connects over IPv4");
    }
}
