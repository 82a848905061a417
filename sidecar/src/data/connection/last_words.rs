//! What is said to a client that the engine does not serve, or serves no longer: bounded in time, and never waited for by
//! anyone else.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use sluice_pipeline::{
    Reject, RejectReason,
    reject::{self, Description},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::{super::thread::Thread, Connection};
use crate::{
    cli::Inbound,
    log::{Endpoint, Line, Rfc3339},
    metrics::Closing,
};

/// How long a client that is refused may take to say which protocol it speaks, and then to hang up, in milliseconds each.
const WAIT_MS: u64 = 500;
/// Bytes that are read and thrown away meanwhile: a socket closed with unread bytes would take the answer back.
const MAX_UNREAD: usize = 256 << 10;
/// Clients of one data thread that are being refused at a time; those beyond are closed without a word.
pub const MAX_REFUSING: usize = 16;

/// An empty SETTINGS frame, the first a server sends (RFC 9113 section 3.4).
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// RFC 9113 section 7.
const ENHANCE_YOUR_CALM: u8 = 0xb;

/// A client's stream, in the clear or not.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// The socket under it.
    fn tcp(&self) -> &TcpStream;
}

impl ClientStream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// Ends a connection that the engine has let go of.
pub async fn close(
    thread: &Rc<Thread>,
    connection: &Connection,
    mut stream: impl ClientStream,
    closing: Closing,
) {
    thread.tally.closings.count(closing);
    let traffic = &connection.traffic;
    let http2 = traffic.is_http2();
    // While the client does not read, nothing more reaches it, and a frame may be half written.
    let heard = !traffic.is_blocked();
    let (status, words) = match closing {
        Closing::HeadTimeout if !http2 && traffic.read() > 0 => {
            let reject = Reject::new(RejectReason::RequestTimeout);
            (408, answer(&reject))
        }
        Closing::HeadTimeout | Closing::Flood if http2 => (0, goaway(u32::MAX >> 1).to_vec()),
        Closing::AnswerStalled | Closing::BodyStalled | Closing::Lingering => {
            // What the client does not read is thrown away; it would keep the kernel's memory for minutes.
            let _ = SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
            return;
        }
        _ => return,
    };
    log(
        thread,
        connection.peer,
        connection.inbound,
        status,
        closing.name(),
        http2,
    );
    if heard {
        say(thread, &mut stream, &words).await;
    }
}

/// Tells a client that there is no room for its connection: in HTTP, if it speaks that.
pub async fn refuse(thread: Rc<Thread>, mut stream: TcpStream, peer: SocketAddr, inbound: Inbound) {
    let mut first = [0; 3];
    let deadline_ms = thread.clock().now_ms() + WAIT_MS;
    let read = thread
        .ticker
        .within(deadline_ms, stream.read_exact(&mut first))
        .await;
    let http2 = first == *b"PRI";
    let reject = Reject::new(RejectReason::TooManyConnections).retry_after(1);
    log(
        &thread,
        peer,
        inbound,
        503,
        RejectReason::TooManyConnections.describe().name,
        http2,
    );
    if !matches!(read, Ok(Ok(_))) {
        return;
    }
    let words = if http2 {
        // No stream was looked at: whatever was asked may be asked again elsewhere.
        [&SETTINGS[..], &goaway(0)].concat()
    } else {
        answer(&reject)
    };
    say(&thread, &mut stream, &words).await;
}

/// Writes, ends the writing side, and waits a moment for the client to hang up.
async fn say(thread: &Thread, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), words: &[u8]) {
    let said = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let (mut unread, mut buffer) = (0, [0; 4096]);
        while unread < MAX_UNREAD {
            match stream.read(&mut buffer).await? {
                0 => break,
                bytes => unread += bytes,
            }
        }
        std::io::Result::Ok(())
    };
    // A client that does not listen has lost only the reason.
    let deadline_ms = thread.clock().now_ms() + WAIT_MS;
    let _ = thread.ticker.within(deadline_ms, Box::pin(said)).await;
}

/// A refusal as HTTP/1.1, of a connection that ends with it.
fn answer(reject: &Reject) -> Vec<u8> {
    let Description { status, .. } = reject.reason.describe();
    let phrase = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    let retry = reject
        .retry_after_s
        .map(|seconds| format!("retry-after: {seconds}\r\n"))
        .unwrap_or_default();
    let body = reject::problem_json(reject);
    let mut answer = format!(
        "HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n{retry}connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);
    answer
}

/// A GOAWAY frame (RFC 9113 section 6.8) after stream `last`.
fn goaway(last: u32) -> [u8; 17] {
    let [a, b, c, d] = last.to_be_bytes();
    [
        0,
        0,
        8,
        7,
        0,
        0,
        0,
        0,
        0,
        a,
        b,
        c,
        d,
        0,
        0,
        0,
        ENHANCE_YOUR_CALM,
    ]
}

fn log(
    thread: &Thread,
    peer: SocketAddr,
    inbound: Inbound,
    status: u16,
    reason: &'static str,
    http2: bool,
) {
    if !thread.log.is_on() {
        return;
    }
    thread.log.add(&Line {
        time: Rfc3339(Duration::from_millis(thread.clock().wall_ms())),
        peer: Some(Endpoint(peer)),
        protocol: if http2 { "HTTP/2" } else { "HTTP/1.1" },
        port: inbound.listen.port(),
        status,
        reason: Some(reason),
        phase: sluice_pipeline::order::Phase::Admit.name(),
        aborted: true,
        ..Line::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_an_engine_is_whole_http() {
        let reject = Reject::new(RejectReason::TooManyConnections).retry_after(1);
        let text = String::from_utf8(answer(&reject)).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nretry-after: 1\r\n"), "{head}");
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{head}"
        );
        assert!(body.contains("problems/too-many-connections"), "{body}");
    }

    #[test]
    fn a_goaway_is_a_frame_of_eight_bytes() {
        let frame = goaway(5);
        assert_eq!(frame[..9], [0, 0, 8, 7, 0, 0, 0, 0, 0]);
        assert_eq!(frame[9..], [0, 0, 0, 5, 0, 0, 0, 0xb]);
    }
}
