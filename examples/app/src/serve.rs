//! Listeners, connections and the graceful end. What an answer holds is `answer`'s.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use http_body_util::Either;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{Args, answer::App, greet, health};

/// How long requests in flight may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);
/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Binds every address, serves until SIGTERM or SIGINT, then lets what is in flight end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args {
        listen,
        name,
        greet,
        end_at_once,
    } = args;
    let ended = signals()?;
    if end_at_once {
        let mut ended = ended.clone();
        tokio::spawn(async move {
            if ended.wait_for(|ended| *ended).await.is_ok() {
                std::process::exit(0);
            }
        });
    }
    let app = Arc::new(App::new(name.clone()));
    let mut listeners = Vec::with_capacity(listen.len());
    for address in listen {
        listeners.push(bind(address).await?);
    }
    // Tests and scripts read these lines to learn a port that was given as 0.
    for listener in &listeners {
        eprintln!("{name} listens on {}", listener.local_addr()?);
    }
    for address in greet {
        let listener = bind(address).await?;
        eprintln!("{name} greets on {}", listener.local_addr()?);
        tokio::spawn(greet::serve(listener, name.as_str().into(), ended.clone()));
    }
    serve(listeners, app, ended).await;
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: is something else there?"))
}

/// Serves on all listeners until `ended` turns true, then drains.
async fn serve(listeners: Vec<TcpListener>, app: Arc<App>, ended: watch::Receiver<bool>) {
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept(listener, app.clone(), ended.clone()));
    }
    while loops.join_next().await.is_some() {}
}

async fn accept(listener: TcpListener, app: Arc<App>, mut ended: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ended.wait_for(|ended| *ended) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, app.clone(), graceful.watcher()));
            }
            // Out of descriptors, most likely: let some connections end first.
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown())
        .await
        .is_err()
    {
        eprintln!("requests still in flight after {GRACE:?} were cut off");
    }
}

async fn connection(stream: TcpStream, app: Arc<App>, watcher: Watcher) {
    let service = service_fn(move |request| {
        let app = app.clone();
        async move {
            Ok::<_, Infallible>(match request.uri().path() {
                health::PATH => health::serving().map(Either::Right),
                _ => app.answer(request).await.map(Either::Left),
            })
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // A client that goes away is no event for a sample application.
    let _ = watcher.watch(connection).await;
}

/// Turns true at the first SIGTERM or SIGINT.
fn signals() -> anyhow::Result<watch::Receiver<bool>> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut term, mut int): (Signal, Signal) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    let (ended, ends) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        ended.send_replace(true);
    });
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Empty};
    use hyper::Request;

    use super::*;

    async fn started() -> (SocketAddr, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (end, ended) = watch::channel(false);
        let app = Arc::new(App::new("orders".into()));
        let server = tokio::spawn(serve(vec![listener], app, ended));
        (address, end, server)
    }

    fn get(uri: &str) -> Request<Empty<Bytes>> {
        Request::get(uri)
            .header("host", "example")
            .body(Empty::new())
            .expect("a valid request")
    }

    #[tokio::test]
    async fn both_versions_of_http_are_answered() {
        let (address, _end, _server) = started().await;
        let stream = TcpStream::connect(address).await.expect("listening");
        let (mut one, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1");
        tokio::spawn(driver);
        let answer = one.send_request(get("/")).await.expect("answered");
        assert_eq!(answer.status(), 200);

        let stream = TcpStream::connect(address).await.expect("listening");
        let (mut two, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2 with prior knowledge");
        tokio::spawn(driver);
        let uri = format!("http://{address}/");
        let answer = two.send_request(get(&uri)).await.expect("answered");
        assert_eq!(answer.version(), hyper::Version::HTTP_2);
        let body = answer
            .into_body()
            .collect()
            .await
            .expect("whole")
            .to_bytes();
        let told: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(told["served"], 2);

        let check = format!("http://{address}/grpc.health.v1.Health/Check");
        let answer = two.send_request(get(&check)).await.expect("answered");
        let body = answer.into_body().collect().await.expect("whole");
        let trailers = body.trailers().expect("a status behind the message");
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(body.to_bytes().last(), Some(&1), "SERVING");
    }

    #[tokio::test]
    async fn the_end_waits_for_what_is_in_flight_and_takes_nothing_new() {
        let (address, end, server) = started().await;
        let stream = TcpStream::connect(address).await.expect("listening");
        let (mut one, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1");
        tokio::spawn(driver);
        assert_eq!(
            one.send_request(get("/")).await.expect("warm").status(),
            200
        );
        one.ready().await.expect("kept alive");
        let sent = std::time::Instant::now();
        let slow = tokio::spawn(async move { one.send_request(get("/?delay=300ms")).await });
        // The counter says when the slow request has arrived.
        let stream = TcpStream::connect(address).await.expect("listening");
        let (mut other, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1");
        tokio::spawn(driver);
        for own in 1.. {
            other.ready().await.expect("kept alive");
            let answer = other.send_request(get("/")).await.expect("answered");
            let served = answer.headers()["x-served"].to_str().expect("a number");
            if served != (1 + own).to_string() {
                break;
            }
        }
        end.send_replace(true);
        server.await.expect("ends by itself");
        assert!(
            sent.elapsed() >= Duration::from_millis(300),
            "it did not wait"
        );
        let answer = slow.await.expect("no panic").expect("not cut off");
        assert_eq!(answer.status(), 200);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
