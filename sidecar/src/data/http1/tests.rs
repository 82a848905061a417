//! The engine over a pipe, with answers made up: what is written, byte for byte, however little fits at a time.

use std::{cell::RefCell, future::poll_fn, pin::Pin, rc::Rc};

use bytes::Bytes;
use http::{
    Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH},
};
use http_body::Body as _;
use sluice_pipeline::framing::{Fault, Lines, Read, Reader};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    cli::Inbound,
    data::{
        OpenConnections,
        body::{Arrived, Body, ClientBody},
        connection::{Connection, ConnectionPlace},
        thread::Thread,
    },
};

fn connection() -> Rc<Connection> {
    let address = std::net::SocketAddr::from(([192, 0, 2, 1], 80));
    let inbound = Inbound {
        listen: address,
        app: address,
    };
    let open = std::sync::Arc::<OpenConnections>::default();
    let place = ConnectionPlace::take(&open, &open, 9, 9).expect("there is room");
    Connection::new(address, inbound, 0, None, place)
}

/// What a client reads to the end that sends `sent`, through a pipe of `room` bytes.
async fn said<F: Future<Output = Response<Body>>>(
    room: usize,
    sent: &[u8],
    answer: impl Fn(Arrived, Option<Fault>) -> F,
) -> String {
    let (near, far) = tokio::io::duplex(room);
    let (thread, connection) = (Thread::idle(), connection());
    let incoming = Incoming::new(
        near,
        Rc::clone(&thread.scratch),
        Rc::clone(&connection.fault),
    );
    let shared = Shared::new(incoming);
    let (mut reads, mut writes) = tokio::io::split(far);
    let mut read = Vec::new();
    let serving = async {
        assert_eq!(
            serve(&thread, &connection, &shared, answer).await,
            Ended::Over
        );
        drop(shared.borrow().give_away());
    };
    let reading = async {
        // An end in the middle is one too.
        let _ = reads.read_to_end(&mut read).await;
    };
    let writing = async {
        let _ = writes.write_all(sent).await;
    };
    tokio::join!(serving, reading, writing);
    String::from_utf8(read).expect("text")
}

/// Without the line that is another each second.
fn undated(text: &str) -> String {
    let lines = text.split_inclusive("\r\n");
    lines.filter(|line| !line.starts_with("date: ")).collect()
}

fn text(body: &'static str) -> Response<Body> {
    Response::new(Body::memory(Bytes::from_static(body.as_bytes())))
}

const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn answers_come_in_order_however_little_fits_at_a_time() {
    let large = "0123456789".repeat(2_000);
    let sent = format!("GET /large HTTP/1.1\r\nHost: a\r\n\r\n{LAST}");
    for room in [1, 7, 64, 100_000] {
        let large = &large;
        let answer = move |request: Arrived, refused| async move {
            assert_eq!(refused, None);
            match request.parts.uri.path() {
                "/large" => Response::new(Body::memory(Bytes::from(large.clone()))),
                _ => text("end"),
            }
        };
        let said = undated(&said(room, sent.as_bytes(), answer).await);
        let expected = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n{large}HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nend"
        );
        assert!(
            said == expected,
            "room for {room}: {}",
            &said[..said.len().min(200)]
        );
    }
}

#[tokio::test]
async fn a_body_ends_with_its_request() {
    let kept = RefCell::new(None);
    let answer = |request: Arrived, _| {
        let kept = &kept;
        async move {
            if request.parts.uri.path() == "/last" {
                let mut stale: ClientBody = kept.take().expect("kept");
                let frame = poll_fn(|context| Pin::new(&mut stale).poll_frame(context)).await;
                assert!(matches!(frame, Some(Err(_))), "{frame:?}");
                return text("stale");
            }
            kept.replace(Some(request.body));
            text("unread")
        }
    };
    // Its body has come, so another request may follow, whoever read it.
    let sent = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET {LAST}");
    let said = said(1_000, sent.as_bytes(), answer).await;
    assert!(said.contains("unread") && said.ends_with("stale"), "{said}");
}

#[tokio::test]
async fn a_client_of_http_1_0_is_answered_in_its_words() {
    let answer = |request: Arrived, _| async move {
        match request.parts.uri.path() {
            "/none" => {
                let mut none = text("");
                *none.status_mut() = StatusCode::NO_CONTENT;
                none
            }
            _ => text("x"),
        }
    };
    let sent = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\nGET /none HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.0\r\nHost: a\r\n\r\n";
    let said = undated(&said(1_000, sent.as_bytes(), answer).await);
    let expected = "HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\nxHTTP/1.1 204 No Content\r\n\r\nHTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!(said, expected);
}

