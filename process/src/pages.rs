//! The small HTTP/1.1 listener for `/healthz`, `/readyz`, `/metrics` and a binary's own pages. GET and HEAD only, and no
//! input but the path: nothing here changes anything.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{Readiness, clients::Clients};

/// Connections that are served at a time; later ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Those of one address: however many it opens, others are served. Far more than the kubelet has open at a time, whose
/// address nobody here knows.
const MAX_PER_CLIENT: usize = MAX_CONNECTIONS / 2;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one connection may last, unless a page is being made then: scrapers reconnect, and an idle client must not
/// hold a slot.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);

/// One answer.
#[derive(Debug, Clone)]
pub struct Page {
    /// HTTP status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Page {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    /// Indented JSON.
    pub fn json(value: &serde_json::Value) -> Self {
        Self {
            status: 200,
            content_type: "application/json",
            body: format!("{value:#}\n").into(),
        }
    }
}

type Render = Arc<dyn Fn() -> Page + Send + Sync>;
/// A page that takes its time.
type Made = Pin<Box<dyn Future<Output = Page> + Send>>;
type Make = Arc<dyn Fn(&str, &HeaderMap) -> Made + Send + Sync>;

/// The pages of one listener, by path. `/` lists them.
#[derive(Clone, Default)]
pub struct Pages {
    by_path: BTreeMap<&'static str, Render>,
    under: Option<(&'static str, Make)>,
}

impl Pages {
    /// Adds a page that is rendered for each request.
    pub fn page(
        mut self,
        path: &'static str,
        render: impl Fn() -> Page + Send + Sync + 'static,
    ) -> Self {
        self.by_path.insert(path, Arc::new(render));
        self
    }

    /// Adds the pages whose path begins with `prefix`; `make` is told the rest of it and may take its time.
    pub fn under(
        mut self,
        prefix: &'static str,
        make: impl Fn(&str, &HeaderMap) -> Made + Send + Sync + 'static,
    ) -> Self {
        self.under = Some((prefix, Arc::new(make)));
        self
    }

    /// Adds `/healthz` (the process answers) and `/readyz` (503 with the conditions that do not hold).
    pub fn health(self, readiness: Readiness) -> Self {
        self.page("/healthz", || Page::text(200, "ok\n"))
            .page("/readyz", move || {
                let unmet = readiness.unmet();
                if unmet.is_empty() {
                    return Page::text(200, "ok\n");
                }
                let lines = unmet
                    .iter()
                    .map(|(name, why)| format!("{name}: {why}\n"))
                    .collect::<String>();
                Page::text(503, lines)
            })
    }

    /// Adds `/metrics` in Prometheus' text format.
    pub fn metrics(self, registry: Registry) -> Self {
        self.page("/metrics", move || {
            let mut body = Vec::new();
            match TextEncoder::new().encode(&registry.gather(), &mut body) {
                Ok(()) => Page {
                    status: 200,
                    content_type: prometheus::TEXT_FORMAT,
                    body: body.into(),
                },
                Err(error) => Page::text(500, format!("{error}\n")),
            }
        })
    }

    fn answer(&self, method: &Method, path: &str) -> Page {
        if method != Method::GET && method != Method::HEAD {
            return Page::text(405, "GET and HEAD only\n");
        }
        match self.by_path.get(path) {
            Some(render) => render(),
            None if path == "/" => Page::text(200, self.list()),
            None => Page::text(404, format!("no such page; there are:\n{}", self.list())),
        }
    }

    /// A page that takes its time, where the request is for one.
    fn make(&self, request: &Request<Incoming>) -> Option<Made> {
        let (prefix, make) = self.under.as_ref()?;
        let rest = request.uri().path().strip_prefix(prefix)?;
        (request.method() == Method::GET).then(|| make(rest, request.headers()))
    }

    fn list(&self) -> String {
        self.by_path
            .keys()
            .map(|path| format!("{path}\n"))
            .collect()
    }

