//! Servers that prove themselves by another name than the one that was dialled: an authority's signature, and a judgement of
//! the certificate's names in place of rustls' own.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use super::{TlsError, provider};

/// Which certificates are the right server's, of those that a trusted authority signed.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Whether this one is.
    fn accepts(&self, end_entity: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> bool;
}

/// Accepts a certificate that a trusted authority signed and that a judge accepts.
#[derive(Debug)]
pub struct Verifier<J> {
    signatures: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    judge: J,
}

impl<J> Verifier<J> {
    /// Trusts `roots` to sign.
    pub fn new(roots: Arc<RootCertStore>, judge: J) -> Result<Self, TlsError> {
        let signatures =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider())
                .build()
                .map_err(|error| TlsError::Authorities(error.to_string()))?;
        Ok(Self {
            signatures,
            roots,
            judge,
        })
    }
}

impl<J: Judge> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        )?;
        if self.judge.accepts(end_entity, &parsed) {
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

/// The URIs among a certificate's names (RFC 5280 section 4.2.1.6), byte for byte; none where it cannot be read.
pub fn uris(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(certificate)
    else {
        return Vec::new();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .collect()
}
