//! A proven pod, and how it stands in a certificate: one URI SAN `spiffe://<trustDomain>/ns/<ns>/sa/<sa>`, which peers
//! check on a hop, and the Subject `CN=<pod>, serialNumber=<uid>`, which the operator checks on a reconnect.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, oid_registry::OID_X509_SERIALNUMBER,
    prelude::FromDer,
};

/// X.520 serialNumber (2.5.4.5), which rcgen has no name for.
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];

/// A pod that proved itself, by token or by certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its name.
    pub pod: String,
    /// Its uid, which tells it from an earlier pod of that name.
    pub uid: String,
}

/// A certificate that names no pod of this trust domain.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PrincipalError {
    /// Not X.509.
    #[error("the certificate does not parse")]
    Malformed,
    /// The Subject lacks the pod's name or uid, or has several.
    #[error("the certificate's Subject does not name exactly one pod and uid")]
    Subject,
    /// The SAN is not the one URI that is expected.
    #[error(
        "the certificate has no single URI SAN spiffe://{0}/ns/<namespace>/sa/<service account>; \
         a changed trustDomain needs new certificates, which the token gets"
    )]
    SpiffeId(String),
}

impl Principal {
    /// Its SPIFFE id in `trust_domain`.
    pub fn spiffe_id(&self, trust_domain: &str) -> String {
        format!(
            "spiffe://{trust_domain}/ns/{}/sa/{}",
            self.namespace, self.service_account
        )
    }

    /// Reads the Principal of a certificate that the TLS handshake has verified against our roots.
    pub fn from_certificate(
        certificate: &CertificateDer<'_>,
        trust_domain: &str,
    ) -> Result<Self, PrincipalError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| PrincipalError::Malformed)?;
        let one = |mut values: Vec<&str>| match (values.pop(), values.is_empty()) {
            (Some(value), true) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(PrincipalError::Subject),
        };
        let subject = certificate.subject();
        let pod = one(subject
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .collect())?;
        let uid = one(subject
            .iter_by_oid(&OID_X509_SERIALNUMBER)
            .filter_map(|name| name.as_str().ok())
            .collect())?;

        let wrong = || PrincipalError::SpiffeId(trust_domain.to_owned());
        let san = certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .ok_or_else(wrong)?;
        let [GeneralName::URI(uri)] = san.value.general_names[..] else {
            return Err(wrong());
        };
        let (namespace, service_account) = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(trust_domain))
            .and_then(|rest| rest.strip_prefix("/ns/"))
            .and_then(|rest| rest.split_once("/sa/"))
            .filter(|(namespace, account)| {
                [namespace, account]
                    .iter()
                    .all(|part| !part.is_empty() && !part.contains('/'))
            })
            .ok_or_else(wrong)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod,
            uid,
        })
    }

    /// What its certificate says.
    pub(super) fn certificate_params(
        &self,
        trust_domain: &str,
    ) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, self.pod.clone());
        subject.push(
            DnType::CustomDnType(SERIAL_NUMBER.to_vec()),
            self.uid.clone(),
        );
        params.distinguished_name = subject;
        params.subject_alt_names = vec![SanType::URI(self.spiffe_id(trust_domain).try_into()?)];
        Ok(params)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.pod, self.uid)
    }
}
