//! What each group of pods must hold: the closure of `needs` from its root unit. It is kept by counting who needs what, so
//! that a change costs what it changes and not what the group holds: the edges of a large platform hold thousands of routes.
//! Units need each other in one direction only (root, routes, policies and backends, endpoints and Secrets), so a count
//! that reaches zero is an end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use sluice_snapshot::{Hash, UnitMap, UnitName, Version};

use crate::groups::GroupId;

/// What there is of a unit: its hash and what it needs.
pub type Known = (Hash, Arc<[UnitName]>);

/// What one group must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Everything that is needed, also what nobody makes (it may come), and by how many units of the group.
    wanted: HashMap<UnitName, usize>,
    /// What there is of it.
    units: UnitMap<Hash>,
    version: Version,
}

impl Holding {
    /// Names and hashes.
    pub fn units(&self) -> &UnitMap<Hash> {
        &self.units
    }

    /// The version of that list.
    pub fn version(&self) -> &Version {
        &self.version
    }
}

/// What all groups must hold.
#[derive(Debug, Default)]
pub struct Holdings {
    groups: BTreeMap<GroupId, Holding>,
    /// What each unit needs, as it is counted.
    links: HashMap<UnitName, Arc<[UnitName]>>,
    /// Who needs a unit: `links` the other way round.
    needed_by: HashMap<UnitName, BTreeSet<UnitName>>,
    /// The groups that want a unit.
    holders: HashMap<UnitName, BTreeSet<GroupId>>,
}

impl Holdings {
    /// The groups, sorted.
    pub fn groups(&self) -> &BTreeMap<GroupId, Holding> {
        &self.groups
    }

    /// The groups that want a unit, sorted.
    pub fn holders(&self, unit: &UnitName) -> impl Iterator<Item = &GroupId> {
        self.holders.get(unit).into_iter().flatten()
    }

    /// The units that need this one themselves, sorted.
    pub fn needed_by(&self, unit: &UnitName) -> impl Iterator<Item = &UnitName> {
        self.needed_by.get(unit).into_iter().flatten()
    }

    /// Takes in that `units` changed, came or went, and that `groups` are there (or not, any more). `known` says what there is
    /// now. Returns the groups that hold another list, with its version; `None`: the group is gone.
    pub fn update<'a>(
        &mut self,
        units: impl IntoIterator<Item = &'a UnitName>,
        groups: impl IntoIterator<Item = (GroupId, bool)>,
        known: &impl Fn(&UnitName) -> Option<Known>,
    ) -> BTreeMap<GroupId, Option<Version>> {
        let mut touched: BTreeMap<GroupId, BTreeSet<UnitName>> = BTreeMap::new();
        let (mut changed, mut new) = (BTreeMap::new(), BTreeSet::new());
        for (group, there) in groups {
            match there {
                true if !self.groups.contains_key(&group) => {
                    self.groups.insert(group.clone(), Holding::empty());
                    let touched = touched.entry(group.clone()).or_default();
                    self.want(&group, group.inbound(), touched);
                    new.insert(group);
                }
                true => {}
                false => {
                    if let Some(gone) = self.groups.remove(&group) {
                        gone.wanted
                            .keys()
                            .for_each(|name| self.release(name, &group));
                        changed.insert(group, None);
                    }
                }
            }
        }
        for name in units {
            let needs = known(name).map(|(_, needs)| needs).unwrap_or_default();
            let relinked = self.relink(name, needs);
            for group in self.holders.get(name).cloned().unwrap_or_default() {
                let touched = touched.entry(group.clone()).or_default();
                touched.insert(name.clone());
                if let Some((came, gone)) = &relinked {
                    // First what comes: what both need is not let go in between.
                    came.iter()
                        .for_each(|name| self.want(&group, name.clone(), touched));
                    gone.iter()
                        .for_each(|name| self.let_go(&group, name.clone(), touched));
                }
            }
        }
        for (group, names) in touched {
            let Some(holding) = self.groups.get_mut(&group) else {
                continue;
            };
            if holding.refresh(names, known) || new.contains(&group) {
                holding.version = holding.units.version();
                changed.insert(group, Some(holding.version.clone()));
            }
        }
        changed
    }

    /// Notes what a unit needs now; what it did not need before, and what it needs no more. None: it needs the same.
    fn relink(
        &mut self,
        name: &UnitName,
        needs: Arc<[UnitName]>,
    ) -> Option<(Vec<UnitName>, Vec<UnitName>)> {
        let before = match needs.is_empty() {
            true => self.links.remove(name),
            false => self.links.insert(name.clone(), needs.clone()),
        };
        let before = before.unwrap_or_default();
        if before == needs {
            return None;
        }
        // Of the thousands that a list can name, only what is another is copied.
        let old: HashSet<&UnitName> = before.iter().collect();
        let new: HashSet<&UnitName> = needs.iter().collect();
        let came: Vec<UnitName> = new.difference(&old).map(|name| (*name).clone()).collect();
        let gone: Vec<UnitName> = old.difference(&new).map(|name| (*name).clone()).collect();
        for needed in &came {
            let by = self.needed_by.entry(needed.clone()).or_default();
            by.insert(name.clone());
        }
        for needed in &gone {
            if let Some(by) = self.needed_by.get_mut(needed) {
                by.remove(name);
                if by.is_empty() {
                    self.needed_by.remove(needed);
                }
            }
        }
        Some((came, gone))
    }

    /// One more unit of the group needs this one.
    fn want(&mut self, group: &GroupId, name: UnitName, touched: &mut BTreeSet<UnitName>) {
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            let Some(holding) = self.groups.get_mut(group) else {
                return;
            };
            let count = holding.wanted.entry(name.clone()).or_default();
            *count += 1;
            if *count == 1 {
                open.extend(distinct(self.links.get(&name)));
                let holders = self.holders.entry(name.clone()).or_default();
                holders.insert(group.clone());
                touched.insert(name);
            }
        }
    }

    /// One unit less needs this one.
    fn let_go(&mut self, group: &GroupId, name: UnitName, touched: &mut BTreeSet<UnitName>) {
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            let Some(holding) = self.groups.get_mut(group) else {
                return;
            };
            let Some(count) = holding.wanted.get_mut(&name) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                holding.wanted.remove(&name);
                open.extend(distinct(self.links.get(&name)));
                self.release(&name, group);
                touched.insert(name);
            }
        }
    }

    fn release(&mut self, name: &UnitName, group: &GroupId) {
        if let Some(groups) = self.holders.get_mut(name) {
            groups.remove(group);
            if groups.is_empty() {
                self.holders.remove(name);
            }
        }
    }
}

