//! HTTP message signatures as a client makes them (RFC 9421, hmac-sha256; RFC 9530 Content-Digest). Written from the
//! RFCs and apart from the product's own code, so that the two cannot be wrong in the same way.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http::header::HOST;

use crate::http::With;

/// How to sign. A test changes a field to make a bad signature.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The `keyid` parameter.
    pub key_id: String,
    /// The shared secret.
    pub secret: Vec<u8>,
    /// Covered components, in order: `@method`, `@target-uri`, `@authority`, `@path` or a header's name in lower case.
    pub components: Vec<String>,
    /// Unix seconds; `None` = now.
    pub created: Option<u64>,
    /// `None` = a new one for each signature.
    pub nonce: Option<String>,
    /// Whether a nonce is sent at all.
    pub send_nonce: bool,
    /// The `alg` parameter; `None` leaves it out.
    pub algorithm: Option<String>,
    /// The scheme of `@target-uri`.
    pub scheme: String,
}

impl Signer {
    /// Signs method, target and body with a fresh nonce, now.
    pub fn new(key_id: impl Into<String>, secret: impl Into<Vec<u8>>) -> Self {
        Self {
            key_id: key_id.into(),
            secret: secret.into(),
            components: ["@method", "@target-uri", "content-digest"]
                .map(String::from)
                .into(),
            created: None,
            nonce: None,
            send_nonce: true,
            algorithm: Some("hmac-sha256".into()),
            scheme: "http".into(),
        }
    }

    /// The request with `Content-Digest`, `Signature-Input` and `Signature`. It must have its `Host` already: the
    /// signature covers it.
    pub fn sign(&self, request: Request<Bytes>) -> Request<Bytes> {
        let request = match request.headers().contains_key("content-digest") {
            true => request,
            false => {
                let digest = content_digest(request.body());
                request.with("content-digest", &digest)
            }
        };
        let params = self.params();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let tag = hmac::sign(&key, self.base(&request, &params).as_bytes());
        request
            .with("signature-input", &format!("sig1={params}"))
            .with("signature", &format!("sig1=:{}:", STANDARD.encode(tag)))
    }

    /// The value of `@signature-params` (section 2.3).
    fn params(&self) -> String {
        let names: Vec<String> = self.components.iter().map(|c| format!("{c:?}")).collect();
        let mut params = format!(
            "({});created={}",
            names.join(" "),
            self.created.unwrap_or_else(unix_now)
        );
        params += &format!(";keyid=\"{}\"", self.key_id);
        if self.send_nonce {
            params += &format!(
                ";nonce=\"{}\"",
                self.nonce.clone().unwrap_or_else(fresh_nonce)
            );
        }
        if let Some(algorithm) = &self.algorithm {
            params += &format!(";alg=\"{algorithm}\"");
        }
        params
    }

    /// The signature base (section 2.5).
    fn base(&self, request: &Request<Bytes>, params: &str) -> String {
        let lines = self
            .components
            .iter()
            .map(|name| format!("\"{name}\": {}\n", self.component(request, name)));
        lines.collect::<String>() + &format!("\"@signature-params\": {params}")
    }

    fn component(&self, request: &Request<Bytes>, name: &str) -> String {
        let host = || {
            request
                .headers()
                .get(HOST)
                .and_then(|h| h.to_str().ok())
                .expect("a signed request has a Host")
        };
        let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
        match name {
            "@method" => request.method().to_string(),
            "@authority" => host().to_ascii_lowercase(),
            "@target-uri" => format!("{}://{}{target}", self.scheme, host()),
            "@path" => request.uri().path().into(),
            derived if derived.starts_with('@') => panic!("this signer does not know {derived}"),
            field => {
                let values = request.headers().get_all(field).iter();
                values
                    .map(|v| v.to_str().expect("a text header").trim())
                    .collect::<Vec<_>>()
                    .join(", ")
            }
        }
    }
}

/// The value of `Content-Digest` for a body (RFC 9530 section 2).
pub fn content_digest(body: &[u8]) -> String {
    format!(
        "sha-256=:{}:",
        STANDARD.encode(digest::digest(&digest::SHA256, body))
    )
}

/// 16 random bytes as text.
pub fn fresh_nonce() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system has random numbers");
    STANDARD.encode(bytes)
}

/// Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::post;

    /// RFC 9421, appendix B.2.5.
    #[test]
    fn the_rfcs_own_example() {
        let secret = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
        let signer = Signer {
            components: ["date", "@authority", "content-type"]
                .map(String::from)
                .into(),
            created: Some(1_618_884_473),
            send_nonce: false,
            algorithm: None,
            ..Signer::new("test-shared-secret", STANDARD.decode(secret).unwrap())
        };
        let signed = signer.sign(
            post("/foo?param=Value&Pet=dog", "{\"hello\": \"world\"}")
                .with("host", "example.com")
                .with("date", "Tue, 20 Apr 2021 02:07:55 GMT")
                .with("content-type", "application/json"),
        );
        assert_eq!(
            signed.headers()["signature"],
            "sig1=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:"
        );
    }

    /// RFC 9530, appendix D: the digest of `{"hello": "world"}` followed by a line feed.
    #[test]
    fn the_digest_of_rfc_9530() {
        let body = b"{\"hello\": \"world\"}\n";
        assert_eq!(
            content_digest(body),
            "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
        );
    }

    #[test]
    fn each_signature_has_its_own_nonce() {
        let signer = Signer::new("k", "s");
        assert_ne!(signer.params(), signer.params());
    }
}
