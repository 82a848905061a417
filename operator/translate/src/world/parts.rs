//! The routes of each parent Gateway or ListenerSet, in parts of few: a part is split once it has too many and joined with
//! its neighbour once both have few, so that which parts there are follows from the routes alone, and one route more or less
//! is a change of one part.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use super::{id::ObjectId, object::Object};

/// Routes of a part at most: with the longest names and 16 hostnames each, a unit holds as many.
pub(crate) const MOST: usize = 64;
/// Bits after which a part is not split any more, however many it has.
const DEEPEST: u8 = 20;

/// A part: the routes whose hash begins with these bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// The bits, from the highest on; the others are zero.
    bits: u32,
    len: u8,
}

impl Part {
    /// All routes of a parent that has few.
    pub const WHOLE: Self = Self { bits: 0, len: 0 };

    /// The half of it that a hash falls into.
    fn towards(self, hash: u32) -> Self {
        let len = self.len + 1;
        Self {
            bits: hash & (u32::MAX << (u32::BITS - u32::from(len))),
            len,
        }
    }

    fn halves(self) -> [Self; 2] {
        let lower = self.towards(self.bits);
        [lower, self.towards(self.bits | lower.step())]
    }

    /// The value of its last bit.
    fn step(self) -> u32 {
        1 << (u32::BITS - u32::from(self.len))
    }

    fn parent(self) -> Option<Self> {
        let len = self.len.checked_sub(1)?;
        let mask = match len {
            0 => 0,
            len => u32::MAX << (u32::BITS - u32::from(len)),
        };
        Some(Self {
            bits: self.bits & mask,
            len,
        })
    }

    fn last(self) -> u32 {
        match self.len {
            0 => u32::MAX,
            _ => self.bits | (self.step() - 1),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..self.len).try_for_each(|bit| match self.bits >> (31 - bit) & 1 {
            0 => f.write_str("0"),
            _ => f.write_str("1"),
        })
    }
}

/// The routes of one parent, by hash.
type Routes = BTreeMap<(u32, ObjectId), Object>;

/// The routes of all parents, by the key of the parent.
#[derive(Debug, Default)]
pub(super) struct Parts(HashMap<String, Routes>);

/// What a change of one route did.
pub(super) struct Placed {
    /// The part it was in, and the one it is in.
    pub(super) parts: [Part; 2],
    /// Whether the parent has other parts now.
    pub(super) other_parts: bool,
}

impl Parts {
    /// Sets the route of an id, or takes it away.
    pub(super) fn put(&mut self, parent: &str, id: &ObjectId, route: Option<&Object>) -> Placed {
        let hash = hash(id);
        let routes = self.0.entry(parent.to_owned()).or_default();
        let (before, was_empty) = (part_of(routes, hash), routes.is_empty());
        match route {
            Some(route) => routes.insert((hash, id.clone()), route.clone()),
            None => routes.remove(&(hash, id.clone())),
        };
        let (after, is_empty) = (part_of(routes, hash), routes.is_empty());
        if is_empty {
            self.0.remove(parent);
        }
        Placed {
            parts: [before, after],
            other_parts: before != after || was_empty != is_empty,
        }
    }

    /// The parents that have routes.
    pub(super) fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The parts of a parent, in order; none where it has no routes.
    pub(super) fn list(&self, parent: &str) -> Vec<Part> {
        let Some(routes) = self.0.get(parent) else {
            return Vec::new();
        };
        let (mut open, mut parts) = (vec![Part::WHOLE], Vec::new());
        while let Some(part) = open.pop() {
            match is_whole(routes, part) {
                true => parts.push(part),
                false => open.extend(part.halves()),
            }
        }
        parts.sort_unstable();
        parts
    }

    /// Whether a parent has this part now.
    pub(super) fn has(&self, parent: &str, part: Part) -> bool {
        self.0.get(parent).is_some_and(|routes| {
            is_whole(routes, part) && part.parent().is_none_or(|above| !is_whole(routes, above))
        })
    }

    /// The routes of a part.
    pub(super) fn routes(&self, parent: &str, part: Part) -> impl Iterator<Item = &Object> {
        let routes = self.0.get(parent).into_iter();
        routes
            .flat_map(move |routes| within(routes, part))
            .map(|(_, route)| route)
    }
}

fn within(routes: &Routes, part: Part) -> impl Iterator<Item = (&(u32, ObjectId), &Object)> {
    // No kind sorts before the first, no name before the empty one.
    let first = (part.bits, ObjectId::new(super::Kind::ApiRoute, "", ""));
    let last = part.last();
    let found = routes.range(first..);
    found.take_while(move |((hash, _), _)| *hash <= last)
}

/// Whether a part is not to be split.
fn is_whole(routes: &Routes, part: Part) -> bool {
    part.len == DEEPEST || within(routes, part).nth(MOST).is_none()
}

fn part_of(routes: &Routes, hash: u32) -> Part {
    let mut part = Part::WHOLE;
    while !is_whole(routes, part) {
        part = part.towards(hash);
    }
    part
}

/// FNV-1a with the last steps of MurmurHash3, so that the first bits depend on every letter. Names chosen to fall together
/// make one large part and nothing wrong.
fn hash(id: &ObjectId) -> u32 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let bytes = [id.kind.as_str(), &id.namespace, &id.name];
    let bytes = bytes
        .into_iter()
        .flat_map(|text| text.bytes().chain([b'/']));
    let hash = bytes.fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::world::Kind;

    fn id(n: usize) -> ObjectId {
        ObjectId::new(Kind::HttpRoute, "shop", &format!("route-{n}"))
    }

    fn put(parts: &mut Parts, n: usize) -> Placed {
        let object = Object::fleet(&id(n), 1);
        parts.put("shop/public", &id(n), Some(&object))
    }

    #[test]
    fn which_parts_there_are_follows_from_the_routes_alone() {
        let (mut grown, mut shrunk) = (Parts::default(), Parts::default());
        let take = |parts: &mut Parts, n| parts.put("shop/public", &id(n), None);
        for n in 0..1_000 {
            put(&mut grown, n);
        }
        for n in 0..3_000 {
            put(&mut shrunk, n);
        }
        assert_ne!(grown.list("shop/public"), shrunk.list("shop/public"));
        for n in 1_000..3_000 {
            take(&mut shrunk, n);
        }
        assert_eq!(grown.list("shop/public"), shrunk.list("shop/public"));
        for n in 0..1_000 {
            take(&mut shrunk, n);
        }
        assert!(shrunk.list("shop/public").is_empty());
        assert_eq!(shrunk.parents().count(), 0);
    }

    #[test]
    fn every_route_is_in_one_part_of_few_and_says_when_that_is_another() {
        let mut parts = Parts::default();
        let mut known: Vec<Part> = Vec::new();
        for n in 0..2_000 {
            let placed = put(&mut parts, n);
            let list = parts.list("shop/public");
            assert_eq!(placed.other_parts, list != known, "{n}");
            assert!(list.contains(&placed.parts[1]));
            known = list;
        }
        let mut seen = BTreeSet::new();
        for part in &known {
            assert!(parts.has("shop/public", *part));
            let routes: Vec<_> = parts.routes("shop/public", *part).collect();
            assert!(routes.len() <= MOST, "{part}: {}", routes.len());
            seen.extend(routes.into_iter().map(Object::id));
        }
        assert_eq!(seen.len(), 2_000);
        assert!(!parts.has("shop/public", Part::WHOLE));
        let names: BTreeSet<_> = known.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), known.len(), "{names:?}");
    }
}
