//! What proves this sidecar on a hop, and whom it trusts: made anew, whole, with each certificate and each bundle of roots
//! that the stream brings. Connections that are open keep what they began with.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};
use sluice_pipeline::hop::Peer;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use crate::data::tls::{TlsError, provider};

/// What the stream has issued.
pub struct Issued {
    /// The certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Who is trusted.
    pub roots: RootCertStore,
    /// When the certificate ends (Unix seconds).
    pub not_after: i64,
}

/// Ready for TLS 1.3 both ways.
pub struct Credentials {
    /// For those who come.
    pub server: Arc<ServerConfig>,
    /// Who this is.
    pub own: Peer,
    issued: Issued,
    roots: Arc<RootCertStore>,
}

impl Credentials {
    /// Makes them.
    pub fn new(issued: Issued) -> Result<Self, TlsError> {
        let own = issued.chain.first().and_then(peer);
        let own = own.ok_or(TlsError::Pem("a certificate with a SPIFFE id"))?;
        let roots = Arc::new(issued.roots.clone());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .build()
            .map_err(|error| TlsError::Authorities(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(issued.chain.clone(), issued.key.clone_key())?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A session that is resumed would outlive roots that were withdrawn.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            server: Arc::new(server),
            own,
            issued,
            roots,
        })
    }

    /// Whether the certificate still counts at `wall_s` (Unix seconds).
    pub fn is_valid(&self, wall_s: i64) -> bool {
        wall_s < self.issued.not_after
    }

    /// Towards pods of one namespace. The account is not asked for: a Service's pods may run under several, and whoever
    /// runs as any of a namespace's accounts is that namespace's to trust.
    pub fn client(&self, namespace: &str, http2: bool) -> Result<ClientConfig, TlsError> {
        let signatures =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
                .build()
                .map_err(|error| TlsError::Authorities(error.to_string()))?;
        let verifier = OfNamespace {
            signatures,
            roots: Arc::clone(&self.roots),
            trust_domain: self.own.trust_domain.clone(),
            namespace: namespace.to_owned(),
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.issued.chain.clone(), self.issued.key.clone_key())?;
        config.alpn_protocols = vec![if http2 {
            b"h2".to_vec()
        } else {
            b"http/1.1".to_vec()
        }];
        Ok(config)
    }
}

/// The SPIFFE id of a certificate; it has exactly one URI, as the operator issues it.
pub fn peer(certificate: &CertificateDer<'static>) -> Option<Peer> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten()?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return None;
    };
    Peer::parse(uri)
}

/// Accepts a certificate that a root of ours signed for a pod of one namespace.
#[derive(Debug)]
struct OfNamespace {
    signatures: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    trust_domain: String,
    namespace: String,
}

impl ServerCertVerifier for OfNamespace {
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
        let found = peer(&end_entity.clone().into_owned());
        let fits = found.is_some_and(|peer| {
            peer.trust_domain == self.trust_domain && peer.namespace == self.namespace
        });
        if fits {
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
