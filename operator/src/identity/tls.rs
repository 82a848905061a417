//! TLS of the operator's own listeners: TLS 1.3, one provider named in code, a server certificate that can be replaced
//! while connections stand. It decides nothing about identity beyond "signed by one of these roots".

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::{default_provider, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use super::ca::CaError;

/// The server certificate in force.
pub struct ServerCertificate(ArcSwap<CertifiedKey>);

impl ServerCertificate {
    /// Starts with `certificate`.
    pub fn new(certificate: CertifiedKey) -> Self {
        Self(ArcSwap::from_pointee(certificate))
    }

    /// From the next handshake on, `certificate` is shown.
    pub fn replace(&self, certificate: CertifiedKey) {
        self.0.store(Arc::new(certificate));
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate")
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// A chain and its key.
pub(super) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
) -> Result<CertifiedKey, CaError> {
    let key = any_supported_type(key).map_err(tls_error)?;
    Ok(CertifiedKey::new(chain, key))
}

/// A listener's configuration. A client certificate is optional, but one that is shown must be of `clients`, where there
/// are any: what it is worth is for whoever answers to say.
pub(super) fn server_config(
    certificate: &Arc<ServerCertificate>,
    clients: Option<&[CertificateDer<'static>]>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, CaError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls_error)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => builder.with_client_cert_verifier(verifier(roots)?),
    };
    let mut config = builder.with_cert_resolver(certificate.clone());
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // A resumed session would keep a certificate's verdict past a change of roots.
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn verifier(roots: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, CaError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(tls_error)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::new(default_provider()))
        .allow_unauthenticated()
        .build()
        .map_err(tls_error)
}

fn tls_error(error: impl ToString) -> CaError {
    CaError::Tls(error.to_string())
}
