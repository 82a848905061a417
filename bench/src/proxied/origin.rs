//! The plain upstream: one thread that answers every GET with as many bytes as the last segment of its path says.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use super::{cpu, poll};

/// Sizes of bodies that it has, in bytes.
pub const SIZES: [usize; 3] = [128, 1024, 32 << 10];
/// The longest request, in bytes.
const MAX_REQUEST: usize = 16 << 10;
/// The number of the listener.
const LISTENER: usize = 0;

/// A running upstream; ends when dropped.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    served: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Origin {
    /// Starts it on a core; none: on any.
    pub fn start(core: Option<usize>) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
        let address = listener.local_addr()?;
        let (served, ends) = (Arc::default(), Arc::default());
        let thread = {
            let (served, ends) = (Arc::clone(&served), Arc::clone(&ends));
            std::thread::spawn(move || {
                if let Some(core) = core {
                    cpu::pin(core)?;
                }
                serve(&listener, &served, &ends)
            })
        };
        Ok(Self {
            address,
            served,
            ends,
            thread: Some(thread),
        })
    }

    /// Requests answered so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the upstream failed: {error:#}");
        }
    }
}

/// A connection and what it has sent of a request.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
}

fn serve(listener: &TcpListener, served: &AtomicU64, ends: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    let mut poll = poll::Poll::new()?;
    poll.add(listener, LISTENER)?;
    let answers: HashMap<Vec<u8>, Vec<u8>> = SIZES
        .map(|size| (size.to_string().into_bytes(), answer("200 OK", size)))
        .into();
    let unknown = answer("404 Not Found", 0);
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    let (mut next, mut buffer) = (LISTENER + 1, vec![0; poll::READ]);
    while !ends.load(Ordering::Relaxed) {
        let ready: Vec<usize> = poll.wait()?.collect();
        for number in ready {
            if number == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    poll::prepare(&stream)?;
                    poll.add(&stream, next)?;
                    connections.insert(
                        next,
                        Connection {
                            stream,
                            request: Vec::new(),
                        },
                    );
                    next += 1;
                }
            } else if let Some(connection) = connections.get_mut(&number) {
                match connection.step(&mut buffer, &answers, &unknown) {
                    Ok(count) => drop(served.fetch_add(count, Ordering::Relaxed)),
                    // Its end; the client notices where it was none.
                    Err(_) => drop(connections.remove(&number)),
                }
            }
        }
    }
    Ok(())
}

impl Connection {
    /// Reads, and answers a request that is whole; how many were.
    fn step(
        &mut self,
        buffer: &mut [u8],
        answers: &HashMap<Vec<u8>, Vec<u8>>,
        unknown: &[u8],
    ) -> Result<u64> {
        let Some(bytes) = poll::read(&mut self.stream, buffer)? else {
            return Ok(0);
        };
        self.request.extend_from_slice(bytes);
        if !self.request.ends_with(b"\r\n\r\n") {
            anyhow::ensure!(self.request.len() <= MAX_REQUEST, "a request without end");
            return Ok(0);
        }
        let target = self
            .request
            .split(|byte| *byte == b' ')
            .nth(1)
            .unwrap_or_default();
        let path = target
            .split(|byte| *byte == b'?')
            .next()
            .unwrap_or_default();
        let size = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        poll::write(
            &mut self.stream,
            answers.get(size).map_or(unknown, Vec::as_slice),
        )?;
        self.request.clear();
        Ok(1)
    }
}

/// An answer with seven headers.
fn answer(status: &str, size: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nDate: {}\r\nServer: origin\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\
         Cache-Control: public, max-age=86400\r\nETag: \"{size}\"\r\nX-Frame-Options: DENY\r\n\r\n",
        httpdate::fmt_http_date(SystemTime::now())
    );
    [head.into_bytes(), vec![b'x'; size]].concat()
}
