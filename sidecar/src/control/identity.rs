//! How this sidecar proves itself to the operator, and how it knows the operator: token file, certificate, roots.
//! Everything is read again at each connection: the kubelet renews the token by swapping a symlink.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use sluice_snapshot::stream;

/// Where the first roots come from.
#[derive(Debug, Clone)]
pub enum RootsSource {
    /// A PEM file.
    File(PathBuf),
    /// PEM text (`SLUICE_ROOTS_PEM`).
    Pem(String),
}

/// What goes wrong before a byte is sent.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The token file.
    #[error(
        "the token {path} cannot be read: {source}; is the projected volume mounted (audience `sluice`)?"
    )]
    Token {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The roots.
    #[error(
        "no usable root certificate in {origin}: {reason}; give --roots FILE or SLUICE_ROOTS_PEM"
    )]
    Roots {
        /// Which source.
        origin: String,
        /// Why.
        reason: String,
    },
    /// The own certificate.
    #[error("the certificate the operator issued does not fit the key: {0}")]
    Certificate(String),
    /// Key generation.
    #[error("a key could not be made: {0}")]
    Key(#[from] rcgen::Error),
}

/// The pod's token file.
#[derive(Debug, Clone)]
pub struct TokenFile(pub PathBuf);

impl TokenFile {
    /// The token as it is now.
    pub fn read(&self) -> Result<String, IdentityError> {
        let text = fs::read_to_string(&self.0).map_err(|source| IdentityError::Token {
            path: self.0.clone(),
            source,
        })?;
        Ok(text.trim().to_owned())
    }
}

/// The trusted roots: the first ones and, once the operator has sent newer ones, those.
#[derive(Debug)]
pub struct Roots {
    first: RootsSource,
    /// Newer roots, kept over restarts.
    file: PathBuf,
}

impl Roots {
    /// Roots from `first`, with newer ones kept in `directory`.
    pub fn new(first: RootsSource, directory: &Path) -> Self {
        Self {
            first,
            file: directory.join("roots.pem"),
        }
    }

    /// Takes the bundle the operator sent. One that holds no certificate is refused: it would cut this sidecar off.
    pub fn replace(&self, pem: &str) -> Result<(), IdentityError> {
        parse_roots(pem, "the operator's bundle")?;
        let unwritable = |error: io::Error| IdentityError::Roots {
            origin: self.file.display().to_string(),
            reason: error.to_string(),
        };
        let temporary = self.file.with_extension("pem.tmp");
        fs::write(&temporary, pem).map_err(unwritable)?;
        fs::rename(&temporary, &self.file).map_err(unwritable)
    }

    /// The union of both: a root that was rotated out since the pod began does no harm, one that is missing does.
    pub fn load(&self) -> Result<RootCertStore, IdentityError> {
        let (pem, origin) = match &self.first {
            RootsSource::Pem(pem) => (pem.clone(), "SLUICE_ROOTS_PEM".to_owned()),
            RootsSource::File(path) => {
                let origin = path.display().to_string();
                let pem = fs::read_to_string(path).map_err(|error| IdentityError::Roots {
                    origin: origin.clone(),
                    reason: error.to_string(),
                })?;
                (pem, origin)
            }
        };
        let mut store = parse_roots(&pem, &origin)?;
        if let Ok(newer) = fs::read_to_string(&self.file) {
            store
                .roots
                .extend(parse_roots(&newer, &self.file.display().to_string())?.roots);
        }
        Ok(store)
    }
}

fn parse_roots(pem: &str, origin: &str) -> Result<RootCertStore, IdentityError> {
    let refuse = |reason: String| IdentityError::Roots {
        origin: origin.to_owned(),
        reason,
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        store
            .add(certificate)
            .map_err(|error| refuse(error.to_string()))?;
    }
    if store.is_empty() {
        Err(refuse("it holds no certificate".into()))
    } else {
        Ok(store)
    }
}

