//! What proves this sidecar on a hop, and whom it trusts: made anew, whole, with each certificate and each bundle of roots
//! that the stream brings. Connections that are open keep what they began with.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};
use sluice_pipeline::hop::Peer;

use crate::data::tls::{
    TlsError, provider,
    verifier::{Judge, Verifier, uris},
};

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
        let judge = OfNamespace {
            trust_domain: self.own.trust_domain.clone(),
            namespace: namespace.to_owned(),
        };
        let verifier = Verifier::new(Arc::clone(&self.roots), judge)?;
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
pub fn peer(certificate: &CertificateDer<'_>) -> Option<Peer> {
    match uris(certificate).as_slice() {
        [uri] => Peer::parse(uri),
        _ => None,
    }
}

/// Accepts a certificate of a pod of one namespace of a trust domain.
#[derive(Debug)]
struct OfNamespace {
    trust_domain: String,
    namespace: String,
}

impl Judge for OfNamespace {
    fn accepts(&self, end_entity: &CertificateDer<'_>, _: &ParsedCertificate<'_>) -> bool {
        peer(end_entity).is_some_and(|peer| {
            peer.trust_domain == self.trust_domain && peer.namespace == self.namespace
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    /// A certificate with these URIs.
    fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        let uris = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().expect("ASCII")));
        params.subject_alt_names = uris.collect();
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().clone()
    }

    #[test]
    fn a_hop_leads_to_the_namespace_and_trust_domain_it_is_for() {
        let judge = OfNamespace {
            trust_domain: "shop.example".into(),
            namespace: "shop".into(),
        };
        let accepts = |uris: &[&str]| {
            let certificate = certificate(uris);
            let parsed = ParsedCertificate::try_from(&certificate).expect("X.509");
            judge.accepts(&certificate, &parsed)
        };
        let own = "spiffe://shop.example/ns/shop/sa/any";
        assert!(accepts(&[own]));
        let (elsewhere, other) = (
            "spiffe://other.domain/ns/shop/sa/any",
            "spiffe://shop.example/ns/bank/sa/any",
        );
        for uris in [&[elsewhere][..], &[other], &[own, elsewhere], &[]] {
            assert!(!accepts(uris), "{uris:?}");
        }
    }
}
