//! Exchanges with upstreams of HTTP/1.1, byte by byte: requests that are taken slowly, answers that are cut, early, or more than
//! one, and what becomes of their connections.

use std::{future::Future, net::SocketAddr, pin::Pin, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluice_process::Clock;
use sluice_snapshot::unit::{backend::BackendProtocol, route::Timeouts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
    time::timeout,
};

use super::{
    super::{
        body::{Leaving, RequestBody},
        deadline::Ticker,
        http1::{Broken, Scratch},
        upstream::{Pool, UpstreamBody, UpstreamError},
    },
    client::PATIENCE,
    rig::{Rig, route, rule},
};

/// More than the buffers between two sockets take.
const LARGE: usize = 24 << 20;

/// An upstream that a test plays itself, and a pool of connections to it.
struct Stage {
    listener: TcpListener,
    address: SocketAddr,
    pool: Pool,
}

impl Stage {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let clock = Clock::start();
        let ticker = Ticker::new(clock);
        spawn_local(ticker.clone().run());
        let pool = Pool::new(clock, ticker, Rc::<Scratch>::default());
        Self {
            listener,
            address,
            pool,
        }
    }

    async fn accept(&self) -> TcpStream {
        let accepted = timeout(PATIENCE, self.listener.accept()).await;
        accepted.expect("in time").expect("accepts").0
    }

    async fn send(&self, request: Leaving) -> Result<Response<UpstreamBody>, UpstreamError> {
        let deadline_ms = self.pool.clock().now_ms() + 20_000;
        let protocol = BackendProtocol::Http1;
        let mut request = Some(request);
        let sent = self
            .pool
            .send(self.address, protocol, &mut request, deadline_ms, None);
        sent.await
    }

    /// A GET, and an upstream that answers it with these pieces and closes after the last where it is told to. The body;
    /// the upstream's end of the connection.
    async fn answered(
        &self,
        upstream: Option<TcpStream>,
        pieces: &[&str],
        closes: bool,
    ) -> (Result<Vec<u8>, Broken>, TcpStream) {
        let play = async {
            let mut stream = match upstream {
                Some(stream) => stream,
                None => self.accept().await,
            };
            head(&mut stream).await;
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.expect("writes");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if closes {
                stream.shutdown().await.expect("closes");
            }
            stream
        };
        let ask = async {
            match self.send(get("GET")).await {
                Ok(response) => all(response.into_body()).await,
                Err(UpstreamError::Broken(_, broken)) => Err(broken),
                Err(other) => panic!("{other}"),
            }
        };
        let (body, stream) = tokio::join!(ask, play);
        (body, stream)
    }
}

fn get(method: &str) -> Leaving {
    let request = Request::builder().method(method).uri("/x?y=1");
    let request = request.header("host", "a.example").body(());
    let parts = Box::new(request.expect("a request").into_parts().0);
    let body = RequestBody::Empty;
    Leaving { parts, body }
}

async fn on_stage<F: Future<Output = ()>>(play: impl FnOnce(Stage) -> F) {
    let work = async { play(Stage::new().await).await };
    timeout(PATIENCE * 2, LocalSet::new().run_until(work))
        .await
        .expect("in time");
}

/// Reads to the end of a head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

async fn all(mut body: UpstreamBody) -> Result<Vec<u8>, Broken> {
    let mut bytes = Vec::new();
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        match frame.await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().expect("trailers");
                    for (name, value) in &trailers {
                        bytes.extend_from_slice(format!("[{name}={value:?}]").as_bytes());
                    }
                }
            },
            Some(Err(broken)) => return Err(broken),
            None => return Ok(bytes),
        }
    }
}

