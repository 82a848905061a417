//! The debug endpoint on loopback: the live snapshot without secrets, the version, readiness, and draining on request.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use sluice_pipeline::program::Content;
use sluice_process::{Page, Shutdown, build};
use tokio::{net::TcpListener, task::spawn_local};

use crate::shared::Shared;

/// How long a client may take for its request and its answer.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(10);

const PAGES: &str = "GET /config\nGET /version\nGET /readyz\nPOST /drain\n";

/// Serves for as long as the process lives, inside a `LocalSet`.
pub async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    shutdown: Shutdown,
) -> io::Result<()> {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the debug endpoint cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
        spawn_local(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let page = answer(&request, &shared, &shutdown);
                async move { Ok::<_, Infallible>(response(page)) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A client that breaks off is its own affair.
            let _ = tokio::time::timeout(CONNECTION_LIFETIME, connection).await;
        });
    }
}

fn answer<B>(request: &Request<B>, shared: &Shared, shutdown: &Shutdown) -> Page {
    // A web page in somebody's browser must not drain a sidecar that a port-forward leads to.
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_local) {
        return Page::text(
            403,
            "the Host of this endpoint is localhost or a loopback address\n",
        );
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/config") => Page::json(&config(shared)),
        (&Method::GET, "/version") => {
            Page::json(&json!({"version": build::VERSION, "commit": build::COMMIT}))
        }
        (&Method::GET, "/readyz") => ready(shared),
        (&Method::POST, "/drain") => {
            shutdown.drain("asked for at the debug endpoint");
            Page::text(202, "draining\n")
        }
        (_, "/config" | "/version" | "/readyz" | "/drain") => {
            Page::text(405, format!("there are:\n{PAGES}"))
        }
        _ => Page::text(404, format!("no such page; there are:\n{PAGES}")),
    }
}

fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost"
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn ready(shared: &Shared) -> Page {
    let unmet = shared.readiness.unmet();
    if unmet.is_empty() {
        return Page::text(200, "ok\n");
    }
    let lines: String = unmet
        .iter()
        .map(|(name, why)| format!("{name}: {why}\n"))
        .collect();
    Page::text(503, lines)
}

/// What is in force, redacted: secrets are told by their length.
fn config(shared: &Shared) -> serde_json::Value {
    let force = shared.live.load();
    let units: serde_json::Map<_, _> = force
        .units
        .units
        .iter()
        .map(|(name, held)| {
            let content = match &held.content {
                Content::Unit(unit) => json!({"hash": held.hash, "body": unit.redacted()}),
                Content::Denied(error) => json!({"hash": held.hash, "denied": error}),
            };
            (name.to_string(), content)
        })
        .collect();
    json!({"version": force.program.version(), "units": units})
}

fn response(page: Page) -> Response<Full<Bytes>> {
    let Page {
        status,
        content_type,
        body,
    } = page;
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sluice_pipeline::{Program, UnitSet, program::Held};
    use sluice_snapshot::{
        Hash, SecretBytes, Unit, UnitMap, UnitName,
        unit::{Secret, secret::Purpose},
    };

    use super::*;
    use crate::{control::DataPlane, shared::SharedLimits};

    fn ask(method: Method, path: &str, host: &str, shared: &Shared, shutdown: &Shutdown) -> Page {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .body(())
            .expect("a request");
        answer(&request, shared, shutdown)
    }

    #[test]
    fn the_live_snapshot_is_shown_without_secrets() {
        let (shared, _inbox) = Shared::new(SharedLimits::default());
        let secret = Unit::Secret(Secret {
            purpose: Purpose::SignatureKeys,
            subject: "alice".into(),
            attributes: BTreeMap::new(),
            entries: BTreeMap::from([(
                "k1".into(),
                SecretBytes::new(b"0123456789abcdef0123456789abcdef".to_vec()),
            )]),
            salt: None,
        });
        let held = Held {
            hash: Hash::of(b"x"),
            content: Content::Unit(Arc::new(secret)),
        };
        let set = UnitSet {
            units: UnitMap::from([(UnitName::secret("shop", "alice", "00"), held)]),
        };
        let program = Program::compile(&set, None).expect("compiles");
        shared.install(program, &set);
        let shutdown = Shutdown::default();
        let page = ask(
            Method::GET,
            "/config",
            "127.0.0.1:15000",
            &shared,
            &shutdown,
        );
        let text = String::from_utf8(page.body.to_vec()).expect("text");
        assert!(
            page.status == 200 && text.contains("32 secret bytes"),
            "{text}"
        );
        assert!(
            !text.contains("0123456789abcdef") && !text.contains("3031323334353637"),
            "{text}"
        );
    }

    #[test]
    fn draining_is_asked_for_with_post_and_never_by_a_web_page() {
        let (shared, _inbox) = Shared::new(SharedLimits::default());
        let shutdown = Shutdown::default();
        assert_eq!(
            ask(Method::GET, "/drain", "localhost:15000", &shared, &shutdown).status,
            405
        );
        assert_eq!(
            ask(Method::POST, "/drain", "evil.example", &shared, &shutdown).status,
            403
        );
        assert!(!shutdown.draining());
        assert_eq!(
            ask(Method::GET, "/readyz", "[::1]:15000", &shared, &shutdown).status,
            503
        );
        assert_eq!(
            ask(Method::POST, "/drain", "localhost", &shared, &shutdown).status,
            202
        );
        assert!(
            shutdown.draining() && !shutdown.has_begun(),
            "it goes on serving"
        );
    }
}
