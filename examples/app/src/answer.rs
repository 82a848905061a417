//! From one request to one answer: what was asked, as JSON, in the shape the query wished for. No socket
//! and no listener here.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Body,
    header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH},
};
use serde_json::{Map, Value, json};

use crate::wish::Wish;

/// Request headers that are echoed, besides every `x-*` that is no credential.
const ECHOED: [&str; 13] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "content-digest",
    "content-type",
    "forwarded",
    "host",
    "sluice-hop",
    "te",
    "traceparent",
    "tracestate",
    "user-agent",
    "via",
];
/// Headers that carry a credential: named in the answer when they came, never echoed.
const CREDENTIALS: [&str; 5] = [
    "authorization",
    "cookie",
    "signature",
    "signature-input",
    "x-api-key",
];

/// One instance of the application: its name and how many requests it has served.
pub(crate) struct App {
    name: String,
    served: AtomicU64,
}

impl App {
    /// An instance that has served nothing yet.
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            served: AtomicU64::new(0),
        }
    }

    /// Answers one request; a body that breaks off is answered 400.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if request.uri().path() == "/healthz" {
            return text(StatusCode::OK, "ok\n");
        }
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let wish = match Wish::parse(query) {
            Ok(wish) => wish,
            Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        };
        let Some(body) = digest(body).await else {
            return text(StatusCode::BAD_REQUEST, "the request body broke off\n");
        };
        if !wish.delay.is_zero() {
            tokio::time::sleep(wish.delay).await;
        }
        let mut told = json!({
            "name": self.name,
            "served": served,
            "method": head.method.as_str(),
            "path": head.uri.path(),
            "query": query,
            "headers": echoed(&head.headers),
            "credentials": credentials(&head.headers),
        });
        if body.length > 0 || matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
            told["body"] = json!({"length": body.length, "digest": body.digest});
        }
        self.shape(wish, head.headers.get(IF_NONE_MATCH), served, &told)
    }

    /// Gives the answer the form that the query wished for.
    fn shape(
        &self,
        wish: Wish,
        held: Option<&HeaderValue>,
        served: u64,
        told: &Value,
    ) -> Response<Full<Bytes>> {
        let Wish {
            status,
            delay: _, // spent before
            bytes,
            cache,
            etag,
            headers,
        } = wish;
        let fresh = etag.is_some() && etag.as_ref() == held;
        let (status, kind, body) = match bytes {
            _ if fresh => (StatusCode::NOT_MODIFIED, None, Bytes::new()),
            Some(count) => (status, Some("text/plain"), vec![b'x'; count].into()),
            None => (status, Some("application/json"), format!("{told}\n").into()),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let out = response.headers_mut();
        if let Some(kind) = kind {
            out.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if let Ok(name) = HeaderValue::from_str(&self.name) {
            out.insert("x-served-by", name);
        }
        out.insert("x-served", HeaderValue::from(served));
        if let Some(cache) = cache {
            out.insert(CACHE_CONTROL, cache);
        }
        if let Some(etag) = etag {
            out.insert(ETAG, etag);
        }
        for (name, value) in headers {
            out.append(name, value);
        }
        response
    }
}

/// Length of a body in bytes and its digest as Content-Digest writes it (RFC 9530).
struct Digested {
    length: usize,
    digest: String,
}

/// Reads a body to its end without keeping it; `None` where it broke off.
async fn digest<B>(mut body: B) -> Option<Digested>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut length = 0;
    let mut context = Context::new(&SHA256);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            length += data.len();
            context.update(&data);
        }
    }
    let digest = format!("sha-256=:{}:", BASE64_STANDARD.encode(context.finish()));
    Some(Digested { length, digest })
}

/// The headers a caller may see again; several lines of one name become a list.
fn echoed(headers: &HeaderMap) -> Map<String, Value> {
    let shown = |name: &str| {
        !CREDENTIALS.contains(&name) && (name.starts_with("x-") || ECHOED.contains(&name))
    };
    headers
        .keys()
        .map(|name| name.as_str())
        .filter(|name| shown(name))
        .map(|name| {
            let lines: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            (name.to_owned(), Value::String(lines.join(", ")))
        })
        .collect()
}