/// Waits until the pool has closed its end, which sees to it that nobody sends anything there.
async fn is_let_go(stage: &Stage, stream: &mut TcpStream) {
    let gone = async {
        loop {
            stage.pool.purge();
            tokio::select! {
                biased;
                read = stream.read_u8() => break assert!(read.is_err()),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    };
    timeout(PATIENCE, gone).await.expect("it is closed, unused");
}

/// Whether the connection is the pool's for another request: then that comes here.
async fn is_used_again(stage: &Stage, stream: TcpStream) -> bool {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let play = async {
        let mut stream = stream;
        let mut first = [0];
        let again = tokio::select! {
            read = stream.read(&mut first) => matches!(read, Ok(1)),
            mut other = stage.accept() => {
                head(&mut other).await;
                other.write_all(ok.as_bytes()).await.expect("writes");
                return false;
            }
        };
        let mut other = match again {
            true => stream,
            false => stage.accept().await,
        };
        head(&mut other).await;
        other.write_all(ok.as_bytes()).await.expect("writes");
        again
    };
    let (answer, again) = tokio::join!(stage.send(get("GET")), play);
    assert_eq!(answer.expect("an answer").status(), 200);
    again
}

#[tokio::test]
async fn a_body_that_is_taken_slowly_arrives_whole() {
    on_stage(|stage| async move {
        let body: Vec<u8> = (0..LARGE).map(|at| (at / 7) as u8).collect();
        let full = RequestBody::Full(Bytes::from(body.clone()));
        let request = Leaving {
            body: full,
            ..get("PUT")
        };
        let play = async {
            let mut stream = stage.accept().await;
            let head = head(&mut stream).await;
            let expected = format!(
                "PUT /x?y=1 HTTP/1.1\r\nhost: a.example\r\ncontent-length: {LARGE}\r\n\r\n"
            );
            assert_eq!(head, expected);
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut got = vec![0; LARGE];
            stream.read_exact(&mut got).await.expect("a body");
            assert!(got == body, "not a byte is lost or twice");
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            stream.write_all(answer).await.expect("writes");
            stream
        };
        let (answer, stream) = tokio::join!(stage.send(request), play);
        assert_eq!(answer.expect("an answer").status(), 204);
        assert!(is_used_again(&stage, stream).await);
    })
    .await;
}

#[tokio::test]
async fn answers_are_read_however_they_come() {
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\nx-sum: 5\r\n\r\n";
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
    let interims = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n";
    for (answer, expected) in [
        (chunks.to_owned(), "abcde[x-sum=\"5\"]"),
        (length.to_owned(), "abc"),
        (format!("{interims}{length}"), "abc"),
    ] {
        on_stage(|stage| async move {
            let (body, stream) = stage.answered(None, &[&answer], false).await;
            assert_eq!(body.expect("whole"), expected.as_bytes());
            // Byte by byte, over the same connection.
            let bytes: Vec<&str> = (0..answer.len()).map(|at| &answer[at..=at]).collect();
            let (body, stream) = stage.answered(Some(stream), &bytes, false).await;
            assert_eq!(body.expect("whole"), expected.as_bytes());
            assert!(is_used_again(&stage, stream).await);
        })
        .await;
    }
}

#[tokio::test]
async fn an_answer_without_a_body_has_none_whatever_it_says() {
    on_stage(|stage| async move {
        let play = async {
            let mut stream = stage.accept().await;
            assert!(head(&mut stream).await.starts_with("HEAD "));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
            stream.write_all(answer).await.expect("writes");
            stream
        };
        let (answer, stream) = tokio::join!(stage.send(get("HEAD")), play);
        let answer = answer.expect("an answer");
        assert_eq!(answer.headers()["content-length"], "5");
        assert_eq!(all(answer.into_body()).await.expect("none"), b"");
        let unchanged = "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n";
        let (body, stream) = stage.answered(Some(stream), &[unchanged], false).await;
        assert_eq!(body.expect("none"), b"");
        assert!(is_used_again(&stage, stream).await);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_cut_or_unsound_is_never_whole() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (pieces, closes) in [
        (
            vec!["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"],
            true,
        ),
        (
            vec!["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "ab", "c"],
            true,
        ),
        (vec![chunked, "5\r\nabc"], true),
        (vec![chunked, "3\r\nabc\r\n"], true),
        (vec![chunked, "3\r\nabc\r\n0\r\n"], true),
        (vec![chunked, "3\r\nabcd"], false),
        (vec![chunked, "x\r\n"], false),
        (vec!["HTTP/1.1 200 OK\r\ncontent-le"], true),
        (vec!["HTTP/1.1 200 OK\r\nx : y\r\n\r\n"], false),
        (vec!["SMTP ready\r\n\r\n"], false),
    ] {
        on_stage(|stage| async move {
            let (body, stream) = stage.answered(None, &pieces, closes).await;
            let broken = body.expect_err("it is not whole");
            assert!(
                !matches!(broken, Broken::Unanswered),
                "{pieces:?}: {broken}"
            );
            assert!(!is_used_again(&stage, stream).await, "{pieces:?}");
        })
        .await;
    }
    on_stage(|stage| async move {
        let (body, _) = stage.answered(None, &[], true).await;
        assert!(matches!(body, Err(Broken::Unanswered)), "{body:?}");
    })
    .await;
}

#[tokio::test]
async fn only_a_connection_on_which_all_is_said_is_used_again() {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for (answer, closes, again) in [
        (ok.to_owned(), false, true),
        // Nobody asked for a second answer: it would be another request's.
        (format!("{ok}{ok}"), false, false),
        (format!("{ok}\r\n"), false, false),
        (ok.to_owned(), true, false),
        (
            ok.replace("content", "connection: close\r\ncontent"),
            false,
            false,
        ),
        (ok.replace("1.1", "1.0"), false, false),
        (
            ok.replace("1.1", "1.0")
                .replace("content", "connection: keep-alive\r\ncontent"),
            false,
            true,
        ),
        (ok.replace("content-length: 2\r\n", ""), true, false),
    ] {
        on_stage(|stage| async move {
            let (body, mut stream) = stage.answered(None, &[&answer], closes).await;
            assert_eq!(body.expect("whole"), b"ok");
            if closes {
                is_let_go(&stage, &mut stream).await;
            }
            assert_eq!(is_used_again(&stage, stream).await, again, "{answer}");
        })
        .await;
    }
}

#[tokio::test]
async fn what_comes_while_nobody_asks_ends_the_connection() {
    on_stage(|stage| async move {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let (body, mut stream) = stage.answered(None, &[ok], false).await;
        assert_eq!(body.expect("whole"), b"ok");
        stream.write_all(ok.as_bytes()).await.expect("writes");
        is_let_go(&stage, &mut stream).await;
    })
    .await;
}

/// A client that sends all before it reads, and an upstream that waits for all of it in the middle of its answer.
#[tokio::test]
async fn an_early_answer_does_not_hold_up_its_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let mut patient = rule("all", "/");
    patient.timeouts = Timeouts {
        request_ms: 20_000,
        backend_request_ms: 20_000,
    };
    let app = listener.local_addr().expect("bound");
    let rig = Rig::start(app);
    let mut wide = route("orders", vec![patient]);
    wide.request_limits.max_body = LARGE as u64;
    rig.install(&[(&[], wide)], Vec::new());
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        for _ in 0..2 {
            head(&mut stream).await;
            let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n";
            stream.write_all(begun).await.expect("writes");
            let mut left = vec![0; LARGE];
            stream.read_exact(&mut left).await.expect("the request");
            assert!(left.iter().all(|byte| *byte == b'x'));
            let rest = b"4\r\nlate\r\n0\r\n\r\n";
            stream.write_all(rest).await.expect("writes");
        }
    });
    let mut client = rig.client().await;
    for _ in 0..2 {
        let asked =
            format!("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: {LARGE}\r\n\r\n");
        let exchange = async {
            client.write(asked.as_bytes()).await;
            client.write(&vec![b'x'; LARGE]).await;
            client.answer("POST").await
        };
        let answer = timeout(PATIENCE, exchange).await.expect("no standstill");
        assert_eq!((answer.status, answer.body.as_str()), (200, "earlylate"));
    }
    upstream.await.expect("both over one connection");
}

#[tokio::test]
async fn an_answer_to_half_a_request_is_passed_on_and_the_rest_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let app = listener.local_addr().expect("bound");
    let rig = Rig::with(app, vec![rule("all", "/")], Vec::new());
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        head(&mut stream).await;
        let refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(refusal).await.expect("writes");
        let mut rest = Vec::new();
        // However it ends: with less than was announced.
        drop(
            timeout(PATIENCE, stream.read_to_end(&mut rest))
                .await
                .expect("it ends"),
        );
        rest.len()
    });
    let mut client = rig.client().await;
    client
        .write(b"POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 100\r\n\r\nabc")
        .await;
    let answer = client.answer("POST").await;
    assert_eq!((answer.status, answer.body.as_str()), (403, "no"));
    assert!(upstream.await.expect("no panic") < 100);
}

