//! JSON Web Tokens as an identity provider makes them (RFC 7519), with keys made for the test. Also signs what a
//! Kubernetes API server would have signed, given its key.

use anyhow::{Context, Result};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use crate::signature::unix_now;

/// A key that signs tokens.
#[derive(Debug, Clone)]
pub struct TokenKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl TokenKey {
    /// HS256 with a shared secret.
    pub fn hs256(id: &str, secret: &[u8]) -> Self {
        Self {
            id: Some(id.into()),
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(secret),
        }
    }

    /// RS256 with a new key of 2048 bits.
    pub fn rs256(id: &str) -> Result<Self> {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes())?;
        Ok(Self {
            id: Some(id.into()),
            algorithm: Algorithm::RS256,
            key,
        })
    }

    /// ES256 with a new key.
    pub fn es256(id: &str) -> Result<Self> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self {
            id: Some(id.into()),
            ..Self::es256_from_pem(&pair.serialize_pem())?
        })
    }

    /// ES256 with this key (PKCS#8); tokens carry no `kid`.
    pub fn es256_from_pem(pem: &str) -> Result<Self> {
        Ok(Self {
            id: None,
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_pem(pem.as_bytes())?,
        })
    }

    /// Signs these claims.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = Header {
            kid: self.id.clone(),
            ..Header::new(self.algorithm)
        };
        encode(&header, claims, &self.key).context("signing a token")
    }

    /// The public half as a JWK (RFC 7517). Of an HS256 key it is the secret itself.
    pub fn jwk(&self) -> Result<Value> {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm)?;
        jwk.common.key_id = self.id.clone();
        Ok(serde_json::to_value(jwk)?)
    }
}

/// Claims of a token that is good for five minutes.
pub fn claims(issuer: &str, subject: &str, audience: &str) -> Value {
    let now = unix_now();
    json!({"iss": issuer, "sub": subject, "aud": audience, "iat": now, "nbf": now, "exp": now + 300})
}

/// A JWK set (RFC 7517 section 5) of public keys.
pub fn jwk_set(keys: &[&TokenKey]) -> Result<Value> {
    Ok(json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Result<Vec<_>>>()?}))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;

    #[test]
    fn a_jwk_verifies_what_its_key_signed() {
        for key in [TokenKey::rs256("r").unwrap(), TokenKey::es256("e").unwrap()] {
            let token = key
                .sign(&claims("https://id.example", "alice", "api"))
                .unwrap();
            let jwk: Jwk = serde_json::from_value(key.jwk().unwrap()).unwrap();
            assert!(jwk.common.key_id.is_some());
            let mut validation = Validation::new(key.algorithm);
            validation.set_audience(&["api"]);
            let read = decode::<Value>(&token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation)
                .unwrap();
            assert_eq!(read.claims["sub"], "alice");
        }
    }
}
