//! What this sidecar holds, and how an update changes it: pieces are collected, checked whole, and only then applied.

use std::sync::Arc;

use bytes::Bytes;
use sluice_pipeline::program::{Content, Held, UnitSet};
use sluice_snapshot::{
    ConfigError, ConfigReason, Hash, Unit, UnitKind, UnitMap, UnitName, Version, map::Hashed,
    stream,
};

/// A unit as it came over the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The hash the operator gave it.
    pub hash: Hash,
    /// What it holds.
    pub content: Body,
}

impl Hashed for Encoded {
    fn hash(&self) -> &Hash {
        &self.hash
    }
}

/// The content of a unit, not decoded.
#[derive(Clone, PartialEq)]
pub enum Body {
    /// Its JSON text.
    Json(Bytes),
    /// This sidecar cannot honour it.
    Denied(ConfigError),
}

impl std::fmt::Debug for Body {
    // A body may be a secret unit's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(bytes) => write!(f, "Json({} bytes)", bytes.len()),
            Self::Denied(error) => f.debug_tuple("Denied").field(error).finish(),
        }
    }
}

/// Why an update is not applied.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// One unit is not what it should be; the version is refused, the former one serves on.
    #[error("{unit}: {reason}")]
    Unit {
        /// Its name, as sent.
        unit: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The result is not the version that was announced: the two sides disagree on what is held here, which a new
    /// stream settles.
    #[error("the update leads to version {found}, not {announced}; reconnecting")]
    Version {
        /// What the operator announced.
        announced: Version,
        /// What came out.
        found: Version,
    },
}

/// All units of the version in force, encoded (for the last-known-good) and decoded (for compilation).
#[derive(Default)]
pub struct Snapshot {
    encoded: UnitMap<Encoded>,
    decoded: UnitMap<Held>,
}

/// The pieces of one update, until the last has come.
#[derive(Default)]
pub struct Pending {
    upserts: Vec<stream::Unit>,
    removes: Vec<String>,
}

impl Pending {
    /// Takes a piece. Returns the announced version once it was the last.
    pub fn push(&mut self, piece: stream::Update) -> Option<Version> {
        let stream::Update {
            version,
            upserts,
            removes,
            last,
        } = piece;
        self.upserts.extend(upserts);
        self.removes.extend(removes);
        last.then(|| Version::from_wire(version))
    }
}

impl Snapshot {
    /// A snapshot of stored units.
    pub fn restore(units: Vec<(UnitName, Encoded)>) -> Result<Self, UpdateError> {
        let mut snapshot = Self::default();
        for (name, unit) in units {
            snapshot.insert(name, unit)?;
        }
        Ok(snapshot)
    }

    /// The snapshot after `pending`, if it decodes and is the announced version.
    pub fn apply(&self, pending: Pending, announced: &Version) -> Result<Self, UpdateError> {
        let mut next = Self {
            encoded: self.encoded.clone(),
            decoded: self.decoded.clone(),
        };
        for name in pending.removes {
            let name = parse(&name)?;
            next.encoded.remove(&name);
            next.decoded.remove(&name);
        }
        for unit in pending.upserts {
            let stream::Unit {
                name,
                hash,
                features: _,
                content,
            } = unit;
            let name = parse(&name)?;
            let content = match content {
                Some(stream::unit::Content::Body(body)) => Body::Json(body),
                Some(stream::unit::Content::Denied(stream::Denied { reason })) => {
                    Body::Denied(ConfigError::new(ConfigReason::SidecarTooOld, reason))
                }
                None => {
                    return Err(UpdateError::Unit {
                        unit: name.to_string(),
                        reason: "it has no content".into(),
                    });
                }
            };
            next.insert(
                name,
                Encoded {
                    hash: Hash::from_wire(hash),
                    content,
                },
            )?;
        }
        let found = next.version();
        // An operator of an earlier build hashes the list in one piece.
        if found == *announced || next.encoded.flat_version() == *announced {
            Ok(next)
        } else {
            Err(UpdateError::Version {
                announced: announced.clone(),
                found,
            })
        }
    }

    /// The version of what is held.
    pub fn version(&self) -> Version {
        self.encoded.version()
    }

    /// `name -> hash`, for Hello.
    pub fn held(&self) -> std::collections::HashMap<String, String> {
        self.encoded
            .iter()
            .map(|(name, unit)| (name.to_string(), unit.hash.to_string()))
            .collect()
    }

    /// The units, encoded.
    pub fn encoded(&self) -> &UnitMap<Encoded> {
        &self.encoded
    }

    /// The units, decoded: what the program is compiled from.
    pub fn unit_set(&self) -> UnitSet {
        UnitSet {
            units: self.decoded.clone(),
        }
    }

