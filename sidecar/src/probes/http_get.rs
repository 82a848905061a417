//! An `httpGet` as the kubelet performs it: 200 to 399 is success, certificates are not verified, a redirect is followed
//! while it stays at the same host, one to another host is success.

use std::{pin::pin, sync::Arc};

use futures::FutureExt as _;
use http::{
    HeaderName, HeaderValue, Request, StatusCode, Uri,
    header::{
        ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, TRAILER, TRANSFER_ENCODING, USER_AGENT,
    },
};
use http_body_util::Empty;
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{Failure, Probe, table::HttpGet};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// The largest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Fields that are the connection's, which the kubelet's client does not let a probe set.
const NOT_SET: [HeaderName; 3] = [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER];

/// Performs it.
pub async fn perform(probe: &Probe, get: &HttpGet, agent: HeaderValue) -> Result<(), Failure> {
    let mut url = get.url.clone();
    if !get.named && url.set_ip_host(probe.pod).is_err() {
        return Err(Failure::Unreachable(format!("{} is no host", probe.pod)));
    }
    for _ in 0..=MAX_REDIRECTS {
        let (status, location) = once(probe, get, &url, &agent).await?;
        match (status.as_u16(), location) {
            (301 | 302 | 303 | 307 | 308, Some(location)) => match follow(&url, &location) {
                Some(next) => url = next,
                None => return Ok(()),
            },
            (200..=399, _) => return Ok(()),
            (status, _) => return Err(Failure::Status(status)),
        }
    }
    Err(Failure::Unreachable("it redirects without end".into()))
}

/// Where a redirect leads, if that is the same host.
fn follow(from: &Url, location: &HeaderValue) -> Option<Url> {
    let to = from.join(location.to_str().ok()?).ok()?;
    let is_http = matches!(to.scheme(), "http" | "https");
    (is_http && to.host_str() == from.host_str()).then_some(to)
}

async fn once(
    probe: &Probe,
    get: &HttpGet,
    url: &Url,
    agent: &HeaderValue,
) -> Result<(StatusCode, Option<HeaderValue>), Failure> {
    let port = url.port_or_known_default().unwrap_or_default();
    let request = request(get, url, port, agent)?;
    let stream = probe.connect(port).await?;
    if url.scheme() == "http" {
        return exchange(stream, request).await;
    }
    let name = url.host_str().unwrap_or_default();
    let name = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(name).map_err(unreachable)?;
    let tls = TlsConnector::from(Arc::new(unverified().map_err(unreachable)?));
    exchange(
        tls.connect(name, stream).await.map_err(unreachable)?,
        request,
    )
    .await
}

fn request(
    get: &HttpGet,
    url: &Url,
    port: u16,
    agent: &HeaderValue,
) -> Result<Request<Empty<Bytes>>, Failure> {
    let mut request = Request::new(Empty::new());
    let query = url.query().map(|query| format!("?{query}"));
    let target = format!("{}{}", url.path(), query.unwrap_or_default());
    *request.uri_mut() = target.parse::<Uri>().map_err(unreachable)?;
    let host = format!("{}:{port}", url.host_str().unwrap_or_default());
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(host).map_err(unreachable)?);
    headers.insert(USER_AGENT, agent.clone());
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    let defaults = [HOST, USER_AGENT, ACCEPT];
    for (name, value) in get
        .headers
        .iter()
        .filter(|(name, _)| !NOT_SET.contains(name))
    {
        if !defaults.contains(name) {
            headers.append(name, value.clone());
        } else if !value.is_empty() {
            headers.insert(name, value.clone());
        } else if *name != HOST {
            // Set to nothing, it is not sent.
            headers.remove(name);
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// One request over a connection of its own. Only the head of the answer is read.
async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<(StatusCode, Option<HeaderValue>), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(unreachable)?;
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = answer.as_mut() => answer.map_err(unreachable)?,
        ended = connection => match answer.now_or_never() {
            // A short answer and the end of its connection come at once.
            Some(answer) => answer.map_err(unreachable)?,
            None => {
                let reason = ended.err().map_or("it closed the connection".into(), |error| error.to_string());
                return Err(Failure::Unreachable(reason));
            }
        },
    };
    Ok((answer.status(), answer.headers().get(LOCATION).cloned()))
}

fn unreachable(error: impl std::fmt::Display) -> Failure {
    Failure::Unreachable(error.to_string())
}

/// TLS that believes any certificate: a probe asks whether somebody answers, and of its own pod.
fn unverified() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let any = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(any)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_followed_while_it_stays_at_its_host() {
        let from = Url::parse("http://10.1.2.3:8080/a/b").expect("a URL");
        let to = |location| {
            follow(&from, &HeaderValue::from_static(location)).map(|url| url.to_string())
        };
        assert_eq!(to("/c").as_deref(), Some("http://10.1.2.3:8080/c"));
        assert_eq!(to("c").as_deref(), Some("http://10.1.2.3:8080/a/c"));
        assert_eq!(
            to("https://10.1.2.3:8443/").as_deref(),
            Some("https://10.1.2.3:8443/")
        );
        for elsewhere in [
            "http://10.1.2.4:8080/c",
            "//evil.example/",
            "ftp://10.1.2.3/",
        ] {
            assert_eq!(to(elsewhere), None, "{elsewhere}");
        }
    }
}
