//! Values by the names of units, kept in parts: a copy shares every part that neither side changes, two copies are compared
//! by the parts that they do not share, and a version is hashed anew only where something changed. Whatever holds thousands of
//! units holds them so. It knows nothing of what units say.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    ops::Index,
    sync::{Arc, OnceLock},
};

use crate::{
    hash::{Hash, Version, digest_of},
    name::UnitName,
};

/// How many parts there are: with the largest lists (65,536 units) each has some hundreds. The number and [`part_of`] decide
/// versions, so they are part of the contract.
const PARTS: usize = 256;

/// Bytes of SHA-256.
const DIGEST: usize = 32;

/// A value that has the hash of a unit's body.
pub trait Hashed {
    /// That hash.
    fn hash(&self) -> &Hash;
}

impl Hashed for Hash {
    fn hash(&self) -> &Hash {
        self
    }
}

impl<V: Hashed> Hashed for Arc<V> {
    fn hash(&self) -> &Hash {
        V::hash(self)
    }
}

/// Values by unit name. Cheap to clone.
#[derive(Clone)]
pub struct UnitMap<V> {
    parts: Vec<Arc<Part<V>>>,
    len: usize,
}

/// The entries whose names fall into one part.
struct Part<V> {
    entries: BTreeMap<UnitName, V>,
    digest: OnceLock<[u8; DIGEST]>,
}

impl<V: Clone> Clone for Part<V> {
    /// Who copies a part is about to change it.
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            digest: OnceLock::new(),
        }
    }
}

impl<V> Default for UnitMap<V> {
    fn default() -> Self {
        let empty = Arc::new(Part {
            entries: BTreeMap::new(),
            digest: OnceLock::new(),
        });
        Self {
            parts: vec![empty; PARTS],
            len: 0,
        }
    }
}

/// Which part a name falls into (FNV-1a, folded). Names that were chosen to fall together make one part slow and nothing
/// wrong: what tells lists apart is SHA-256.
fn part_of(name: &UnitName) -> usize {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let bytes = name.as_str().bytes();
    let hash = bytes.fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    let folded = hash ^ (hash >> 32);
    let folded = folded ^ (folded >> 16);
    ((folded ^ (folded >> 8)) & 0xff) as usize
}

impl<V> UnitMap<V> {
    /// A map of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a name.
    pub fn get(&self, name: &UnitName) -> Option<&V> {
        self.parts[part_of(name)].entries.get(name)
    }

    /// Whether a name has a value.
    pub fn contains_key(&self, name: &UnitName) -> bool {
        self.get(name).is_some()
    }

    /// Every entry, in the same order for the same names, which is not that of the names.
    pub fn iter(&self) -> Iter<'_, V> {
        Iter {
            parts: self.parts.iter(),
            entries: None,
        }
    }

    /// Every entry, sorted by name.
    pub fn sorted(&self) -> Vec<(&UnitName, &V)> {
        let mut entries: Vec<_> = self.iter().collect();
        entries.sort_unstable_by_key(|(name, _)| *name);
        entries
    }

    /// Every name, in the order of [`Self::iter`].
    pub fn keys(&self) -> impl Iterator<Item = &UnitName> {
        self.iter().map(|(name, _)| name)
    }

    /// Every value, in the order of [`Self::iter`].
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<V: Clone> UnitMap<V> {
    /// Sets the value of a name; what it was before.
    pub fn insert(&mut self, name: UnitName, value: V) -> Option<V> {
        let part = Arc::make_mut(&mut self.parts[part_of(&name)]);
        part.digest.take();
        let before = part.entries.insert(name, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes a name out; what its value was.
    pub fn remove(&mut self, name: &UnitName) -> Option<V> {
        let part = &mut self.parts[part_of(name)];
        if !part.entries.contains_key(name) {
            return None;
        }
        let part = Arc::make_mut(part);
        part.digest.take();
        let before = part.entries.remove(name);
        self.len -= usize::from(before.is_some());
        before
    }

    /// The value of a name, to be changed.
    pub fn get_mut(&mut self, name: &UnitName) -> Option<&mut V> {
        let part = &mut self.parts[part_of(name)];
        if !part.entries.contains_key(name) {
            return None;
        }
        let part = Arc::make_mut(part);
        part.digest.take();
        part.entries.get_mut(name)
    }
}

impl<V: PartialEq> UnitMap<V> {
    /// The names that `former` has otherwise, has in addition or has not, sorted. Parts that both share are not looked at.
    pub fn changed_since(&self, former: &Self) -> Vec<UnitName> {
        let mut changed = Vec::new();
        for (now, then) in self.parts.iter().zip(&former.parts) {
            if Arc::ptr_eq(now, then) {
                continue;
            }
            let (now, then) = (&now.entries, &then.entries);
            let others = now
                .iter()
                .filter(|(name, value)| then.get(*name) != Some(*value));
            changed.extend(others.map(|(name, _)| name.clone()));
            changed.extend(then.keys().filter(|name| !now.contains_key(*name)).cloned());
        }
        changed.sort_unstable();
        changed
    }
}

impl<V: Hashed> UnitMap<V> {
    /// The version of the list: the hash of the hashes of its parts. Equal lists have equal versions, in every process.
    pub fn version(&self) -> Version {
        Version::of_parts(self.parts.iter().map(|part| part.digest()))
    }

    /// The same, hashed in one piece.
    pub fn flat_version(&self) -> Version {
        Version::of(self.iter().map(|(name, value)| (name, value.hash())))
    }
}

impl<V: Hashed> Part<V> {
    fn digest(&self) -> &[u8] {
        self.digest.get_or_init(|| {
            let mut bytes = [0; DIGEST];
            // An empty part is all zeros.
            if !self.entries.is_empty() {
                let entries = self.entries.iter();
                let digest = digest_of(entries.map(|(name, value)| (name, value.hash())));
                bytes.copy_from_slice(digest.as_ref());
            }
            bytes
        })
    }
}

/// Every entry of a [`UnitMap`].
pub struct Iter<'a, V> {
    parts: std::slice::Iter<'a, Arc<Part<V>>>,
    entries: Option<btree_map::Iter<'a, UnitName, V>>,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a UnitName, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.as_mut().and_then(Iterator::next) {
                return Some(entry);
            }
            self.entries = Some(self.parts.next()?.entries.iter());
        }
    }
}

