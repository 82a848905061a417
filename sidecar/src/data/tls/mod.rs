//! TLS towards clients, as the listeners of a Gateway ask for it, and towards backends, as a BackendTLSPolicy does. Which
//! requests may pass is not decided here.

pub mod client;
pub mod server;
pub mod verifier;

use std::sync::Arc;

use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// What is wrong with certificates or authorities. No message shows what a secret holds.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A text is no PEM of what it should be.
    #[error("{0} is not usable PEM")]
    Pem(&'static str),
    /// The key is not the certificate's, or of no kind that is known.
    #[error("certificate and key do not fit together: {0}; were they taken from two Secrets?")]
    Key(rustls::Error),
    /// Authorities cannot be used.
    #[error("the authorities cannot be used: {0}")]
    Authorities(String),
    /// The machine has none.
    #[error("this machine has no authorities of its own; name them by caCertificateRefs")]
    NoSystemAuthorities,
    /// A name that no certificate can have.
    #[error("{0:?} is no server name")]
    Name(String),
    /// The library refuses.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The one provider of cryptography.
pub(in crate::data) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Authorities of a PEM text: all of them, or none.
fn authorities(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| TlsError::Pem("an authority"))?;
        roots
            .add(certificate)
            .map_err(|error| TlsError::Authorities(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(TlsError::Pem("the list of authorities"));
    }
    Ok(roots)
}
