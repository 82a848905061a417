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

/// Before a Gateway's name in the name of the pod that stands for its edges, where there are no Pods.
const EDGE_PREFIX: &str = "gateway.";

impl PodKey {
    /// The pod that stands for the edges of a Gateway, where there are no Pods.
    pub(super) fn of_gateway(namespace: &str, name: &str) -> Self {
        Self::new(namespace, &format!("{EDGE_PREFIX}{name}"))
    }

    /// The Gateway for whose edges this pod would stand.
    pub(super) fn gateway(&self) -> Option<&str> {
        self.name.strip_prefix(EDGE_PREFIX)
    }
}

/// A pod and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) group: GroupId,
    pub(super) pod: PodRef,
    /// Named ports of its containers.
    pub(super) ports: BTreeMap<String, u16>,
}

/// All pods by group.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Membership {
    pods: BTreeMap<PodKey, Member>,
    groups: BTreeMap<GroupId, BTreeSet<PodKey>>,
    by_service: BTreeMap<String, BTreeSet<GroupId>>,
}

/// What a change of pods changed.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Keys of [`super::Index::GroupByService`] that show another set of groups.
    pub(super) services: BTreeSet<String>,
    /// Keys of [`super::Index::PodPortsByService`] that may show other ports.
    pub(super) ports: BTreeSet<String>,
    /// Groups that came to be or ceased to be.
    pub(super) groups: BTreeSet<GroupId>,
    /// Pods that came, went, changed group or changed otherwise.
    pub(super) pods: BTreeSet<PodKey>,
}

impl Membership {
    /// Puts a pod where it belongs now; `None`: the pod is gone.
    pub(super) fn place(&mut self, key: &PodKey, now: Option<Member>, moved: &mut Moved) {
        let before = self.pods.remove(key);
        if before == now {
            if let Some(now) = now {
                self.pods.insert(key.clone(), now);
            }
            return;
        }
        moved.pods.insert(key.clone());
        let seen = |member: &Option<Member>| {
            member
                .as_ref()
                .map(|member| (member.group.clone(), member.ports.clone()))
        };
        if seen(&before) != seen(&now) {
            let members = before
                .iter()
                .chain(&now)
                .filter(|member| !member.ports.is_empty());
            for group in members.map(|member| &member.group) {
                moved.ports.extend(keys_of(group));
            }
        }
        let old = before.map(|member| member.group);
        let new = now.as_ref().map(|member| member.group.clone());
        if let Some(now) = now {
            self.pods.insert(key.clone(), now);
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
        for service in keys_of(&group) {
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
        for service in keys_of(&group) {
            self.by_service
                .entry(service.clone())
                .or_default()
                .insert(group.clone());
            moved.services.insert(service);
        }
        moved.groups.insert(group);
    }

    /// A pod and where it belongs.
    pub(super) fn pod(&self, key: &PodKey) -> Option<&Member> {
        self.pods.get(key)
    }

    /// Every pod.
    pub(super) fn pods(&self) -> impl Iterator<Item = &PodRef> {
        self.pods.values().map(|member| &member.pod)
    }

    /// Every pod of a namespace.
    pub(super) fn pods_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a PodKey> {
        let namespace: Arc<str> = namespace.into();
        self.pods
            .range(
                PodKey {
                    namespace: namespace.clone(),
                    name: "".into(),
                }..,
            )
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(key, _)| key)
    }

    /// The pods of a group.
    pub(super) fn pods_of(&self, group: &GroupId) -> impl Iterator<Item = &PodRef> {
        let keys = self.groups.get(group).into_iter().flatten();
        keys.filter_map(|key| self.pods.get(key).map(|member| &member.pod))
    }

    /// Every group that has a pod.
    pub(super) fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.groups.keys()
    }

    /// The groups whose pods a Service has, by its index key.
    pub(super) fn groups_with(&self, service: &str) -> impl Iterator<Item = &GroupId> {
        self.by_service.get(service).into_iter().flatten()
    }

    /// The numbers that the pods of a Service, by its index key, give to ports of this name.
    pub(super) fn ports_of(&self, service: &str, name: &str) -> BTreeSet<u16> {
        self.groups_with(service)
            .flat_map(|group| self.groups.get(group).into_iter().flatten())
            .filter_map(|key| self.pods.get(key)?.ports.get(name).copied())
            .collect()
    }
}

/// The index keys of a group's Services.
fn keys_of(group: &GroupId) -> impl Iterator<Item = String> {
    group
        .services()
        .iter()
        .map(|service| index::key(group.namespace(), service))
}