#[tokio::test]
async fn the_answer_to_head_tells_of_a_body_and_has_none() {
    let answer = |_, _| async {
        let mut answer = text("never seen");
        answer.headers_mut().insert(CONTENT_LENGTH, 10.into());
        answer
    };
    let sent = format!("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n{LAST}");
    let said = undated(&said(1_000, sent.as_bytes(), answer).await);
    let expected = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nnever seen";
    assert_eq!(said, expected);
}

#[tokio::test]
async fn leave_is_given_to_whoever_waits_for_it_and_only_if_the_body_is_wanted() {
    let sent =
        "POST /read HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok";
    let answer = |request: Arrived, _| async move {
        let reads = request.parts.uri.path() == "/read";
        let mut body = request.body;
        if reads {
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert!(matches!(frame, Some(Ok(_))), "{frame:?}");
        }
        let mut answer = text("");
        answer
            .headers_mut()
            .insert(CONNECTION, "close".parse().expect("a value"));
        answer
    };
    let read = said(1_000, sent.as_bytes(), answer).await;
    assert!(
        read.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{read}"
    );
    let refused = said(1_000, sent.replace("/read", "/no").as_bytes(), answer).await;
    assert!(refused.starts_with("HTTP/1.1 200 OK\r\n"), "{refused}");
}

#[tokio::test]
async fn what_is_refused_is_shown_by_its_line_and_ends_the_connection() {
    let answer = |request: Arrived, refused: Option<Fault>| async move {
        assert_eq!(request.parts.headers.len(), 0);
        assert_eq!(
            (request.parts.method.as_str(), refused),
            ("PUT", Some(Fault::NoHost))
        );
        assert_eq!(request.parts.uri, "/x?y");
        text("no")
    };
    let sent = format!("PUT /x?y HTTP/1.1\r\nA: b\r\n\r\n{LAST}");
    let said = undated(&said(1_000, sent.as_bytes(), answer).await);
    let expected = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    assert_eq!(said, expected);
}

#[test]
fn a_date_is_that_of_its_second() {
    let scratch = Scratch::default();
    let date = scratch.date(784_111_777);
    assert_eq!(&date, b"Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(&scratch.date(784_111_778)[20..], b"49:38 GMT".as_slice());
}

#[test]
fn a_head_is_written_as_it_was_read() {
    let head = Bytes::from_static(
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Two:  1 \r\nx-two:\t2\r\nx-none:\r\n\r\n",
    );
    let mut lines = Lines::default();
    let read = Reader::requests().read(&head, &mut lines);
    assert!(matches!(read, Ok(Read::Head(_))), "{read:?}");
    let fields = fields(&head, &lines.fields).expect("sound");
    let mut out = Vec::new();
    write_fields(&mut out, &fields);
    let written = "host: a\r\nx-two: 1\r\nx-two: 2\r\nx-none: \r\n";
    assert_eq!(String::from_utf8_lossy(&out), written);
    assert_eq!(lines.target.of(&head), b"/");
}

#[test]
fn lines_of_this_hop_stand_in_place_of_the_upstreams() {
    let head = || {
        let answer = Response::builder()
            .header("ratelimit", "theirs")
            .header("x-other", "kept")
            .header("ratelimit-policy", "theirs");
        answer.body(()).expect("an answer").into_parts().0
    };
    let asked = outgoing::Asked {
        head: false,
        http10: false,
        trailers: false,
        keep: true,
    };
    let written = |own_lines: &[u8]| {
        let mut out = Vec::new();
        let framing = outgoing::Framing::Length(0);
        outgoing::write_head(&mut out, &head(), own_lines, framing, asked, || [b' '; 29]);
        undated(&String::from_utf8_lossy(&out))
    };
    let own = b"ratelimit: \"a\";r=1;t=1\r\n";
    assert_eq!(
        written(own),
        "HTTP/1.1 200 OK\r\nx-other: kept\r\nratelimit: \"a\";r=1;t=1\r\ncontent-length: 0\r\n\r\n"
    );
    assert!(written(b"").contains("ratelimit-policy: theirs\r\n"));
}

#[test]
fn the_room_is_empty_and_stays_small() {
    let scratch = Scratch::default();
    scratch.write(|out| out.extend_from_slice(&[1; 10 * WRITE]));
    scratch.write(|out| {
        assert!(
            out.is_empty() && out.capacity() <= WRITE,
            "{}",
            out.capacity()
        );
    });
}
