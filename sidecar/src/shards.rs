//! Requests in flight by shard slot, and the holds that wait for them: what lets slots move with no request answered by
//! the old shard after the new one took over (DECISIONS, "Moves of shard slots").
//!
//! The order that makes it safe: a request counts itself on its slot *first* and then looks at the program in force; an
//! update puts its program in force *first* and then looks at the counts. Whichever comes second sees the other, so a
//! hold is never reported as settled while a request that missed it still runs.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering, fence},
    },
};

use sluice_pipeline::{UnitSet, program::Content};
use sluice_snapshot::{
    Hash, Unit, UnitName, stream,
    unit::shard_map::{Held, SLOTS},
};
use tokio::sync::mpsc;

/// Holds that may wait for the stream to report them as settled; there is at most one for each shard map.
const MAX_PENDING: usize = 1024;

/// The live state of all shard maps.
pub struct Flights {
    maps: RwLock<HashMap<UnitName, Arc<MapFlights>>>,
    settled: mpsc::Sender<stream::Settled>,
}

/// The live state of one shard map.
pub struct MapFlights {
    unit: UnitName,
    /// One count for each slot.
    slots: Box<[AtomicU32]>,
    /// Whether `hold` is set: spares the lock while nothing moves.
    holding: AtomicBool,
    hold: Mutex<Option<Hold>>,
    settled: mpsc::Sender<stream::Settled>,
}

/// A hold in force.
#[derive(Debug, Clone)]
struct Hold {
    epoch: u64,
    hash: Hash,
    ranges: Vec<Held>,
    since_ms: u64,
    reported: bool,
}

/// A request on a slot; it ends when this is dropped.
pub struct Flight {
    map: Arc<MapFlights>,
    slot: u16,
}

impl Flights {
    /// No maps, and where settled holds are announced.
    pub fn new() -> (Self, mpsc::Receiver<stream::Settled>) {
        let (settled, receiver) = mpsc::channel(MAX_PENDING);
        (
            Self {
                maps: RwLock::default(),
                settled,
            },
            receiver,
        )
    }

    /// Counts a request on a slot. The caller must then look at the program in force and choose again where its map has
    /// another epoch or holds the slot.
    pub fn enter(&self, unit: &UnitName, slot: u16) -> Flight {
        let map = self.map(unit);
        map.slots[usize::from(slot % SLOTS)].fetch_add(1, Ordering::SeqCst);
        // Before the caller's look at the program; pairs with the fence in `observe`.
        fence(Ordering::SeqCst);
        Flight {
            map,
            slot: slot % SLOTS,
        }
    }

    /// Takes note of the holds of a program that has just been put in force.
    pub fn observe(&self, units: &UnitSet, now_ms: u64) {
        fence(Ordering::SeqCst);
        let mut held = HashMap::new();
        for (name, unit) in &units.units {
            if let Content::Unit(content) = &unit.content
                && let Unit::ShardMap(map) = content.as_ref()
                && !map.hold.is_empty()
            {
                held.insert(name, (map, &unit.hash));
            }
        }
        for (name, (map, hash)) in &held {
            self.map(name).begin(map.epoch, hash, &map.hold, now_ms);
        }
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        for (_, map) in maps.iter().filter(|(name, _)| !held.contains_key(name)) {
            map.end();
        }
    }

    /// When the hold of a map began, in monotonic milliseconds; none: nothing is held.
    pub fn held_since_ms(&self, unit: &UnitName) -> Option<u64> {
        self.map(unit).lock().as_ref().map(|hold| hold.since_ms)
    }

    fn map(&self, unit: &UnitName) -> Arc<MapFlights> {
        if let Some(map) = self
            .maps
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(unit)
        {
            return Arc::clone(map);
        }
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(maps.entry(unit.clone()).or_insert_with(|| {
            Arc::new(MapFlights {
                unit: unit.clone(),
                slots: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
                holding: AtomicBool::new(false),
                hold: Mutex::new(None),
                settled: self.settled.clone(),
            })
        }))
    }
}

