//! A small HTTP client: one request, one answer, over a connection that is kept or made anew. It follows nothing,
//! retries nothing and adds only `Host`, so that a test sees what was really sent and answered.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// How long one request may take, so that a hung server fails a test instead of stopping it.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A GET without a body.
pub fn get(path: &str) -> Request<Bytes> {
    request(Method::GET, path, "")
}

/// A POST.
pub fn post(path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    request(Method::POST, path, body)
}

/// Any method. `path` is what goes on the request line, query included.
pub fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    let mut request = Request::new(body.into());
    *request.method_mut() = method;
    *request.uri_mut() = path
        .parse()
        .unwrap_or_else(|e| panic!("the test asks for {path:?}, which is no URI: {e}"));
    request
}

/// Headers added in a chain: `get("/x").with("x-tenant", "acme")`.
pub trait With {
    /// Appends a header; a repeated name gives a second line.
    fn with(self, name: &str, value: &str) -> Self;
}

impl With for Request<Bytes> {
    fn with(mut self, name: &str, value: &str) -> Self {
        let name =
            HeaderName::try_from(name).unwrap_or_else(|e| panic!("header name {name:?}: {e}"));
        let value =
            HeaderValue::try_from(value).unwrap_or_else(|e| panic!("value of header {name}: {e}"));
        self.headers_mut().append(name, value);
        self
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, to its end.
    pub body: Bytes,
}

impl Answer {
    /// The first value of a header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}, body is no JSON: {:?}", self.status, self.text()))
    }

    /// Itself when the status is this; else an error that shows the answer.
    pub fn expect(self, status: u16) -> Result<Self> {
        if self.status.as_u16() != status {
            bail!(
                "expected {status}, got {}: {:?} {}",
                self.status,
                self.headers,
                self.text()
            );
        }
        Ok(self)
    }
}

/// The version a connection speaks; both in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge
    Http2,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    authority: String,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Connects. Requests without a `Host` get `address`.
    pub async fn open(address: SocketAddr, protocol: Protocol) -> Result<Self> {
        let stream = tokio::time::timeout(TIMEOUT, TcpStream::connect(address))
            .await
            .with_context(|| format!("connecting to {address}: no answer"))?
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Self::over(stream, protocol, &address.to_string()).await
    }

    /// Over a stream that is connected. Requests without a `Host` get `authority`.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        protocol: Protocol,
        authority: &str,
    ) -> Result<Self> {
        let io = TokioIo::new(stream);
        // The tasks end with the connection, which ends with its sender; their errors are those of the requests.
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self {
            sender,
            authority: authority.to_owned(),
        })
    }

    /// Whether another request may be sent on it, as far as is known.
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&mut self, request: Request<Bytes>) -> Result<Answer> {
        let what = format!(
            "{} {} of {}",
            request.method(),
            request.uri(),
            self.authority
        );
        tokio::time::timeout(TIMEOUT, self.exchange(request))
            .await
            .with_context(|| format!("{what}: no answer in {TIMEOUT:?}"))?
            .context(what)
    }

    async fn exchange(&mut self, mut request: Request<Bytes>) -> Result<Answer> {
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.authority.parse()?);
        }
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request.map(Full::new)).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender
                    .send_request(with_authority(request)?.map(Full::new))
                    .await?
            }
        };
        let (head, body) = response.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    }
}

/// HTTP/2 carries the host in `:authority` (RFC 9113 section 8.3.1).
fn with_authority(mut request: Request<Bytes>) -> Result<Request<Bytes>> {
    let host = request
        .headers_mut()
        .remove(HOST)
        .context("set by the caller")?;
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    *request.uri_mut() = Uri::builder()
        .scheme("http")
        .authority(host.as_bytes())
        .path_and_query(path)
        .build()?;
    Ok(request)
}

/// A client of one server, with one kept connection.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    protocol: Protocol,
    kept: Mutex<Option<Connection>>,
}

impl Client {
    /// An HTTP/1.1 client of `address`.
    pub fn new(address: impl Into<SocketAddr>) -> Self {
        Self {
            address: address.into(),
            protocol: Protocol::Http1,
            kept: Mutex::new(None),
        }
    }

    /// A cleartext HTTP/2 client of `address`.
    pub fn http2(address: impl Into<SocketAddr>) -> Self {
        Self {
            protocol: Protocol::Http2,
            ..Self::new(address)
        }
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One GET on the kept connection.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(get(path)).await
    }

    /// One request on the kept connection; a new one where there is none or the server has closed it.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Answer> {
        let mut kept = self.kept.lock().await;
        let mut connection = match kept.take().filter(Connection::is_open) {
            Some(connection) => connection,
            None => Connection::open(self.address, self.protocol).await?,
        };
        let answer = connection.send(request).await?;
        *kept = Some(connection);
        Ok(answer)
    }

    /// One request on a connection of its own.
    pub async fn send_fresh(&self, request: Request<Bytes>) -> Result<Answer> {
        Connection::open(self.address, self.protocol)
            .await?
            .send(request)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_has_the_host_in_its_uri() {
        let request = with_authority(get("/a?b=c").with("host", "shop.example")).unwrap();
        assert_eq!(request.uri(), "http://shop.example/a?b=c");
        assert!(!request.headers().contains_key(HOST));
    }
}
