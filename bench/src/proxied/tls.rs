//! A client of TLS that keeps its connections: blocking, one request each.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use anyhow::Result;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use super::http;
use crate::{credentials::Keys, world::gateway::HOST};

/// How to connect.
pub struct Client(Arc<ClientConfig>);

/// A connection that has been used once.
pub type Kept = StreamOwned<ClientConnection, TcpStream>;

impl Client {
    /// A client that trusts the certificate of the run.
    pub fn new(keys: &Keys) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(
            keys.server.certificate.as_bytes(),
        )?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// A connection that has been used for one request, answered with 200.
    pub fn keep(&self, address: SocketAddr, request: &[u8]) -> Result<Kept> {
        let session = ClientConnection::new(Arc::clone(&self.0), ServerName::try_from(HOST)?)?;
        let mut stream = StreamOwned::new(session, http::connect(address)?);
        http::used(&mut stream, request)?;
        Ok(stream)
    }
}
