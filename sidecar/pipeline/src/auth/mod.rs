//! Authentication: who a request is. One file for each method; here is what they share: the requirement of a rule
//! (`anyOf`, `allOf`, anonymous), the compiled provider, and the challenges of a 401.
//!
//! Nothing here remembers: used nonces and verified tokens are the caller's, through [`NonceClaim`] and
//! [`VerifiedTokens`].

pub mod api_key;
pub mod digest;
pub mod hop;
pub mod jwt;
pub mod keyring;
pub mod signature;
mod structured;

use std::sync::Arc;

use sluice_snapshot::{
    ConfigError, ConfigReason, UnitName,
    unit::{
        auth::{self as unit, Anonymous, NonceScope},
        secret::Purpose,
    },
};

use crate::{
    facts::Facts,
    identity::Identity,
    program::Rule,
    reject::{Decider, Reject, RejectReason},
    target::Target,
};
use api_key::ApiKey;
pub use digest::DigestCheck;
use hop::Hop;
use jwt::Jwt;
use keyring::KeyRing;
use signature::Signature;

/// What authentication found.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // made once per request and taken apart at once
pub enum Outcome {
    /// No credentials, and none are required.
    Anonymous,
    /// Proven.
    Identified(Authenticated),
}

/// A proven request, with what is still to be checked where state or the body is needed.
#[derive(Debug, Clone, PartialEq)]
pub struct Authenticated {
    /// The identity of the first provider of the alternative that decided.
    pub identity: Arc<Identity>,
    /// Those of its other providers, in their order.
    pub others: Vec<Arc<Identity>>,
    /// Nonces that must be unused; the caller claims them before the request goes on.
    pub nonces: Vec<NonceClaim>,
    /// The digest that the body must have before the app sees its end.
    pub digest: Option<DigestCheck>,
}

/// A nonce to be marked as used. If it was used before, the request is a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NonceClaim {
    /// SHA-256 over keys unit, key id and nonce: two clients never collide, and a store learns no nonce.
    pub key: [u8; 32],
    /// How long it must be remembered: until no sidecar accepts the signature any more.
    pub ttl_ms: u64,
    /// Who remembers.
    pub scope: NonceScope,
    /// The provider, for the refusal.
    pub decider: Decider,
}

impl NonceClaim {
    /// The refusal of a nonce that was used before.
    pub fn replayed(&self) -> Reject {
        Reject::new(RejectReason::NonceReplayed).by(self.decider.clone())
    }

    /// The refusal while nobody can tell whether it was used.
    pub fn unavailable(&self) -> Reject {
        Reject::new(RejectReason::NonceStoreUnavailable)
            .by(self.decider.clone())
            .retry_after(1)
    }
}

/// The caller's bounded memory of verified tokens. A token is known together with the keys that it verified with: what
/// stands for these changes with everything that decides about a token, so that a change forgets.
pub trait VerifiedTokens {
    /// The identity, if exactly this token was verified before with these keys and has not expired at `wall_s` (Unix
    /// seconds).
    fn get(&mut self, keys: &[u8; 32], token: &[u8], wall_s: i64) -> Option<Arc<Identity>>;
    /// Remembers a verified token until `expires_s` (Unix seconds, exclusive).
    fn put(&mut self, keys: &[u8; 32], token: &[u8], identity: Arc<Identity>, expires_s: i64);
}

/// Remembers nothing: for `explain` and tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMemory;

impl VerifiedTokens for NoMemory {
    fn get(&mut self, _: &[u8; 32], _: &[u8], _: i64) -> Option<Arc<Identity>> {
        None
    }

    fn put(&mut self, _: &[u8; 32], _: &[u8], _: Arc<Identity>, _: i64) {}
}

/// A way to prove an identity, compiled.
#[derive(Debug)]
pub struct Provider {
    /// Its name in the route.
    pub name: String,
    /// How it works.
    pub method: Method,
}

/// The ways, compiled.
#[derive(Debug)]
pub enum Method {
    /// A key in a header.
    ApiKey(ApiKey),
    /// An HTTP message signature.
    Signature(Signature),
    /// A bearer token.
    Jwt(Jwt),
    /// An identity that an edge asserts.
    Hop(Hop),
    /// Cannot serve: what asks for it is refused.
    Broken(ConfigError),
}

/// Whether a request carries the credentials that a provider looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Absent,
    Present,
    /// The provider is broken.
    Unknown,
}

/// What one provider made of its credentials.
struct Proof {
    identity: Arc<Identity>,
    nonce: Option<NonceClaim>,
    digest: Option<DigestCheck>,
}

impl From<Arc<Identity>> for Proof {
    fn from(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            nonce: None,
            digest: None,
        }
    }
}

