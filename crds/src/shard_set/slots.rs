//! Ranges of slots, and the table of who owns which.

use std::{borrow::Cow, fmt, ops::RangeInclusive};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::Placement;

/// How many slots a key space has.
pub const SLOTS: u16 = 16_384;

const PATTERN: &str = r"^[0-9]{1,5}(-[0-9]{1,5})?$";

/// One slot (`7`) or an inclusive range (`0-8191`), as it was written.
///
/// Decoding does not check it, so that an object with an impossible range stays readable and its status can say why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotRange(String);

/// A text that names no slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotRangeError {
    /// Not a number or two with a dash between.
    #[error("{0:?} names no slots: write one slot or a range, such as 0-8191")]
    Form(String),
    /// A slot that does not exist.
    #[error("{0:?} goes beyond the last slot, 16383")]
    Beyond(String),
    /// The end before the start.
    #[error("{0:?} ends before it begins: write the smaller slot first")]
    Backwards(String),
}

impl SlotRange {
    /// The range as the schema writes it; one slot is written alone.
    pub fn new(slots: &RangeInclusive<u16>) -> Self {
        match slots.start() == slots.end() {
            true => Self(slots.start().to_string()),
            false => Self(format!("{}-{}", slots.start(), slots.end())),
        }
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slots it names, never empty and all below [`SLOTS`].
    ///
    /// # Errors
    /// [`SlotRangeError`] for a text that names no slots.
    pub fn range(&self) -> Result<RangeInclusive<u16>, SlotRangeError> {
        let text = || self.0.chars().take(32).collect::<String>();
        let slot = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit())
            && (1..=5).contains(&part.len())
        {
            true => part
                .parse::<u32>()
                .map_err(|_| SlotRangeError::Form(text())),
            false => Err(SlotRangeError::Form(text())),
        };
        let (start, end) = self.0.split_once('-').unwrap_or((&self.0, &self.0));
        let (start, end) = (slot(start)?, slot(end)?);
        match (u16::try_from(start), u16::try_from(end)) {
            (Ok(start), Ok(end)) if start < SLOTS && end < SLOTS && start <= end => Ok(start..=end),
            (Ok(start), Ok(end)) if start < SLOTS && end < SLOTS => {
                debug_assert!(start > end);
                Err(SlotRangeError::Backwards(text()))
            }
            _ => Err(SlotRangeError::Beyond(text())),
        }
    }
}

impl From<&str> for SlotRange {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for SlotRange {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "SlotRange".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": 11, "pattern": PATTERN})
    }
}

/// Who owns each slot: the shard's place in a list of distinct names, for all [`SLOTS`] slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    shards: Vec<String>,
    owners: Vec<u16>,
}

/// Why a placement is no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotTableError {
    /// A text that names no slots.
    #[error(transparent)]
    Range(#[from] SlotRangeError),
    /// Slots that two entries name.
    #[error("slots {slots} belong to both {first} and {second}: let the ranges not overlap")]
    Twice {
        /// The slots, of one overlap.
        slots: SlotRange,
        /// The shard of the earlier entry.
        first: String,
        /// The shard of the later entry.
        second: String,
    },
    /// Slots that no entry names.
    #[error("slots {slots} belong to no shard: extend a range, so that 0-16383 are all covered")]
    Uncovered {
        /// The slots, of one gap.
        slots: SlotRange,
    },
}

impl SlotTable {
    /// The table that a placement describes.
    ///
    /// # Errors
    /// Every problem of the placement, in the order of its entries, gaps last.
    pub fn new(placement: &[Placement]) -> Result<Self, Vec<SlotTableError>> {
        let mut shards: Vec<String> = Vec::new();
        let mut owners: Vec<Option<u16>> = vec![None; usize::from(SLOTS)];
        let mut errors = Vec::new();
        for Placement { slots, shard } in placement {
            let range = match slots.range() {
                Ok(range) => range,
                Err(error) => {
                    errors.push(error.into());
                    continue;
                }
            };
            let index = shards
                .iter()
                .position(|known| known == shard.as_str())
                .unwrap_or_else(|| {
                    shards.push(shard.to_string());
                    shards.len() - 1
                });
            // At most 16,384 distinct owners can matter; more entries than slots would overlap anyway.
            let owner = u16::try_from(index).unwrap_or(u16::MAX);
            errors.extend(claim(&mut owners, &shards, range, owner));
        }
        // A range that could not be read leaves a gap of its own making: do not report it twice.
        if !errors
            .iter()
            .any(|error| matches!(error, SlotTableError::Range(_)))
        {
            errors.extend(gaps(&owners));
        }
        match errors.is_empty() {
            true => Ok(Self {
                shards,
                owners: owners.into_iter().flatten().collect(),
            }),
            false => Err(errors),
        }
    }

