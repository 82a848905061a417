//! The floor: passes bytes between a client and the upstream, one thread, and reads none of them.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context as _, Result};

use super::poll::{self, Poll};

/// The number of the listener.
const LISTENER: usize = 0;

/// Relays until the process is ended.
pub fn run(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    serve(&listener, to, || false)
}

/// Relays until told.
pub(super) fn serve(listener: &TcpListener, to: SocketAddr, ends: impl Fn() -> bool) -> Result<()> {
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.add(listener, LISTENER)?;
    // Two sides of one connection have an odd number and the even one after it.
    let mut sides: HashMap<usize, TcpStream> = HashMap::new();
    let (mut next, mut buffer) = (LISTENER + 1, vec![0; poll::READ]);
    while !ends() {
        let ready: Vec<usize> = poll.wait()?.collect();
        for number in ready {
            if number == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    for (stream, number) in [(client, next), (TcpStream::connect(to)?, next + 1)] {
                        poll::prepare(&stream)?;
                        poll.add(&stream, number)?;
                        sides.insert(number, stream);
                    }
                    next += 2;
                }
            } else if pass(&mut sides, number, &mut buffer).is_err() {
                sides.remove(&number);
                sides.remove(&other(number));
            }
        }
    }
    Ok(())
}

fn other(number: usize) -> usize {
    if number % 2 == 1 {
        number + 1
    } else {
        number - 1
    }
}

fn pass(sides: &mut HashMap<usize, TcpStream>, from: usize, buffer: &mut [u8]) -> Result<()> {
    let Some(stream) = sides.get_mut(&from) else {
        return Ok(()); // went with its other side
    };
    if let Some(bytes) = poll::read(stream, buffer)? {
        poll::write(
            sides.get_mut(&other(from)).context("half a connection")?,
            bytes,
        )?;
    }
    Ok(())
}
