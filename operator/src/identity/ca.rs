//! The operator's certificate authority: what it keeps, what it signs, what it trusts. It does no I/O and reads no clock:
//! times are arguments, and where material is kept is a [`super::rotation::CaStore`].
//!
//! Rotation needs no waiting: the new CA is also signed by the old one (a *cross certificate*), which every chain carries
//! along. Whoever knows only the old root verifies through it, whoever knows the new one does not need it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use sluice_snapshot::SecretBytes;
use tokio::sync::watch;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use super::{
    principal::{Principal, PrincipalError},
    tls::{self, ServerCertificate},
};

/// How long a CA is valid, in seconds: two years. It is replaced at half of it and trusted to its end.
pub const CA_LIFETIME_S: i64 = 2 * 365 * DAY_S;
/// How long a server certificate is valid, in seconds: a week. It is replaced at half of it.
pub const SERVER_LIFETIME_S: i64 = 7 * DAY_S;
/// How long a sidecar's certificate is valid, in seconds: a day. The sidecar renews it at half of it.
pub const CLIENT_LIFETIME_S: i64 = DAY_S;

const DAY_S: i64 = 24 * 60 * 60;
/// Certificates begin a little earlier than now, for clocks that disagree.
const SKEW_S: i64 = 5 * 60;
/// Size of the key of keyed hashes, in bytes.
const HASH_KEY_BYTES: usize = 32;
/// The largest certificate request that is looked at, in bytes.
const MAX_CSR_BYTES: usize = 8 * 1024;

/// What went wrong with keys or certificates.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A key or certificate could not be made or signed.
    #[error("cannot make {what}: {source}")]
    Make {
        /// The thing.
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// Stored material does not parse.
    #[error(
        "stored {what} is unusable: {why}; restore it from a backup, or remove it to have a new CA made (every sidecar must then be restarted with the new roots)"
    )]
    Stored {
        /// Which part.
        what: &'static str,
        /// Why, without content.
        why: String,
    },
    /// A TLS configuration was refused.
    #[error("TLS configuration: {0}")]
    Tls(String),
    /// A certificate request that is not one.
    #[error("certificate request refused: {0}")]
    Csr(String),
    /// The system has no randomness to give.
    #[error("no randomness")]
    Random,
}

impl CaError {
    fn make(what: &'static str) -> impl FnOnce(rcgen::Error) -> Self {
        move |source| Self::Make { what, source }
    }

    fn stored(what: &'static str, why: impl ToString) -> Self {
        Self::Stored {
            what,
            why: why.to_string(),
        }
    }
}

/// Everything that is kept of a CA. The same for all replicas.
#[derive(Clone)]
pub struct CaMaterial {
    /// The signing key: PKCS #8, PEM.
    pub key_pem: Zeroizing<String>,
    /// The CA's own, self-signed certificate: PEM.
    pub certificate_pem: String,
    /// The same subject and key, signed by the former CA: PEM. Absent until the first rotation.
    pub cross_pem: Option<String>,
    /// Every root that is still trusted, newest first: PEM.
    pub roots_pem: String,
    /// The key of keyed hashes of secret units; it outlives rotations.
    pub hash_key: SecretBytes,
}

impl std::fmt::Debug for CaMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaMaterial")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

impl CaMaterial {
    /// A new CA with a new hash key.
    pub fn generate(now_s: i64) -> Result<Self, CaError> {
        let hash_key = SecretBytes::new(random_bytes(HASH_KEY_BYTES)?);
        let (key, params) = new_ca(now_s)?;
        let certificate = params
            .self_signed(&key)
            .map_err(CaError::make("the CA's certificate"))?;
        Ok(Self {
            key_pem: Zeroizing::new(key.serialize_pem()),
            certificate_pem: certificate.pem(),
            cross_pem: None,
            roots_pem: certificate.pem(),
            hash_key,
        })
    }

