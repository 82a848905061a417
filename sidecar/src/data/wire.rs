//! The stream under hyper: what arrives is shown to the [`Scanner`] first, and hyper gets only what is understood. A client's
//! message that is refused is replaced by a stand-in, a request that no client can send, so that the refusal is answered in
//! its turn, logged and counted like any other. An upstream's answer that is refused is an error of its connection; its
//! interim answers go from its wire to the client's.
//!
//! Bytes are looked at where they were read to; only a head or a trailer line that came in parts is kept until it is whole.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use http::{header::HOST, request::Parts};
use sluice_pipeline::framing::{self, Fault, Refused, Scanner, Side};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::interim::{Hearer, Interims};

/// What a stand-in asks for, where the refused message says nothing that could be shown: no client can, the scanner lets an
/// asterisk pass with OPTIONS only.
const UNSHOWN: &[u8] = b"- *";
/// The rest of a stand-in. It has no `Host`: that no client can send either.
const STAND_IN: &[u8] = b" HTTP/1.1\r\nconnection: close\r\n\r\n";
/// Bytes read at once behind what is kept.
const READ: usize = 4 << 10;
/// Bytes kept after a request for another protocol, until it is answered.
const MAX_UNDECIDED: usize = 16 << 10;
/// Bytes that are read and forgotten when a client's connection is ended: unread, they would let the system reset the
/// connection, and the answer be lost (RFC 9112 section 9.6).
const MAX_FORGOTTEN: usize = 256 << 10;
/// How long that may take where a message was refused of which more may come.
const LINGER: Duration = Duration::from_secs(2);

/// What is known of a [`Wire`] and told to it from outside. An upgraded connection's stream must be able to move to another
/// thread, so this can be shared; it is not contended.
#[derive(Debug, Default)]
pub struct Guard {
    /// What was refused: there is only one, nothing is read after it.
    refused: OnceLock<Refused>,
    /// One of the constants below, until the wire has heard it.
    told: AtomicU8,
    waker: AtomicWaker,
    /// What a client is told before its answer.
    pub interims: Arc<Interims>,
    /// Whom an upstream's interim answers are for.
    hearer: Mutex<Option<Hearer>>,
}

const STAY: u8 = 1;
const OPAQUE: u8 = 2;
const EXPECT: u8 = 3;
const EXPECT_BODILESS: u8 = 4;

impl Guard {
    /// The request for another protocol was granted: from its end on, everything passes.
    pub fn opaque(&self) {
        self.tell(OPAQUE);
    }

    /// It was answered otherwise: requests go on.
    pub fn stay(&self) {
        self.tell(STAY);
    }

    /// A request is about to be sent, and an answer may come. `bodiless`: the request is HEAD; `hearer`: its interim answers
    /// are for this client.
    pub fn expect(&self, bodiless: bool, hearer: Option<Hearer>) {
        *self.hearer.lock().unwrap_or_else(PoisonError::into_inner) = hearer;
        // Heard at the next read: the connection's task is woken by the request.
        self.told.store(
            if bodiless { EXPECT_BODILESS } else { EXPECT },
            Ordering::Relaxed,
        );
    }

    /// What the message was refused for whose stand-in this is.
    pub fn stood_in(&self, parts: &Parts) -> Option<Fault> {
        let refused = self.refused.get().filter(|refused| !refused.begun)?;
        (!parts.headers.contains_key(HOST)).then_some(refused.fault)
    }

    /// What the message was refused for of which hyper had the head already.
    pub fn broken_body(&self) -> Option<Fault> {
        let refused = self.refused.get().filter(|refused| refused.begun)?;
        Some(refused.fault)
    }

    /// Whether the message that is being answered is the last one: its body was refused. (A stand-in closes the connection
    /// itself, and what came before it is answered first.)
    pub fn is_last(&self) -> bool {
        self.broken_body().is_some()
    }

    /// Whether anything was refused: the connection has no future.
    pub fn is_refused(&self) -> bool {
        self.refused.get().is_some()
    }

