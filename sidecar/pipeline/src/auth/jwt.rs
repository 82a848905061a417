//! Bearer tokens (RFC 6750, RFC 7519). The algorithm is chosen by the provider and the key, never by the token: HS256
//! verifies with shared keys of Secrets only, RS256 and ES256 with public keys of a key set only.

use std::sync::Arc;

use aws_lc_rs::{
    error::Unspecified,
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
        RsaPublicKeyComponents,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};
use sluice_snapshot::unit::auth::{self as unit, ClaimAttribute, JwtAlgorithm, JwtKeys};

use super::{
    VerifiedTokens,
    keyring::{KeyRing, sha256},
};
use crate::{
    facts::Facts,
    identity::Identity,
    reject::{Reject, RejectReason},
};

/// The longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// The longest `sub`, in bytes.
const MAX_SUBJECT: usize = 1024;
/// The most keys of a key set.
const MAX_KEYS: usize = 32;
/// The least size of an RSA modulus, in bytes (RFC 7518 section 3.3).
const MIN_RSA: usize = 256;

/// Bearer tokens of one provider.
pub struct Jwt {
    issuer: Option<String>,
    audiences: Vec<String>,
    algorithms: Vec<JwtAlgorithm>,
    keys: Keys,
    attributes: Vec<ClaimAttribute>,
    scopes_claim: String,
    leeway_s: i64,
    /// Changes with everything that decides about a token.
    fingerprint: [u8; 32],
}

/// The keys of a provider.
enum Keys {
    /// Public keys.
    Set(Vec<PublicKey>),
    /// Shared keys.
    Ring(Arc<KeyRing>),
}

/// A key of a key set.
struct PublicKey {
    id: Option<String>,
    algorithm: JwtAlgorithm,
    /// Bound to the algorithm. What follows from the key alone is computed once: RSA's Montgomery form, the point.
    key: ParsedPublicKey,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwt")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

pub(super) fn check(unit: &unit::Jwt) -> Result<(), String> {
    keys(unit).map(drop)
}

/// Whether a request carries a bearer token.
pub(super) fn present(facts: &impl Facts) -> bool {
    facts
        .header("authorization")
        .any(|value| bearer(value).is_some())
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

impl Jwt {
    pub(super) fn new(
        provider: &str,
        unit: &unit::Jwt,
        ring: Option<Arc<KeyRing>>,
    ) -> Result<Self, String> {
        let set = keys(unit)?;
        let unit::Jwt {
            issuer,
            audiences,
            algorithms,
            keys: _,
            attributes,
            scopes_claim,
            leeway_ms,
        } = unit;
        let described = serde_json::to_vec(unit).map_err(|error| error.to_string())?;
        let of_ring = ring.as_ref().map_or([0; 32], |ring| *ring.fingerprint());
        let keys = match (set, ring) {
            (Some(set), _) => Keys::Set(set),
            (None, Some(ring)) => Keys::Ring(ring),
            (None, None) => return Err("the keys are missing".into()),
        };
        Ok(Self {
            issuer: issuer.clone(),
            audiences: audiences.clone(),
            algorithms: algorithms.clone(),
            keys,
            attributes: attributes.clone(),
            scopes_claim: scopes_claim.clone(),
            leeway_s: i64::try_from(leeway_ms / 1000).unwrap_or(i64::MAX),
            fingerprint: sha256([&of_ring, provider.as_bytes(), b"\n", &described]),
        })
    }

    /// Who sent a token that was verified before; none: it is still to be verified, or there is none.
    pub(super) fn seen_before(
        &self,
        facts: &impl Facts,
        verified: &mut impl VerifiedTokens,
        wall_s: i64,
    ) -> Option<Arc<Identity>> {
        verified.get(&self.fingerprint, token(facts).ok()?, wall_s)
    }

    pub(super) fn verify(
        &self,
        provider: &str,
        facts: &impl Facts,
        verified: &mut impl VerifiedTokens,
        wall_s: i64,
    ) -> Result<Arc<Identity>, Reject> {
        let token = token(facts).map_err(bad)?;
        if let Some(identity) = verified.get(&self.fingerprint, token, wall_s) {
            return Ok(identity);
        }
        let (claims, key_id) = self.verified_claims(token)?;
        let expires_s = self.in_time(&claims, wall_s)?;
        let mut identity = self.identity(provider, claims)?;
        identity.key_id = key_id;
        let identity = Arc::new(identity);
        verified.put(&self.fingerprint, token, Arc::clone(&identity), expires_s);
        Ok(identity)
    }

    /// The claims and the id of the key, once header and signature are sound: claims of a token that does not verify
    /// are never looked at.
    fn verified_claims(
        &self,
        token: &[u8],
    ) -> Result<(Map<String, Value>, Option<String>), Reject> {
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| bad("the token's header is malformed"))?;
        if header.crit.is_some() {
            return Err(bad("the token names critical extensions"));
        }
        let algorithm = match header.alg {
            Algorithm::HS256 => JwtAlgorithm::HS256,
            Algorithm::RS256 => JwtAlgorithm::RS256,
            Algorithm::ES256 => JwtAlgorithm::ES256,
            _ => return Err(bad("the token's algorithm is not accepted")),
        };
        if !self.algorithms.contains(&algorithm) {
            return Err(bad("the token's algorithm is not accepted"));
        }
        let kid = header.kid.as_deref();
        match &self.keys {
            Keys::Ring(ring) => {
                if algorithm != JwtAlgorithm::HS256 {
                    return Err(bad("the token's algorithm does not fit the keys"));
                }
                let found = ring
                    .jwt_key(kid)
                    .ok_or_else(|| bad("the token's key is not known"))?;
                let (id, found) = found.map_err(super::broken)?;
                let claims = signed_claims(token, |message, signature| {
                    hmac::verify(found.key, message, signature)
                })?;
                Ok((claims, Some(id.to_owned())))
            }
            Keys::Set(set) => {
                let mut fitting = set.iter().filter(|key| {
                    key.algorithm == algorithm
                        && kid.is_none_or(|kid| key.id.as_deref() == Some(kid))
                });
                let (Some(key), None) = (fitting.next(), fitting.next()) else {
                    return Err(bad(
                        "the token's key is not known, or a kid is needed to tell keys apart",
                    ));
                };
                let claims = signed_claims(token, |message, signature| {
                    key.key.verify_sig(message, signature)
                })?;
                Ok((claims, key.id.clone()))
            }
        }
    }

    /// The second from which on the token is no longer accepted.
    fn in_time(&self, claims: &Map<String, Value>, wall_s: i64) -> Result<i64, Reject> {
        let exp = numeric_date(claims, "exp")?.ok_or_else(|| bad("the token has no exp"))?;
        let expires_s = exp.saturating_add(self.leeway_s);
        if wall_s >= expires_s {
            return Err(bad("the token has expired"));
        }
        match numeric_date(claims, "nbf")? {
            Some(nbf) if wall_s.saturating_add(self.leeway_s) < nbf => {
                Err(bad("the token is not valid yet"))
            }
            _ => Ok(expires_s),
        }
    }

    fn identity(&self, provider: &str, claims: Map<String, Value>) -> Result<Identity, Reject> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let issuer = text("iss").unwrap_or_default();
        if self
            .issuer
            .as_deref()
            .is_some_and(|expected| expected != issuer)
        {
            return Err(bad("the token's iss is not accepted"));
        }
        // `|` separates the parts of a subject: an issuer with one in it could claim another's.
        if issuer.contains('|') {
            return Err(bad("the token's iss holds a |"));
        }
        if !self.audiences.is_empty() && !self.is_audience(&claims) {
            return Err(bad("the token's aud is not accepted"));
        }
        let subject = text("sub").filter(|sub| !sub.is_empty() && sub.len() <= MAX_SUBJECT);
        let subject = subject.ok_or_else(|| bad("the token has no sub, or a very long one"))?;
        let mut identity = Identity {
            provider: provider.to_owned(),
            subject: format!("{issuer}|{subject}"),
            scopes: scopes(claims.get(&self.scopes_claim)),
            claims: Some(claims),
            ..Identity::default()
        };
        for ClaimAttribute { name, claim } in &self.attributes {
            if let Some(value) = identity.claim(claim) {
                identity.attributes.insert(name.clone(), value);
            }
        }
        Ok(identity)
    }

