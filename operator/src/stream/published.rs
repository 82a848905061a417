//! What every group must hold now, and which group every pod belongs to. The engine writes it, sessions follow it; it is
//! the operator's own knowledge of pods, against which every Principal is checked.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use sluice_snapshot::{Feature, Hash, UnitMap, UnitName, Version, map::Hashed};
use sluice_translate::{GroupId, PodKey, PodRef};
use tokio::{sync::watch, time::Instant};

use crate::identity::Principal;

/// `name -> hash`: what a sidecar holds, or must hold.
pub type Manifest = UnitMap<Hash>;

/// One unit at one content, encoded once and shared by all groups and sessions.
#[derive(Debug)]
pub struct Entry {
    /// The hash of the body.
    pub hash: Hash,
    /// The JSON body.
    pub body: Bytes,
    /// What a sidecar must be able to do.
    pub features: Vec<Feature>,
    /// When this content was published first.
    pub since: Instant,
}

impl Hashed for Entry {
    fn hash(&self) -> &Hash {
        &self.hash
    }
}

/// What one group must hold, at one version.
#[derive(Debug)]
pub struct Snapshot {
    /// The hash of the manifest.
    pub version: Version,
    /// The names and hashes of its units.
    pub manifest: Arc<Manifest>,
    /// The units of every group, of which the manifest names some.
    store: UnitMap<Arc<Entry>>,
    /// When the first of the changes that led here was seen by its source.
    pub seen: Instant,
    /// When it was published.
    pub published: Instant,
}

impl Snapshot {
    /// The snapshot of what a manifest names; `store` has it all.
    pub fn new(
        manifest: Manifest,
        store: UnitMap<Arc<Entry>>,
        seen: Instant,
        published: Instant,
    ) -> Self {
        Self {
            version: manifest.version(),
            manifest: Arc::new(manifest),
            store,
            seen,
            published,
        }
    }

    /// What it was made of.
    pub fn store(&self) -> &UnitMap<Arc<Entry>> {
        &self.store
    }

    /// A unit of it.
    pub fn unit(&self, name: &UnitName) -> Option<&Arc<Entry>> {
        let hash = self.manifest.get(name)?;
        self.store.get(name).filter(|entry| entry.hash == *hash)
    }

    /// Every unit of it, in no order.
    pub fn units(&self) -> impl Iterator<Item = (&UnitName, &Arc<Entry>)> {
        let names = self.manifest.keys();
        names.filter_map(|name| Some((name, self.unit(name)?)))
    }
}

/// What a pod's session follows. It changes when the pod moves to another group, and ends when the pod is gone.
#[derive(Debug, Clone)]
pub struct Feed {
    /// The pod's group.
    pub group: GroupId,
    /// Whether the pod stands for several sidecars.
    pub shared: bool,
    /// The group's snapshots; ends when the group does, before which its pods have moved.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
}

/// A change of what is published, applied as one.
#[derive(Debug, Default)]
pub struct Publication {
    /// The groups that must hold something new; `None`: the group has no pods any more.
    pub groups: Vec<(GroupId, Option<Arc<Snapshot>>)>,
    /// The pods that came, changed or moved; `None`: the pod is gone.
    pub pods: Vec<(PodKey, Option<(GroupId, PodRef)>)>,
}

/// Why a proven Principal gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The operator has not read everything yet.
    #[error("the operator is starting; try again")]
    Starting,
    /// The pod is not one of the operator's own store.
    #[error("the pod is not known here: deleted, or not seen yet")]
    UnknownPod,
    /// There is a pod of that name, and it is another one.
    #[error("the pod was replaced by another of the same name")]
    AnotherUid,
    /// The pod runs under another account than the proof says.
    #[error("the pod runs under another service account")]
    AnotherAccount,
}