    /// An upstream's interim answer.
    fn interim(&self, head: &[u8]) {
        if let Some(hearer) = &*self.hearer.lock().unwrap_or_else(PoisonError::into_inner) {
            hearer.hear(head);
        }
    }

    fn tell(&self, what: u8) {
        self.told.store(what, Ordering::Release);
        self.waker.wake();
    }
}

/// A stream whose messages are scanned as they are read.
#[derive(Debug)]
pub struct Wire<S> {
    io: S,
    guard: Arc<Guard>,
    side: Side,
    scanner: Scanner,
    /// Bytes that were read and not yet given; the first `sound` of them may be.
    held: Vec<u8>,
    sound: usize,
    after: After,
    /// The end of a connection that lingers, and the bytes it has forgotten.
    linger: Option<Pin<Box<Sleep>>>,
    forgotten: usize,
    /// hyper has nothing left to write: what it writes next begins an answer, or a part of one under way.
    at_rest: bool,
    /// What is left of interim answers that a client could not take at once.
    interim: Bytes,
}

/// What comes after the sound bytes.
#[derive(Debug, Clone, Copy)]
enum After {
    /// What is read.
    More,
    /// An error.
    Broken(Fault),
    /// Nothing.
    Silence,
}

impl<S> Wire<S> {
    /// The stream of a client.
    pub fn client(io: S, guard: Arc<Guard>) -> Self {
        Self::new(io, guard, Side::Request, Scanner::requests())
    }

    /// The stream of an upstream.
    pub fn upstream(io: S, guard: Arc<Guard>) -> Self {
        Self::new(io, guard, Side::Response, Scanner::responses())
    }

    fn new(io: S, guard: Arc<Guard>, side: Side, scanner: Scanner) -> Self {
        Self {
            io,
            guard,
            side,
            scanner,
            held: Vec::new(),
            sound: 0,
            after: After::More,
            linger: None,
            forgotten: 0,
            at_rest: true,
            interim: Bytes::new(),
        }
    }

    /// Hears what the guard was told. An answer may be decided before the last byte of its request is there: the decision
    /// waits for it.
    fn hear(&mut self) {
        let told = self.guard.told.load(Ordering::Acquire);
        match told {
            EXPECT | EXPECT_BODILESS => self.scanner.expect(told == EXPECT_BODILESS),
            STAY if self.scanner.is_undecided() => self.scanner.stay(),
            OPAQUE if self.scanner.is_undecided() => self.scanner.pass_all(),
            _ => return,
        }
        self.guard.told.store(0, Ordering::Relaxed);
        if !self.held.is_empty() {
            self.judge_held();
        }
    }

    /// Shows the scanner what is held and not yet sound.
    fn judge_held(&mut self) {
        let guard = &self.guard;
        let shown = &self.held[self.sound..];
        match self
            .scanner
            .advance_telling(shown, |head| guard.interim(head))
        {
            Ok(understood) => self.sound += understood,
            Err(refused) => {
                self.sound += refused.sound;
                let message = self.held.split_off(self.sound);
                self.refuse(refused, &message);
            }
        }
    }

    /// Ends what may be given with a stand-in for `message`, or with an error.
    fn refuse(&mut self, refused: Refused, message: &[u8]) {
        self.after = After::Silence;
        if self.side == Side::Response || refused.begun {
            self.after = After::Broken(refused.fault);
        } else {
            let line = framing::origin_form(message).unwrap_or(UNSHOWN);
            self.held.extend_from_slice(line);
            self.held.extend_from_slice(STAND_IN);
            self.sound = self.held.len();
        }
        // Nothing is read after a refusal: there is no second one.
        let _ = self.guard.refused.set(refused);
    }

