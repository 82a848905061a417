//! A TLS client of one server name, for tests that look at certificates, ALPN and what a handshake is refused for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http::{Connection, Protocol};
use crate::pki::Certified;

/// How long a handshake may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How to connect.
#[derive(Debug, Clone)]
pub struct TlsClient {
    address: SocketAddr,
    server_name: String,
    config: ClientConfig,
}

impl TlsClient {
    /// A client that asks for `server_name`, trusts the authority of this PEM and speaks HTTP/1.1.
    pub fn new(address: impl Into<SocketAddr>, server_name: &str, authority: &str) -> Result<Self> {
        Self::of(
            address.into(),
            server_name,
            authority,
            None,
            rustls::ALL_VERSIONS,
        )
    }

    /// The same, of one version of TLS only.
    pub fn version(
        address: impl Into<SocketAddr>,
        server_name: &str,
        authority: &str,
        version: &'static SupportedProtocolVersion,
    ) -> Result<Self> {
        Self::of(address.into(), server_name, authority, None, &[version])
    }

    /// The same, with a certificate of its own.
    pub fn certified(
        address: impl Into<SocketAddr>,
        server_name: &str,
        authority: &str,
        own: &Certified,
    ) -> Result<Self> {
        Self::of(
            address.into(),
            server_name,
            authority,
            Some(own),
            rustls::ALL_VERSIONS,
        )
    }

    fn of(
        address: SocketAddr,
        server_name: &str,
        authority: &str,
        own: Option<&Certified>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(Certified { certificate, key }) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(key.as_bytes())?,
            )?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            address,
            server_name: server_name.into(),
            config,
        })
    }

    /// The same client, for HTTP/2.
    pub fn http2(mut self) -> Self {
        self.config.alpn_protocols = vec![b"h2".to_vec()];
        self
    }

    /// The same client, that offers no protocol: it speaks HTTP/1.1 to a server that chooses none.
    pub fn without_alpn(mut self) -> Self {
        self.config.alpn_protocols.clear();
        self
    }

    /// The same client, that does not say which server it wants.
    pub fn without_name(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    /// A handshake.
    pub async fn handshake(&self) -> Result<TlsStream<TcpStream>> {
        let connecting = async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(self.server_name.clone())?;
            let connector = TlsConnector::from(Arc::new(self.config.clone()));
            anyhow::Ok(connector.connect(name, stream).await?)
        };
        tokio::time::timeout(TIMEOUT, connecting)
            .await
            .with_context(|| format!("a handshake with {}: no answer", self.address))?
            .with_context(|| format!("a handshake with {} for {}", self.address, self.server_name))
    }

    /// A connection, in the version that ALPN chose, and the server's own certificate.
    pub async fn connect(&self) -> Result<(Connection, CertificateDer<'static>)> {
        let stream = self.handshake().await?;
        let session = stream.get_ref().1;
        let protocol = match session.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            Some(b"http/1.1") => Protocol::Http1,
            None if self.config.alpn_protocols.is_empty() => Protocol::Http1,
            other => anyhow::bail!("ALPN chose {other:?}"),
        };
        let chain = session.peer_certificates().context("no certificate")?;
        let own = chain
            .first()
            .context("an empty chain")?
            .clone()
            .into_owned();
        let connection = Connection::over(stream, protocol, &self.server_name).await?;
        Ok((connection, own))
    }
}