impl Provider {
    /// Compiles a provider. Keys that are missing or of another purpose make it [`Method::Broken`].
    pub fn compile(
        provider: &unit::Provider,
        lookup: &impl Fn(&UnitName) -> Option<Arc<KeyRing>>,
    ) -> Self {
        let unit::Provider { name, method } = provider;
        let method = match method {
            unit::Method::ApiKey(method) => ring(lookup, &method.keys, Purpose::ApiKeys)
                .map(|ring| Method::ApiKey(ApiKey::new(method, ring))),
            unit::Method::Signature(method) => ring(lookup, &method.keys, Purpose::SignatureKeys)
                .and_then(|ring| {
                    Ok(Method::Signature(
                        Signature::new(method, ring).map_err(invalid)?,
                    ))
                }),
            unit::Method::Jwt(method) => {
                let ring = method
                    .keys
                    .unit()
                    .map(|keys| ring(lookup, keys, Purpose::JwtKeys))
                    .transpose();
                ring.and_then(|ring| {
                    Ok(Method::Jwt(Jwt::new(name, method, ring).map_err(invalid)?))
                })
            }
            unit::Method::Hop(method) => Ok(Method::Hop(Hop::new(method))),
            unit::Method::Broken(error) => Err(error.clone()),
        };
        Self {
            name: name.clone(),
            method: method.unwrap_or_else(Method::Broken),
        }
    }

    fn presence(&self, facts: &impl Facts) -> Presence {
        let present = match &self.method {
            Method::ApiKey(method) => method.present(facts),
            Method::Signature(_) => signature::present(facts),
            Method::Jwt(_) => jwt::present(facts),
            Method::Hop(method) => method.present(facts),
            Method::Broken(_) => return Presence::Unknown,
        };
        if present {
            Presence::Present
        } else {
            Presence::Absent
        }
    }

    fn prove(
        &self,
        rule: &Rule,
        facts: &impl Facts,
        target: &Target,
        verified: &mut impl VerifiedTokens,
        wall_s: i64,
    ) -> Result<Proof, Reject> {
        let decider = || Decider::new(&rule.object, &self.name);
        let alone = |identity: Identity| Proof::from(Arc::new(identity));
        let proof = match &self.method {
            Method::ApiKey(method) => method.verify(&self.name, facts).map(alone),
            Method::Signature(method) => {
                method.verify(&self.name, &decider(), facts, target, wall_s)
            }
            Method::Jwt(method) => method
                .verify(&self.name, facts, verified, wall_s)
                .map(Proof::from),
            Method::Hop(method) => method.verify(&self.name, facts).map(alone),
            Method::Broken(error) => Err(broken(error)),
        };
        proof.map_err(|reject| reject.by(decider()))
    }
}

fn ring(
    lookup: &impl Fn(&UnitName) -> Option<Arc<KeyRing>>,
    keys: &UnitName,
    purpose: Purpose,
) -> Result<Arc<KeyRing>, ConfigError> {
    let ring = lookup(keys).ok_or_else(|| {
        ConfigError::new(
            ConfigReason::SecretNotFound,
            format!("{keys} is not part of the snapshot"),
        )
    })?;
    ring.serves(purpose)?;
    Ok(ring)
}

fn invalid(message: String) -> ConfigError {
    ConfigError::new(ConfigReason::Invalid, message)
}

fn broken(error: &ConfigError) -> Reject {
    Reject::new(RejectReason::Config(error.reason)).detail(error.message.clone())
}

/// Whether a provider of a unit makes sense by itself: what `resolve` asks before it publishes one.
pub fn check(provider: &unit::Provider) -> Result<(), String> {
    match &provider.method {
        unit::Method::ApiKey(method) => api_key::check(method),
        unit::Method::Signature(method) => signature::check(method),
        unit::Method::Jwt(method) => jwt::check(method),
        unit::Method::Hop(method) => hop::check(method),
        unit::Method::Broken(_) => Ok(()),
    }
}

