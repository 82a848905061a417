//! Secrets: which may be used for what, the units they make, and the sets of them that providers accept.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::hmac;
use sluice_crds::common::SecretKeys;
use sluice_snapshot::{
    ConfigError, ConfigReason, Hash, MAX_UNIT_BYTES, SecretBytes, Unit, UnitName,
    unit::{
        Keys,
        secret::{CERTIFICATE_ENTRY, KEY_ENTRY, Purpose, Secret},
    },
};

use super::Resolved;
use crate::{
    finding::{Finding, FindingReason},
    manifests::TLS_SECRET_TYPE,
    view::View,
    world::{SecretFacts, Settings, USE_LABEL},
};

/// Bytes of the shortest API key.
const SHORTEST_API_KEY: usize = 16;
/// Bytes of the shortest HMAC key: what SHA-256 yields (RFC 7518 section 3.2, RFC 2104 section 3).
const SHORTEST_HMAC_KEY: usize = 32;

/// A Secret that may be used, as its unit.
struct Usable {
    name: UnitName,
    unit: Secret,
    /// Entries left out, and why.
    refused: Vec<String>,
}

/// The unit of a labelled Secret. One that cannot be used makes none.
pub(super) fn resolve(view: &View<'_>, secret: &SecretFacts) -> Resolved {
    let mut resolved = Resolved::default();
    let Some(label) = secret.purpose() else {
        return resolved;
    };
    let find = |reason, what: &str| Finding::new(&secret.id, reason, None, what);
    let Some(purpose) = Purpose::LABELLED
        .into_iter()
        .find(|purpose| purpose.label() == label)
    else {
        let what = format!("{} has the unknown use {label:?}", secret.id);
        resolved
            .findings
            .push(find(FindingReason::SecretNotUsable, &what));
        return resolved;
    };
    match usable(view.settings(), secret, purpose) {
        Ok(Usable {
            name,
            unit,
            refused,
        }) => {
            let refused = refused
                .iter()
                .map(|what| find(FindingReason::EntryNotUsable, what));
            resolved.findings.extend(refused);
            resolved.units.insert(name, Unit::Secret(unit));
        }
        Err(why) => resolved
            .findings
            .push(find(FindingReason::SecretNotUsable, &why)),
    }
    resolved
}

/// The unit of a certificate. One that is none makes none; what is wrong with it, the listeners that want it say.
pub(super) fn resolve_certificate(view: &View<'_>, secret: &SecretFacts) -> Resolved {
    let mut resolved = Resolved::default();
    if let Ok((name, unit)) = certificate_of(view.settings(), secret) {
        resolved.units.insert(name, Unit::Secret(unit));
    }
    resolved
}

/// The unit of a certificate that a listener names.
pub(crate) fn certificate(
    view: &View<'_>,
    namespace: &str,
    name: &str,
) -> Result<UnitName, ConfigError> {
    let Some(secret) = view.tls_secret(namespace, name) else {
        let what = format!(
            "Secret {namespace}/{name} does not exist, or is not of type {TLS_SECRET_TYPE}"
        );
        return Err(ConfigError::new(ConfigReason::SecretNotFound, what));
    };
    match certificate_of(view.settings(), &secret) {
        Ok((name, _)) => Ok(name),
        Err(why) => {
            let what = format!("Secret {namespace}/{name} {why}");
            Err(ConfigError::new(ConfigReason::SecretNotUsable, what))
        }
    }
}

/// A certificate and its key. Whether they fit together is seen where they are used.
fn certificate_of(
    settings: &Settings,
    secret: &SecretFacts,
) -> Result<(UnitName, Secret), &'static str> {
    let entry = |id: &str, begins: &str| {
        let value = secret.entries.get(id)?;
        let text = std::str::from_utf8(value.expose()).ok()?;
        text.contains(begins)
            .then(|| (id.to_owned(), value.clone()))
    };
    let chain = entry(CERTIFICATE_ENTRY, "-----BEGIN CERTIFICATE-----")
        .ok_or("has no PEM certificate in tls.crt")?;
    let key = entry(KEY_ENTRY, "PRIVATE KEY-----").ok_or("has no PEM private key in tls.key")?;
    let unit = Secret {
        purpose: Purpose::Tls,
        subject: format!("{}/{}", secret.id.namespace, secret.id.name),
        attributes: BTreeMap::new(),
        entries: BTreeMap::from([chain, key]),
        salt: None,
    };
    let body = Unit::Secret(unit.clone()).encode();
    if body.len() > MAX_UNIT_BYTES {
        return Err("is too large to be sent");
    }
    let hash = Hash::keyed(&settings.hash_key, &body);
    let name = UnitName::secret(&secret.id.namespace, &secret.id.name, hash.as_str());
    Ok((name, unit))
}

