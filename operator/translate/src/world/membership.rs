//! Which pods there are and to which group each belongs: derived from Pods, Services and EndpointSlices, kept up to
//! date pod by pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::index;
use crate::groups::{GroupId, PodRef};

/// The name of a pod. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl PodKey {
    /// A pod.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// All pods by group.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Membership {
    pods: BTreeMap<PodKey, (GroupId, PodRef)>,
    groups: BTreeMap<GroupId, BTreeSet<PodKey>>,
    by_service: BTreeMap<String, BTreeSet<GroupId>>,
}

/// What a change of pods changed.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Keys of [`super::Index::GroupByService`] that show another set of groups.
    pub(super) services: BTreeSet<String>,
    /// Groups that came to be or ceased to be.
    pub(super) groups: BTreeSet<GroupId>,
    /// Pods that came, went, changed group or changed otherwise.
    pub(super) pods: BTreeSet<PodKey>,
}

impl Membership {
    /// Puts a pod where it belongs now; `None`: the pod is gone.
    pub(super) fn place(&mut self, key: &PodKey, now: Option<(GroupId, PodRef)>, moved: &mut Moved) {
        let before = self.pods.get(key);
        if before == now.as_ref() {
            return;
        }
        moved.pods.insert(key.clone());
        let old = before.map(|(group, _)| group.clone());
        let new = now.as_ref().map(|(group, _)| group.clone());
        match now {
            Some(now) => drop(self.pods.insert(key.clone(), now)),
            None => drop(self.pods.remove(key)),
        }
        if old != new {
            if let Some(group) = old {
                self.leave(key, group, moved);
            }
            if let Some(group) = new {
                self.join(key, group, moved);
            }
        }
    }

    fn leave(&mut self, key: &PodKey, group: GroupId, moved: &mut Moved) {
        let Some(pods) = self.groups.get_mut(&group) else {
            return;
        };
        pods.remove(key);
        if !pods.is_empty() {
            return;
        }
        self.groups.remove(&group);
        for service in group.services() {
            let service = index::key(group.namespace(), service);
            if let Some(groups) = self.by_service.get_mut(&service) {
                groups.remove(&group);
                if groups.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            moved.services.insert(service);
        }
        moved.groups.insert(group);
    }

    fn join(&mut self, key: &PodKey, group: GroupId, moved: &mut Moved) {
        let pods = self.groups.entry(group.clone()).or_default();
        pods.insert(key.clone());
        if pods.len() > 1 {
            return;
        }
        for service in group.services() {
            let service = index::key(group.namespace(), service);
            self.by_service.entry(service.clone()).or_default().insert(group.clone());
            moved.services.insert(service);
        }
        moved.groups.insert(group);
    }

    /// The group of a pod, and the pod.
    pub(super) fn pod(&self, key: &PodKey) -> Option<&(GroupId, PodRef)> {
        self.pods.get(key)
    }

    /// Every pod of a namespace.
    pub(super) fn pods_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a PodKey> {
        let namespace: Arc<str> = namespace.into();
        self.pods
            .range(PodKey { namespace: namespace.clone(), name: "".into() }..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(key, _)| key)
    }

    /// The pods of a group.
    pub(super) fn pods_of(&self, group: &GroupId) -> impl Iterator<Item = &PodRef> {
        let keys = self.groups.get(group).into_iter().flatten();
        keys.filter_map(|key| self.pods.get(key).map(|(_, pod)| pod))
    }

    /// Every group that has a pod.
    pub(super) fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.groups.keys()
    }

    /// The groups whose pods a Service has, by its index key.
    pub(super) fn groups_with(&self, service: &str) -> impl Iterator<Item = &GroupId> {
        self.by_service.get(service).into_iter().flatten()
    }
}