/// The published state.
#[derive(Debug, Default)]
pub struct Published {
    inner: RwLock<Inner>,
    pod_changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    started: bool,
    pods: HashMap<PodKey, Pod>,
    groups: HashMap<GroupId, watch::Sender<Arc<Snapshot>>>,
}

#[derive(Debug)]
struct Pod {
    pod: PodRef,
    group: GroupId,
    feed: watch::Sender<Feed>,
}

impl Published {
    /// Applies a publication. Groups come first and go last, so that a pod always has a group to follow.
    pub fn publish(&self, publication: Publication) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.started = true;
        let Publication { groups, pods } = publication;
        let mut ended = Vec::new();
        for (group, snapshot) in groups {
            let Some(snapshot) = snapshot else {
                ended.push(group);
                continue;
            };
            match inner.groups.get(&group) {
                Some(sender) => drop(sender.send_replace(snapshot)),
                None => drop(inner.groups.insert(group, watch::Sender::new(snapshot))),
            }
        }
        let moved = !pods.is_empty();
        for (key, pod) in pods {
            inner.place(key, pod);
        }
        for group in ended {
            inner.groups.remove(&group);
        }
        drop(inner);
        if moved {
            self.pod_changes.send_modify(|count| *count += 1);
        }
    }

    /// Ticks when pods came, went or changed.
    pub fn pod_changes(&self) -> watch::Receiver<u64> {
        self.pod_changes.subscribe()
    }

    /// What `principal` may follow.
    pub fn admit(&self, principal: &Principal) -> Result<watch::Receiver<Feed>, Refusal> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if !inner.started {
            return Err(Refusal::Starting);
        }
        let key = PodKey::new(&principal.namespace, &principal.pod);
        let Pod { pod, feed, .. } = inner.pods.get(&key).ok_or(Refusal::UnknownPod)?;
        if pod.uid != principal.uid {
            return Err(Refusal::AnotherUid);
        }
        if pod.service_account != principal.service_account {
            return Err(Refusal::AnotherAccount);
        }
        Ok(feed.subscribe())
    }

    /// What a group must hold now.
    pub fn snapshot(&self, group: &GroupId) -> Option<Arc<Snapshot>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner
            .groups
            .get(group)
            .map(|sender| sender.borrow().clone())
    }

    /// Every pod, with its group.
    pub fn pods(&self) -> Vec<(GroupId, PodRef)> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner
            .pods
            .values()
            .map(|pod| (pod.group.clone(), pod.pod.clone()))
            .collect()
    }

    /// Whether the first state was published.
    pub fn has_started(&self) -> bool {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.started
    }

    /// How many groups and pods there are.
    pub fn sizes(&self) -> (usize, usize) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        (inner.groups.len(), inner.pods.len())
    }
}

