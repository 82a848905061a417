//! The keys that a provider accepts now: its Secrets, ready for look-up. One Secret is one consumer, one entry is one
//! key. It holds what the entries say and nothing about requests.

use std::{collections::HashMap, fmt, sync::Arc};

use aws_lc_rs::{digest, hmac};
use sluice_snapshot::{
    ConfigError, ConfigReason,
    unit::{Keys, Secret, secret::Purpose},
};

use crate::identity::Identity;

/// The least number of bytes of a shared key: as many as the hash has (RFC 7518 section 3.2, RFC 2104 section 3).
pub const MIN_SHARED_KEY: usize = 32;

/// The accepted keys of one provider. Of a key id in two Secrets, the elder Secret's counts.
pub struct KeyRing {
    consumers: Vec<Consumer>,
    /// API keys by the HMAC of the key, for each HMAC key there is: the table is searched by a value that a caller
    /// cannot compute, so the time of a search tells nothing about keys.
    api: Vec<Salted>,
    signature: HashMap<String, Slot<hmac::Key>>,
    jwt: HashMap<String, Slot<hmac::Key>>,
    /// The first entry that cannot serve as an API key: a key that is unknown may be that one.
    unusable: Option<ConfigError>,
    /// The purposes of the Secrets, each once.
    purposes: Vec<Purpose>,
    fingerprint: [u8; 32],
}

/// Whoever the keys of one Secret belong to.
struct Consumer {
    subject: String,
    attributes: std::collections::BTreeMap<String, String>,
}

/// API keys under one HMAC key.
struct Salted {
    salt: [u8; 32],
    key: hmac::Key,
    entries: HashMap<[u8; 32], (usize, String)>,
}

/// A key with its consumer, or why it cannot serve.
struct Slot<K> {
    consumer: usize,
    key: Result<K, ConfigError>,
}

/// A key that was found.
pub(super) struct Found<'a, K> {
    ring: &'a KeyRing,
    consumer: usize,
    /// The key.
    pub key: &'a K,
}

impl<K> Found<'_, K> {
    /// The consumer's identity.
    pub fn identity(&self, provider: &str, key_id: &str) -> Identity {
        self.ring.identity(self.consumer, provider, key_id)
    }
}

impl KeyRing {
    /// Puts the Secrets of a keys unit, in its order, to use.
    pub fn build(keys: &Keys, secrets: &[Arc<Secret>]) -> Self {
        let Keys {
            secrets: names,
            entry,
        } = keys;
        let mut ring = Self {
            consumers: Vec::new(),
            api: Vec::new(),
            signature: HashMap::new(),
            jwt: HashMap::new(),
            unusable: None,
            purposes: Vec::new(),
            fingerprint: fingerprint(names.iter().map(|name| name.as_str()), entry.as_deref()),
        };
        for secret in secrets {
            ring.add(secret, entry.as_deref());
        }
        ring
    }

    fn add(&mut self, secret: &Secret, only: Option<&str>) {
        let Secret {
            purpose,
            subject,
            attributes,
            entries,
            salt,
        } = secret;
        let consumer = self.consumers.len();
        self.consumers.push(Consumer {
            subject: subject.clone(),
            attributes: attributes.clone(),
        });
        if !self.purposes.contains(purpose) {
            self.purposes.push(*purpose);
        }
        for (id, material) in entries
            .iter()
            .filter(|(id, _)| only.is_none_or(|only| only == id.as_str()))
        {
            match purpose {
                Purpose::ApiKeys => {
                    let salt = salt.as_ref().map(|salt| salt.expose());
                    if let Err(error) = self.add_api_key(consumer, id, material.expose(), salt) {
                        self.unusable.get_or_insert(error);
                    }
                }
                Purpose::SignatureKeys => {
                    let key = shared(subject, id, material.expose())
                        .map(|material| hmac::Key::new(hmac::HMAC_SHA256, material));
                    self.signature
                        .entry(id.clone())
                        .or_insert(Slot { consumer, key });
                }
                Purpose::JwtKeys => {
                    let key = shared(subject, id, material.expose())
                        .map(|material| hmac::Key::new(hmac::HMAC_SHA256, material));
                    self.jwt.entry(id.clone()).or_insert(Slot { consumer, key });
                }
                Purpose::RedisAuth | Purpose::Tls => {}
            }
        }
    }

