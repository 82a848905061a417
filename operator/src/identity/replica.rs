//! Who a replica of the operator is to another: the holder of a certificate of our own CA that names `urn:sluice:operator`
//! and nothing else. Only who has the CA's key can make one; no pod can ask for it, because a sidecar's certificate is
//! made from its Principal alone and names a `spiffe://` id.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName},
    version::TLS13,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::ca::{Authority, CaError};

/// The URI in a replica's certificate.
pub const URI: &str = "urn:sluice:operator";
/// How long a replica's certificate is valid, in seconds: it is made for one connection and looked at when that begins.
const LIFETIME_S: i64 = 60 * 60;

/// Whether a certificate that the handshake has verified is a replica's.
pub fn is_replica(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    match certificate.subject_alternative_name() {
        Ok(Some(san)) => matches!(san.value.general_names[..], [GeneralName::URI(URI)]),
        _ => false,
    }
}

impl Authority {
    /// TLS towards another replica, and the name that it must prove.
    pub fn towards_replica(
        &self,
        now_s: i64,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), CaError> {
        let tls = |error: &dyn std::fmt::Display| CaError::Tls(error.to_string());
        let (roots, name) = self.trusted()?;
        let name = ServerName::try_from(name.to_owned()).map_err(|error| tls(&error))?;
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root).map_err(|error| tls(&error))?;
        }
        let (chain, key) = self.client_certificate(URI, now_s, LIFETIME_S)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| tls(&error))?
            .with_root_certificates(store)
            .with_client_auth_cert(chain, key)
            .map_err(|error| tls(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok((Arc::new(config), name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{CaMaterial, Principal};
    use rustls::pki_types::pem::PemObject;

    const NOW: i64 = 1_790_000_000;

    #[test]
    fn only_the_operators_own_certificate_is_a_replicas() {
        let material = CaMaterial::generate(NOW).expect("a CA");
        let authority = Authority::new(material, "operator", "x", NOW).expect("an authority");
        let (chain, _) = authority
            .client_certificate(URI, NOW, LIFETIME_S)
            .expect("made");
        assert!(is_replica(&chain[0]));

        // A pod of the operator's own account, in the operator's own namespace, is a sidecar all the same.
        let pod = Principal {
            namespace: "sluice-system".into(),
            service_account: "sluice-operator".into(),
            pod: "sluice-operator".into(),
            uid: "u0".into(),
        };
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut wish = rcgen::CertificateParams::default();
        wish.subject_alt_names = vec![rcgen::SanType::URI(URI.try_into().expect("a URI"))];
        let request = wish.serialize_request(&key).expect("a request");
        let issued = authority.issue(&pod, request.der(), NOW).expect("issued");
        let leaf = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).expect("PEM");
        assert!(!is_replica(&leaf));
        assert!(!is_replica(&CertificateDer::from(vec![1, 2, 3])));
    }
}
