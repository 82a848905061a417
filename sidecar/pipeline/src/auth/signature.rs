//! HTTP message signatures (RFC 9421) with `hmac-sha256`. It decides what a signature must cover and say, rebuilds the
//! signature base and verifies it. That a nonce is unused and that the body has its digest is for the caller to check:
//! see [`super::NonceClaim`] and [`super::DigestCheck`].

use std::sync::Arc;

use aws_lc_rs::hmac;
use sluice_snapshot::unit::auth::{self as unit, Nonce, SignatureAlgorithm};

use super::{
    DigestCheck, NonceClaim, Proof,
    api_key::is_field_name,
    keyring::{Found, KeyRing, sha256},
    structured::{self, Bare, InnerList, Member},
};
use crate::{
    facts::Facts,
    reject::{Decider, Reject, RejectReason},
    target::Target,
};

/// The longest `Signature-Input` or `Signature`, in bytes.
const MAX_FIELD: usize = 8192;
/// The longest signature base, in bytes: above what a header section may hold by default.
const MAX_BASE: usize = 64 * 1024;
/// The longest nonce, in bytes.
const MAX_NONCE: usize = 256;

/// Derived components of requests without parameters (RFC 9421 section 2.2).
const DERIVED: [&str; 7] = [
    "@method",
    "@target-uri",
    "@authority",
    "@scheme",
    "@request-target",
    "@path",
    "@query",
];

/// Message signatures of one provider.
#[derive(Debug)]
pub struct Signature {
    keys: String,
    ring: Arc<KeyRing>,
    algorithms: Vec<SignatureAlgorithm>,
    required: Vec<String>,
    max_age_ms: i64,
    skew_ms: i64,
    nonce: Option<Nonce>,
    digest: unit::Digest,
    max_buffered: u64,
}

pub(super) fn check(unit: &unit::Signature) -> Result<(), String> {
    let unit::Signature {
        keys: _,
        algorithms,
        required_components,
        max_age_ms,
        skew_ms,
        nonce: _,
        digest: _,
        max_buffered: _,
    } = unit;
    if algorithms.is_empty() {
        return Err("algorithms is empty: no signature could verify".into());
    }
    for component in required_components {
        if !DERIVED.contains(&component.as_str()) && !is_field_name(component) {
            return Err(format!(
                "{component:?} is no component of a request; write a lower-case header name or one of {}",
                DERIVED.join(", ")
            ));
        }
    }
    if i64::try_from(*max_age_ms).is_err() || i64::try_from(*skew_ms).is_err() || *max_age_ms == 0 {
        return Err("created.maxAge must be more than zero and not beyond all measure".into());
    }
    Ok(())
}

/// Whether a request is signed at all.
pub(super) fn present(facts: &impl Facts) -> bool {
    facts.header("signature-input").next().is_some() || facts.header("signature").next().is_some()
}

/// The parameters of one signature (section 2.3). Others are refused: what they demand would not be honoured.
#[derive(Debug, Default)]
struct Parameters<'a> {
    created: Option<i64>,
    expires: Option<i64>,
    nonce: Option<&'a str>,
    keyid: Option<&'a str>,
    alg: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    fn read(list: &'a InnerList) -> Result<Self, &'static str> {
        let mut read = Self::default();
        for (name, value) in &list.parameters {
            match (name.as_str(), value) {
                ("created", Bare::Integer(value)) => read.created = Some(*value),
                ("expires", Bare::Integer(value)) => read.expires = Some(*value),
                ("nonce", Bare::String(value)) => read.nonce = Some(value),
                ("keyid", Bare::String(value)) => read.keyid = Some(value),
                ("alg", Bare::String(value)) => read.alg = Some(value),
                ("tag", Bare::String(_)) => {}
                ("created" | "expires" | "nonce" | "keyid" | "alg" | "tag", _) => {
                    return Err("a signature parameter has the wrong type");
                }
                _ => return Err("an unknown signature parameter"),
            }
        }
        Ok(read)
    }
}

/// One signature of a request whose key is known.
struct Candidate<'a> {
    list: &'a InnerList,
    parameters: Parameters<'a>,
    key_id: &'a str,
    key: Found<'a, hmac::Key>,
    tag: &'a [u8],
}

impl Signature {
    pub(super) fn new(unit: &unit::Signature, ring: Arc<KeyRing>) -> Result<Self, String> {
        check(unit)?;
        let unit::Signature {
            keys,
            algorithms,
            required_components,
            max_age_ms,
            skew_ms,
            nonce,
            digest,
            max_buffered,
        } = unit;
        Ok(Self {
            keys: keys.to_string(),
            ring,
            algorithms: algorithms.clone(),
            required: required_components.clone(),
            // `check` has seen that both fit.
            max_age_ms: i64::try_from(*max_age_ms).unwrap_or(0),
            skew_ms: i64::try_from(*skew_ms).unwrap_or(0),
            nonce: nonce.clone(),
            digest: *digest,
            max_buffered: *max_buffered,
        })
    }