impl MapFlights {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Hold>> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, epoch: u64, hash: &Hash, ranges: &[Held], now_ms: u64) {
        let mut hold = self.lock();
        // The same hold in a later program: its time goes on.
        if hold.as_ref().is_none_or(|current| current.hash != *hash) {
            *hold = Some(Hold {
                epoch,
                hash: hash.clone(),
                ranges: ranges.to_vec(),
                since_ms: now_ms,
                reported: false,
            });
        }
        self.holding.store(true, Ordering::SeqCst);
        drop(hold);
        self.check();
    }

    fn end(&self) {
        if self.holding.swap(false, Ordering::SeqCst) {
            *self.lock() = None;
        }
    }

    /// Announces the hold once no request is left on its slots.
    fn check(&self) {
        let mut guard = self.lock();
        let Some(hold) = guard.as_mut().filter(|hold| !hold.reported) else {
            return;
        };
        let busy = hold
            .ranges
            .iter()
            .flat_map(|range| range.first..=range.last)
            .any(|slot| {
                self.slots
                    .get(usize::from(slot))
                    .is_some_and(|count| count.load(Ordering::SeqCst) > 0)
            });
        if busy {
            return;
        }
        let message = stream::Settled {
            unit: self.unit.to_string(),
            epoch: hold.epoch,
            hash: hold.hash.to_string(),
        };
        match self.settled.try_send(message) {
            Ok(()) => hold.reported = true,
            // Not reported, so the move aborts after its pause: late, never wrong.
            Err(error) => {
                tracing::warn!(unit = %self.unit, %error, "a settled hold could not be announced")
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.map.slots[usize::from(self.slot)].fetch_sub(1, Ordering::SeqCst);
        if self.map.holding.load(Ordering::SeqCst) {
            self.map.check();
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_pipeline::program;
    use sluice_snapshot::unit::{ObjectRef, ShardMap};

    use super::*;

    fn units(epoch: u64, hold: &[(u16, u16)]) -> UnitSet {
        let map = ShardMap {
            object: ObjectRef::new("ShardSet", "shop", "orders"),
            uid: "u".into(),
            epoch,
            key: Vec::new(),
            slots: Vec::new(),
            hold: hold
                .iter()
                .map(|&(first, last)| Held { first, last })
                .collect(),
            max_pause_ms: 500,
            pins: Vec::new(),
            shards: Vec::new(),
            replica_methods: Vec::new(),
            broken: None,
        };
        let unit = Unit::ShardMap(map);
        let hash = Hash::of(&unit.encode());
        let held = program::Held {
            hash,
            content: Content::Unit(Arc::new(unit)),
        };
        UnitSet {
            units: sluice_snapshot::UnitMap::from([(UnitName::shard_map("shop", "orders"), held)]),
        }
    }

    #[test]
    fn a_hold_settles_when_the_last_earlier_request_on_its_slots_has_ended() {
        let (flights, mut settled) = Flights::new();
        let name = UnitName::shard_map("shop", "orders");
        let (held, other) = (flights.enter(&name, 100), flights.enter(&name, 101));
        flights.observe(&units(3, &[(0, 100)]), 7);
        assert!(
            settled.try_recv().is_err(),
            "a request is still on slot 100"
        );
        drop(held);
        let message = settled.try_recv().expect("settled");
        assert_eq!((message.unit.as_str(), message.epoch), (name.as_str(), 3));
        assert_eq!(
            message.hash,
            units(3, &[(0, 100)]).units[&name].hash.to_string()
        );
        drop(other);
        flights.observe(&units(3, &[(0, 100)]), 7);
        assert!(settled.try_recv().is_err(), "one hold is announced once");
    }

    #[test]
    fn a_hold_ends_with_its_program_and_a_second_one_is_told_apart() {
        let (flights, mut settled) = Flights::new();
        let name = UnitName::shard_map("shop", "orders");
        flights.observe(&units(3, &[(0, 100)]), 7);
        let first = settled.try_recv().expect("settled at once");
        assert!(flights.held_since_ms(&name).is_some());
        flights.observe(&units(3, &[]), 7);
        assert!(flights.held_since_ms(&name).is_none());
        flights.observe(&units(3, &[(0, 50)]), 7);
        let second = settled.try_recv().expect("a new hold");
        assert_ne!(first.hash, second.hash);
    }
}
