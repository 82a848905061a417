//! The load generator: so many connections, each with one request under way, from the calling thread.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    http::Reader,
    poll::{self, Poll},
};

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// Whom to ask.
    pub address: SocketAddr,
    /// Sent in turn, over and over.
    pub requests: &'a [Vec<u8>],
    /// Connections.
    pub connections: usize,
    /// How long is not counted at first.
    pub warm_up: Duration,
    /// How long is counted.
    pub time: Duration,
}

/// What was counted.
#[derive(Debug, Clone, Copy)]
pub struct Counted<T> {
    /// Answers, all 200.
    pub answers: u64,
    /// What the caller's look showed as counting began.
    pub before: T,
    /// And as it ended.
    pub after: T,
}

struct Client {
    stream: TcpStream,
    reader: Reader,
}

impl Load<'_> {
    /// Sends; `look` is called as counting begins and as it ends. Anything but 200 is an error.
    pub fn run<T>(&self, mut look: impl FnMut() -> Result<T>) -> Result<Counted<T>> {
        let mut poll = Poll::new()?;
        let mut turn = self.requests.iter().cycle();
        let mut next = || turn.next().context("no requests");
        let mut clients = Vec::with_capacity(self.connections);
        for number in 0..self.connections {
            let mut stream = TcpStream::connect(self.address).context("cannot connect")?;
            poll::prepare(&stream)?;
            poll.add(&stream, number)?;
            poll::write(&mut stream, next()?)?;
            clients.push(Client {
                stream,
                reader: Reader::default(),
            });
        }
        let mut buffer = vec![0; poll::READ];
        let begins = Instant::now() + self.warm_up;
        let (mut answers, mut before, mut ends) = (0, None, begins + self.time);
        loop {
            let now = Instant::now();
            if before.is_none() && now >= begins {
                (answers, before) = (0, Some(look()?));
                ends = Instant::now() + self.time;
            }
            if now >= ends {
                break;
            }
            for number in poll.wait()? {
                let client = &mut clients[number];
                let Some(bytes) =
                    poll::read(&mut client.stream, &mut buffer).context("a connection ended")?
                else {
                    continue;
                };
                if let Some(head) = client.reader.feed(bytes)? {
                    ensure!(
                        head.status() == 200,
                        "an answer with status {}",
                        head.status()
                    );
                    answers += 1;
                    poll::write(&mut client.stream, next()?)?;
                }
            }
        }
        let after = look()?;
        ensure!(answers > 0, "no answer");
        Ok(Counted {
            answers,
            before: before.context("the warm-up never ended")?,
            after,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::{
        super::{http, origin::Origin, relay},
        *,
    };

    fn run(address: SocketAddr, target: &str, origin: &Origin) -> Result<Counted<u64>> {
        let requests = [http::get(target, &[])];
        let (warm_up, time) = (Duration::from_millis(30), Duration::from_millis(100));
        Load {
            address,
            requests: &requests,
            connections: 4,
            warm_up,
            time,
        }
        .run(|| Ok(origin.served()))
    }

    #[test]
    fn every_answer_through_the_relay_was_served_by_the_upstream() {
        let origin = Origin::start(None).expect("a free port");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let ends = AtomicBool::new(false);
        // The relay is ended before anything is judged: a scope waits for its threads.
        let [small, large, unknown] = std::thread::scope(|scope| {
            let relay = scope
                .spawn(|| relay::serve(&listener, origin.address, || ends.load(Ordering::Relaxed)));
            let targets = ["/plain/128", "/plain/32768?a=b", "/plain/7"];
            let results = targets.map(|target| run(address, target, &origin));
            ends.store(true, Ordering::Relaxed);
            relay.join().expect("no panic").expect("no error");
            results
        });
        for result in [small, large] {
            let Counted {
                answers,
                before,
                after,
            } = result.expect("only 200");
            // Four may be under way at either look, and four of the load before.
            assert!(
                answers > 0 && answers.abs_diff(after - before) <= 8,
                "{answers} of {}",
                after - before
            );
        }
        let error = unknown.expect_err("404 is no good answer");
        assert!(error.to_string().contains("404"), "{error}");
    }

    #[test]
    fn nobody_there_is_an_error() {
        let origin = Origin::start(None).expect("a free port");
        let closed = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port");
        run(closed, "/plain/128", &origin).expect_err("refused");
    }
}