/// Authenticates a request for `rule`.
///
/// The first alternative whose credentials are all present decides: present and bad is a refusal, absent tries the next.
/// A request that carries some credentials but completes no alternative is refused even where anonymous requests are let
/// through: it is not anonymous. An alternative with a broken provider cannot be judged; it is passed over while another
/// one is complete, and refuses the request (503) where none is.
pub fn authenticate(
    rule: &Rule,
    facts: &impl Facts,
    target: &Target,
    verified: &mut impl VerifiedTokens,
    wall_s: i64,
) -> Result<Outcome, Reject> {
    let Some(requirement) = &rule.auth else {
        return Ok(Outcome::Anonymous);
    };
    if let Some(identity) = seen_before(&requirement.any_of, facts, verified, wall_s) {
        return Ok(Outcome::Identified(Authenticated {
            identity,
            others: Vec::new(),
            nonces: Vec::new(),
            digest: None,
        }));
    }
    let mut any_credential = false;
    let mut unknown = None;
    for alternative in &requirement.any_of {
        let (mut absent, mut broken) = (false, None);
        for provider in alternative {
            match provider.presence(facts) {
                Presence::Present => any_credential = true,
                Presence::Absent => absent = true,
                Presence::Unknown => broken = broken.or(Some(provider)),
            }
        }
        match broken {
            _ if absent => {}
            Some(provider) => unknown = unknown.or(Some(provider)),
            None => return all_of(rule, alternative, facts, target, verified, wall_s),
        }
    }
    if let Some(provider) = unknown
        && let Method::Broken(error) = &provider.method
    {
        return Err(broken(error).by(Decider::new(&rule.object, &provider.name)));
    }
    match requirement.anonymous {
        Anonymous::Allow if !any_credential => Ok(Outcome::Anonymous),
        Anonymous::Allow | Anonymous::Deny => {
            let reject = Reject::new(RejectReason::Unauthenticated).by(rule.decider());
            Err(if any_credential {
                reject.detail("the credentials complete no alternative of the rule")
            } else {
                reject
            })
        }
    }
}

/// Who sent a token that was seen before, where a token is all that the first alternative asks for: it is present then, and
/// decides. What most requests with tokens come to, by one look at their fields.
fn seen_before(
    any_of: &[Vec<Arc<Provider>>],
    facts: &impl Facts,
    verified: &mut impl VerifiedTokens,
    wall_s: i64,
) -> Option<Arc<Identity>> {
    match any_of.first()?.as_slice() {
        [provider] => match &provider.method {
            Method::Jwt(method) => method.seen_before(facts, verified, wall_s),
            _ => None,
        },
        _ => None,
    }
}

fn all_of(
    rule: &Rule,
    alternative: &[Arc<Provider>],
    facts: &impl Facts,
    target: &Target,
    verified: &mut impl VerifiedTokens,
    wall_s: i64,
) -> Result<Outcome, Reject> {
    let mut first = None;
    let mut others = Vec::new();
    let mut nonces = Vec::new();
    let mut digest: Option<DigestCheck> = None;
    for provider in alternative {
        let Proof {
            identity,
            nonce,
            digest: check,
        } = provider.prove(rule, facts, target, verified, wall_s)?;
        match first {
            None => first = Some(identity),
            Some(_) => others.push(identity),
        }
        nonces.extend(nonce);
        // Two signature providers read the same header field; the tighter bound on the body counts.
        digest = match (digest, check) {
            (Some(one), Some(other)) => Some(if one.max_buffered <= other.max_buffered {
                one
            } else {
                other
            }),
            (one, other) => one.or(other),
        };
    }
    match first {
        Some(identity) => Ok(Outcome::Identified(Authenticated {
            identity,
            others,
            nonces,
            digest,
        })),
        // The compiler of programs admits no empty alternative; if one came, it would prove nothing.
        None => Err(Reject::new(RejectReason::Unauthenticated).by(rule.decider())),
    }
}

/// The realm of every challenge: the same for all, because names of objects are not for clients.
const REALM: &str = "api";

/// The `WWW-Authenticate` values of a 401 for `rule` (RFC 9110 section 11.6.1): one for each provider that could help.
pub fn challenge(rule: &Rule) -> Vec<String> {
    challenge_after(rule, RejectReason::Unauthenticated)
}

/// As [`challenge`], for a refusal with `reason`: a bad token is told so (RFC 6750 section 3.1).
pub fn challenge_after(rule: &Rule, reason: RejectReason) -> Vec<String> {
    let mut challenges = Vec::new();
    let providers = rule
        .auth
        .iter()
        .flat_map(|requirement| requirement.any_of.iter().flatten());
    for provider in providers {
        let challenge = match &provider.method {
            Method::ApiKey(method) => {
                format!("ApiKey realm=\"{REALM}\", header=\"{}\"", method.header())
            }
            Method::Signature(method) => method.challenge(REALM),
            Method::Jwt(_) if reason == RejectReason::BadToken => {
                format!("Bearer realm=\"{REALM}\", error=\"invalid_token\"")
            }
            Method::Jwt(_) => format!("Bearer realm=\"{REALM}\""),
            // No client can answer it: only who forwards can.
            Method::Hop(_) | Method::Broken(_) => continue,
        };
        if !challenges.contains(&challenge) {
            challenges.push(challenge);
        }
    }
    challenges
}

#[cfg(test)]
pub(crate) mod tests;
