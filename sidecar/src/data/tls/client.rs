//! TLS to backends: the server name that is sent, whom is trusted, which name the certificate must have. Connections of
//! different demands are never shared: each has a pool of its own.

use std::{
    cell::RefCell, collections::HashMap, io, path::PathBuf, rc::Rc, sync::Arc, time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use sluice_pipeline::program::Tls;
use sluice_process::Clock;
use sluice_snapshot::{
    Hash,
    unit::backend::{BackendProtocol, BackendTls, San, TrustedRoots},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use super::{TlsError, authorities, provider};
use crate::data::{
    deadline::Ticker,
    upstream::{Pool, UpstreamError},
};

/// Demands that have a pool of connections at a time. Those that were not used for the longest time go.
const MAX_POOLS: usize = 256;

/// The environment variable that names a bundle of authorities, as OpenSSL has it.
const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";
/// Where bundles are: Debian and distroless images, Fedora, Alpine.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
/// How often idle connections are looked for.
const PERIOD: Duration = Duration::from_secs(15);

/// A client of one set of demands.
pub struct Client {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// The policy, for errors.
    policy: String,
    http2: bool,
}

impl Client {
    /// A client that meets `asked` for a backend that speaks `protocol`.
    pub fn new(asked: &BackendTls, protocol: BackendProtocol) -> Result<Self, TlsError> {
        let BackendTls {
            policy: _,
            server_name,
            roots,
            sans,
        } = asked;
        let roots = Arc::new(match roots {
            TrustedRoots::Pem(pem) => authorities(pem)?,
            TrustedRoots::System => system()?,
        });
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let mut config = if sans.is_empty() {
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            let verifier = Arc::new(OneOf::new(roots, sans.clone())?);
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth()
        };
        let http2 = protocol == BackendProtocol::H2c;
        config.alpn_protocols = match http2 {
            true => vec![b"h2".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        let name = ServerName::try_from(server_name.clone())
            .map_err(|_| TlsError::Name(server_name.clone()))?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
            policy: named(asked),
            http2,
        })
    }

    /// A client of other sidecars.
    pub fn for_hops(
        config: ClientConfig,
        server_name: &str,
        http2: bool,
    ) -> Result<Self, TlsError> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| TlsError::Name(server_name.to_owned()))?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
            policy: "hops".into(),
            http2,
        })
    }

    /// Speaks to a backend until both may send.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let connecting = self.connector.connect(self.name.clone(), stream);
        let stream = connecting.await.map_err(|error| self.blame(&error))?;
        let chosen = stream.get_ref().1.alpn_protocol();
        if self.http2 && chosen != Some(b"h2") {
            return Err(self.blame(&"the backend does not speak HTTP/2 over TLS"));
        }
        Ok(stream)
    }

    /// An error that says who asked for it.
    fn blame(&self, error: &dyn std::fmt::Display) -> io::Error {
        io::Error::other(format!("TLS by {}: {error}", self.policy))
    }
}

/// The policy, as logs name it.
fn named(asked: &BackendTls) -> String {
    let policy = &asked.policy;
    format!("{} {}/{}", policy.kind, policy.namespace, policy.name)
}

/// The authorities of the machine: one bundle, read when the first connection needs it.
fn system() -> Result<RootCertStore, TlsError> {
    let named = std::env::var_os(BUNDLE_VARIABLE).map(PathBuf::from);
    let mut files = named.into_iter().chain(BUNDLES.map(PathBuf::from));
    let bundle = files.find_map(|file| std::fs::read(file).ok());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(bundle.as_deref().unwrap_or_default());
    // Some of what a machine trusts is of a form that nobody reads any more.
    roots.add_parsable_certificates(certificates.flatten());
    if roots.is_empty() {
        return Err(TlsError::NoSystemAuthorities);
    }
    Ok(roots)
}

/// Accepts a certificate that a trusted authority signed and that has one of the names.
#[derive(Debug)]
struct OneOf {
    signatures: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    names: Vec<San>,
}

impl OneOf {
    fn new(roots: Arc<RootCertStore>, names: Vec<San>) -> Result<Self, TlsError> {
        let signatures =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider())
                .build()
                .map_err(|error| TlsError::Authorities(error.to_string()))?;
        Ok(Self {
            signatures,
            roots,
            names,
        })
    }
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        )?;
        let has = |name: &San| match name {
            San::Hostname(name) => ServerName::try_from(name.as_str())
                .is_ok_and(|name| verify_server_name(&certificate, &name).is_ok()),
            San::Uri(uri) => has_uri(end_entity, uri),
        };
        if self.names.iter().any(has) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

/// Whether a certificate has this URI among its names (RFC 5280 section 4.2.1.6), byte for byte.
fn has_uri(certificate: &CertificateDer<'_>, uri: &str) -> bool {
    let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(certificate)
    else {
        return false;
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    names.is_some_and(|names| {
        let mut names = names.value.general_names.iter();
        names.any(|name| matches!(name, GeneralName::URI(found) if *found == uri))
    })
}

/// The pools of one data thread, by demands.
#[derive(Default)]
pub struct Pools(RefCell<HashMap<(Hash, bool), Kept>>);

struct Kept {
    pool: Pool,
    used_ms: u64,
}

impl Pools {
    /// The pool for a backend's demands. It is not made twice: connections outlive programs.
    pub fn of(
        &self,
        tls: &Tls,
        protocol: BackendProtocol,
        clock: Clock,
        ticker: &Ticker,
    ) -> Result<Pool, UpstreamError> {
        let key = (tls.id.clone(), protocol == BackendProtocol::H2c);
        let now_ms = clock.now_ms();
        let mut pools = self.0.borrow_mut();
        if let Some(kept) = pools.get_mut(&key) {
            kept.used_ms = now_ms;
            return Ok(kept.pool.clone());
        }
        let client = Client::new(&tls.asked, protocol).map_err(|cause| UpstreamError::Policy {
            policy: named(&tls.asked),
            cause,
        })?;
        let pool = Pool::over_tls(clock, ticker.clone(), Rc::new(client));
        if pools.len() >= MAX_POOLS {
            let oldest = pools.iter().min_by_key(|(_, kept)| kept.used_ms);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                pools.remove(&oldest);
            }
        }
        let kept = Kept {
            pool: pool.clone(),
            used_ms: now_ms,
        };
        pools.insert(key, kept);
        Ok(pool)
    }

    /// Closes idle connections in the background, for as long as the thread lives.
    pub async fn keep_tidy(&self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            for kept in self.0.borrow().values() {
                kept.pool.purge();
            }
        }
    }
}