    /// Gives what may be given of what is held; false: nothing may.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let here = self.sound.min(buf.remaining());
        if here == 0 {
            return false;
        }
        buf.put_slice(&self.held[..here]);
        self.sound -= here;
        if here == self.held.len() {
            // An idle connection keeps no memory.
            self.held = Vec::new();
        } else {
            self.held.drain(..here);
        }
        true
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    /// Reads to where hyper wants it, and takes back what is not understood. True: there is something for hyper, or the
    /// stream has ended.
    fn poll_in_place(
        &mut self,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buf))?;
        let new = &buf.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let guard = &self.guard;
        let sound = match self
            .scanner
            .advance_telling(new, |head| guard.interim(head))
        {
            Ok(understood) => {
                if understood < new.len() {
                    self.held.extend_from_slice(&new[understood..]);
                }
                understood
            }
            Err(refused) => {
                self.refuse(refused, &new[refused.sound..]);
                refused.sound
            }
        };
        buf.set_filled(before + sound);
        Poll::Ready(Ok(sound > 0))
    }

    /// Reads behind what is held. True: the stream has ended.
    fn poll_behind(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let before = self.held.len();
        self.held.resize(before + READ, 0);
        let mut behind = ReadBuf::new(&mut self.held[before..]);
        let polled = Pin::new(&mut self.io).poll_read(context, &mut behind);
        let read = behind.filled().len();
        self.held.truncate(before + read);
        ready!(polled)?;
        if read == 0 {
            // What is held is a part of a message whose end will not come.
            self.held = Vec::new();
            return Poll::Ready(Ok(true));
        }
        self.judge_held();
        Poll::Ready(Ok(false))
    }

    /// Reads what the client has sent, and forgets it: what is there already, and for a while what comes yet where a message
    /// was refused.
    fn poll_forget(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut room = [0; READ];
        while self.forgotten < MAX_FORGOTTEN {
            let mut buf = ReadBuf::new(&mut room);
            match Pin::new(&mut self.io).poll_read(context, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.forgotten += buf.filled().len();
                }
                Poll::Ready(_) => break,
                Poll::Pending if self.guard.is_refused() => {
                    let linger = self
                        .linger
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
                    return linger.as_mut().poll(context);
                }
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            this.hear();
            if this.give(buf) {
                return Poll::Ready(Ok(()));
            }
            match this.after {
                After::More => {}
                After::Broken(fault) => {
                    this.after = After::Silence;
                    let what = io::Error::new(io::ErrorKind::InvalidData, fault.what());
                    return Poll::Ready(Err(what));
                }
                // Not an end: hyper would take it for a client that went away and forget the answer.
                After::Silence => return Poll::Pending,
            }
            if this.scanner.is_undecided() {
                this.guard.waker.register(context.waker());
                if this.held.len() >= MAX_UNDECIDED {
                    return Poll::Pending;
                }
            }
            let done = if this.held.is_empty() && !this.scanner.is_undecided() {
                ready!(this.poll_in_place(context, buf))?
            } else {
                ready!(this.poll_behind(context))?
            };
            if done {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    /// Writes interim answers that wait. Only while hyper is at rest: else they would stand within an answer. None comes
    /// once its request is answered, so what hyper writes next is that answer, or a 100 before it.
    fn poll_interims(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(waiting) = self.guard.interims.take()
            && self.at_rest
        {
            self.interim = waiting.into();
        }
        while !self.interim.is_empty() {
            let io = Pin::new(&mut self.io);
            let written = ready!(io.poll_write(context, &self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interims(context))?;
        this.at_rest = false;
        Pin::new(&mut this.io).poll_write(context, bytes)
    }

    /// hyper flushes once it has written all it had.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.at_rest = true;
        ready!(this.poll_interims(context))?;
        Pin::new(&mut this.io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
        if this.side == Side::Request {
            ready!(this.poll_forget(context));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interims(context))?;
        this.at_rest = false;
        Pin::new(&mut this.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// What hyper would read of these pieces, each written alone.
    async fn read(pieces: &[&[u8]]) -> (Vec<u8>, Arc<Guard>) {
        let (mut client, server) = duplex(64 << 10);
        let guard = Arc::<Guard>::default();
        let mut wire = Wire::client(server, Arc::clone(&guard));
        let mut got = Vec::new();
        for piece in pieces {
            client.write_all(piece).await.expect("room");
            while futures::poll!(std::pin::pin!(wire.read_buf(&mut got))).is_ready() {}
        }
        (got, guard)
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    #[tokio::test]
    async fn not_a_byte_of_a_refused_head_is_given_but_its_request_line() {
        let bad = b"PUT /x HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n";
        let expected = [GET, b"PUT /x", STAND_IN].concat();
        let both = [GET, bad].concat();
        assert_eq!(read(&[&both]).await.0, expected);
        let bytes: Vec<&[u8]> = both.chunks(1).collect();
        let (got, guard) = read(&bytes).await;
        assert_eq!(got, expected);
        let parts = |host: &str| {
            let request = http::Request::builder().uri("/x").header(host, "a");
            request.body(()).expect("a request").into_parts().0
        };
        assert_eq!(guard.stood_in(&parts("x")), Some(Fault::SpaceBeforeColon));
        assert_eq!(guard.stood_in(&parts("host")), None, "it came before");
    }

    #[tokio::test]
    async fn nobody_can_send_a_stand_in() {
        let unshown = [UNSHOWN, STAND_IN].concat();
        let shown = [b"GET /", STAND_IN].concat();
        for sent in [&unshown, &shown] {
            let (got, guard) = read(&[sent]).await;
            assert!(guard.is_refused());
            assert_eq!(&got, sent);
            let (got, _) = read(&[&[sent, GET].concat()]).await;
            assert_eq!(&got, sent, "and nothing after it");
        }
    }

    #[tokio::test]
    async fn what_follows_an_upgrade_waits_for_its_answer() {
        let asked = b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\n\r\n";
        for (granted, expected) in [
            (true, b"\x01\x02\0".to_vec()),
            (false, [UNSHOWN, STAND_IN].concat()),
        ] {
            let (mut client, server) = duplex(1 << 10);
            let guard = Arc::<Guard>::default();
            let mut wire = Wire::client(server, Arc::clone(&guard));
            client.write_all(asked).await.expect("room");
            client.write_all(b"\x01\x02").await.expect("room");
            let mut got = vec![0; asked.len()];
            wire.read_exact(&mut got).await.expect("the request");
            let told = async {
                tokio::task::yield_now().await;
                if granted {
                    guard.opaque();
                } else {
                    guard.stay();
                }
                client.write_all(b"\0").await.expect("room");
            };
            let mut rest = vec![0; expected.len()];
            let (read, ()) = tokio::join!(wire.read_exact(&mut rest), told);
            read.expect("what follows");
            assert_eq!(rest, expected);
        }
    }

    #[tokio::test]
    async fn an_upstreams_bad_answer_is_an_error() {
        let (mut origin, client) = duplex(1 << 10);
        let guard = Arc::<Guard>::default();
        let mut wire = Wire::upstream(client, Arc::clone(&guard));
        guard.expect(false, None);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        origin.write_all(answer).await.expect("room");
        origin.write_all(b"more").await.expect("room");
        let mut got = Vec::new();
        let error = wire.read_to_end(&mut got).await.expect_err("refused");
        assert_eq!(got, answer);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(guard.is_refused());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

        /// hyper's own refusals have no log line: it must find nothing to refuse in what it is given.
        #[test]
        fn what_is_understood_the_engine_understands(
            target in "(/|\\*|http://a)[!-~\u{80}-\u{ff}]{0,12}",
            name in "[!-~]{1,8}",
            value in "[\t -~\u{80}-\u{ff}]{0,8}",
        ) {
            let head = format!("GET {target} HTTP/1.1\r\nhost: a\r\n{name}: {value}\r\n\r\n");
            if Scanner::requests().advance(head.as_bytes()) == Ok(head.len()) {
                proptest::prop_assert!(http::Uri::try_from(target.as_bytes()).is_ok(), "{target}");
                // The name ends at its first colon.
                let (name, rest) = name.split_once(':').unwrap_or((&name, ""));
                proptest::prop_assert!(http::HeaderName::try_from(name).is_ok(), "{name}");
                let value = format!("{rest}{value}");
                proptest::prop_assert!(http::HeaderValue::from_bytes(value.as_bytes()).is_ok());
            }
        }
    }
}