/// A Secret for one purpose, or why not. The reasons name entries, never values.
fn usable(settings: &Settings, secret: &SecretFacts, purpose: Purpose) -> Result<Usable, String> {
    let wanted = purpose.label();
    if secret.purpose() != Some(wanted) {
        return Err(format!(
            "{} lacks the label {USE_LABEL}: {wanted}",
            secret.id
        ));
    }
    let kind = format!("sluice.dev/{wanted}");
    if secret.kind != kind {
        return Err(format!(
            "{} is labelled {wanted} but is not of type {kind}",
            secret.id
        ));
    }
    let salt = (purpose == Purpose::ApiKeys).then(|| api_key_salt(settings, &secret.id.namespace));
    let mut entries = BTreeMap::new();
    let mut refused = Vec::new();
    for (id, value) in &secret.entries {
        match check(purpose, id, value.expose()) {
            Ok(()) => drop(entries.insert(id.clone(), material(salt.as_ref(), value))),
            Err(why) => refused.push(format!("entry {id} of {} {why}", secret.id)),
        }
    }
    if entries.is_empty() {
        let why = refused.into_iter().next();
        return Err(why.unwrap_or_else(|| format!("{} has no entries", secret.id)));
    }
    let unit = Secret {
        purpose,
        subject: secret
            .subject
            .clone()
            .unwrap_or_else(|| format!("{}/{}", secret.id.namespace, secret.id.name)),
        attributes: secret.attributes.clone(),
        entries,
        salt,
    };
    let body = Unit::Secret(unit.clone()).encode();
    if body.len() > MAX_UNIT_BYTES {
        return Err(format!("{} is too large to be sent", secret.id));
    }
    let hash = Hash::keyed(&settings.hash_key, &body);
    let name = UnitName::secret(&secret.id.namespace, &secret.id.name, hash.as_str());
    Ok(Usable {
        name,
        unit,
        refused,
    })
}

/// Derived for the namespace, so that the hashes of one namespace say nothing about another's keys.
fn api_key_salt(settings: &Settings, namespace: &str) -> SecretBytes {
    let text = format!("sluice.dev/api-keys\n{namespace}");
    SecretBytes::new(
        hmac::sign(&settings.hash_key, text.as_bytes())
            .as_ref()
            .to_vec(),
    )
}

fn material(salt: Option<&SecretBytes>, value: &SecretBytes) -> SecretBytes {
    match salt {
        Some(salt) => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, salt.expose());
            SecretBytes::new(hmac::sign(&key, value.expose()).as_ref().to_vec())
        }
        None => value.clone(),
    }
}

fn check(purpose: Purpose, id: &str, value: &[u8]) -> Result<(), &'static str> {
    match purpose {
        Purpose::ApiKeys if value.len() < SHORTEST_API_KEY => {
            Err("is shorter than the 16 bytes that an API key needs")
        }
        Purpose::ApiKeys if !value.iter().all(u8::is_ascii_graphic) => {
            Err("holds what no header carries unchanged, such as a line break at its end")
        }
        Purpose::SignatureKeys if value.starts_with(b"-----BEGIN ") => {
            Err("is a PEM key, which no algorithm of this version verifies with")
        }
        Purpose::SignatureKeys | Purpose::JwtKeys if value.len() < SHORTEST_HMAC_KEY => {
            Err("is shorter than the 32 bytes that an HMAC-SHA256 key needs")
        }
        Purpose::RedisAuth if !matches!(id, "username" | "password") => {
            Err("is neither username nor password")
        }
        Purpose::ApiKeys
        | Purpose::SignatureKeys
        | Purpose::JwtKeys
        | Purpose::RedisAuth
        | Purpose::Tls => Ok(()),
    }
}

/// A problem of a reference to Secrets; the caller knows the path.
pub(super) type Problem = (FindingReason, String);