/// A unit that is named twice is needed once.
fn distinct(needs: Option<&Arc<[UnitName]>>) -> BTreeSet<UnitName> {
    needs
        .into_iter()
        .flat_map(|needs| needs.iter().cloned())
        .collect()
}

impl Holding {
    fn empty() -> Self {
        let units = UnitMap::new();
        Self {
            wanted: HashMap::new(),
            version: units.version(),
            units,
        }
    }

    /// Brings the entries of these names up to date; whether any is another now.
    fn refresh(
        &mut self,
        names: BTreeSet<UnitName>,
        known: &impl Fn(&UnitName) -> Option<Known>,
    ) -> bool {
        let mut changed = false;
        for name in names {
            let now = known(&name).filter(|_| self.wanted.contains_key(&name));
            changed |= match now {
                Some((hash, _)) => self.units.insert(name, hash.clone()) != Some(hash),
                None => self.units.remove(&name).is_some(),
            };
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn route(name: &str) -> UnitName {
        UnitName::route("shop", name)
    }

    /// What there is, and what the group holds of it.
    struct World {
        group: GroupId,
        units: BTreeMap<UnitName, Known>,
        holdings: Holdings,
    }

    impl World {
        fn new() -> Self {
            let group = GroupId::new("shop", BTreeSet::from(["web".to_owned()]));
            Self {
                group,
                units: BTreeMap::new(),
                holdings: Holdings::default(),
            }
        }

        /// Puts units, each with what it needs, in one batch; returns whether the group's list changed.
        fn put(&mut self, units: &[(UnitName, &str, &[UnitName])]) -> bool {
            for (name, body, needs) in units {
                let known = (Hash::of(body.as_bytes()), Arc::from(*needs));
                self.units.insert(name.clone(), known);
            }
            self.update(units.iter().map(|(name, ..)| name.clone()).collect())
        }

        fn remove(&mut self, name: &UnitName) -> bool {
            self.units.remove(name);
            self.update(vec![name.clone()])
        }

        fn update(&mut self, names: Vec<UnitName>) -> bool {
            let units = &self.units;
            let known = |name: &UnitName| units.get(name).cloned();
            let changed = self
                .holdings
                .update(&names, [(self.group.clone(), true)], &known);
            changed.contains_key(&self.group)
        }

        fn held(&self) -> Vec<String> {
            let units = self.holdings.groups()[&self.group].units();
            units.keys().map(ToString::to_string).collect()
        }
    }

    #[test]
    fn what_two_need_stays_until_neither_does() {
        let mut world = World::new();
        let root = world.group.inbound();
        let (a, b, shared) = (route("a"), route("b"), UnitName::policy("shop", "shared"));
        assert!(world.put(&[
            (root.clone(), "r", &[a.clone(), b.clone()]),
            (a.clone(), "a", &[shared.clone(), shared.clone()]),
            (b.clone(), "b", from_ref(&shared)),
            (shared.clone(), "s", &[]),
            (route("c"), "c", &[]),
        ]));
        assert_eq!(world.held().len(), 4, "not what nobody needs");
        assert!(world.put(&[(root.clone(), "r2", from_ref(&b))]));
        assert_eq!(world.held().len(), 3);
        assert!(!world.put(&[(a.clone(), "a2", &[])]), "held by none");
        assert!(world.put(&[(b.clone(), "b2", &[])]));
        assert_eq!(world.held().len(), 2);
        let needed: Vec<_> = world.holdings.needed_by(&shared).collect();
        assert!(needed.is_empty(), "{needed:?}");
    }

    #[test]
    fn what_is_missing_is_held_once_it_comes() {
        let mut world = World::new();
        let (root, a) = (world.group.inbound(), route("a"));
        world.put(&[(root.clone(), "r", from_ref(&a))]);
        assert_eq!(world.held().len(), 1);
        assert!(world.put(&[(a.clone(), "a", &[UnitName::policy("shop", "p")])]));
        assert!(world.put(&[(UnitName::policy("shop", "p"), "p", &[])]));
        assert_eq!(world.held().len(), 3);
        assert!(world.remove(&a));
        assert_eq!(world.held().len(), 1, "with what only it needed");
        assert!(!world.put(&[(root, "r", &[a])]), "the same again");
    }

    #[test]
    fn a_group_that_goes_is_nobodys_holder() {
        let mut world = World::new();
        let (root, a) = (world.group.inbound(), route("a"));
        world.put(&[(root, "r", from_ref(&a)), (a.clone(), "a", &[])]);
        let none = |_: &UnitName| None;
        let changed = world
            .holdings
            .update([], [(world.group.clone(), false)], &none);
        assert_eq!(changed, BTreeMap::from([(world.group.clone(), None)]));
        assert_eq!(world.holdings.holders(&a).count(), 0);
    }
}