    /// A challenge that says what to cover; RFC 9421 registers no scheme of its own.
    pub(super) fn challenge(&self, realm: &str) -> String {
        format!(
            "Signature realm=\"{realm}\", components=\"{}\"",
            self.required.join(" ")
        )
    }

    pub(super) fn verify(
        &self,
        provider: &str,
        decider: &Decider,
        facts: &impl Facts,
        target: &Target,
        wall_s: i64,
    ) -> Result<Proof, Reject> {
        let inputs = dictionary(facts, "signature-input")?;
        let tags = dictionary(facts, "signature")?;
        let candidate = self.candidate(&inputs, &tags)?;
        self.covers(candidate.list)?;
        self.in_time(&candidate.parameters, wall_s)?;
        // What was signed is the target as received; what is sent on is the normalised one. They must be the same.
        if target.changed() {
            return Err(Reject::new(RejectReason::BadTarget)
                .detail("a signed target must be in normal form"));
        }
        let base = base(candidate.list, facts, target)?;
        hmac::verify(candidate.key.key, base.as_bytes(), candidate.tag)
            .map_err(|_| bad("the signature does not verify"))?;
        let nonce = self.claim(&candidate, decider, wall_s)?;
        let digest = match self.digest {
            unit::Digest::Buffered if covered(candidate.list, "content-digest") => {
                Some(DigestCheck::read(facts, self.max_buffered, decider)?)
            }
            unit::Digest::Buffered | unit::Digest::None => None,
        };
        Ok(Proof {
            identity: Arc::new(candidate.key.identity(provider, candidate.key_id)),
            nonce,
            digest,
        })
    }

    /// The first signature whose key is known decides; those of other parties are left alone.
    fn candidate<'a>(
        &'a self,
        inputs: &'a [(String, Member)],
        tags: &'a [(String, Member)],
    ) -> Result<Candidate<'a>, Reject> {
        let mut why = bad("no signature is by a known key");
        for (label, member) in inputs {
            let Member::List(list) = member else {
                return Err(bad("Signature-Input must hold inner lists"));
            };
            let parameters = match Parameters::read(list) {
                Ok(parameters) => parameters,
                Err(detail) => {
                    why = bad(detail);
                    continue;
                }
            };
            let Some(key_id) = parameters.keyid else {
                continue;
            };
            let Some(key) = self.ring.signature_key(key_id) else {
                continue;
            };
            let key = key.map_err(super::broken)?;
            self.algorithm(parameters.alg)?;
            let tag = tags
                .iter()
                .find(|(known, _)| known == label)
                .map(|(_, member)| member);
            let Some(Member::Item(structured::Item {
                value: Bare::Bytes(tag),
                ..
            })) = tag
            else {
                return Err(bad("Signature has no byte sequence for the label"));
            };
            return Ok(Candidate {
                list,
                parameters,
                key_id,
                key,
                tag,
            });
        }
        Err(why)
    }

    /// Every key is an HMAC key so far. `alg` may repeat that, but it never chooses (RFC 9421 section 3.2, step 6).
    fn algorithm(&self, named: Option<&str>) -> Result<(), Reject> {
        let of_key = SignatureAlgorithm::HmacSha256;
        let name = match of_key {
            SignatureAlgorithm::HmacSha256 => "hmac-sha256",
        };
        if !self.algorithms.contains(&of_key) || named.is_some_and(|named| named != name) {
            return Err(bad("the algorithm is not accepted for the key"));
        }
        Ok(())
    }

    fn covers(&self, list: &InnerList) -> Result<(), Reject> {
        for (index, item) in list.items.iter().enumerate() {
            let Bare::String(name) = &item.value else {
                return Err(bad("components must be strings"));
            };
            if !item.parameters.is_empty() {
                return Err(bad("components with parameters are not supported"));
            }
            if !DERIVED.contains(&name.as_str()) && !is_field_name(name) {
                return Err(bad("an unknown component"));
            }
            if list.items[..index]
                .iter()
                .any(|earlier| earlier.value == item.value)
            {
                return Err(bad("a component comes twice"));
            }
        }
        match self
            .required
            .iter()
            .find(|required| !covered(list, required))
        {
            Some(missing) => Err(bad(&format!("{missing} is not covered"))),
            None => Ok(()),
        }
    }

    fn in_time(&self, parameters: &Parameters<'_>, wall_s: i64) -> Result<(), Reject> {
        let Some(created) = parameters.created else {
            return Err(bad("created is missing"));
        };
        let age_ms = wall_s.saturating_sub(created).saturating_mul(1000);
        if age_ms > self.max_age_ms || age_ms < -self.skew_ms {
            return Err(Reject::new(RejectReason::SignatureExpired)
                .detail(format!("created {age_ms} ms ago")));
        }
        match parameters.expires {
            Some(expires) if expires < wall_s => {
                Err(Reject::new(RejectReason::SignatureExpired).detail("expires is past"))
            }
            _ => Ok(()),
        }
    }

    fn claim(
        &self,
        candidate: &Candidate<'_>,
        decider: &Decider,
        wall_s: i64,
    ) -> Result<Option<NonceClaim>, Reject> {
        let Some(Nonce { required, scope }) = &self.nonce else {
            return Ok(None);
        };
        let nonce = match candidate.parameters.nonce {
            Some(nonce) if !nonce.is_empty() && nonce.len() <= MAX_NONCE => nonce,
            Some(_) => return Err(bad("the nonce is empty or too long")),
            None if *required => return Err(Reject::new(RejectReason::NonceMissing)),
            None => return Ok(None),
        };
        let age_ms = wall_s
            .saturating_sub(candidate.parameters.created.unwrap_or(wall_s))
            .saturating_mul(1000);
        // Clocks of sidecars differ by up to the skew, and seconds are whole.
        let ttl_ms = self
            .max_age_ms
            .saturating_sub(age_ms)
            .saturating_add(self.skew_ms)
            .saturating_add(1000);
        Ok(Some(NonceClaim {
            // Neither a unit's name nor a key id of a Secret holds a line feed; a string of RFC 8941 never does.
            key: sha256([
                self.keys.as_bytes(),
                b"\n",
                candidate.key_id.as_bytes(),
                b"\n",
                nonce.as_bytes(),
            ]),
            ttl_ms: ttl_ms.unsigned_abs(),
            scope: scope.clone(),
            decider: decider.clone(),
        }))
    }
}

