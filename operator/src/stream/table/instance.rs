//! The sidecars that share one proof: the edges of a Gateway, where there is no cluster to tell them apart.

use std::sync::Arc;

use sluice_translate::{GroupId, PodKey};
use tokio::time::Instant;

use super::{Build, Inner, Row, SessionTable};
use crate::identity::Principal;

/// Sidecars that may share one proof at a time.
pub const MAX_INSTANCES: usize = 64;
/// The longest name of one of them, in characters.
const MAX_INSTANCE: usize = 32;

/// One of the sidecars that share a proof, as it calls itself; it chooses which seat is its own, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance(String);

impl Instance {
    /// Reads its name: letters and digits. A sidecar of an elder build has none; those stand in each other's way.
    pub fn read(name: &str) -> Option<Self> {
        let sound = name.len() <= MAX_INSTANCE && name.bytes().all(|b| b.is_ascii_alphanumeric());
        sound.then(|| Self(name.to_owned()))
    }

    /// Its place in the table. No pod's name has such a sign.
    pub(super) fn key(&self, principal: &Principal) -> PodKey {
        PodKey::new(
            &principal.namespace,
            &format!("{}~{}", principal.pod, self.0),
        )
    }
}

impl SessionTable {
    /// Seats a session of one of the sidecars that share `principal`, beside the others'; an earlier one of the same
    /// `instance` ends. None: there are as many as may be.
    pub fn seat_beside(
        self: &Arc<Self>,
        instance: &Instance,
        principal: Principal,
        group: GroupId,
        build: Build,
        now: Instant,
    ) -> Option<Row> {
        let mut inner = self.lock();
        let key = instance.key(&principal);
        if !inner.by_pod.contains_key(&key) && !inner.has_room_beside(&principal) {
            return None;
        }
        Some(self.seat_at(inner, key, principal, group, build, now))
    }
}

impl Inner {
    /// Whether one more sidecar may share this proof. Where there are too many, whoever was lost first is forgotten.
    fn has_room_beside(&mut self, principal: &Principal) -> bool {
        let beside = self.by_pod.iter().filter(|(_, seat)| {
            let known = &seat.record.principal;
            (&known.namespace, &known.pod) == (&principal.namespace, &principal.pod)
        });
        let beside: Vec<_> = beside.map(|(key, seat)| (seat.record.lost, key)).collect();
        if beside.len() < MAX_INSTANCES {
            return true;
        }
        let lost = beside
            .into_iter()
            .filter_map(|(lost, key)| Some((lost?.at, key.clone())));
        match lost.min_by_key(|(at, _)| *at) {
            Some((_, key)) => self.by_pod.remove(&key).is_some(),
            None => false,
        }
    }
}
