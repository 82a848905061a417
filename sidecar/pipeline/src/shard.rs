//! Which shard a key lives on: CRC16 slots as Redis Cluster computes them, pins, and who reads where. Choosing is pure;
//! holding a request during a move is the caller's.

use std::{collections::HashMap, sync::Arc};

use sluice_snapshot::{
    ConfigError, UnitName,
    unit::{
        ObjectRef,
        shard_map::{self, KeySource, SLOTS, ShardMap},
    },
};

use crate::{program::Backend, reject::Decider};

/// CRC-16/XMODEM: polynomial 0x1021, initial value 0, no reflection (Redis Cluster specification, appendix A).
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

/// The remainder of each byte.
const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 {
                (crc << 1) ^ 0x1021
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The slot of a key. Of a key with a hash tag (`{tag}`, the first, where it is not empty) only the tag counts, so that
/// related keys share a slot (Redis Cluster specification, hash tags).
pub fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &rest[..close])
}

/// Who of a shard answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Takes reads.
    Replica,
}

/// A ShardSet in force, ready for look-up.
#[derive(Debug)]
pub struct CompiledShardMap {
    /// The unit.
    pub name: UnitName,
    /// The ShardSet.
    pub object: ObjectRef,
    /// Its uid: with the epoch it names the map.
    pub uid: String,
    /// Grows by one with every committed move.
    pub epoch: u64,
    /// How long held requests wait at most, in milliseconds.
    pub max_pause_ms: u64,
    /// Sources of the key; the first that is present gives it.
    pub key: Vec<KeySource>,
    /// In the order of the resource.
    pub shards: Vec<Shard>,
    /// The set cannot serve.
    pub broken: Option<ConfigError>,
    /// Slot -> index into `shards`.
    slots: Box<[u16]>,
    /// One bit for each slot.
    held: Box<[u64]>,
    /// Whole key -> index into `shards`.
    pins: HashMap<Box<[u8]>, u16>,
    replica_methods: Vec<String>,
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    /// Its name.
    pub name: String,
    /// For writes, and for reads where no replica can take them.
    pub primary: Result<Arc<Backend>, ConfigError>,
    /// For the methods that read.
    pub replicas: Vec<Result<Arc<Backend>, ConfigError>>,
}

impl CompiledShardMap {
    /// Compiles a map that [`crate::compile_unit`] admitted, with the backends that `backend` finds. A slot that no
    /// shard has cannot be chosen: [`Self::shard_of`] answers none.
    pub(crate) fn link(
        name: &UnitName,
        map: &ShardMap,
        backend: impl Fn(&UnitName) -> Result<Arc<Backend>, ConfigError>,
    ) -> Self {
        let ShardMap {
            object,
            uid,
            epoch,
            key,
            slots,
            hold,
            max_pause_ms,
            pins,
            shards,
            replica_methods,
            broken,
        } = map;
        let mut table = vec![NOWHERE; usize::from(SLOTS)].into_boxed_slice();
        for range in slots {
            if let Some(part) = table.get_mut(usize::from(range.first)..=usize::from(range.last)) {
                part.fill(range.shard);
            }
        }
        let mut held = vec![0; usize::from(SLOTS) / 64].into_boxed_slice();
        for slot in hold
            .iter()
            .flat_map(|range| range.first..=range.last.min(SLOTS - 1))
        {
            held[usize::from(slot) / 64] |= 1 << (slot % 64);
        }
        let link = |shard: &shard_map::Shard| Shard {
            name: shard.name.clone(),
            primary: backend(&shard.primary),
            replicas: shard.replicas.iter().map(&backend).collect(),
        };
        Self {
            name: name.clone(),
            object: object.clone(),
            uid: uid.clone(),
            epoch: *epoch,
            max_pause_ms: *max_pause_ms,
            key: key.clone(),
            shards: shards.iter().map(link).collect(),
            broken: broken.clone(),
            slots: table,
            held,
            pins: pins
                .iter()
                .map(|pin| (pin.key.as_bytes().into(), pin.shard))
                .collect(),
            replica_methods: replica_methods.clone(),
        }
    }

    /// The shard of a key whose slot is `slot`: its pin, or the slot's shard.
    pub fn shard_of(&self, key: &[u8], slot: u16) -> Option<&Shard> {
        let index = self
            .pins
            .get(key)
            .or_else(|| self.slots.get(usize::from(slot)))?;
        self.shards.get(usize::from(*index))
    }

    /// Whether new requests of a slot wait. Pinned keys wait with their slot: a pin may be what moves.
    pub fn is_held(&self, slot: u16) -> bool {
        self.held
            .get(usize::from(slot) / 64)
            .is_some_and(|bits| bits & (1 << (slot % 64)) != 0)
    }

    /// The slots that are held, in order.
    pub fn held_slots(&self) -> impl Iterator<Item = u16> {
        (0..SLOTS).filter(|slot| self.is_held(*slot))
    }

    /// Whether a method reads.
    pub fn reads(&self, method: &str) -> bool {
        self.replica_methods.iter().any(|known| known == method)
    }

    /// This set, for the access log.
    pub fn decider(&self) -> Decider {
        Decider {
            object: Some(self.object.clone()),
            part: None,
        }
    }
}

impl Shard {
    /// The backend that answers: for a read one of the replicas that have endpoints, for all else the primary. None: what
    /// should answer is missing.
    pub fn choose(&self, reads: bool, random: u32) -> (Role, Result<&Arc<Backend>, &ConfigError>) {
        let usable = || {
            self.replicas
                .iter()
                .flatten()
                .filter(|backend| !backend.endpoints().is_empty())
        };
        let count = if reads { usable().count() } else { 0 };
        match usable().nth(pick(random, count)).filter(|_| count > 0) {
            Some(replica) => (Role::Replica, Ok(replica)),
            None => (Role::Primary, self.primary.as_ref()),
        }
    }
}