/// A key of our own, made once per process, and the certificate for it, once there is one.
#[derive(Default)]
pub struct Certificate {
    /// Made when it is first needed: the first use of the library's randomness collects entropy for some 25 ms, and the
    /// last-known-good must be in force by then.
    key: Option<rcgen::KeyPair>,
    issued: Option<Issued>,
}

struct Issued {
    chain: Vec<CertificateDer<'static>>,
    issued_at: i64,
    not_after: i64,
}

impl Certificate {
    /// A certificate request. It names nothing: the operator takes the identity from the proof.
    pub fn request(&mut self) -> Result<stream::Csr, IdentityError> {
        let key = match &mut self.key {
            Some(key) => key,
            none => none.insert(rcgen::KeyPair::generate()?),
        };
        let request = rcgen::CertificateParams::default().serialize_request(key)?;
        Ok(stream::Csr {
            der: request.der().to_vec(),
        })
    }

    /// Takes what the operator issued at `now` (Unix seconds).
    pub fn accept(
        &mut self,
        certificate: &stream::Certificate,
        now: i64,
    ) -> Result<(), IdentityError> {
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| IdentityError::Certificate(error.to_string()))?;
        if chain.is_empty() {
            return Err(IdentityError::Certificate("the chain is empty".into()));
        }
        self.issued = Some(Issued {
            chain,
            issued_at: now,
            not_after: certificate.not_after,
        });
        Ok(())
    }

    /// Forgets the certificate, after the operator refused it: the token is next.
    pub fn forget(&mut self) {
        self.issued = None;
    }

    /// When the certificate ends (Unix seconds); without one it has ended.
    pub fn ends_at(&self) -> i64 {
        self.issued.as_ref().map_or(0, |issued| issued.not_after)
    }

    /// When to ask for the next one (Unix seconds): at half-life. None: there is no certificate.
    pub fn renew_at(&self) -> Option<i64> {
        self.issued
            .as_ref()
            .map(|issued| issued.issued_at + (issued.not_after - issued.issued_at) / 2)
    }

    /// The chain and key to present, unless expired at `now`.
    pub fn usable(
        &self,
        now: i64,
    ) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let issued = self
            .issued
            .as_ref()
            .filter(|issued| now < issued.not_after)?;
        let key = self.key.as_ref()?.serialize_der();
        let key = PrivateKeyDer::try_from(key).ok()?;
        Some((issued.chain.clone(), key))
    }
}

/// How a connection proves this sidecar.
pub enum Proof {
    /// In the TLS handshake.
    Certificate(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    /// In the stream's metadata.
    Token(String),
}

/// TLS 1.3 towards the operator, with HTTP/2.
pub fn client_config(
    roots: RootCertStore,
    proof: &Proof,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| IdentityError::Certificate(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match proof {
        Proof::Certificate(chain, key) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| IdentityError::Certificate(error.to_string()))?,
        Proof::Token(_) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.self_signed(&key).expect("certificate").pem()
    }

    #[test]
    fn newer_roots_are_added_and_survive_a_restart() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let roots = Roots::new(RootsSource::Pem(authority()), directory.path());
        assert_eq!(roots.load().expect("loads").len(), 1);
        roots.replace(&authority()).expect("replaces");
        let again = Roots::new(RootsSource::Pem(authority()), directory.path());
        assert_eq!(again.load().expect("loads").len(), 2);
    }

    #[test]
    fn an_empty_bundle_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let roots = Roots::new(RootsSource::Pem(String::new()), directory.path());
        assert!(roots.load().is_err());
        assert!(roots.replace("not a certificate").is_err());
    }

    #[test]
    fn a_certificate_is_renewed_at_half_life_and_not_used_after_its_end() {
        let mut certificate = Certificate::default();
        certificate.request().expect("key");
        assert!(certificate.usable(0).is_none());
        let issued = stream::Certificate {
            chain: authority(),
            not_after: 1_000,
        };
        certificate.accept(&issued, 200).expect("accepts");
        assert_eq!(certificate.renew_at(), Some(600));
        assert!(certificate.usable(999).is_some());
        assert!(certificate.usable(1_000).is_none());
    }
}
