//! What to send: the difference between what a sidecar holds and what its group must hold, in pieces of bounded size,
//! with units it cannot honour denied. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message;
use sluice_snapshot::{
    Feature, Hash, MAX_MESSAGE_BYTES, UnitName, Version,
    stream::{Denied, Unit, Update, unit::Content},
};

use super::{
    published::{Entry, Manifest, Snapshot},
    whole::without_tables,
};

/// Room for the update's own fields beside its units.
const ENVELOPE_BYTES: usize = 1024;

/// Why a unit is sent as denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// The sidecar's build lacks features: restart the pod.
    TooOld {
        /// Their names.
        lacks: Vec<&'static str>,
    },
    /// The sidecar refused this very content (Nack).
    Refused {
        /// Its words, bounded.
        reason: String,
    },
}

impl Denial {
    /// The text that travels; the sidecar shows it in its log.
    fn text(&self) -> String {
        match self {
            Self::TooOld { lacks } => format!(
                "SidecarTooOld: this sidecar lacks {}; restart the pod to update it",
                lacks.join(", ")
            ),
            Self::Refused { reason } => {
                format!(
                    "SidecarTooOld: this sidecar refused the unit: {reason}; restart the pod to update it"
                )
            }
        }
    }
}

/// What one sidecar can honour.
#[derive(Debug, Default)]
pub struct Abilities {
    features: BTreeSet<String>,
    /// What it refused, at which hash.
    refused: BTreeMap<UnitName, (Hash, String)>,
}

impl Abilities {
    /// As Hello names them. Unknown names are a newer sidecar's and mean nothing here.
    pub fn new(features: impl IntoIterator<Item = String>) -> Self {
        Self {
            features: features.into_iter().collect(),
            refused: BTreeMap::new(),
        }
    }

    /// The sidecar refused this content. Returns false where that was known already.
    pub fn refuse(&mut self, name: UnitName, hash: Hash, reason: String) -> bool {
        let former = self.refused.insert(name, (hash.clone(), reason));
        former.is_none_or(|(known, _)| known != hash)
    }

    /// Whether it knows a feature.
    fn knows(&self, feature: Feature) -> bool {
        self.features.contains(feature.name())
    }

    /// What of a snapshot is denied. One that knows everything is denied only what it refused: the thousands that it
    /// holds are not looked at.
    fn denials(&self, snapshot: &Snapshot) -> BTreeMap<UnitName, Denial> {
        let denied =
            |name: &UnitName, entry: &Entry| Some((name.clone(), self.denial(name, entry)?));
        if Feature::ALL.into_iter().all(|feature| self.knows(feature)) {
            let refused = self.refused.keys();
            return refused
                .filter_map(|name| denied(name, snapshot.unit(name)?))
                .collect();
        }
        let units = snapshot.units();
        units
            .filter_map(|(name, entry)| denied(name, entry))
            .collect()
    }

    /// A snapshot as this build can take it.
    pub fn adapted(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        match self.knows(Feature::Parts) {
            true => snapshot,
            false => without_tables(snapshot),
        }
    }

    /// The version of a list, as it computes it.
    fn version(&self, manifest: &Manifest) -> Version {
        match self.knows(Feature::Parts) {
            true => manifest.version(),
            false => manifest.flat_version(),
        }
    }

    fn denial(&self, name: &UnitName, entry: &Entry) -> Option<Denial> {
        let lacks: Vec<_> = entry
            .features
            .iter()
            .map(|feature| feature.name())
            .filter(|feature| !self.features.contains(*feature))
            .collect();
        if !lacks.is_empty() {
            return Some(Denial::TooOld { lacks });
        }
        let (hash, reason) = self.refused.get(name)?;
        (*hash == entry.hash).then(|| Denial::Refused {
            reason: reason.clone(),
        })
    }
}

/// An update for one sidecar.
#[derive(Debug)]
pub struct Plan {
    /// The version it leads to; the group's, unless something is denied.
    pub version: Version,
    /// What the sidecar holds afterwards.
    pub manifest: Arc<Manifest>,
    /// What it cannot honour.
    pub denied: BTreeMap<UnitName, Denial>,
    /// The pieces, the last of which says so. Never empty.
    pub pieces: Vec<Update>,
    /// Whether it changes anything.
    pub changes: bool,
}