    fn is_audience(&self, claims: &Map<String, Value>) -> bool {
        let accepted = |value: &Value| {
            value
                .as_str()
                .is_some_and(|aud| self.audiences.iter().any(|known| known == aud))
        };
        match claims.get("aud") {
            Some(Value::Array(list)) => list.iter().any(accepted),
            Some(value) => accepted(value),
            None => false,
        }
    }
}

fn bad(detail: &str) -> Reject {
    Reject::new(RejectReason::BadToken).detail(detail)
}

/// The one bearer token of a request.
fn token(facts: &impl Facts) -> Result<&[u8], &'static str> {
    let mut lines = facts.header("authorization");
    let (Some(value), None) = (lines.next(), lines.next()) else {
        return Err("Authorization must stand once");
    };
    let token = bearer(value).unwrap_or_default();
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err("the token is empty or too long");
    }
    Ok(token)
}

/// The claims of a token (RFC 7515 section 7.1), after `verify`, which is given what is signed and the signature, has found
/// it sound. Nothing but the signature is checked here: the claims are the caller's, with its clock.
fn signed_claims(
    token: &[u8],
    verify: impl FnOnce(&[u8], &[u8]) -> Result<(), Unspecified>,
) -> Result<Map<String, Value>, Reject> {
    let unsound = || bad("the token's signature does not verify");
    let (message, signature) = at_last_dot(token).ok_or_else(unsound)?;
    let (_, payload) = at_last_dot(message).ok_or_else(unsound)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| unsound())?;
    verify(message, &signature).map_err(|_| unsound())?;
    let malformed = || bad("the token's claims are malformed, or one stands twice");
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| malformed())?;
    let Claims(claims) = serde_json::from_slice(&payload).map_err(|_| malformed())?;
    Ok(claims)
}