#[tokio::test]
async fn a_request_that_breaks_off_ends_the_answer_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let app = listener.local_addr().expect("bound");
    let rig = Rig::with(app, vec![rule("all", "/")], Vec::new());
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        head(&mut stream).await;
        let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n";
        stream.write_all(begun).await.expect("writes");
        let mut rest = Vec::new();
        drop(
            timeout(PATIENCE, stream.read_to_end(&mut rest))
                .await
                .expect("it ends"),
        );
        rest
    });
    let mut client = TcpStream::connect(rig.address).await.expect("connects");
    let asked =
        b"POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    client.write_all(asked).await.expect("writes");
    let mut answer = Vec::new();
    let begins = async {
        while !answer.ends_with(b"early\r\n") {
            answer.push(client.read_u8().await.expect("an answer that goes on"));
        }
    };
    timeout(PATIENCE, begins).await.expect("it begins");
    // A chunk that is none.
    client.write_all(b"nonsense\r\n").await.expect("writes");
    let rest = upstream.await.expect("no panic");
    assert!(rest.starts_with(b"3\r\nabc\r\n"), "{rest:?}");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    let mut cut = Vec::new();
    // An end or a reset.
    let ends = timeout(PATIENCE, client.read_to_end(&mut cut)).await;
    drop(ends.expect("the client sees it end"));
    assert!(!cut.ends_with(b"0\r\n\r\n"), "{cut:?}");
}