/// The way from `held` to `snapshot`.
///
/// A denied unit has a hash of its own: what a sidecar holds as denied is never taken for the unit itself, neither for
/// status nor when an updated sidecar comes back with it.
pub fn plan(snapshot: &Snapshot, held: &Manifest, abilities: &Abilities) -> Plan {
    let denied = abilities.denials(snapshot);
    let (manifest, version) = if denied.is_empty() {
        let version = match abilities.knows(Feature::Parts) {
            true => snapshot.version.clone(),
            false => snapshot.manifest.flat_version(),
        };
        (snapshot.manifest.clone(), version)
    } else {
        let mut manifest = Manifest::clone(&snapshot.manifest);
        for (name, denial) in &denied {
            if let Some(hash) = manifest.get_mut(name) {
                *hash = denied_hash(hash, denial);
            }
        }
        let version = abilities.version(&manifest);
        (Arc::new(manifest), version)
    };

    let changed = manifest.changed_since(held);
    let upserts = changed
        .iter()
        .filter_map(|name| Some((name, snapshot.unit(name)?)))
        .map(|(name, entry)| {
            let content = match denied.get(name) {
                Some(denial) => Content::Denied(Denied {
                    reason: denial.text(),
                }),
                None => Content::Body(entry.body.clone()),
            };
            Unit {
                name: name.to_string(),
                hash: manifest.get(name).unwrap_or(&entry.hash).to_string(),
                features: entry
                    .features
                    .iter()
                    .map(|feature| feature.name().to_owned())
                    .collect(),
                content: Some(content),
            }
        });
    let removes = changed
        .iter()
        .filter(|name| !manifest.contains_key(name))
        .map(ToString::to_string);
    let (pieces, changes) = pieces(&version, upserts, removes);
    Plan {
        version,
        manifest,
        denied,
        pieces,
        changes,
    }
}

fn denied_hash(hash: &Hash, denial: &Denial) -> Hash {
    Hash::of(format!("denied\n{hash}\n{}", denial.text()).as_bytes())
}

/// Cuts an update into messages of at most [`MAX_MESSAGE_BYTES`]. A unit is at most half of that.
fn pieces(
    version: &Version,
    upserts: impl Iterator<Item = Unit>,
    removes: impl Iterator<Item = String>,
) -> (Vec<Update>, bool) {
    enum Item {
        Upsert(Unit),
        Remove(String),
    }
    let empty = || Update {
        version: version.to_string(),
        ..Update::default()
    };
    let (mut done, mut current, mut size, mut changes) = (Vec::new(), empty(), 0, false);
    for item in upserts.map(Item::Upsert).chain(removes.map(Item::Remove)) {
        let bytes = 8 + match &item {
            Item::Upsert(unit) => unit.encoded_len(),
            Item::Remove(name) => name.len(),
        };
        if size + bytes > MAX_MESSAGE_BYTES - ENVELOPE_BYTES && size > 0 {
            done.push(std::mem::replace(&mut current, empty()));
            size = 0;
        }
        size += bytes;
        changes = true;
        match item {
            Item::Upsert(unit) => current.upserts.push(unit),
            Item::Remove(name) => current.removes.push(name),
        }
    }
    current.last = true;
    done.push(current);
    (done, changes)
}

#[cfg(test)]
mod tests {
    use super::{super::published::tests::snapshot, *};

    fn all() -> Abilities {
        Abilities::new(Feature::ALL.map(|feature| feature.name().to_owned()))
    }

    fn names(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
        let upserts = plan.pieces.iter().flat_map(|piece| &piece.upserts);
        let removes = plan.pieces.iter().flat_map(|piece| &piece.removes);
        (
            upserts.map(|unit| unit.name.as_str()).collect(),
            removes.map(String::as_str).collect(),
        )
    }

    #[test]
    fn only_the_difference_is_sent() {
        let (a, b, c) = (
            UnitName::route("shop", "a"),
            UnitName::route("shop", "b"),
            UnitName::route("shop", "c"),
        );
        let first = snapshot(&[(a.clone(), b"a", &[]), (b.clone(), b"b", &[])]);
        let whole = plan(&first, &Manifest::new(), &all());
        assert_eq!(names(&whole).0.len(), 2);
        assert_eq!(whole.version, whole.manifest.version());

        let second = snapshot(&[(b, b"b", &[]), (c.clone(), b"c", &[])]);
        let next = plan(&second, &whole.manifest, &all());
        assert_eq!(names(&next), (vec![c.as_str()], vec![a.as_str()]));
        assert!(next.changes);

        let same = plan(&second, &next.manifest, &all());
        assert!(!same.changes);
        assert!(
            same.pieces.len() == 1 && same.pieces[0].last,
            "it still names the version"
        );
    }

