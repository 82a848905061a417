//! Stamps: two units with the same stamp are the same in themselves and in everything they need, so that what was
//! compiled from one serves for the other.

use std::{collections::BTreeMap, fmt::Write};

use sluice_snapshot::{Hash, UnitName};

use super::{Content, UnitSet};

/// The stamps of a set, each computed once.
#[derive(Default)]
pub(super) struct Stamps(BTreeMap<UnitName, Hash>);

impl Stamps {
    /// The stamp of `name`, which need not be present. Needs are a tree by kind (`compile_unit` sees to it), so this
    /// ends.
    pub(super) fn of(&mut self, set: &UnitSet, name: &UnitName) -> Hash {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let mut text = String::new();
        match set.units.get(name) {
            None => text.push_str("absent"),
            Some(held) => {
                text.push_str(held.hash.as_str());
                match &held.content {
                    Content::Denied(error) => {
                        // Writing to a String cannot fail.
                        let _ = write!(text, " denied {:?} {}", error.reason, error.message);
                    }
                    Content::Unit(unit) => {
                        for need in unit.needs() {
                            let _ = write!(text, "\n{need} {}", self.of(set, &need));
                        }
                    }
                }
            }
        }
        let stamp = Hash::of(text.as_bytes());
        self.0.insert(name.clone(), stamp.clone());
        stamp
    }
}