impl<'a, V> IntoIterator for &'a UnitMap<V> {
    type Item = (&'a UnitName, &'a V);
    type IntoIter = Iter<'a, V>;

    fn into_iter(self) -> Iter<'a, V> {
        self.iter()
    }
}

impl<V: Clone> FromIterator<(UnitName, V)> for UnitMap<V> {
    fn from_iter<I: IntoIterator<Item = (UnitName, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

impl<V: Clone, const N: usize> From<[(UnitName, V); N]> for UnitMap<V> {
    fn from(entries: [(UnitName, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<V: Clone> Extend<(UnitName, V)> for UnitMap<V> {
    fn extend<I: IntoIterator<Item = (UnitName, V)>>(&mut self, entries: I) {
        for (name, value) in entries {
            self.insert(name, value);
        }
    }
}

impl<V> Index<&UnitName> for UnitMap<V> {
    type Output = V;

    /// # Panics
    /// Where the name has no value, as the maps of the standard library do.
    fn index(&self, name: &UnitName) -> &V {
        self.get(name).expect("no entry for this name")
    }
}

impl<V: PartialEq> PartialEq for UnitMap<V> {
    fn eq(&self, other: &Self) -> bool {
        let mut parts = self.parts.iter().zip(&other.parts);
        parts.all(|(one, other)| Arc::ptr_eq(one, other) || one.entries == other.entries)
    }
}

impl<V: Eq> Eq for UnitMap<V> {}

impl<V: fmt::Debug> fmt::Debug for UnitMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.sorted()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> UnitName {
        UnitName::http_route("shop", &format!("route-{n}"))
    }

    fn hash(n: usize) -> Hash {
        Hash::of(&n.to_be_bytes())
    }

    fn map(numbers: impl IntoIterator<Item = usize>) -> UnitMap<Hash> {
        numbers.into_iter().map(|n| (name(n), hash(n))).collect()
    }

    /// Parts whose digest is not known.
    fn unknown(map: &UnitMap<Hash>) -> usize {
        let parts = map.parts.iter();
        parts.filter(|part| part.digest.get().is_none()).count()
    }

    #[test]
    fn it_is_a_map() {
        let mut map = map(0..1_000);
        assert_eq!(map.len(), 1_000);
        assert_eq!(map.insert(name(7), hash(0)), Some(hash(7)));
        assert_eq!(map.insert(name(1_000), hash(0)), None);
        assert_eq!(map.remove(&name(3)), Some(hash(3)));
        assert_eq!(map.remove(&name(3)), None);
        assert_eq!(map.len(), 1_000);
        assert_eq!(map.iter().count(), 1_000);
        assert_eq!(map[&name(7)], hash(0));
        assert!(map.get(&name(3)).is_none() && !map.contains_key(&name(3)));
        assert!(map.sorted().is_sorted());
    }

    #[test]
    fn the_version_says_what_is_in_it_and_not_how_it_came_to_be() {
        let (forth, back) = (map(0..500), map((0..500).rev()));
        assert_eq!(forth.version(), back.version());
        let mut other = forth.clone();
        other.insert(name(17), hash(18));
        assert_ne!(other.version(), forth.version());
        other.insert(name(17), hash(17));
        assert_eq!((other.version(), &other), (forth.version(), &forth));
        other.remove(&name(17));
        assert_ne!(other.version(), forth.version());
        // Two that change places.
        let mut swapped = forth.clone();
        swapped.insert(name(1), hash(2));
        swapped.insert(name(2), hash(1));
        assert_ne!(swapped.version(), forth.version());
        assert_eq!(map([]).version(), UnitMap::<Hash>::new().version());
    }

    #[test]
    fn one_change_is_one_part_to_copy_to_compare_and_to_hash() {
        let before = map(0..5_000);
        before.version();
        let mut after = before.clone();
        after.insert(name(5_000), hash(0));
        let own = after.parts.iter().zip(&before.parts);
        assert_eq!(own.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
        assert_eq!(unknown(&after), 1, "parts to be hashed");
        assert_eq!(after.changed_since(&before), [name(5_000)]);
        assert_eq!(before.changed_since(&after), [name(5_000)]);
        // None has so many that one part would be most of it.
        let most = after.parts.iter().map(|part| part.entries.len()).max();
        assert!(most.is_some_and(|most| most < 60), "{most:?}");
    }

    #[test]
    fn an_older_build_knows_the_version_of_one_piece() {
        let map = map(0..3);
        assert_eq!(map.flat_version(), Version::of(map.iter()));
        assert_ne!(map.flat_version(), map.version());
    }
}
