//! A client's connection as it is served: what it is for, and what tells whether it may go on. Its state is kept in cells
//! and looked at by one [sweep] of its thread now and then: no timer belongs to a connection or a request.

mod frames;
pub mod last_words;
mod limits;
mod places;
pub mod sweep;
pub mod traffic;

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
};

use http::HeaderValue;
use sluice_pipeline::framing::Fault;
use tokio::sync::{Notify, oneshot};

pub use limits::ConnectionLimits;
pub use places::{ConnectionPlace, OpenConnections};
use traffic::Traffic;

use super::{edge::Arrival, forwarded, http1::Switched, interim::Interims};
use crate::{cli::Inbound, metrics::Closing};

/// Control frames of HTTP/2 that one answer explains: what a client says about its stream.
const FRAMES_PER_ANSWER: u64 = 4;
/// How long a client that was told to go may stay with nothing to wait for, in milliseconds.
const FAREWELL_MS: u64 = 1_000;

/// A connection of a client.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub peer: SocketAddr,
    /// The port it arrived for.
    pub inbound: Inbound,
    /// What a body was refused for: nothing can be told apart behind it.
    pub fault: Rc<Cell<Option<Fault>>>,
    /// What the client is told before its answer.
    pub interims: Rc<Interims>,
    /// Who waits for the stream, once it speaks another protocol.
    pub switching: RefCell<Option<oneshot::Sender<Switched>>>,
    /// A request came over HTTP/2: it is told by GOAWAY when to go.
    pub http2: Notify,
    /// What its bytes tell.
    pub traffic: Rc<Traffic>,
    /// The client as `X-Forwarded-For` names it, once a request needed it.
    named: OnceCell<HeaderValue>,
    /// Who is at its other end, where it is a hop of the own trust domain.
    pub hop: OnceCell<sluice_pipeline::hop::Peer>,
    /// How it came through the door of an edge; none: it is a pod's.
    pub arrival: OnceCell<Arrival>,
    /// Requests that run.
    busy: Cell<u32>,
    /// Whether there ever was one.
    used: Cell<bool>,
    /// Since when nothing runs, in monotonic milliseconds.
    idle_since_ms: Cell<u64>,
    /// Bytes that had been read then: more of them begin a head.
    read_at_rest: Cell<u64>,
    /// Since when a head is under way.
    head_since_ms: Cell<Option<u64>>,
    /// Answers that wait for the client to read.
    unread: Cell<u32>,
    /// Since when the client does not read as it should, and what had been written then.
    stuck: Cell<Option<(u64, u64)>>,
    /// When it is old; none: never.
    old_at_ms: Option<u64>,
    /// Since when it should end by itself.
    leaving_since_ms: Cell<Option<u64>>,
    closing: Cell<Option<Closing>>,
    closes: Notify,
    _place: ConnectionPlace,
}

impl Connection {
    /// A connection that begins now; `old_at_ms` is when it shall end.
    pub fn new(
        peer: SocketAddr,
        inbound: Inbound,
        now_ms: u64,
        old_at_ms: Option<u64>,
        place: ConnectionPlace,
    ) -> Rc<Self> {
        Rc::new(Self {
            peer,
            inbound,
            fault: Rc::default(),
            interims: Rc::default(),
            switching: RefCell::default(),
            http2: Notify::new(),
            traffic: Rc::default(),
            named: OnceCell::new(),
            hop: OnceCell::new(),
            arrival: OnceCell::new(),
            busy: Cell::new(0),
            used: Cell::new(false),
            idle_since_ms: Cell::new(now_ms),
            read_at_rest: Cell::new(0),
            head_since_ms: Cell::new(None),
            unread: Cell::new(0),
            stuck: Cell::new(None),
            old_at_ms,
            leaving_since_ms: Cell::new(None),
            closing: Cell::new(None),
            closes: Notify::new(),
            _place: place,
        })
    }

    /// The client as `X-Forwarded-For` names it.
    pub fn named(&self) -> &HeaderValue {
        self.named.get_or_init(|| forwarded::named(self.peer.ip()))
    }