/// Names of the credential headers that reached the application.
fn credentials(headers: &HeaderMap) -> Vec<&'static str> {
    CREDENTIALS
        .into_iter()
        .filter(|name| headers.contains_key(*name))
        .collect()
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(app: &App, request: Request<Full<Bytes>>) -> (Response<()>, Bytes) {
        let (head, body) = app.answer(request).await.into_parts();
        let body = body.collect().await.expect("in memory").to_bytes();
        (Response::from_parts(head, ()), body)
    }

    fn get(uri: &str) -> Request<Full<Bytes>> {
        Request::get(uri)
            .body(Full::default())
            .expect("a valid request")
    }

    fn json(body: &[u8]) -> Value {
        serde_json::from_slice(body).expect("the answer is JSON")
    }

    #[tokio::test]
    async fn an_answer_tells_what_was_asked_and_counts() {
        let app = App::new("orders".into());
        let (head, body) = ask(&app, get("/v1/orders?tenant=acme")).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(head.headers()["x-served-by"], "orders");
        let told = json(&body);
        assert_eq!(told["name"], "orders");
        assert_eq!(told["method"], "GET");
        assert_eq!(told["path"], "/v1/orders");
        assert_eq!(told["query"], "tenant=acme");
        assert_eq!(told["served"], 1);
        let (_, body) = ask(&app, get("/")).await;
        assert_eq!(json(&body)["served"], 2);
    }

    #[tokio::test]
    async fn health_counts_nothing() {
        let app = App::new("orders".into());
        assert_eq!(ask(&app, get("/healthz")).await.0.status(), StatusCode::OK);
        let (_, body) = ask(&app, get("/")).await;
        assert_eq!(json(&body)["served"], 1);
    }

    #[tokio::test]
    async fn headers_are_echoed_and_credentials_only_named() {
        let app = App::new("orders".into());
        let mut request = get("/");
        for (name, value) in [
            ("x-api-key", "secret-one"),
            ("authorization", "Bearer secret-two"),
            ("x-tenant", "acme"),
            ("via", "1.1 a"),
            ("if-range", "x"),
        ] {
            request
                .headers_mut()
                .append(name, HeaderValue::from_static(value));
        }
        request
            .headers_mut()
            .append("via", HeaderValue::from_static("1.1 b"));
        let (_, body) = ask(&app, request).await;
        let told = json(&body);
        assert_eq!(
            told["headers"],
            json!({"x-tenant": "acme", "via": "1.1 a, 1.1 b"})
        );
        assert_eq!(told["credentials"], json!(["authorization", "x-api-key"]));
        assert!(!String::from_utf8_lossy(&body).contains("secret"));
    }

    #[tokio::test]
    async fn a_body_comes_back_as_length_and_digest() {
        let app = App::new("orders".into());
        let request = Request::post("/")
            .body(Full::from("{\"hello\": \"world\"}"))
            .expect("a valid request");
        let (_, body) = ask(&app, request).await;
        // The digest of RFC 9530, section 2, for the same content.
        assert_eq!(
            json(&body)["body"],
            json!({
                "length": 18,
                "digest": "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
            })
        );
    }

    #[tokio::test]
    async fn the_query_shapes_the_answer() {
        let app = App::new("orders".into());
        let (head, body) = ask(&app, get("/?status=503&bytes=3&cache=max-age%3D60")).await;
        assert_eq!(head.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(head.headers()["cache-control"], "max-age=60");
        assert_eq!(body, "xxx");
        let (head, body) = ask(&app, get("/?status=1")).await;
        assert_eq!(head.status(), StatusCode::BAD_REQUEST);
        assert!(body.starts_with(b"status=1: write"));
    }

    #[tokio::test]
    async fn an_entity_tag_that_is_held_is_not_sent_again() {
        let app = App::new("orders".into());
        let mut request = get("/?etag=v1");
        request
            .headers_mut()
            .insert(IF_NONE_MATCH, HeaderValue::from_static("\"v1\""));
        let (head, body) = ask(&app, request).await;
        assert_eq!(head.status(), StatusCode::NOT_MODIFIED);
        assert!(body.is_empty());
        let (head, _) = ask(&app, get("/?etag=v1")).await;
        assert_eq!(head.status(), StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_waited_for() {
        let app = App::new("orders".into());
        let before = tokio::time::Instant::now();
        ask(&app, get("/?delay=200ms")).await;
        assert_eq!(before.elapsed(), std::time::Duration::from_millis(200));
    }
}