fn bad(detail: &str) -> Reject {
    Reject::new(RejectReason::BadSignature).detail(detail)
}

fn dictionary(facts: &impl Facts, name: &str) -> Result<Vec<(String, Member)>, Reject> {
    structured::field(facts, name, MAX_FIELD)
        .and_then(|field| structured::dictionary(&field))
        .map_err(|error| bad(&format!("{name}: {error}")))
}

fn covered(list: &InnerList, name: &str) -> bool {
    list.items
        .iter()
        .any(|item| matches!(&item.value, Bare::String(known) if known == name))
}

/// The signature base (RFC 9421 section 2.5).
fn base(list: &InnerList, facts: &impl Facts, target: &Target) -> Result<String, Reject> {
    let mut base = String::new();
    for item in &list.items {
        structured::write_bare(&item.value, &mut base);
        base.push_str(": ");
        if let Bare::String(name) = &item.value {
            component(name, facts, target, &mut base)?;
        }
        base.push('\n');
        if base.len() > MAX_BASE {
            return Err(bad("the signature base is too long"));
        }
    }
    base.push_str("\"@signature-params\": ");
    structured::write_list(list, &mut base);
    Ok(base)
}

/// Appends the value of a component (sections 2.1 and 2.2).
fn component(
    name: &str,
    facts: &impl Facts,
    target: &Target,
    out: &mut String,
) -> Result<(), Reject> {
    let authority = || normal_authority(facts).ok_or_else(|| bad("the request names no authority"));
    let query = target.query.as_deref();
    match name {
        "@method" => out.push_str(facts.method()),
        "@scheme" => out.push_str(&facts.scheme().to_ascii_lowercase()),
        "@authority" => out.push_str(&authority()?),
        "@path" => out.push_str(&target.raw_path),
        "@query" => {
            out.push('?');
            out.push_str(query.unwrap_or_default());
        }
        "@request-target" => request_target(target, out),
        "@target-uri" => {
            out.push_str(&facts.scheme().to_ascii_lowercase());
            out.push_str("://");
            out.push_str(&authority()?);
            request_target(target, out);
        }
        field => return field_value(field, facts, out),
    }
    Ok(())
}

fn request_target(target: &Target, out: &mut String) {
    out.push_str(&target.raw_path);
    if let Some(query) = &target.query {
        out.push('?');
        out.push_str(query);
    }
}

/// Host in lower case, without the scheme's default port (section 2.2.3).
fn normal_authority(facts: &impl Facts) -> Option<String> {
    let authority = facts.authority()?.to_ascii_lowercase();
    let default = if facts.scheme().eq_ignore_ascii_case("https") {
        ":443"
    } else {
        ":80"
    };
    Some(match authority.strip_suffix(default) {
        Some(host) => host.to_owned(),
        None => authority,
    })
}

/// Every line of a field without outer white space, joined (section 2.1).
fn field_value(name: &str, facts: &impl Facts, out: &mut String) -> Result<(), Reject> {
    let mut any = false;
    for line in facts.header(name) {
        if any {
            out.push_str(", ");
        }
        any = true;
        let line = line.trim_ascii();
        match std::str::from_utf8(line) {
            Ok(text) if text.bytes().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e)) => {
                out.push_str(text)
            }
            _ => return Err(bad("a covered field holds bytes beyond visible ASCII")),
        }
    }
    if any {
        Ok(())
    } else {
        Err(bad(&format!("the covered field {name} is missing")))
    }
}

#[cfg(test)]
mod tests;