    /// The next CA: signed by this one too, trusted beside it. Roots that have expired leave the bundle.
    pub fn rotated(&self, now_s: i64) -> Result<Self, CaError> {
        let former = self.issuer()?;
        let (key, params) = new_ca(now_s)?;
        let certificate = params
            .self_signed(&key)
            .map_err(CaError::make("the CA's certificate"))?;
        let cross = params
            .signed_by(&key, &former)
            .map_err(CaError::make("the cross certificate"))?;
        let mut roots_pem = certificate.pem();
        for root in roots(&self.roots_pem)? {
            if not_after(&root)? > now_s {
                roots_pem.push_str(&pem(&root));
            }
        }
        Ok(Self {
            key_pem: Zeroizing::new(key.serialize_pem()),
            certificate_pem: certificate.pem(),
            cross_pem: Some(cross.pem()),
            roots_pem,
            hash_key: self.hash_key.clone(),
        })
    }

    /// Whether the other is the same CA with the same roots. Keys are not compared: a certificate has one key.
    pub fn same_as(&self, other: &Self) -> bool {
        self.certificate_pem == other.certificate_pem && self.roots_pem == other.roots_pem
    }

    /// Whether half of the CA's life is over.
    pub fn is_due(&self, now_s: i64) -> Result<bool, CaError> {
        let certificate = one_certificate("CA certificate", &self.certificate_pem)?;
        Ok(not_after(&certificate)? - now_s < CA_LIFETIME_S / 2)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CaError> {
        let key = KeyPair::from_pem(&self.key_pem)
            .map_err(|_| CaError::stored("CA key", "not a PKCS #8 key in PEM"))?;
        let certificate = one_certificate("CA certificate", &self.certificate_pem)?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| CaError::stored("CA certificate", error))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::stored(
                "CA certificate",
                "it belongs to another key",
            ));
        }
        Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| CaError::stored("CA certificate", error))
    }
}

/// A certificate for a sidecar.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM, leaf first, then the cross certificate where there is one.
    pub chain_pem: String,
    /// Seconds since the epoch.
    pub not_after_s: i64,
}

/// What signs now.
struct Signing {
    material: CaMaterial,
    issuer: Issuer<'static, KeyPair>,
    cross: Option<CertificateDer<'static>>,
}

/// The stream's TLS: sidecars show no certificate before they have one.
fn stream_config(
    certificate: &Arc<ServerCertificate>,
    signing: &Signing,
) -> Result<ServerConfig, CaError> {
    let roots = roots(&signing.material.roots_pem)?;
    tls::server_config(certificate, Some(&roots), &[b"h2"])
}

/// The CA in force, the server certificate it made, and the roots it trusts. Everything is replaced without restart.
pub struct Authority {
    server_name: String,
    trust_domain: ArcSwap<String>,
    signing: ArcSwap<Signing>,
    server_certificate: Arc<ServerCertificate>,
    server_config: ArcSwap<ServerConfig>,
    roots: watch::Sender<Arc<str>>,
    /// When the server certificate is to be replaced, seconds since the epoch.
    renew_at_s: Mutex<i64>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Puts `material` in force and makes a server certificate for the DNS name `server_name`.
    pub fn new(
        material: CaMaterial,
        server_name: &str,
        trust_domain: &str,
        now_s: i64,
    ) -> Result<Self, CaError> {
        let signing = Signing::load(material)?;
        let (certificate, renew_at_s) = signing.server_certificate(server_name, now_s)?;
        let server_certificate = Arc::new(ServerCertificate::new(certificate));
        let server_config = stream_config(&server_certificate, &signing)?;
        Ok(Self {
            server_name: server_name.to_owned(),
            trust_domain: ArcSwap::from_pointee(trust_domain.to_owned()),
            roots: watch::Sender::new(signing.material.roots_pem.as_str().into()),
            signing: ArcSwap::from_pointee(signing),
            server_certificate,
            server_config: ArcSwap::from_pointee(server_config),
            renew_at_s: Mutex::new(renew_at_s),
        })
    }