    /// `http` or `https`, as the client sees it.
    pub fn scheme(&self) -> &'static str {
        self.arrival.get().map_or("http", Arrival::scheme)
    }

    /// A request begins.
    pub fn begin(&self) {
        self.busy.set(self.busy.get() + 1);
        if !self.used.replace(true) && self.traffic.is_http2() {
            self.http2.notify_one();
        }
    }

    /// A request that began at `began_us` and took `duration_us` has ended; `complete`: its answer reached its end.
    pub fn end(&self, duration_us: u64, began_us: u64, complete: bool) {
        self.busy.set(self.busy.get().saturating_sub(1));
        self.idle_since_ms.set((began_us + duration_us) / 1000);
        self.read_at_rest.set(self.traffic.read());
        if complete {
            self.traffic.explain(FRAMES_PER_ANSWER);
        }
    }

    /// An answer begins, or ceases, to wait for the client.
    pub fn waits_for_reader(&self, waits: bool) {
        let unread = self.unread.get();
        self.unread.set(if waits {
            unread + 1
        } else {
            unread.saturating_sub(1)
        });
    }

    /// Whether a client of HTTP/1.1 is to be told with its next answer to go elsewhere.
    pub fn is_leaving(&self) -> bool {
        self.leaving_since_ms.get().is_some()
    }

    /// A request's body came too slowly: whatever follows on HTTP/1.1 cannot be told from the rest of it.
    pub fn body_stalled(&self) {
        if !self.traffic.is_http2() {
            self.leaving_since_ms.set(Some(self.idle_since_ms.get()));
        }
    }

    /// Why it is ended, if it is.
    pub fn closing(&self) -> Option<Closing> {
        self.closing.get()
    }

    /// Waits until it is to end, or, of HTTP/2, to be told to.
    pub async fn closes(&self) -> Closing {
        loop {
            self.closes.notified().await;
            if let Some(closing) = self.closing.get() {
                return closing;
            }
        }
    }

    /// Ends it.
    fn close(&self, closing: Closing) {
        if self.closing.replace(Some(closing)) != Some(closing) {
            self.closes.notify_one();
        }
    }

    /// Judges what was counted since the last look.
    fn look(&self, now_ms: u64, limits: &ConnectionLimits) {
        if self.traffic.is_flooding() {
            self.close(Closing::Flood);
        } else if self.reader_stalled(now_ms, limits) {
            self.close(Closing::AnswerStalled);
        } else if self.head_stalled(now_ms, limits) {
            self.close(Closing::HeadTimeout);
        } else {
            self.end_of_stay(now_ms, limits);
        }
    }

    /// Whether the client has not read enough for as long as it may. Less than the least rate counts as nothing.
    fn reader_stalled(&self, now_ms: u64, limits: &ConnectionLimits) -> bool {
        if !self.traffic.is_blocked() && self.unread.get() == 0 {
            self.stuck.set(None);
            return false;
        }
        let written = self.traffic.written();
        let (since_ms, mark) = self.stuck.get().unwrap_or((now_ms, written));
        let stood_ms = now_ms.saturating_sub(since_ms);
        self.stuck.set(Some((since_ms, mark)));
        if stood_ms < limits.answer_stall_ms {
            return false;
        }
        let enough = limits.min_rate.saturating_mul(stood_ms) / 1000;
        let read = written.saturating_sub(mark) >= enough.max(1);
        if read {
            self.stuck.set(Some((now_ms, written)));
        }
        !read
    }

    /// Whether a head has been under way for longer than it may: the first, a later one of HTTP/1.1 that has begun, a header
    /// block of HTTP/2.
    fn head_stalled(&self, now_ms: u64, limits: &ConnectionLimits) -> bool {
        let traffic = &self.traffic;
        let under_way = if traffic.is_http2() {
            traffic.is_head_open()
        } else {
            self.busy.get() == 0 && (!self.used.get() || traffic.read() > self.read_at_rest.get())
        };
        if !under_way {
            self.head_since_ms.set(None);
            return false;
        }
        let first = (!self.used.get()).then(|| self.idle_since_ms.get());
        let since_ms = self.head_since_ms.get().or(first).unwrap_or(now_ms);
        self.head_since_ms.set(Some(since_ms));
        now_ms.saturating_sub(since_ms) >= limits.head_ms
    }

    /// Ends what has been idle for long enough and tells what is old to go.
    fn end_of_stay(&self, now_ms: u64, limits: &ConnectionLimits) {
        let resting_ms =
            (self.busy.get() == 0).then(|| now_ms.saturating_sub(self.idle_since_ms.get()));
        let idle = resting_ms.is_some_and(|resting_ms| resting_ms >= limits.idle_ms);
        let old = self.old_at_ms.is_some_and(|old_at_ms| now_ms >= old_at_ms);
        if !idle && !old {
            return;
        }
        let closing = if idle { Closing::Idle } else { Closing::Aged };
        let http2 = self.traffic.is_http2();
        match self.leaving_since_ms.get() {
            None => {
                self.leaving_since_ms.set(Some(now_ms));
                // HTTP/1.1 has no word for it while nothing is asked: one that is old hears it with its next answer.
                if http2 || idle {
                    self.close(closing);
                }
            }
            // GOAWAY was sent, and nobody closes.
            Some(since_ms) if http2 => {
                let long = now_ms.saturating_sub(since_ms) >= FAREWELL_MS;
                if long && resting_ms.is_some_and(|resting_ms| resting_ms >= FAREWELL_MS) {
                    self.close(Closing::Lingering);
                }
            }
            Some(_) if idle => self.close(Closing::Idle),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        max: 10,
        max_per_thread: 10,
        max_age_ms: None,
        idle_ms: 1_000,
        head_ms: 200,
        body_stall_ms: 100,
        answer_stall_ms: 400,
        min_rate: 100,
        max_streams: 1,
        max_headers: 1,
        max_target: 1,
    };

    fn connection(old_at_ms: Option<u64>) -> Rc<Connection> {
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        let inbound = Inbound {
            listen: address,
            app: address,
        };
        let open = std::sync::Arc::<OpenConnections>::default();
        let place = ConnectionPlace::take(&open, &open, 9, 9).expect("there is room");
        Connection::new(address, inbound, 5, old_at_ms, place)
    }

    fn at(connection: &Connection, now_ms: u64) -> Option<Closing> {
        connection.look(now_ms, &LIMITS);
        connection.closing()
    }

    #[test]
    fn only_a_connection_without_a_request_has_a_deadline() {
        let connection = connection(None);
        assert_eq!(at(&connection, 204), None);
        connection.begin();
        connection.begin();
        connection.end(2_000, 9_000, true);
        assert_eq!(at(&connection, 9_999), None);
        connection.end(2_000, 9_000, true);
        assert_eq!(at(&connection, 1_010), None);
        assert_eq!(at(&connection, 1_011), Some(Closing::Idle));
    }

    #[test]
    fn a_first_head_has_its_time_from_the_beginning() {
        let connection = connection(None);
        assert_eq!(at(&connection, 204), None);
        assert_eq!(at(&connection, 205), Some(Closing::HeadTimeout));
    }

    #[test]
    fn the_old_are_told_and_not_cut_off() {
        let connection = connection(Some(100));
        connection.begin();
        assert_eq!(at(&connection, 99), None);
        assert!(!connection.is_leaving());
        assert_eq!(at(&connection, 100), None);
        assert!(connection.is_leaving(), "its answer says so");
        connection.end(1_000, 100_000, true);
        assert_eq!(at(&connection, 900), None, "a request may be on its way");
        assert_eq!(at(&connection, 1_101), Some(Closing::Idle));
    }

    #[test]
    fn a_reader_that_reads_too_little_is_as_one_that_does_not() {
        let connection = connection(None);
        connection.begin();
        connection.waits_for_reader(true);
        assert_eq!(at(&connection, 1_000), None);
        assert_eq!(at(&connection, 1_399), None);
        assert_eq!(at(&connection, 1_400), Some(Closing::AnswerStalled));

        let connection = self::connection(None);
        connection.begin();
        connection.waits_for_reader(true);
        at(&connection, 1_000);
        connection.waits_for_reader(false);
        assert_eq!(at(&connection, 1_399), None);
        connection.waits_for_reader(true);
        assert_eq!(at(&connection, 1_500), None, "it read in between");
    }
}
