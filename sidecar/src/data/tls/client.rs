//! TLS to backends: the server name that is sent, whom is trusted, which name the certificate must have. Connections of
//! different demands are never shared: each has a pool of its own.

use std::{cell::RefCell, collections::HashMap, io, path::PathBuf, rc::Rc, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    server::ParsedCertificate,
};
use sluice_pipeline::program::Tls;
use sluice_snapshot::{
    Hash,
    unit::backend::{BackendProtocol, BackendTls, San, TrustedRoots},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    TlsError, authorities, provider,
    verifier::{Judge, Verifier, uris},
};
use crate::data::upstream::{LOOK_EVERY, Pool, UpstreamError};

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
            let verifier = Arc::new(Verifier::new(roots, OneOf(sans.clone()))?);
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

/// Accepts a certificate that has one of these names.
#[derive(Debug)]
struct OneOf(Vec<San>);

impl Judge for OneOf {
    fn accepts(&self, end_entity: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> bool {
        let has = |name: &San| match name {
            San::Hostname(name) => ServerName::try_from(name.as_str())
                .is_ok_and(|name| verify_server_name(parsed, &name).is_ok()),
            San::Uri(uri) => uris(end_entity).contains(uri),
        };
        self.0.iter().any(has)
    }
}

/// The pools of one data thread, by demands.
#[derive(Default)]
pub struct Pools(RefCell<HashMap<(Hash, bool), Kept>>);

struct Kept {
    pool: Pool,
    used_ms: u64,
}

impl Pools {
    /// The pool for a backend's demands, beside that for connections in the clear. It is not made twice: connections outlive
    /// programs.
    pub fn of(
        &self,
        tls: &Tls,
        protocol: BackendProtocol,
        plain: &Pool,
    ) -> Result<Pool, UpstreamError> {
        let key = (tls.id.clone(), protocol == BackendProtocol::H2c);
        let now_ms = plain.clock().now_ms();
        let mut pools = self.0.borrow_mut();
        if let Some(kept) = pools.get_mut(&key) {
            kept.used_ms = now_ms;
            return Ok(kept.pool.clone());
        }
        let client = Client::new(&tls.asked, protocol).map_err(|cause| UpstreamError::Policy {
            policy: named(&tls.asked),
            cause,
        })?;
        let pool = plain.over_tls(Rc::new(client));
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
            tokio::time::sleep(LOOK_EVERY).await;
            for kept in self.0.borrow().values() {
                kept.pool.purge();
            }
        }
    }
}