/// What stands before and after the last dot.
fn at_last_dot(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = memchr::memrchr(b'.', text)?;
    Some((&text[..dot], &text[dot + 1..]))
}

/// Claims, each of which stands once (RFC 7519 section 4): what reads the first and what reads the last would differ.
struct Claims(Map<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Claims;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Claims, A::Error> {
                let mut claims = Map::new();
                while let Some((name, value)) = entries.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim stands twice"));
                    }
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// A NumericDate (RFC 7519 section 2), fractions cut off.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, Reject> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    #[allow(clippy::cast_possible_truncation)]
    // `as` saturates, which is what a date beyond all measure should do
    let whole = value
        .as_i64()
        .or_else(|| value.as_f64().map(|seconds| seconds as i64));
    whole
        .map(Some)
        .ok_or_else(|| bad("a date of the token is not a number"))
}

/// A list of strings, or words with spaces between (RFC 8693 section 4.2).
fn scopes(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(words)) => words.split_ascii_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

/// The public keys of a provider; none where it uses Secrets.
fn keys(unit: &unit::Jwt) -> Result<Option<Vec<PublicKey>>, String> {
    if unit.algorithms.is_empty() {
        return Err("algorithms is empty: no token could verify".into());
    }
    let shared = |algorithm: &JwtAlgorithm| *algorithm == JwtAlgorithm::HS256;
    match &unit.keys {
        JwtKeys::Keys(_) if unit.algorithms.iter().all(shared) => Ok(None),
        JwtKeys::Keys(_) => Err("keys of Secrets are shared keys: only HS256 can use them".into()),
        JwtKeys::Inline(_) if unit.algorithms.iter().any(shared) => {
            Err("HS256 needs shared keys from Secrets: a key set is public".into())
        }
        JwtKeys::Inline(text) => {
            let set = key_set(text)?;
            match unit
                .algorithms
                .iter()
                .find(|algorithm| set.iter().all(|key| key.algorithm != **algorithm))
            {
                Some(algorithm) => Err(format!("the key set has no key for {algorithm:?}")),
                None => Ok(Some(set)),
            }
        }
    }
}

/// Reads a JSON Web Key Set (RFC 7517 section 5). Keys of other types are passed over, as the RFC asks; a private or
/// shared key is refused, because a key set is no secret.
fn key_set(text: &str) -> Result<Vec<PublicKey>, String> {
    let set: Value =
        serde_json::from_str(text).map_err(|error| format!("the key set is not JSON: {error}"))?;
    let list = set
        .get("keys")
        .and_then(Value::as_array)
        .ok_or("the key set has no list `keys`")?;
    if list.len() > MAX_KEYS {
        return Err(format!("the key set has more than {MAX_KEYS} keys"));
    }
    let mut keys: Vec<PublicKey> = Vec::new();
    for (index, jwk) in list.iter().enumerate() {
        let key =
            public_key(jwk).map_err(|reason| format!("key {index} of the key set {reason}"))?;
        let Some(key) = key else { continue };
        if keys
            .iter()
            .any(|known| known.id == key.id && known.algorithm == key.algorithm)
        {
            return Err(format!(
                "key {index} of the key set has the kid of another one, or none like another one"
            ));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn public_key(jwk: &Value) -> Result<Option<PublicKey>, String> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if ["d", "k", "p", "q"]
        .iter()
        .any(|private| jwk.get(private).is_some())
    {
        return Err("is private or shared: put only public keys here, and replace this one".into());
    }
    let encoded = |name: &str| {
        let text = text(name).ok_or_else(|| format!("has no {name:?}"))?;
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| format!("has a {name:?} that is not base64url"))
    };
    let (algorithm, key) = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => {
            let (n, e) = (encoded("n")?, encoded("e")?);
            if n.len() < MIN_RSA {
                return Err("is an RSA key of fewer than 2048 bits".into());
            }
            let key = RsaPublicKeyComponents { n, e };
            (
                JwtAlgorithm::RS256,
                key.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256),
            )
        }
        (Some("EC"), Some("P-256")) => {
            let (x, y) = (encoded("x")?, encoded("y")?);
            if x.len() != 32 || y.len() != 32 {
                return Err("is not a point of P-256".into());
            }
            // Uncompressed (SEC 1 section 2.3.3).
            let point = [&[4], x.as_slice(), &y].concat();
            (
                JwtAlgorithm::ES256,
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point),
            )
        }
        _ => return Ok(None),
    };
    let other_use = text("use").is_some_and(|usage| usage != "sig");
    let other_algorithm = text("alg").is_some_and(|named| named != format!("{algorithm:?}"));
    if other_use || other_algorithm {
        return Ok(None);
    }
    let key = key.map_err(|_| {
        "cannot be read: n and e must not begin with zero bytes, x and y must be a point of the curve"
            .to_owned()
    })?;
    Ok(Some(PublicKey {
        id: text("kid").map(str::to_owned),
        algorithm,
        key,
    }))
}

#[cfg(test)]
mod tests;
