//! One request and its answer, over a connection of its own. Who signs it is `credentials`' business.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{HeaderMap, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpSocket;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest body that is read: 1 MiB.
const MAX_BODY: usize = 1 << 20;

/// A request to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) to: SocketAddr,
    pub(crate) method: &'static str,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// The address the request comes from, where it matters.
    pub(crate) from: Option<Ipv4Addr>,
}

impl Ask {
    /// A GET.
    pub(crate) fn get(to: SocketAddr, target: impl Into<String>) -> Self {
        Self {
            to,
            method: "GET",
            target: target.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            from: None,
        }
    }

    /// A POST.
    pub(crate) fn post(to: SocketAddr, target: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            method: "POST",
            body: body.into(),
            ..Self::get(to, target)
        }
    }

    /// With one more header.
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// From another address of this machine.
    pub(crate) fn from(mut self, address: Ipv4Addr) -> Self {
        self.from = Some(address);
        self
    }

    /// The absolute URL, which is also RFC 9421's `@target-uri`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.to, self.target)
    }
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Where the request came from, a connection of its own: the access log calls the request by it.
    pub(crate) peer: String,
}

impl Answer {
    /// A header's first value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `Null` where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Which request of its instance the sample application answered.
    pub(crate) fn served(&self) -> Option<u64> {
        self.json()["served"].as_u64()
    }

    /// The instance of the sample application that answered.
    pub(crate) fn served_by(&self) -> Option<&str> {
        self.header("x-served-by")
    }

    /// Whether a cache answered (RFC 9211).
    pub(crate) fn cache_hit(&self) -> Option<bool> {
        let status = self.header("cache-status")?;
        Some(status.split(';').any(|part| part.trim() == "hit"))
    }
}

/// Sends a request and reads the whole answer.
pub(crate) async fn send(ask: &Ask) -> Result<Answer> {
    tokio::time::timeout(PATIENCE, exchange(ask))
        .await
        .with_context(|| format!("no answer from {} within {PATIENCE:?}", ask.to))?
}

async fn exchange(ask: &Ask) -> Result<Answer> {
    let socket = TcpSocket::new_v4()?;
    if let Some(from) = ask.from {
        socket.bind((from, 0).into())?;
    }
    let stream = socket
        .connect(ask.to)
        .await
        .with_context(|| format!("cannot connect to {}", ask.to))?;
    let peer = stream.local_addr()?.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection, which ends with `sender`; its errors come out of `send_request` too.
    tokio::spawn(connection);
    let mut request = Request::builder().method(ask.method).uri(&ask.target);
    if !ask.headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", ask.to.to_string());
    }
    for (name, value) in &ask.headers {
        request = request.header(*name, value);
    }
    let answer = sender
        .send_request(request.body(Full::new(ask.body.clone()))?)
        .await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?
        .to_bytes();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        peer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_is_told_from_a_miss() {
        let answer = |value: &'static str| {
            let mut answer = Answer::default();
            answer.headers.insert(
                "cache-status",
                hyper::header::HeaderValue::from_static(value),
            );
            answer.cache_hit()
        };
        assert_eq!(answer("sluice; hit; ttl=59"), Some(true));
        assert_eq!(answer("sluice; fwd=uri-miss; stored"), Some(false));
        assert_eq!(answer("sluice;hit"), Some(true));
        assert_eq!(Answer::default().cache_hit(), None);
    }
}
