//! Digests of a body (RFC 9530). The header field is parsed here and the body compared; holding the body back is the
//! data path's.

use aws_lc_rs::{constant_time, digest};

use super::structured::{self, Bare, Member};
use crate::{
    facts::Facts,
    reject::{Decider, Reject, RejectReason},
};

/// The longest `Content-Digest` that is looked at, in bytes.
const MAX_FIELD: usize = 1024;

/// The algorithms of RFC 9530 that withstand an attacker; all others are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestAlgorithm {
    /// `sha-256`.
    Sha256,
    /// `sha-512`.
    Sha512,
}

impl DigestAlgorithm {
    fn named(name: &str) -> Option<Self> {
        match name {
            "sha-256" => Some(Self::Sha256),
            "sha-512" => Some(Self::Sha512),
            _ => None,
        }
    }

    fn of(self, body: &[u8]) -> digest::Digest {
        digest::digest(
            match self {
                Self::Sha256 => &digest::SHA256,
                Self::Sha512 => &digest::SHA512,
            },
            body,
        )
    }
}

/// What the body must hash to before the app sees its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestCheck {
    /// Never empty; all must match.
    pub expected: Vec<(DigestAlgorithm, Vec<u8>)>,
    /// The largest body that is held back, in bytes: 413 above.
    pub max_buffered: u64,
    /// The provider.
    pub decider: Decider,
}

impl DigestCheck {
    /// Reads `Content-Digest`.
    pub(super) fn read(
        facts: &impl Facts,
        max_buffered: u64,
        decider: &Decider,
    ) -> Result<Self, Reject> {
        let bad = |detail: &str| Reject::new(RejectReason::BadDigest).detail(detail);
        let field = structured::field(facts, "content-digest", MAX_FIELD)
            .map_err(|error| bad(&error.to_string()))?;
        let members = structured::dictionary(&field).map_err(|error| bad(&error.to_string()))?;
        let mut expected = Vec::new();
        for (name, member) in members {
            let Some(algorithm) = DigestAlgorithm::named(&name) else {
                continue;
            };
            match member {
                Member::Item(item) => match item.value {
                    Bare::Bytes(bytes) => expected.push((algorithm, bytes)),
                    _ => return Err(bad("a digest must be a byte sequence")),
                },
                Member::List(_) => return Err(bad("a digest must be a byte sequence")),
            }
        }
        if expected.is_empty() {
            return Err(bad("Content-Digest names neither sha-256 nor sha-512"));
        }
        Ok(Self {
            expected,
            max_buffered,
            decider: decider.clone(),
        })
    }

    /// Compares the whole body.
    pub fn verify(&self, body: &[u8]) -> Result<(), Reject> {
        let fits = self.expected.iter().all(|(algorithm, expected)| {
            constant_time::verify_slices_are_equal(algorithm.of(body).as_ref(), expected).is_ok()
        });
        if fits && !self.expected.is_empty() {
            Ok(())
        } else {
            Err(Reject::new(RejectReason::BadDigest).by(self.decider.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::StaticFacts;

    /// RFC 9530 appendix D / RFC 9421 appendix B.2: the body of the examples.
    const BODY: &[u8] = br#"{"hello": "world"}"#;
    const SHA256: &str = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
    const SHA512: &str = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";

    fn read(value: &str) -> Result<DigestCheck, Reject> {
        let facts = StaticFacts::new("POST", "example.com", "/").with("content-digest", value);
        DigestCheck::read(&facts, 1024, &Decider::default())
    }

    #[test]
    fn the_digests_of_the_rfcs_match() {
        for value in [
            SHA256,
            SHA512,
            &format!("{SHA256}, {SHA512}"),
            &format!("md5=:AAAA:, {SHA256}"),
        ] {
            let check = read(value).expect("read");
            assert_eq!(check.verify(BODY), Ok(()), "{value}");
            assert_eq!(
                check.verify(b"{}").expect_err("other body").reason,
                RejectReason::BadDigest
            );
        }
    }

    #[test]
    fn every_digest_must_match() {
        let check = read(&format!("{SHA256}, sha-512=:AAAA:")).expect("read");
        assert!(check.verify(BODY).is_err());
    }

    #[test]
    fn weak_or_malformed_digests_are_refused() {
        for value in [
            "md5=:AAAA:",
            "",
            "sha-256=X48E",
            "sha-256=:not base64:",
            "sha-256=(:AAAA:)",
            "sha-256=:AAAA:,",
        ] {
            assert_eq!(
                read(value).expect_err(value).reason,
                RejectReason::BadDigest,
                "{value}"
            );
        }
    }
}
