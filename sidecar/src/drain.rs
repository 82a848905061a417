//! Leaving: when, after SIGTERM, nobody needs this sidecar any more, and the client of `sluice-sidecar drain`. How answers
//! tell clients to go is the data threads' (see [`sluice_process::Shutdown`]).

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use crate::shared::Shared;

/// How often the application is looked for after SIGTERM. It is gone by then, but for pods whose grace is too short.
const PERIOD: Duration = Duration::from_millis(50);
/// A port that takes longer to answer is not closed.
const DIAL: Duration = Duration::from_millis(500);
/// Ports that are remembered: an application that listens on more is waited for by these.
const MAX_PORTS: usize = 256;
/// How long `drain` looks for its sidecar: the next worker is there within this.
const FIND: Duration = Duration::from_secs(3);

/// The ports of the application: where it has been reached. One where it never listened counts as closed.
#[derive(Debug, Default)]
pub struct Apps {
    ports: Mutex<BTreeSet<SocketAddr>>,
}

impl Apps {
    /// Notes that the application listens there.
    pub fn reached(&self, port: SocketAddr) {
        let mut ports = self.lock();
        if ports.len() < MAX_PORTS {
            ports.insert(port);
        }
    }

    /// Whether every port refuses.
    async fn are_gone(&self) -> bool {
        let ports: Vec<_> = self.lock().iter().copied().collect();
        for port in ports {
            if listens(port).await {
                return false;
            }
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<SocketAddr>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until nothing is in flight and the application is gone: after that nobody can be served.
pub async fn unneeded(shared: &Shared) {
    loop {
        let in_flight = shared.metrics.in_flight() + shared.metrics.passing();
        if in_flight == 0 && shared.apps.are_gone().await {
            return;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Whether somebody listens. Only an answer that says no is a no: an overloaded application is still there.
async fn listens(port: SocketAddr) -> bool {
    match tokio::time::timeout(DIAL, TcpStream::connect(port)).await {
        Ok(Err(error)) => !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::AddrNotAvailable
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
        ),
        Ok(Ok(_)) | Err(_) => true,
    }
}

/// A sidecar that could not be told.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection, or no answer.
    #[error("the sidecar at {admin} cannot be told to drain: {cause}; is it another --admin?")]
    Io {
        /// The debug endpoint.
        admin: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// Something else answers there.
    #[error("{admin} is no sidecar's debug endpoint: it answered {answer:?}")]
    Answer {
        /// The debug endpoint.
        admin: SocketAddr,
        /// The first line.
        answer: String,
    },
}

/// Tells the sidecar at this debug endpoint to drain. One that is being restarted is waited for.
pub fn ask(admin: SocketAddr) -> Result<(), AskError> {
    let began = Instant::now();
    let answer = loop {
        match post(admin) {
            Ok(answer) => break answer,
            Err(_) if began.elapsed() < FIND => std::thread::sleep(PERIOD),
            Err(cause) => return Err(AskError::Io { admin, cause }),
        }
    };
    if answer.starts_with("HTTP/1.1 202 ") {
        Ok(())
    } else {
        let answer = answer.lines().next().unwrap_or_default();
        let answer = answer.chars().take(80).collect();
        Err(AskError::Answer { admin, answer })
    }
}

fn post(admin: SocketAddr) -> io::Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(&admin, DIAL)?;
    stream.set_read_timeout(Some(FIND))?;
    stream.set_write_timeout(Some(FIND))?;
    stream.write_all(b"POST /drain HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")?;
    let mut answer = [0; 128];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::shared::SharedLimits;

    #[tokio::test]
    async fn an_application_is_gone_once_every_port_it_had_refuses() {
        let (shared, _inbox) = Shared::new(SharedLimits::default());
        unneeded(&shared).await;
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("binds"));
        for port in &ports {
            shared.apps.reached(port.local_addr().expect("bound"));
        }
        let [first, second] = ports;
        assert!(!shared.apps.are_gone().await);
        drop(first);
        assert!(!shared.apps.are_gone().await);
        drop(second);
        unneeded(&shared).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_passes_is_waited_for() {
        let (shared, _inbox) = Shared::new(SharedLimits::default());
        let thread = shared.metrics.thread();
        let passing = thread.passing();
        let waited = tokio::time::timeout(Duration::from_secs(60), unneeded(&shared)).await;
        assert!(waited.is_err());
        drop(passing);
        unneeded(&shared).await;
    }

    #[test]
    fn whoever_answers_otherwise_is_no_sidecar() {
        let other = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = other.local_addr().expect("bound");
        let served = std::thread::spawn(move || {
            let (mut stream, _) = other.accept().expect("accepts");
            let _ = stream.read(&mut [0; 256]);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                .expect("writes");
        });
        let error = ask(address).expect_err("refused").to_string();
        served.join().expect("no panic");
        assert!(error.contains("200 OK"), "{error}");
    }
}