/// An application that keeps what it was sent: the head, then what follows it to the end of the trailers.
async fn keeper() -> (Rig, tokio::task::JoinHandle<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let app = listener.local_addr().expect("bound");
    let rig = Rig::with(app, vec![rule("all", "/")], Vec::new());
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let asked = head(&mut stream).await;
        let rest = head(&mut stream).await;
        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(ok).await.expect("writes");
        (asked, rest)
    });
    (rig, upstream)
}

#[tokio::test]
async fn trailers_pass_that_were_announced() {
    let (rig, upstream) = keeper().await;
    let mut client = rig.client().await;
    client
        .write(b"POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\nx-other: 2\r\n\r\n")
        .await;
    assert_eq!(client.answer("POST").await.status, 200);
    let (asked, rest) = upstream.await.expect("no panic");
    assert!(
        asked.contains("\r\ntransfer-encoding: chunked\r\n"),
        "{asked}"
    );
    assert!(!asked.contains("content-length"), "{asked}");
    assert_eq!(rest, "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n");
}

/// HTTP/2 carries them; what an application of HTTP/1.1 would make of them nobody knows.
#[tokio::test]
async fn what_must_not_be_a_trailer_is_dropped_on_the_way_from_http2() {
    let (rig, upstream) = keeper().await;
    let names = "authorization, content-length, x-sum, host";
    let mut trailers = HeaderMap::new();
    for name in names.split(", ") {
        trailers.insert(name, HeaderValue::from_static("1"));
    }
    let frames = [
        Frame::data(Bytes::from_static(b"abc")),
        Frame::trailers(trailers),
    ];
    let frames = frames.map(Ok::<_, std::convert::Infallible>);
    let request = Request::post("http://a.example/")
        .header("trailer", names)
        .body(StreamBody::new(futures::stream::iter(frames)));
    let stream = TcpStream::connect(rig.address).await.expect("connects");
    let executor = TokioExecutor::new();
    let (mut sender, connection) = http2::handshake(executor, TokioIo::new(stream))
        .await
        .expect("speaks HTTP/2");
    tokio::spawn(async move { drop(connection.await) });
    let answer = sender.send_request(request.expect("a request"));
    assert_eq!(answer.await.expect("an answer").status(), 200);
    let (_, rest) = upstream.await.expect("no panic");
    assert_eq!(rest, "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n");
}
