//! epoll with numbers for connections, level-triggered. Only reading is waited for: what is written here always fits into
//! the socket's buffer (see [`prepare`]).

use std::{
    io::{self, ErrorKind, Read, Write as _},
    net::TcpStream,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    io::Errno,
};
use socket2::SockRef;

/// Bytes that a connection may have unsent: far more than one answer.
const SEND_BUFFER: usize = 200 << 10;
/// Bytes read at once.
pub const READ: usize = 64 << 10;
/// How long a wait lasts at most, so that its loop can look at the clock.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// Between attempts to connect to what is starting.
const RETRY: Duration = Duration::from_millis(20);

/// Whom to wait for.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    /// Nobody yet.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll,
            events: Vec::with_capacity(256),
        })
    }

    /// Waits for `source` too. It is forgotten when it is closed.
    pub fn add(&self, source: impl AsFd, number: usize) -> io::Result<()> {
        let data = epoll::EventData::new_u64(number as u64);
        Ok(epoll::add(
            &self.epoll,
            source,
            data,
            epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
        )?)
    }

    /// Those that can be read, or nobody after a short while.
    pub fn wait(&mut self) -> io::Result<impl Iterator<Item = usize>> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&TICK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().map(|event| {
            let data = event.data;
            usize::try_from(data.u64()).unwrap_or(usize::MAX)
        }))
    }
}

/// Makes a connection fit for these loops.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    SockRef::from(stream).set_send_buffer_size(SEND_BUFFER)
}

/// What there is to read. None: nothing at present. An error also where the other side has closed.
pub fn read<'b>(stream: &mut TcpStream, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
    match stream.read(buffer) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(Some(&buffer[..count])),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes all of it, at once.
pub fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    match stream.write(bytes)? {
        count if count == bytes.len() => Ok(()),
        _ => Err(io::Error::new(
            ErrorKind::WriteZero,
            "the socket's buffer is full",
        )),
    }
}

/// Asks until the answer is there; the last error after `patience`.
pub fn until<T>(
    patience: Duration,
    mut ask: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begun = std::time::Instant::now();
    loop {
        match ask() {
            Err(_) if begun.elapsed() < patience => std::thread::sleep(RETRY),
            result => return result,
        }
    }
}