    fn add_api_key(
        &mut self,
        consumer: usize,
        id: &str,
        hash: &[u8],
        salt: Option<&[u8]>,
    ) -> Result<(), ConfigError> {
        let unusable = |what: &str| {
            let subject = &self.consumers[consumer].subject;
            ConfigError::new(
                ConfigReason::SecretNotUsable,
                format!("API key {id:?} of {subject:?} {what}"),
            )
        };
        let hash: [u8; 32] = hash
            .try_into()
            .map_err(|_| unusable("is not an HMAC-SHA-256 value"))?;
        let salt = salt
            .filter(|salt| salt.len() >= MIN_SHARED_KEY)
            .ok_or_else(|| unusable("has no HMAC key"))?;
        let digest = sha256([salt]);
        let index = match self.api.iter().position(|salted| salted.salt == digest) {
            Some(index) => index,
            None => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
                self.api.push(Salted {
                    salt: digest,
                    key,
                    entries: HashMap::new(),
                });
                self.api.len() - 1
            }
        };
        self.api[index]
            .entries
            .entry(hash)
            .or_insert((consumer, id.to_owned()));
        Ok(())
    }

    /// Whether every Secret may be used for `purpose`.
    pub fn serves(&self, purpose: Purpose) -> Result<(), ConfigError> {
        match self.purposes.iter().find(|found| **found != purpose) {
            None => Ok(()),
            Some(found) => Err(ConfigError::new(
                ConfigReason::SecretNotUsable,
                format!(
                    "a Secret labelled sluice.dev/use: {} cannot serve as {}",
                    found.label(),
                    purpose.label()
                ),
            )),
        }
    }

    /// The identity whose API key was sent; none: no such key. `Err`: it may be a key that cannot be used.
    pub(super) fn api_key(
        &self,
        provider: &str,
        sent: &[u8],
    ) -> Result<Option<Identity>, &ConfigError> {
        let mut hash = [0; 32];
        for salted in &self.api {
            hash.copy_from_slice(hmac::sign(&salted.key, sent).as_ref());
            if let Some((consumer, id)) = salted.entries.get(&hash) {
                return Ok(Some(self.identity(*consumer, provider, id)));
            }
        }
        self.unusable.as_ref().map_or(Ok(None), Err)
    }

    /// The key with id `key_id` for message signatures.
    pub(super) fn signature_key(
        &self,
        key_id: &str,
    ) -> Option<Result<Found<'_, hmac::Key>, &ConfigError>> {
        self.signature.get(key_id).map(|slot| self.found(slot))
    }

    /// The shared key with id `key_id` for tokens. Without an id, the only one there is.
    pub(super) fn jwt_key(
        &self,
        key_id: Option<&str>,
    ) -> Option<Result<(&str, Found<'_, hmac::Key>), &ConfigError>> {
        let (id, slot) = match key_id {
            Some(id) => self.jwt.get_key_value(id)?,
            None if self.jwt.len() == 1 => self.jwt.iter().next()?,
            None => return None,
        };
        Some(self.found(slot).map(|found| (id.as_str(), found)))
    }

    /// Changes with the keys: part of what verified tokens are remembered by.
    pub(super) fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    fn found<'a, K>(&'a self, slot: &'a Slot<K>) -> Result<Found<'a, K>, &'a ConfigError> {
        slot.key.as_ref().map(|key| Found {
            ring: self,
            consumer: slot.consumer,
            key,
        })
    }

    fn identity(&self, consumer: usize, provider: &str, key_id: &str) -> Identity {
        let Consumer {
            subject,
            attributes,
        } = &self.consumers[consumer];
        Identity {
            provider: provider.to_owned(),
            subject: subject.clone(),
            key_id: Some(key_id.to_owned()),
            scopes: Vec::new(),
            attributes: attributes.clone(),
            claims: None,
        }
    }
}

/// Shared key bytes. A PEM text is never one: whoever knows a public key could sign with it (algorithm confusion).
fn shared<'a>(subject: &str, id: &str, material: &'a [u8]) -> Result<&'a [u8], ConfigError> {
    let unusable = |what: &str| {
        Err(ConfigError::new(
            ConfigReason::SecretNotUsable,
            format!("key {id:?} of {subject:?} {what}"),
        ))
    };
    if material.trim_ascii_start().starts_with(b"-----BEGIN") {
        unusable("is a PEM text, which no algorithm of shared keys takes")
    } else if material.len() < MIN_SHARED_KEY {
        unusable("is shorter than 32 bytes")
    } else {
        Ok(material)
    }
}