    /// Serves until `stop`. Answers while the process drains, so that `/readyz` can say so; the caller decides when to
    /// stop.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let clients = Clients::new(MAX_PER_CLIENT);
        let pages = Arc::new(self);
        loop {
            let slot = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                slot = slots.clone().acquire_owned() => slot,
            };
            let (stream, client) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, or a client that went away: neither is a reason to end.
                        tracing::warn!(%error, "health listener cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let Some(place) = clients.admit(client.ip()) else {
                // Closed at once: in a queue it would stand before those of others.
                continue;
            };
            let pages = pages.clone();
            tokio::spawn(async move {
                let _held = (slot, place);
                let busy = Arc::new(AtomicBool::new(false));
                let making = busy.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let (pages, making) = (pages.clone(), making.clone());
                    async move {
                        let page = match pages.make(&request) {
                            Some(made) => {
                                making.store(true, Ordering::Relaxed);
                                let page = made.await;
                                making.store(false, Ordering::Relaxed);
                                page
                            }
                            None => pages.answer(request.method(), request.uri().path()),
                        };
                        Ok::<_, Infallible>(respond(page))
                    }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                let lived = async {
                    tokio::time::sleep(CONNECTION_LIFETIME).await;
                    while busy.load(Ordering::Relaxed) {
                        tokio::time::sleep(HEAD_TIMEOUT).await;
                    }
                };
                tokio::select! {
                    // A client that breaks off is its own affair.
                    _ = connection => {}
                    () = lived => {}
                }
            });
        }
    }
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(page.body));
    *response.status_mut() =
        StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(page.content_type),
    );
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn get(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream
            .write_all(
                format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn health_metrics_and_pages_answer() {
        let (readiness, registry) = (Readiness::default(), Registry::new());
        let snapshot = readiness.condition("snapshot");
        crate::build::register(&registry, "test").expect("registers");
        let pages = Pages::default()
            .health(readiness)
            .metrics(registry)
            .page("/debug", || Page::json(&serde_json::json!({"a": 1})));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        let stop = CancellationToken::new();
        let server = tokio::spawn(pages.serve(listener, stop.clone()));

        assert!(
            get(address, "GET /healthz")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let unready = get(address, "GET /readyz").await;
        assert!(
            unready.starts_with("HTTP/1.1 503") && unready.contains("snapshot: not yet"),
            "{unready}"
        );
        snapshot.met();
        assert!(
            get(address, "GET /readyz")
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            get(address, "GET /metrics")
                .await
                .contains("test_build_info{")
        );
        assert!(get(address, "GET /debug").await.contains("\"a\": 1"));
        assert!(
            get(address, "POST /debug")
                .await
                .starts_with("HTTP/1.1 405")
        );
        let missing = get(address, "GET /nothing").await;
        assert!(
            missing.starts_with("HTTP/1.1 404") && missing.contains("/readyz"),
            "{missing}"
        );

        stop.cancel();
        server.await.expect("no panic").expect("ends well");
    }

    #[tokio::test]
    async fn one_address_cannot_have_all_connections() {
        let pages = Pages::default().health(Readiness::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        let stop = CancellationToken::new();
        let server = tokio::spawn(pages.serve(listener, stop.clone()));
        let from = |client: [u8; 4]| async move {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind((client, 0).into()).expect("binds");
            let mut stream = socket.connect(address).await.expect("connects");
            let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
            // Whoever is closed at once may find it out here or there.
            let _ = stream.write_all(request).await;
            let answered = stream.read(&mut [0; 1]).await.is_ok_and(|read| read == 1);
            (stream, answered)
        };
        let mut held = Vec::new();
        for _ in 0..MAX_PER_CLIENT {
            let (stream, answered) = from([127, 0, 0, 2]).await;
            assert!(answered);
            held.push(stream);
        }
        let (_, answered) = from([127, 0, 0, 2]).await;
        assert!(!answered, "one too many");
        let (_other, answered) = from([127, 0, 0, 3]).await;
        assert!(answered, "another address has its own");
        // Places come back with the connections.
        held.clear();
        while !from([127, 0, 0, 2]).await.1 {}
        stop.cancel();
        server.await.expect("no panic").expect("ends well");
    }
}
