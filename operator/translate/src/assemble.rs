//! What a group of pods must hold: everything its root unit needs, and what that needs.

use std::collections::BTreeSet;

use sluice_snapshot::UnitName;

use crate::groups::GroupId;

/// The closure of `needs` from a group's root unit. A name that nobody has made a unit for is part of it: it may come.
pub fn assemble<'a>(
    group: &GroupId,
    needs: &impl Fn(&UnitName) -> Option<&'a [UnitName]>,
) -> BTreeSet<UnitName> {
    let mut found = BTreeSet::new();
    let mut open = vec![group.inbound()];
    while let Some(name) = open.pop() {
        if !found.contains(&name) {
            open.extend(needs(&name).into_iter().flatten().cloned());
            found.insert(name);
        }
    }
    found
}