    /// The shard that owns a slot; none for a slot beyond the last.
    pub fn owner(&self, slot: u16) -> Option<&str> {
        let index = *self.owners.get(usize::from(slot))?;
        self.shards.get(usize::from(index)).map(String::as_str)
    }

    /// The slots whose owner differs in `other`, as few ranges as there can be.
    pub fn difference(&self, other: &Self) -> Vec<SlotRange> {
        runs((0..SLOTS).map(|slot| (self.owner(slot) != other.owner(slot)).then_some(())))
            .map(|(range, ())| SlotRange::new(&range))
            .collect()
    }

    /// The table as a placement of as few entries as there can be, in the order of slots.
    pub fn to_placement(&self) -> Vec<Placement> {
        runs(self.owners.iter().map(|owner| Some(*owner)))
            .map(|(range, owner)| Placement {
                slots: SlotRange::new(&range),
                shard: self
                    .shards
                    .get(usize::from(owner))
                    .map(String::as_str)
                    .unwrap_or_default()
                    .into(),
            })
            .collect()
    }
}

/// Writes one entry into the table; where it meets slots already owned, the first overlap is the error.
fn claim(
    owners: &mut [Option<u16>],
    shards: &[String],
    range: RangeInclusive<u16>,
    owner: u16,
) -> Option<SlotTableError> {
    let mut overlap: Option<(RangeInclusive<u16>, u16)> = None;
    for slot in range {
        let cell = &mut owners[usize::from(slot)];
        match (*cell, &overlap) {
            (None, _) => *cell = Some(owner),
            (Some(first), None) => overlap = Some((slot..=slot, first)),
            (Some(first), Some((known, of))) if first == *of && known.end() + 1 == slot => {
                overlap = Some((*known.start()..=slot, first));
            }
            (Some(_), Some(_)) => {}
        }
    }
    let name = |index: u16| shards.get(usize::from(index)).cloned().unwrap_or_default();
    overlap.map(|(range, first)| SlotTableError::Twice {
        slots: SlotRange::new(&range),
        first: name(first),
        second: name(owner),
    })
}

fn gaps(owners: &[Option<u16>]) -> impl Iterator<Item = SlotTableError> {
    runs(owners.iter().map(|owner| owner.is_none().then_some(()))).map(|(range, ())| {
        SlotTableError::Uncovered {
            slots: SlotRange::new(&range),
        }
    })
}