/// In `slots`: no shard. No index of a shard reaches it, since shards are fewer than slots.
const NOWHERE: u16 = u16::MAX;

/// A place below `count`, evenly; 0 where there is none.
pub(crate) fn pick(random: u32, count: usize) -> usize {
    // Multiply and shift instead of a remainder: as even, and it uses the high bits (Lemire).
    ((u64::from(random) * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_snapshot::{
        Unit,
        unit::shard_map::{Held, Pin, SlotRange},
    };

    use super::*;
    use crate::{compile_unit, fixture::shard_map};

    fn name() -> UnitName {
        UnitName::shard_map("shop", "orders")
    }

    fn link(map: &ShardMap) -> CompiledShardMap {
        let missing = |_: &UnitName| {
            Err(ConfigError::new(
                sluice_snapshot::ConfigReason::BackendNotFound,
                "none",
            ))
        };
        CompiledShardMap::link(&name(), map, missing)
    }

    /// Vectors of the Redis Cluster specification and of a real `CLUSTER KEYSLOT`.
    #[test]
    fn slots_are_redis_clusters() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
        for (key, expected) in [
            ("foo", 12182),
            ("bar", 5061),
            ("somekey", 11058),
            ("foo{hash_tag}", 2515),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn only_the_first_hash_tag_counts() {
        let same = |a: &str, b: &str| assert_eq!(slot(a.as_bytes()), slot(b.as_bytes()), "{a} {b}");
        same("{user1000}.following", "{user1000}.followers");
        same("{user1000}.following", "user1000");
        same("foo{bar}{zap}", "bar");
        same("foo{{bar}}zap", "{bar");
        // An empty or open tag is no tag: the whole key counts.
        assert_eq!(crc16(b"foo{}{bar}") % SLOTS, slot(b"foo{}{bar}"));
        assert_eq!(crc16(b"foo{bar") % SLOTS, slot(b"foo{bar"));
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }

    #[test]
    fn a_pin_is_for_the_whole_key_only() {
        let map = link(&ShardMap {
            pins: vec![Pin {
                key: "a{foo}".into(),
                shard: 0,
            }],
            ..shard_map()
        });
        let shard = |key: &str| {
            map.shard_of(key.as_bytes(), slot(key.as_bytes()))
                .expect("covered")
                .name
                .clone()
        };
        assert_eq!(shard("foo"), "s1", "slot 12182");
        assert_eq!(shard("a{foo}"), "s0", "the pin");
        assert_eq!(shard("b{foo}"), "s1", "same slot, no pin");
    }

    #[test]
    fn held_slots_are_exactly_the_named_ones() {
        let hold = vec![
            Held { first: 0, last: 0 },
            Held {
                first: 63,
                last: 65,
            },
            Held {
                first: 16_383,
                last: 16_383,
            },
        ];
        let map = link(&ShardMap {
            hold,
            ..shard_map()
        });
        assert_eq!(
            map.held_slots().collect::<Vec<_>>(),
            [0, 63, 64, 65, 16_383]
        );
        assert_eq!(link(&shard_map()).held_slots().count(), 0);
    }

    #[test]
    fn a_slot_without_shard_has_none() {
        let map = link(&ShardMap {
            slots: vec![SlotRange {
                first: 1,
                last: 16_383,
                shard: 1,
            }],
            ..shard_map()
        });
        assert!(map.shard_of(b"", 0).is_none());
        assert!(map.shard_of(b"", 1).is_some());
    }

    /// Cuts of the keyspace, and the shard of each part.
    fn any_slots() -> impl Strategy<Value = Vec<SlotRange>> {
        let cuts = prop::collection::btree_set(1..SLOTS, 0..20);
        (cuts, prop::collection::vec(0u16..2, 21)).prop_map(|(cuts, shards)| {
            let firsts: Vec<u16> = std::iter::once(0).chain(cuts).collect();
            let lasts = firsts
                .iter()
                .skip(1)
                .map(|first| first - 1)
                .chain([SLOTS - 1]);
            let ranges = firsts.iter().zip(lasts).zip(shards);
            ranges
                .map(|((first, last), shard)| SlotRange {
                    first: *first,
                    last,
                    shard,
                })
                .collect()
        })
    }

    proptest! {
        /// Whatever the placement: every slot is on the shard of its range, and a map with a gap or an overlap is refused.
        #[test]
        fn every_slot_is_where_its_range_says(slots in any_slots(), spoiled in any::<prop::sample::Index>(), grow in any::<bool>()) {
            let map = ShardMap { slots: slots.clone(), ..shard_map() };
            prop_assert_eq!(compile_unit(&name(), &Unit::ShardMap(map.clone())), Ok(()));
            let compiled = link(&map);
            for SlotRange { first, last, shard } in &slots {
                for slot in [*first, *last, first + (last - first) / 2] {
                    let found = compiled.shard_of(b"no pin", slot).map(|shard| shard.name.as_str());
                    prop_assert_eq!(found, Some(["s0", "s1"][usize::from(*shard)]));
                }
            }
            let mut bad = slots;
            let at = spoiled.index(bad.len());
            if grow {
                bad[at].last += 1;
            } else {
                bad.remove(at);
            }
            let bad = Unit::ShardMap(ShardMap { slots: bad, ..map });
            prop_assert!(compile_unit(&name(), &bad).is_err());
        }

        #[test]
        fn any_key_has_a_slot(key in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(slot(&key) < SLOTS);
        }

        #[test]
        fn a_pick_is_below_the_count(random in any::<u32>(), count in 1usize..100) {
            prop_assert!(pick(random, count) < count);
        }
    }
}