    #[test]
    fn what_a_sidecar_cannot_honour_is_denied_under_a_hash_of_its_own() {
        let (old, new) = (
            UnitName::route("shop", "old"),
            UnitName::route("shop", "new"),
        );
        let snapshot = snapshot(&[
            (old.clone(), b"old", &[Feature::Core]),
            (new.clone(), b"new", &[Feature::Core, Feature::Cache]),
        ]);
        let aged = Abilities::new(["core".to_owned()]);
        let denied = plan(&snapshot, &Manifest::new(), &aged);
        assert_eq!(denied.denied.keys().collect::<Vec<_>>(), [&new]);
        assert_ne!(denied.version, snapshot.version);
        assert_ne!(denied.manifest[&new], snapshot.manifest[&new]);
        let sent = denied.pieces[0]
            .upserts
            .iter()
            .find(|unit| unit.name == new.as_str());
        let Some(Content::Denied(Denied { reason })) = sent.and_then(|unit| unit.content.clone())
        else {
            panic!("denied")
        };
        assert!(
            reason.contains("cache") && reason.contains("restart"),
            "{reason}"
        );

        // The updated sidecar still holds the denial: it gets the unit, and nothing else.
        let updated = plan(&snapshot, &denied.manifest, &all());
        assert_eq!(names(&updated).0, [new.as_str()]);
        assert_eq!(updated.version, snapshot.version);
    }

    #[test]
    fn an_elder_build_is_told_versions_that_it_computes() {
        let snapshot = snapshot(&[
            (UnitName::route("shop", "a"), b"a", &[]),
            (UnitName::route("shop", "b"), b"b", &[]),
        ]);
        let elder = plan(&snapshot, &Manifest::new(), &Abilities::new([]));
        assert_eq!(elder.version, Version::of(elder.manifest.iter()));
        assert_ne!(elder.version, snapshot.version);
        assert_eq!(elder.manifest, snapshot.manifest);
    }

    #[test]
    fn a_refused_unit_is_denied_until_it_changes() {
        let name = UnitName::route("shop", "a");
        let first = snapshot(&[(name.clone(), b"a", &[])]);
        let mut abilities = all();
        let hash = first.manifest[&name].clone();
        assert!(abilities.refuse(name.clone(), hash.clone(), "no".into()));
        assert!(!abilities.refuse(name.clone(), hash, "no".into()), "known");
        assert_eq!(plan(&first, &Manifest::new(), &abilities).denied.len(), 1);
        let second = snapshot(&[(name, b"b", &[])]);
        assert!(
            plan(&second, &Manifest::new(), &abilities)
                .denied
                .is_empty()
        );
    }

    #[test]
    fn pieces_are_bounded_and_only_the_last_ends() {
        let body = vec![b'x'; sluice_snapshot::MAX_UNIT_BYTES];
        let names: Vec<_> = (0..5)
            .map(|n| UnitName::route("shop", &n.to_string()))
            .collect();
        let units: Vec<_> = names
            .iter()
            .map(|name| (name.clone(), body.as_slice(), &[][..]))
            .collect();
        let held = (0..40_000)
            .map(|n| (UnitName::route("shop", &format!("gone-{n}")), Hash::of(b"")))
            .collect();
        let plan = plan(&snapshot(&units), &held, &all());
        assert!(plan.pieces.len() > 5, "{}", plan.pieces.len());
        for piece in &plan.pieces {
            assert!(
                piece.encoded_len() <= MAX_MESSAGE_BYTES,
                "{}",
                piece.encoded_len()
            );
            assert_eq!(piece.version, plan.version.to_string());
        }
        let (last, before) = plan.pieces.split_last().expect("not empty");
        assert!(last.last && before.iter().all(|piece| !piece.last));
        let total: usize = plan
            .pieces
            .iter()
            .map(|piece| piece.upserts.len() + piece.removes.len())
            .sum();
        assert_eq!(total, 40_005);
    }
}