/// SHA-256 over parts of which each but the last has a fixed length or an end of its own.
pub(super) fn sha256<const N: usize>(parts: [&[u8]; N]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Names of secret units carry the keyed hash of their content, so the names stand for the keys.
fn fingerprint<'a>(names: impl Iterator<Item = &'a str>, entry: Option<&str>) -> [u8; 32] {
    let mut text = String::new();
    for name in names {
        text.push_str(name);
        text.push('\n');
    }
    text.push('\n');
    text.push_str(entry.unwrap_or_default());
    sha256([text.as_bytes()])
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("consumers", &self.consumers.len())
            .field(
                "api",
                &self
                    .api
                    .iter()
                    .map(|salted| salted.entries.len())
                    .sum::<usize>(),
            )
            .field("signature", &self.signature.len())
            .field("jwt", &self.jwt.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sluice_snapshot::{SecretBytes, UnitName};

    use super::*;

    const SALT: &[u8] = b"a salt that has thirty-two bytes";

    fn secret(purpose: Purpose, subject: &str, entries: &[(&str, &[u8])]) -> Arc<Secret> {
        let salt = (purpose == Purpose::ApiKeys).then(|| SecretBytes::new(SALT.to_vec()));
        let entry = |material: &[u8]| match purpose {
            Purpose::ApiKeys => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SALT), material)
                .as_ref()
                .to_vec(),
            _ => material.to_vec(),
        };
        Arc::new(Secret {
            purpose,
            subject: subject.into(),
            attributes: BTreeMap::from([("plan".into(), format!("plan of {subject}"))]),
            entries: entries
                .iter()
                .map(|(id, key)| ((*id).into(), SecretBytes::new(entry(key))))
                .collect(),
            salt,
        })
    }

    fn build(secrets: &[Arc<Secret>], entry: Option<&str>) -> KeyRing {
        let names =
            (0..secrets.len()).map(|index| UnitName::secret("shop", &format!("s{index}"), "00"));
        KeyRing::build(
            &Keys {
                secrets: names.collect(),
                entry: entry.map(Into::into),
            },
            secrets,
        )
    }

    #[test]
    fn an_api_key_is_found_by_its_hash_with_the_consumers_attributes() {
        let ring = build(
            &[secret(
                Purpose::ApiKeys,
                "alice",
                &[("k1", b"alpha"), ("k2", b"beta")],
            )],
            None,
        );
        let identity = ring
            .api_key("keys", b"beta")
            .expect("usable")
            .expect("known");
        assert_eq!(
            (identity.subject.as_str(), identity.key_id.as_deref()),
            ("alice", Some("k2"))
        );
        assert_eq!(identity.attributes["plan"], "plan of alice");
        assert!(ring.api_key("keys", b"gamma").expect("usable").is_none());
    }

    #[test]
    fn only_the_named_entry_counts() {
        let ring = build(
            &[secret(
                Purpose::ApiKeys,
                "alice",
                &[("k1", b"alpha"), ("k2", b"beta")],
            )],
            Some("k1"),
        );
        assert!(ring.api_key("keys", b"alpha").expect("usable").is_some());
        assert!(ring.api_key("keys", b"beta").expect("usable").is_none());
    }

    #[test]
    fn of_a_key_id_in_two_secrets_the_elders_counts() {
        let key = [7; 32];
        let ring = build(
            &[
                secret(Purpose::SignatureKeys, "elder", &[("k", &key)]),
                secret(Purpose::SignatureKeys, "younger", &[("k", &[8; 32])]),
            ],
            None,
        );
        let found = ring.signature_key("k").expect("known").expect("usable");
        assert_eq!(found.identity("p", "k").subject, "elder");
        assert!(
            hmac::verify(
                found.key,
                b"m",
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), b"m").as_ref()
            )
            .is_ok()
        );
    }

    #[test]
    fn short_keys_and_public_keys_never_sign() {
        let pem = b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";
        for purpose in [Purpose::SignatureKeys, Purpose::JwtKeys] {
            let ring = build(
                &[secret(
                    purpose,
                    "alice",
                    &[("short", &[1; 31]), ("pem", pem)],
                )],
                None,
            );
            for id in ["short", "pem"] {
                let error = match purpose {
                    Purpose::SignatureKeys => ring.signature_key(id).expect("known").err(),
                    _ => ring.jwt_key(Some(id)).expect("known").err(),
                };
                assert_eq!(
                    error.expect("unusable").reason,
                    ConfigReason::SecretNotUsable,
                    "{id}"
                );
            }
        }
    }

    #[test]
    fn a_secret_serves_its_purpose_only() {
        let ring = build(
            &[secret(Purpose::ApiKeys, "alice", &[("k1", b"alpha")])],
            None,
        );
        assert!(ring.serves(Purpose::ApiKeys).is_ok());
        assert_eq!(
            ring.serves(Purpose::JwtKeys).expect_err("refused").reason,
            ConfigReason::SecretNotUsable
        );
    }

    #[test]
    fn an_api_key_that_cannot_be_used_is_never_called_unknown() {
        let mut bad = (*secret(Purpose::ApiKeys, "alice", &[("k1", b"alpha")])).clone();
        bad.salt = None;
        let ring = build(
            &[
                Arc::new(bad),
                secret(Purpose::ApiKeys, "bob", &[("k1", b"beta")]),
            ],
            None,
        );
        assert!(
            ring.api_key("keys", b"beta")
                .expect("bob's is fine")
                .is_some()
        );
        assert_eq!(
            ring.api_key("keys", b"alpha")
                .expect_err("misconfigured")
                .reason,
            ConfigReason::SecretNotUsable
        );
    }

    #[test]
    fn debug_shows_no_key_and_the_fingerprint_follows_the_keys() {
        let ring = build(
            &[secret(
                Purpose::SignatureKeys,
                "alice",
                &[("k1", &[b'x'; 32])],
            )],
            None,
        );
        let shown = format!("{ring:?}");
        assert!(!shown.contains("xxx") && !shown.contains("120"), "{shown}");
        let other = build(
            &[secret(
                Purpose::SignatureKeys,
                "alice",
                &[("k1", &[b'x'; 32])],
            )],
            Some("k1"),
        );
        assert_ne!(ring.fingerprint(), other.fingerprint());
    }
}