    fn insert(&mut self, name: UnitName, unit: Encoded) -> Result<(), UpdateError> {
        let refuse = |reason: String| UpdateError::Unit {
            unit: name.to_string(),
            reason,
        };
        let content = match &unit.content {
            Body::Json(body) => {
                // A secret's hash is keyed with a key that no sidecar has.
                if name.kind() != UnitKind::Secret && Hash::of(body) != unit.hash {
                    return Err(refuse(
                        "its body does not have the hash it was sent with".into(),
                    ));
                }
                Content::Unit(Arc::new(
                    Unit::decode(&name, body).map_err(|error| refuse(error.to_string()))?,
                ))
            }
            Body::Denied(error) => Content::Denied(error.clone()),
        };
        self.decoded.insert(
            name.clone(),
            Held {
                hash: unit.hash.clone(),
                content,
            },
        );
        self.encoded.insert(name, unit);
        Ok(())
    }
}

fn parse(name: &str) -> Result<UnitName, UpdateError> {
    name.parse().map_err(
        |error: sluice_snapshot::name::NameError| UpdateError::Unit {
            unit: name.chars().take(80).collect(),
            reason: error.to_string(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(sessions: u32) -> (Bytes, Hash) {
        let body = Unit::Fleet(sluice_snapshot::unit::Fleet { sessions }).encode();
        let hash = Hash::of(&body);
        (body, hash)
    }

    fn upsert(name: &UnitName, body: Bytes, hash: &Hash) -> stream::Unit {
        stream::Unit {
            name: name.to_string(),
            hash: hash.to_string(),
            features: Vec::new(),
            content: Some(stream::unit::Content::Body(body)),
        }
    }

    fn pending(upserts: Vec<stream::Unit>, removes: &[&UnitName]) -> Pending {
        Pending {
            upserts,
            removes: removes.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn pieces_count_only_once_the_last_has_come() {
        let mut collected = Pending::default();
        let piece = |last| stream::Update {
            version: "v".into(),
            upserts: Vec::new(),
            removes: vec!["x".into()],
            last,
        };
        assert_eq!(collected.push(piece(false)), None);
        assert_eq!(collected.push(piece(true)), Some(Version::from_wire("v")));
        assert_eq!(collected.removes.len(), 2);
    }

    #[test]
    fn an_update_changes_what_it_names_and_nothing_else() {
        let (a, b) = (UnitName::fleet("shop", "a"), UnitName::fleet("shop", "b"));
        let ((one, h1), (two, h2)) = (fleet(1), fleet(2));
        let both = Snapshot::default()
            .apply(
                pending(
                    vec![upsert(&a, one.clone(), &h1), upsert(&b, two, &h2)],
                    &[],
                ),
                &Version::of([(&a, &h1), (&b, &h2)]),
            )
            .expect("applies");
        let only_b = both
            .apply(pending(Vec::new(), &[&a]), &Version::of([(&b, &h2)]))
            .expect("applies");
        assert_eq!(only_b.held().len(), 1);
        assert_eq!(
            only_b.version(),
            UnitMap::from_iter([(b.clone(), h2.clone())]).version()
        );
        assert_eq!(both.held().len(), 2, "the former snapshot is untouched");
    }

    #[test]
    fn a_wrong_version_hash_name_or_shape_is_refused() {
        let a = UnitName::fleet("shop", "a");
        let (body, hash) = fleet(1);
        let apply = |unit: stream::Unit, version: Version| {
            Snapshot::default()
                .apply(pending(vec![unit], &[]), &version)
                .err()
        };
        let right = Version::of([(&a, &hash)]);
        assert!(matches!(
            apply(upsert(&a, body.clone(), &hash), Version::from_wire("other")),
            Some(UpdateError::Version { .. })
        ));
        let (_, other) = fleet(2);
        assert!(matches!(
            apply(
                upsert(&a, body.clone(), &other),
                Version::of([(&a, &other)])
            ),
            Some(UpdateError::Unit { .. })
        ));
        let unknown = Bytes::from_static(br#"{"sessions":1,"later":true}"#);
        let unknown_hash = Hash::of(&unknown);
        assert!(matches!(
            apply(
                upsert(&a, unknown, &unknown_hash),
                Version::of([(&a, &unknown_hash)])
            ),
            Some(UpdateError::Unit { .. })
        ));
        let nameless = stream::Unit {
            name: "nonsense".into(),
            ..upsert(&a, body, &hash)
        };
        assert!(matches!(
            apply(nameless, right),
            Some(UpdateError::Unit { .. })
        ));
    }
}
