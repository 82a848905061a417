//! Connections that stop speaking HTTP: the WebSocket protocol over HTTP/1.1 (RFC 6455, RFC 9110 section 7.8). The request
//! for it passes every phase like any other; after the 101 bytes pass as they are, each side at the other's pace.

use std::{
    cell::Cell,
    future::pending,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use sluice_pipeline::{Reject, RejectReason};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    sync::oneshot,
    task::spawn_local,
};

use super::{
    deadline::Ticker, headers, http1::Switched, serve::Connection, thread::Thread,
    upstream::UpstreamBody,
};
use crate::shards::Flight;

/// The only protocol that is passed on. Of a request for any other the `Upgrade` is dropped, and it goes on without:
/// above all `h2c`, in which requests could follow that no phase has seen.
pub const WEBSOCKET: &str = "websocket";

const UPGRADE_OPTION: HeaderValue = HeaderValue::from_static("upgrade");
const WEBSOCKET_VALUE: HeaderValue = HeaderValue::from_static(WEBSOCKET);

/// The client's end of a connection, once HTTP is over on it.
pub type Switching = oneshot::Receiver<Switched>;

/// How long neither side may send a byte. Applications that mean to stay ping more often.
const IDLE_MS: u64 = 600_000;
/// How long the client's end may take to be handed over, once the 101 is on its way.
const HANDOVER_MS: u64 = 10_000;

/// The client's end, where the request may ask for the WebSocket protocol: a GET of HTTP/1.1 without a body
/// (RFC 6455 section 4.1).
pub fn client_end(
    connection: &Connection,
    parts: &Parts,
    asked: headers::Asked,
    bodiless: bool,
) -> Option<Switching> {
    let may = asked.websocket
        && bodiless
        && parts.version == Version::HTTP_11
        && parts.method == Method::GET;
    may.then(|| {
        let (switching, switched) = oneshot::channel();
        connection.switching.replace(Some(switching));
        switched
    })
}

/// Asks the next hop for it.
pub fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, UPGRADE_OPTION);
    headers.insert(UPGRADE, WEBSOCKET_VALUE);
}

/// Both ends of what is no HTTP any more, and what lasts as long as it does.
pub struct Ends {
    /// The client's.
    pub client: Switching,
    /// The request's place on its shard slot.
    pub flight: Option<Flight>,
}

/// Passes the upstream's 101 on; what follows it passes as it is.
pub fn switch(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    ends: Option<Ends>,
    response: Response<UpstreamBody>,
) -> Result<http::response::Parts, Reject> {
    let bad = |why| Err(Reject::new(RejectReason::UpstreamReset).detail(why));
    let Some(ends) = ends else {
        return bad("the upstream switched protocols, which nobody had asked for");
    };
    let granted = headers::has_token(response.headers(), &UPGRADE, WEBSOCKET);
    let (mut head, body) = response.into_parts();
    let (true, UpstreamBody::Switched(upstream)) = (granted, body) else {
        return bad("the upstream switched to another protocol than it was asked for");
    };
    spawn_local(tunnel(
        Rc::clone(thread),
        Rc::clone(connection),
        ends,
        upstream,
    ));
    headers::remove_hop_by_hop(&mut head.headers);
    ask(&mut head.headers);
    head.version = Version::HTTP_11;
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    Ok(head)
}

/// Passes bytes until both sides have ended, or neither has sent any for long.
async fn tunnel(thread: Rc<Thread>, connection: Rc<Connection>, ends: Ends, upstream: Switched) {
    let Ends { client, flight } = ends;
    let _open = thread.tally.upgraded();
    let deadline_ms = thread.clock().now_ms() + HANDOVER_MS;
    // It may be gone by now: then there is nothing to pass.
    if let Ok(Ok(client)) = thread.ticker.within(deadline_ms, client).await {
        pass(&thread.ticker, client, upstream).await;
    }
    // All of them lasted until here.
    drop((connection, flight));
}

async fn pass(ticker: &Ticker, client: Switched, mut upstream: Switched) {
    let moved = Rc::new(Cell::new(false));
    let mut client = Watched {
        io: client,
        moved: Rc::clone(&moved),
    };
    tokio::select! {
        // How either side ends is the other's to see.
        _ = copy_bidirectional(&mut client, &mut upstream) => {}
        () = stood_still(ticker, &moved, IDLE_MS) => {}
    }
}

/// Ends when nothing has moved for `idle_ms`, or up to a quarter longer.
async fn stood_still(ticker: &Ticker, moved: &Cell<bool>, idle_ms: u64) {
    let mut still = 0;
    while still < 4 {
        let look_ms = ticker.now_ms() + idle_ms / 4;
        // It always elapses.
        let _ = ticker.within(look_ms, pending::<()>()).await;
        still = if moved.take() { 0 } else { still + 1 };
    }
}

/// Notes that bytes were read or written.
struct Watched<T> {
    io: T,
    moved: Rc<Cell<bool>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if polled.is_ready() {
            self.moved.set(true);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        if polled.is_ready() {
            self.moved.set(true);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use sluice_process::Clock;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn only_what_stands_still_is_ended() {
        let work = async {
            let clock = Clock::start();
            let ticker = Ticker::new(clock);
            spawn_local(ticker.clone().run());
            let began_ms = clock.now_ms();
            let moved = Cell::new(false);
            let moving = async {
                // Longer than it may stand still, with a byte in every quarter.
                while clock.now_ms() < began_ms + 600 {
                    moved.set(true);
                    let _ = ticker.within(clock.now_ms() + 20, pending::<()>()).await;
                }
                pending::<()>().await;
            };
            tokio::select! {
                () = stood_still(&ticker, &moved, 400) => {}
                () = moving => {}
            }
            assert!(
                clock.now_ms() >= began_ms + 1_000,
                "{}",
                clock.now_ms() - began_ms
            );
        };
        LocalSet::new().run_until(work).await;
    }
}
