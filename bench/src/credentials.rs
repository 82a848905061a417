//! What a client proves itself with: keys made for the run, tokens (RFC 7519) and signatures (RFC 9421) made with them.
//! Written apart from the product's own verifiers.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use sluice_pipeline::facts::StaticFacts;

use crate::world::gateway::HOST;

/// `iss` of every token.
pub const ISSUER: &str = "https://id.bench.example";
/// `aud` of every token.
pub const AUDIENCE: &str = "bench";
/// How long a token is good for, in seconds: longer than any run.
const LIFETIME_S: i64 = 6 * 3600;

/// One key that signs tokens.
pub struct TokenKey {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    public_pem: String,
}

/// All keys of a run.
pub struct Keys {
    /// Shared, for tokens.
    pub hs256: TokenKey,
    /// RSA with 2,048 bits.
    pub rs256: TokenKey,
    /// P-256.
    pub es256: TokenKey,
    /// The value of the Secret behind `hs256`.
    pub token_secret: String,
    /// The value of the Secret of message signatures.
    pub signature_secret: String,
    /// What every system shows to clients of TLS.
    pub server: Certified,
}

/// A certificate of [`HOST`], signed by its own key (P-256), as PEM.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS#8).
    pub key: String,
}

impl Certified {
    fn generate() -> Result<Self> {
        let signed = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        Ok(Self {
            certificate: signed.cert.pem(),
            key: signed.signing_key.serialize_pem(),
        })
    }
}

/// The key id of message signatures.
pub const SIGNATURE_KEY_ID: &str = "bench-hmac";

impl Keys {
    /// New keys.
    pub fn generate() -> Result<Self> {
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let [token_secret, signature_secret] = [secret()?, secret()?];
        Ok(Self {
            hs256: TokenKey {
                id: "bench-hs256",
                algorithm: Algorithm::HS256,
                key: EncodingKey::from_secret(token_secret.as_bytes()),
                public_pem: String::new(),
            },
            rs256: TokenKey {
                id: "bench-rs256",
                algorithm: Algorithm::RS256,
                key: EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes())?,
                public_pem: rsa.public_key_pem(),
            },
            es256: TokenKey {
                id: "bench-es256",
                algorithm: Algorithm::ES256,
                key: EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes())?,
                public_pem: ec.public_key_pem(),
            },
            token_secret,
            signature_secret,
            server: Certified::generate()?,
        })
    }
}

/// A random key as text, 64 bytes long.
fn secret() -> Result<String> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .ok()
        .context("the system gave no randomness")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl TokenKey {
    /// Its `kid`.
    pub fn id(&self) -> &'static str {
        self.id
    }

    /// Its public half as PEM; empty where it has none.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// A token for a subject, good from now on.
    pub fn token(&self, subject: &str) -> Result<String> {
        let now = now_s()?;
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + LIFETIME_S,
            "scope": "orders:read orders:write", "tenant": "acme", "plan": "gold",
        });
        let header = Header {
            kid: Some(self.id.into()),
            ..Header::new(self.algorithm)
        };
        jsonwebtoken::encode(&header, &claims, &self.key).context("cannot sign a token")
    }

    /// A JWK set (RFC 7517) with its public half, as text. Only for keys that have one.
    pub fn jwks(&self) -> Result<String> {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm)?;
        jwk.common.key_id = Some(self.id.into());
        let jwk: Value = serde_json::to_value(jwk)?;
        Ok(json!({ "keys": [jwk] }).to_string())
    }
}

/// A request signed with hmac-sha256 over method and target URI, now, with a nonce.
pub fn sign(facts: StaticFacts, secret: &str, nonce: &str) -> Result<StaticFacts> {
    let params = format!(
        "(\"@method\" \"@target-uri\");created={};keyid=\"{SIGNATURE_KEY_ID}\";nonce=\"{nonce}\";alg=\"hmac-sha256\"",
        now_s()?
    );
    let query = facts
        .query
        .as_ref()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let authority = facts
        .authority
        .as_deref()
        .context("a signed request names its host")?;
    let base = format!(
        "\"@method\": {}\n\"@target-uri\": http://{authority}{}{query}\n\"@signature-params\": {params}",
        facts.method, facts.path,
    );
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
        base.as_bytes(),
    );
    Ok(facts
        .with("signature-input", &format!("sig1={params}"))
        .with(
            "signature",
            &format!("sig1=:{}:", BASE64_STANDARD.encode(tag)),
        ))
}

/// Seconds since 1970.
pub fn now_s() -> Result<i64> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(i64::try_from(since.as_secs())?)
}
