//! What each listener of an edge shows to clients. One configuration for each listener, kept for as long as what it was made
//! of stays: sessions of one cannot be resumed at another, nor at a listener that asks for more than it did.

use std::{collections::BTreeMap, io, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{
        Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
    },
    sign::CertifiedKey,
};
use sluice_pipeline::{
    Program,
    program::{Certificates, EdgePort},
};
use sluice_snapshot::{
    UnitName,
    unit::{
        Secret,
        secret::{CERTIFICATE_ENTRY, KEY_ENTRY},
    },
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{TlsError, authorities, provider};
use crate::data::l4;

/// The TLS of all listeners.
#[derive(Debug, Default)]
pub struct Terminators {
    by_listener: BTreeMap<UnitName, Terminator>,
}

/// The TLS of one listener; none: it refuses every handshake.
#[derive(Debug, Clone)]
struct Terminator {
    made_of: MadeOf,
    config: Option<Arc<ServerConfig>>,
}

/// What tells one configuration from another.
#[derive(Debug, Clone, PartialEq)]
struct MadeOf {
    /// Names of secret units hold the hash of what they hold.
    secrets: Vec<UnitName>,
    client_authorities: Option<Arc<str>>,
    /// It speaks HTTP: what is in other TLS, both ends know without us.
    http: bool,
}

/// A handshake that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client's, or the network's.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No listener has the server name, or the one that has it cannot serve.
    #[error("no listener that can serve has the server name {0:?}")]
    NoListener(Option<Box<str>>),
}

impl Terminators {
    /// Those of a program; what did not change since `former` is taken from there.
    pub fn new(program: &Program, former: &Self) -> Self {
        let listeners = program.edge().into_iter().flat_map(|edge| edge.listeners());
        let made = listeners.filter_map(|listener| {
            let terminator = match listener.tls.as_ref()? {
                Ok(certificates) => {
                    let http = listener.streams.is_none();
                    former.terminator(&listener.unit, certificates, http)
                }
                Err(error) => {
                    tracing::warn!(listener = %listener.unit, error = error.message, "handshakes are refused");
                    Terminator {
                        made_of: MadeOf {
                            secrets: Vec::new(),
                            client_authorities: None,
                            http: true,
                        },
                        config: None,
                    }
                }
            };
            Some((listener.unit.clone(), terminator))
        });
        Self {
            by_listener: made.collect(),
        }
    }

    fn terminator(
        &self,
        listener: &UnitName,
        certificates: &Certificates,
        http: bool,
    ) -> Terminator {
        let made_of = MadeOf {
            secrets: certificates
                .secrets
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
            client_authorities: certificates.client_authorities.clone(),
            http,
        };
        if let Some(known) = self.by_listener.get(listener)
            && known.made_of == made_of
        {
            return known.clone();
        }
        let config = match config(certificates, http) {
            Ok(config) => Some(Arc::new(config)),
            Err(error) => {
                tracing::warn!(%listener, %error, "handshakes are refused");
                None
            }
        };
        Terminator { made_of, config }
    }

    /// The configuration for a server name, and none where the handshake is to be refused.
    fn of(&self, port: &EdgePort, server_name: Option<&str>) -> Option<Arc<ServerConfig>> {
        let listener = port.listener(server_name.unwrap_or_default())?;
        self.by_listener.get(&listener.unit)?.config.clone()
    }
}

fn config(certificates: &Certificates, http: bool) -> Result<ServerConfig, TlsError> {
    let mut keys = Vec::new();
    let mut broken = None;
    for (name, secret) in &certificates.secrets {
        match certified(secret) {
            Ok(key) => keys.push(Arc::new(key)),
            Err(error) => {
                tracing::warn!(secret = %name, %error, "a certificate cannot be used");
                broken = Some(error);
            }
        }
    }
    if keys.is_empty() {
        return Err(broken.unwrap_or(TlsError::Pem("the certificate")));
    }
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&versions)?;
    let builder = match certificates.client_authorities.as_deref() {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = Arc::new(authorities(pem)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            let verifier = verifier.map_err(|error| TlsError::Authorities(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Fitting(keys)));
    if http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    // Sessions are resumed by tickets: nothing is kept here for them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

fn certified(secret: &Secret) -> Result<CertifiedKey, TlsError> {
    let entry = |id: &str| secret.entries.get(id).map(|entry| entry.expose());
    let chain = entry(CERTIFICATE_ENTRY).unwrap_or_default();
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Pem("the certificate"))?;
    if chain.is_empty() {
        return Err(TlsError::Pem("the certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(entry(KEY_ENTRY).unwrap_or_default())
        .map_err(|_| TlsError::Pem("the key"))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Key)
}

/// Certificates of one listener: the first whose key the client can check.
#[derive(Debug)]
struct Fitting(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Fitting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let mut keys = self.0.iter();
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        keys.find(fits).or(self.0.first()).cloned()
    }
}

/// Shows nothing to anybody: the client is told so by an alert.
#[derive(Debug)]
struct Nothing;

impl ResolvesServerCert for Nothing {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// What a client asked for in its handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The server name, in lower case (RFC 6066 section 3).
    pub server_name: Option<Box<str>>,
}

/// Speaks to a client until both may send. `terms` gives the listeners of the port as they are once the client has said
/// which it wants.
pub async fn accept<S>(
    stream: S,
    terms: impl FnOnce(Option<&str>) -> Option<Arc<ServerConfig>>,
) -> Result<(TlsStream<S>, Greeting), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let server_name = start.client_hello().server_name().map(l4::lower_case);
    match terms(server_name.as_deref()) {
        Some(config) => {
            let stream = start.into_stream(config).await?;
            Ok((stream, Greeting { server_name }))
        }
        None => {
            // The alert is all that is wanted of it.
            let _ = start.into_stream(refusing()?).await;
            Err(HandshakeError::NoListener(server_name))
        }
    }
}

fn refusing() -> Result<Arc<ServerConfig>, HandshakeError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(io::Error::other)?;
    let config = config.with_no_client_auth();
    Ok(Arc::new(config.with_cert_resolver(Arc::new(Nothing))))
}

impl Terminators {
    /// The configuration that a program has for a server name on a port.
    pub fn terms(
        &self,
        program: &Program,
        port: u16,
        server_name: Option<&str>,
    ) -> Option<Arc<ServerConfig>> {
        self.of(program.edge()?.port(port)?, server_name)
    }
}
