//! Puts a consumer's credential on a request: an API key, an HTTP message signature (RFC 9421), a JWT. The
//! keys are the published demo values of the quickstart's Secrets.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use aws_lc_rs::{
    digest, hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use crate::{
    caller::Ask,
    manifests::{Manifests, text},
};

/// The header of an API key.
pub(crate) const API_KEY: &str = "x-api-key";
/// What a signature covers here: as much as the quickstart asks for.
const COVERED: &str = "(\"@method\" \"@target-uri\" \"content-digest\")";

/// Makes credentials of the quickstart's consumers.
pub(crate) struct Wallet<'a> {
    base: &'a Manifests,
}

impl<'a> Wallet<'a> {
    /// A wallet over the demo's Secrets.
    pub(crate) fn new(base: &'a Manifests) -> Self {
        Self { base }
    }

    /// The consumer's API key.
    pub(crate) fn api_key(&self, consumer: &str) -> Result<String> {
        Ok(self.base.secret(&format!("{consumer}-api-key"))?.value)
    }

    /// The request with the consumer's API key.
    pub(crate) fn with_key(&self, ask: Ask, consumer: &str) -> Result<Ask> {
        Ok(ask.header(API_KEY, self.api_key(consumer)?))
    }

    /// The request, signed by the consumer with a nonce that was never used.
    pub(crate) fn signed(&self, ask: Ask, consumer: &str) -> Result<Ask> {
        let mut nonce = [0; 12];
        SystemRandom::new()
            .fill(&mut nonce)
            .ok()
            .context("the system gave no randomness")?;
        self.signed_with(ask, consumer, now()?, &BASE64_STANDARD.encode(nonce))
    }

    fn signed_with(&self, ask: Ask, consumer: &str, created: u64, nonce: &str) -> Result<Ask> {
        let key = self.base.secret(&format!("{consumer}-signature-key"))?;
        let content_digest = content_digest(&ask.body);
        let parameters = format!(
            "{COVERED};created={created};keyid=\"{}\";nonce=\"{nonce}\";alg=\"hmac-sha256\"",
            key.id
        );
        let base = format!(
            "\"@method\": {}\n\"@target-uri\": {}\n\"content-digest\": {content_digest}\n\"@signature-params\": {parameters}",
            ask.method,
            ask.url(),
        );
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, key.value.as_bytes()),
            base.as_bytes(),
        );
        Ok(ask
            .header("content-digest", content_digest)
            .header("signature-input", format!("sig1={parameters}"))
            .header(
                "signature",
                format!("sig1=:{}:", BASE64_STANDARD.encode(tag)),
            ))
    }

    /// The request with a token of the shop's issuer for the consumer, valid for `seconds` (negative:
    /// expired since).
    pub(crate) fn with_token(&self, ask: Ask, consumer: &str, seconds: i64) -> Result<Ask> {
        let token = self.token(consumer, seconds)?;
        Ok(ask.header("authorization", format!("Bearer {token}")))
    }

    /// A token of the shop's issuer.
    pub(crate) fn token(&self, consumer: &str, seconds: i64) -> Result<String> {
        let jwt = self.provider("orders", "shop-jwt")?["jwt"].clone();
        let key = self.base.secret("shop-jwt-key")?;
        let now = i64::try_from(now()?)?;
        let claims = json!({
            "iss": text(&jwt["issuer"])?,
            "aud": text(&jwt["audiences"][0])?,
            "sub": consumer,
            "plan": "gold",
            "scope": "orders:read orders:write",
            "iat": now.min(now + seconds) - 1,
            "exp": now + seconds,
        });
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.id);
        let key = EncodingKey::from_secret(key.value.as_bytes());
        jsonwebtoken::encode(&header, &claims, &key).context("cannot sign a token")
    }

    fn provider(&self, route: &str, name: &str) -> Result<&serde_json::Value> {
        let route = self.base.named("ApiRoute", route)?;
        crate::manifests::list(&route["spec"]["auth"]["providers"])
            .find(|provider| provider["name"] == name)
            .with_context(|| format!("the quickstart's route has no provider {name}"))
    }
}

/// A body's digest as Content-Digest writes it (RFC 9530).
fn content_digest(body: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, body);
    format!("sha-256=:{}:", BASE64_STANDARD.encode(digest))
}

/// Seconds since 1970.
fn now() -> Result<u64> {
    Ok(SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::tests::quickstart;

    fn ask() -> Ask {
        Ask::get(([127, 0, 10, 1], 8080).into(), "/v1/catalog?a=b")
    }

    fn header<'a>(ask: &'a Ask, name: &str) -> &'a str {
        let found = ask.headers.iter().find(|(given, _)| *given == name);
        &found.expect("the header is there").1
    }

    /// The expected value was computed with Python's hmac module from the signature base written out by hand.
    #[test]
    fn a_signature_is_the_hmac_of_the_base_that_the_rfc_writes() {
        let base = quickstart("base");
        let signed = Wallet::new(&base)
            .signed_with(ask(), "acme", 1_700_000_000, "n-1")
            .expect("the key is there");
        assert_eq!(
            header(&signed, "content-digest"),
            "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
        );
        assert_eq!(
            header(&signed, "signature-input"),
            "sig1=(\"@method\" \"@target-uri\" \"content-digest\");created=1700000000;\
             keyid=\"acme-hmac-1\";nonce=\"n-1\";alg=\"hmac-sha256\""
        );
        assert_eq!(
            header(&signed, "signature"),
            "sig1=:QaH0mBHZL2+eoVMVN9HiFNDSD1ySWjJ67fcfabnpKMc=:"
        );
    }

    #[test]
    fn two_signatures_differ_by_their_nonce() {
        let base = quickstart("base");
        let wallet = Wallet::new(&base);
        let sign = || wallet.signed(ask(), "acme").expect("the key is there");
        assert_ne!(header(&sign(), "signature"), header(&sign(), "signature"));
    }

    #[test]
    fn a_token_names_its_key_and_its_consumer() {
        let base = quickstart("base");
        let token = Wallet::new(&base).token("acme", 60).expect("signed");
        let header = jsonwebtoken::decode_header(&token).expect("well formed");
        assert_eq!(header.kid.as_deref(), Some("shop-jwt-1"));
        let mut rules = jsonwebtoken::Validation::new(Algorithm::HS256);
        rules.set_audience(&["shop"]);
        rules.set_issuer(&["https://id.shop.example"]);
        let key = base.secret("shop-jwt-key").expect("there").value;
        let key = jsonwebtoken::DecodingKey::from_secret(key.as_bytes());
        let read = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &rules);
        assert_eq!(read.expect("valid").claims["sub"], "acme");
    }
}