    /// Replaces the CA: from now on it signs, its roots are trusted and told, and the server has a certificate of it.
    /// Connections that stand are not touched.
    pub fn adopt(&self, material: CaMaterial, now_s: i64) -> Result<(), CaError> {
        let signing = Signing::load(material)?;
        let (certificate, renew_at_s) = signing.server_certificate(&self.server_name, now_s)?;
        let config = stream_config(&self.server_certificate, &signing)?;
        let roots_pem: Arc<str> = signing.material.roots_pem.as_str().into();
        self.signing.store(Arc::new(signing));
        self.server_certificate.replace(certificate);
        self.server_config.store(Arc::new(config));
        *self
            .renew_at_s
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = renew_at_s;
        self.roots.send_replace(roots_pem);
        Ok(())
    }

    /// Replaces the server certificate if half of its life is over.
    pub fn renew_server_certificate(&self, now_s: i64) -> Result<bool, CaError> {
        let mut renew_at_s = self
            .renew_at_s
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if now_s < *renew_at_s {
            return Ok(false);
        }
        let (certificate, next) = self
            .signing
            .load()
            .server_certificate(&self.server_name, now_s)?;
        self.server_certificate.replace(certificate);
        *renew_at_s = next;
        Ok(true)
    }

    /// The material in force.
    pub fn material(&self) -> CaMaterial {
        self.signing.load().material.clone()
    }

    /// The roots' PEM bundle, and its changes.
    pub fn roots(&self) -> watch::Receiver<Arc<str>> {
        self.roots.subscribe()
    }

    /// The stream's TLS configuration in force; to be asked for each connection.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server_config.load_full()
    }

    /// TLS of an HTTP listener of the same name: it shows the server certificate in force at each handshake, and asks for
    /// a client certificate of `clients` where there are any.
    pub fn https_config(
        &self,
        clients: Option<&[CertificateDer<'static>]>,
    ) -> Result<ServerConfig, CaError> {
        tls::server_config(&self.server_certificate, clients, &[b"h2", b"http/1.1"])
    }

    /// The trust domain in force.
    pub fn trust_domain(&self) -> Arc<String> {
        self.trust_domain.load_full()
    }

    /// Changes the trust domain; certificates of the former one are not accepted any more.
    pub fn set_trust_domain(&self, trust_domain: &str) {
        if **self.trust_domain.load() != trust_domain {
            self.trust_domain.store(Arc::new(trust_domain.to_owned()));
        }
    }

    /// The Principal of a certificate that the handshake has verified.
    pub fn principal(&self, leaf: &CertificateDer<'_>) -> Result<Principal, PrincipalError> {
        Principal::from_certificate(leaf, &self.trust_domain())
    }

    /// A certificate that names its holder `uri` and nothing else, for a client, and its key.
    pub(super) fn client_certificate(
        &self,
        uri: &str,
        now_s: i64,
        lifetime_s: i64,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let what = "a client certificate";
        let key = KeyPair::generate().map_err(CaError::make(what))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(CaError::make(what))?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        finish_leaf(&mut params, now_s, now_s + lifetime_s)?;
        let signing = self.signing.load();
        let leaf = params
            .signed_by(&key, &signing.issuer)
            .map_err(CaError::make(what))?;
        let chain = std::iter::once(leaf.der().clone())
            .chain(signing.cross.clone())
            .collect();
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|error| CaError::Tls(error.to_owned()))?;
        Ok((chain, key))
    }

    /// The roots in force, and the name in the server's certificate.
    pub(super) fn trusted(&self) -> Result<(Vec<CertificateDer<'static>>, &str), CaError> {
        let roots = roots(&self.signing.load().material.roots_pem)?;
        Ok((roots, &self.server_name))
    }

    /// Signs a sidecar's key for `principal`. Only the key is taken from the request, which must be signed by it; every
    /// name in it is ignored.
    pub fn issue(&self, principal: &Principal, csr: &[u8], now_s: i64) -> Result<Issued, CaError> {
        if csr.len() > MAX_CSR_BYTES {
            return Err(CaError::Csr(format!("larger than {MAX_CSR_BYTES} bytes")));
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(|error| CaError::Csr(error.to_string()))?;
        let mut params = principal
            .certificate_params(&self.trust_domain())
            .map_err(CaError::make("a sidecar's certificate"))?;
        // A peer on a hop is a server too.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let not_after_s = now_s + CLIENT_LIFETIME_S;
        finish_leaf(&mut params, now_s, not_after_s)?;
        let signing = self.signing.load();
        let leaf = params
            .signed_by(&request.public_key, &signing.issuer)
            .map_err(CaError::make("a sidecar's certificate"))?;
        let mut chain_pem = leaf.pem();
        if let Some(cross) = &signing.material.cross_pem {
            chain_pem.push_str(cross);
        }
        Ok(Issued {
            chain_pem,
            not_after_s,
        })
    }
}