impl Inner {
    fn place(&mut self, key: PodKey, now: Option<(GroupId, PodRef)>) {
        let Some((group, pod)) = now else {
            self.pods.remove(&key);
            return;
        };
        let Some(sender) = self.groups.get(&group) else {
            // The engine publishes a group with its first pod; without one there is nothing to follow.
            tracing::error!(%group, pod = pod.name, "pod of a group that was not published");
            self.pods.remove(&key);
            return;
        };
        let feed = Feed {
            group: group.clone(),
            shared: pod.shared,
            snapshots: sender.subscribe(),
        };
        match self.pods.get_mut(&key) {
            // The same pod: its session goes on, in another group if need be.
            Some(known) if known.pod.uid == pod.uid => {
                if known.group != group {
                    known.group = group;
                    known.feed.send_replace(feed);
                }
                known.pod = pod;
            }
            // A new pod. The session of a former one of that name ends with its feed.
            _ => {
                let feed = watch::Sender::new(feed);
                self.pods.insert(key, Pod { pod, group, feed });
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A group of one Service.
    pub fn group(name: &str) -> GroupId {
        GroupId::new("shop", BTreeSet::from([name.to_owned()]))
    }

    /// A pod of namespace `shop`.
    pub fn pod(name: &str, uid: &str) -> PodRef {
        PodRef {
            bare: false,
            shared: false,
            namespace: "shop".into(),
            name: name.into(),
            uid: uid.into(),
            service_account: "default".into(),
            counts: true,
        }
    }

    /// A snapshot of units with these bodies; no unit is decoded here, so any bytes do.
    pub fn snapshot(units: &[(UnitName, &[u8], &[Feature])]) -> Arc<Snapshot> {
        let now = Instant::now();
        let store: UnitMap<Arc<Entry>> = units
            .iter()
            .map(|(name, body, features)| {
                let entry = Entry {
                    hash: Hash::of(body),
                    body: Bytes::copy_from_slice(body),
                    features: features.to_vec(),
                    since: now,
                };
                (name.clone(), Arc::new(entry))
            })
            .collect();
        let manifest = store.iter();
        let manifest = manifest.map(|(name, entry)| (name.clone(), entry.hash.clone()));
        Arc::new(Snapshot::new(manifest.collect(), store.clone(), now, now))
    }

    /// The Principal of a pod.
    pub fn principal(pod: &PodRef) -> Principal {
        Principal {
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
        }
    }

    /// Places pods into groups that hold `units`.
    pub fn place(published: &Published, pods: &[(&GroupId, PodRef)], held: &Arc<Snapshot>) {
        published.publish(Publication {
            groups: pods
                .iter()
                .map(|(group, _)| ((*group).clone(), Some(held.clone())))
                .collect(),
            pods: pods
                .iter()
                .map(|(group, pod)| {
                    (
                        PodKey::new(&pod.namespace, &pod.name),
                        Some(((*group).clone(), pod.clone())),
                    )
                })
                .collect(),
        });
    }

    #[test]
    fn only_pods_of_the_store_are_admitted() {
        let published = Published::default();
        let mine = pod("orders-0", "u0");
        let principal = principal(&mine);
        assert_eq!(published.admit(&principal).err(), Some(Refusal::Starting));
        published.publish(Publication::default());
        assert_eq!(published.admit(&principal).err(), Some(Refusal::UnknownPod));
        place(&published, &[(&group("orders"), mine)], &snapshot(&[]));
        published.admit(&principal).expect("admitted");
        let forged = |change: fn(&mut Principal)| {
            let mut forged = principal.clone();
            change(&mut forged);
            published.admit(&forged).err()
        };
        assert_eq!(forged(|it| it.uid = "u1".into()), Some(Refusal::AnotherUid));
        assert_eq!(
            forged(|it| it.service_account = "admin".into()),
            Some(Refusal::AnotherAccount)
        );
        assert_eq!(
            forged(|it| it.namespace = "bank".into()),
            Some(Refusal::UnknownPod)
        );
    }

    #[test]
    fn a_pod_that_moves_follows_its_new_group_and_one_that_is_gone_follows_nothing() {
        let published = Published::default();
        let (orders, stock) = (group("orders"), group("stock"));
        let mine = pod("orders-0", "u0");
        place(&published, &[(&orders, mine.clone())], &snapshot(&[]));
        let mut feed = published.admit(&principal(&mine)).expect("admitted");
        assert_eq!(feed.borrow_and_update().group, orders);

        place(&published, &[(&stock, mine.clone())], &snapshot(&[]));
        assert!(feed.has_changed().expect("still there"));
        assert_eq!(feed.borrow_and_update().group, stock);

        let replaced = pod("orders-0", "u1");
        place(&published, &[(&stock, replaced.clone())], &snapshot(&[]));
        feed.has_changed().expect_err("its pod is another one now");
        let feed = published.admit(&principal(&replaced)).expect("admitted");
        published.publish(Publication {
            pods: vec![(PodKey::new("shop", "orders-0"), None)],
            ..Publication::default()
        });
        feed.has_changed().expect_err("the pod is gone");
    }
}