/// What a provider accepts, or why nothing can be accepted; with what its owner should know either way.
pub(super) fn keys(
    view: &View<'_>,
    namespace: &str,
    source: SecretKeys<'_>,
    purpose: Purpose,
) -> (Result<Keys, ConfigError>, Vec<Problem>) {
    match source {
        SecretKeys::Ref(one) => {
            let found = named(view, namespace, &one.name, one.key.as_deref(), purpose);
            match found {
                Ok((usable, mut problems)) => {
                    problems.extend(warnings(usable.refused));
                    let keys = Keys {
                        secrets: vec![usable.name],
                        entry: one.key.clone(),
                    };
                    (Ok(keys), problems)
                }
                Err(error) => failed(error),
            }
        }
        SecretKeys::Selector(many) => {
            let labels: BTreeMap<&str, &str> = many
                .match_labels
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            selected(view, namespace, &labels, purpose)
        }
    }
}

/// The unit of one Secret for a use that is no provider: a store's credentials.
pub(super) fn credentials(
    view: &View<'_>,
    namespace: &str,
    name: &str,
) -> Result<UnitName, ConfigError> {
    named(view, namespace, name, Some("password"), Purpose::RedisAuth)
        .map(|(usable, _)| usable.name)
}

fn named(
    view: &View<'_>,
    namespace: &str,
    name: &str,
    entry: Option<&str>,
    purpose: Purpose,
) -> Result<(Usable, Vec<Problem>), ConfigError> {
    let Some(secret) = view.secret(namespace, name) else {
        let what = format!(
            "Secret {namespace}/{name} does not exist, or is not labelled {USE_LABEL}: {}",
            purpose.label()
        );
        return Err(ConfigError::new(ConfigReason::SecretNotFound, what));
    };
    let usable = usable(view.settings(), &secret, purpose)
        .map_err(|why| ConfigError::new(ConfigReason::SecretNotUsable, why))?;
    match entry {
        Some(entry) if !usable.unit.entries.contains_key(entry) => {
            let (reason, why) = match secret.entries.contains_key(entry) {
                true => (ConfigReason::SecretNotUsable, "cannot be used"),
                false => (ConfigReason::SecretNotFound, "does not exist"),
            };
            let what = format!("entry {entry} of {} {why}", secret.id);
            Err(ConfigError::new(reason, what))
        }
        _ => Ok((usable, Vec::new())),
    }
}

fn selected(
    view: &View<'_>,
    namespace: &str,
    labels: &BTreeMap<&str, &str>,
    purpose: Purpose,
) -> (Result<Keys, ConfigError>, Vec<Problem>) {
    let wanted = purpose.label();
    if let Some(other) = labels.get(USE_LABEL).filter(|label| **label != wanted) {
        let what =
            format!("the selector asks for {USE_LABEL}: {other}, this provider takes {wanted}");
        return failed(ConfigError::new(ConfigReason::SecretNotUsable, what));
    }
    let mut secrets = view.secrets_for(namespace, wanted);
    secrets.retain(|secret| {
        labels
            .iter()
            .all(|(key, value)| secret.labels.get(*key).is_some_and(|own| own == value))
    });
    secrets.sort_by_key(|secret| secret.age());
    if secrets.is_empty() {
        let what = format!(
            "no Secret of namespace {namespace} is labelled {USE_LABEL}: {wanted} and as the selector asks"
        );
        return failed(ConfigError::new(ConfigReason::SecretNotFound, what));
    }
    let mut problems = Vec::new();
    let mut keys = Keys::default();
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut refused = Vec::new();
    for secret in &secrets {
        match usable(view.settings(), secret, purpose) {
            Ok(usable) => {
                refused.extend(usable.refused);
                for id in usable.unit.entries.keys().filter(|id| known.contains(*id)) {
                    let what =
                        format!("key id {id} of {} stands in an elder Secret too", secret.id);
                    problems.push((FindingReason::DuplicateKeyId, what));
                }
                known.extend(usable.unit.entries.into_keys());
                keys.secrets.push(usable.name);
            }
            Err(why) => refused.push(why),
        }
    }
    if keys.secrets.is_empty() {
        let why = refused.into_iter().next().unwrap_or_default();
        return failed(ConfigError::new(ConfigReason::SecretNotUsable, why));
    }
    problems.extend(warnings(refused));
    (Ok(keys), problems)
}

fn failed(error: ConfigError) -> (Result<Keys, ConfigError>, Vec<Problem>) {
    let problem = (error.reason.into(), error.message.clone());
    (Err(error), vec![problem])
}

fn warnings(refused: Vec<String>) -> impl Iterator<Item = Problem> {
    refused
        .into_iter()
        .map(|what| (FindingReason::EntryNotUsable, what))
}