impl Signing {
    fn load(material: CaMaterial) -> Result<Self, CaError> {
        let issuer = material.issuer()?;
        let cross = material
            .cross_pem
            .as_deref()
            .map(|text| one_certificate("cross certificate", text))
            .transpose()?;
        Ok(Self {
            material,
            issuer,
            cross,
        })
    }

    /// A server certificate, and when to replace it.
    fn server_certificate(
        &self,
        server_name: &str,
        now_s: i64,
    ) -> Result<(CertifiedKey, i64), CaError> {
        let what = "the server certificate";
        let key = KeyPair::generate().map_err(CaError::make(what))?;
        let mut params =
            CertificateParams::new([server_name.to_owned()]).map_err(CaError::make(what))?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, "sluice-operator");
        params.distinguished_name = subject;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        finish_leaf(&mut params, now_s, now_s + SERVER_LIFETIME_S)?;
        let leaf = params
            .signed_by(&key, &self.issuer)
            .map_err(CaError::make(what))?;
        let chain = std::iter::once(leaf.der().clone())
            .chain(self.cross.clone())
            .collect();
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|error| CaError::Tls(error.to_owned()))?;
        Ok((
            tls::certified_key(chain, &key)?,
            now_s + SERVER_LIFETIME_S / 2,
        ))
    }
}

/// A CA's key and parameters, with a subject of its own: two CAs of one name would confuse path building.
fn new_ca(now_s: i64) -> Result<(KeyPair, CertificateParams), CaError> {
    let key = KeyPair::generate().map_err(CaError::make("the CA's key"))?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "sluice");
    subject.push(
        DnType::CommonName,
        format!(
            "sluice-ca {}",
            sluice_snapshot::hash::hex(&random_bytes(4)?)
        ),
    );
    params.distinguished_name = subject;
    // Unconstrained: the cross certificate of the next CA stands between this one and a leaf.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    set_validity(&mut params, now_s, now_s + CA_LIFETIME_S);
    params.serial_number = Some(random_serial()?);
    Ok((key, params))
}

fn finish_leaf(
    params: &mut CertificateParams,
    now_s: i64,
    not_after_s: i64,
) -> Result<(), CaError> {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    set_validity(params, now_s, not_after_s);
    params.serial_number = Some(random_serial()?);
    Ok(())
}

/// RFC 5280 4.1.2.2: positive, at most 20 bytes, unique.
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = random_bytes(16)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Random bytes, also for join tokens.
pub(super) fn random_bytes(count: usize) -> Result<Vec<u8>, CaError> {
    let mut bytes = vec![0; count];
    rand::fill(&mut bytes).map_err(|_| CaError::Random)?;
    Ok(bytes)
}

/// Valid from a little before `now_s` until `not_after_s`. (rcgen's time type is reachable through this function only.)
fn set_validity(params: &mut CertificateParams, now_s: i64, not_after_s: i64) {
    let at = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    params.not_before = at(now_s - SKEW_S);
    params.not_after = at(not_after_s);
}

/// RFC 7468.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for start in (0..text.len()).step_by(64) {
        pem.push_str(&text[start..text.len().min(start + 64)]);
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Every certificate of a PEM bundle.
pub(super) fn roots(pem: &str) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CaError::stored("roots", error))?;
    if all.is_empty() {
        return Err(CaError::stored("roots", "no certificate in it"));
    }
    Ok(all)
}

fn one_certificate(what: &'static str, pem: &str) -> Result<CertificateDer<'static>, CaError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| CaError::stored(what, error))
}

fn not_after(certificate: &CertificateDer<'_>) -> Result<i64, CaError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| CaError::stored("root", error))?;
    Ok(parsed.validity().not_after.timestamp())
}