/// Neighbouring slots of equal value as ranges; slots without a value are left out.
fn runs<T: PartialEq>(
    slots: impl Iterator<Item = Option<T>>,
) -> impl Iterator<Item = (RangeInclusive<u16>, T)> {
    let mut found: Vec<(RangeInclusive<u16>, T)> = Vec::new();
    for (slot, value) in (0u16..).zip(slots) {
        let Some(value) = value else { continue };
        match found.last_mut() {
            Some((range, known)) if *known == value && range.end() + 1 == slot => {
                *range = *range.start()..=slot
            }
            _ => found.push((slot..=slot, value)),
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placement(entries: &[(&str, &str)]) -> Vec<Placement> {
        entries
            .iter()
            .map(|(slots, shard)| Placement {
                slots: (*slots).into(),
                shard: (*shard).into(),
            })
            .collect()
    }

    #[test]
    fn reads_ranges_and_says_what_is_wrong() {
        let range = |text: &str| SlotRange::from(text).range();
        assert_eq!(range("0-8191"), Ok(0..=8191));
        assert_eq!(range("7"), Ok(7..=7));
        assert_eq!(range("16383"), Ok(16383..=16383));
        assert_eq!(range("5-2"), Err(SlotRangeError::Backwards("5-2".into())));
        assert_eq!(
            range("0-16384"),
            Err(SlotRangeError::Beyond("0-16384".into()))
        );
        assert_eq!(range("99999"), Err(SlotRangeError::Beyond("99999".into())));
        for bad in ["", "-", "1-", "-1", "1-2-3", "a", "+1", "1 - 2", "000001"] {
            assert_eq!(range(bad), Err(SlotRangeError::Form(bad.into())), "{bad:?}");
        }
    }

    #[test]
    fn a_full_cover_is_a_table() {
        let table =
            SlotTable::new(&placement(&[("0-8191", "s0"), ("8192-16383", "s1")])).expect("covers");
        assert_eq!(
            (table.owner(0), table.owner(8191), table.owner(8192)),
            (Some("s0"), Some("s0"), Some("s1"))
        );
        assert_eq!((table.owner(16383), table.owner(16384)), (Some("s1"), None));
    }

    #[test]
    fn overlap_and_gap_are_named_with_their_slots() {
        let overlap =
            SlotTable::new(&placement(&[("0-100", "s0"), ("50-16383", "s1")])).expect_err("twice");
        assert_eq!(
            overlap,
            [SlotTableError::Twice {
                slots: "50-100".into(),
                first: "s0".into(),
                second: "s1".into()
            }]
        );
        let gap =
            SlotTable::new(&placement(&[("0-99", "s0"), ("101-16382", "s1")])).expect_err("gaps");
        assert_eq!(
            gap,
            [
                SlotTableError::Uncovered {
                    slots: "100".into()
                },
                SlotTableError::Uncovered {
                    slots: "16383".into()
                }
            ]
        );
        let unreadable = SlotTable::new(&placement(&[("5-2", "s0")])).expect_err("backwards");
        assert_eq!(
            unreadable,
            [SlotTableError::Range(SlotRangeError::Backwards(
                "5-2".into()
            ))]
        );
    }

    #[test]
    fn the_difference_is_what_moves() {
        let from =
            SlotTable::new(&placement(&[("0-8191", "s0"), ("8192-16383", "s1")])).expect("covers");
        let to = SlotTable::new(&placement(&[
            ("0-99", "s1"),
            ("100-8191", "s0"),
            ("8192-16382", "s1"),
            ("16383", "s0"),
        ]))
        .expect("covers");
        assert_eq!(from.difference(&to), ["0-99".into(), "16383".into()]);
        assert_eq!(from.difference(&from), []);
    }

    proptest! {
        #[test]
        fn ranges_print_and_parse_back(a in 0..SLOTS, b in 0..SLOTS) {
            let range = a.min(b)..=a.max(b);
            prop_assert_eq!(SlotRange::new(&range).range(), Ok(range));
        }

        #[test]
        fn no_text_panics_and_what_is_read_fits(text in "[0-9-]{0,12}") {
            if let Ok(range) = SlotRange::from(text.as_str()).range() {
                prop_assert!(range.start() <= range.end() && *range.end() < SLOTS);
                prop_assert!(regex::Regex::new(PATTERN).expect("compiles").is_match(&text));
            }
        }

        #[test]
        fn a_table_is_its_placement(cuts in proptest::collection::btree_set(1..SLOTS, 0..12)) {
            let mut starts: Vec<u16> = vec![0];
            starts.extend(cuts);
            let ends = starts.iter().skip(1).map(|start| start - 1).chain([SLOTS - 1]);
            let entries: Vec<Placement> = starts.iter().zip(ends).enumerate()
                .map(|(index, (start, end))| Placement { slots: SlotRange::new(&(*start..=end)), shard: format!("s{}", index % 3).into() })
                .collect();
            let table = SlotTable::new(&entries).expect("a partition");
            prop_assert_eq!(table.to_placement(), entries);
        }
    }
}
