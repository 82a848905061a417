//! Which other replicas there are, and whether enough was heard of them. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use tokio::time::Instant;

use crate::stream::table::UNKNOWN_FOR;

/// Replicas that are followed; the rest of a larger Deployment is not.
pub const MAX_REPLICAS: usize = 16;

/// A pod of the operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaPod {
    /// Its name.
    pub name: String,
    /// Its address; another one is another replica.
    pub ip: IpAddr,
}

#[derive(Debug)]
struct Entry {
    pod: ReplicaPod,
    since: Instant,
    heard: bool,
}

/// The other replicas, by uid.
#[derive(Debug, Default)]
pub struct Census {
    listed: bool,
    entries: BTreeMap<String, Entry>,
}

/// What a list changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New ones, to be followed.
    pub came: Vec<(String, ReplicaPod)>,
    /// Those that are gone from the API.
    pub gone: Vec<String>,
}

impl Census {
    /// The API server's list of the other replicas' pods, by uid.
    pub fn list(&mut self, pods: &BTreeMap<String, ReplicaPod>, now: Instant) -> Changes {
        self.listed = true;
        let mut changes = Changes::default();
        self.entries.retain(|uid, entry| {
            let stays = pods.get(uid) == Some(&entry.pod);
            if !stays {
                changes.gone.push(uid.clone());
            }
            stays
        });
        for (uid, pod) in pods {
            if self.entries.len() == MAX_REPLICAS || self.entries.contains_key(uid) {
                continue;
            }
            let entry = Entry {
                pod: pod.clone(),
                since: now,
                heard: false,
            };
            self.entries.insert(uid.clone(), entry);
            changes.came.push((uid.clone(), pod.clone()));
        }
        changes
    }

    /// A whole table came from it.
    pub fn heard(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.heard = true;
        }
    }

    /// Whether the table is complete: every other replica was heard once, or is gone from the API. One that was never
    /// heard in [`UNKNOWN_FOR`] counts as gone: whatever it had is not unknown any more.
    pub fn is_complete(&self, now: Instant) -> bool {
        self.listed && self.next_look(now).is_none()
    }

    /// When waiting for a replica ends, where one is waited for.
    pub fn next_look(&self, now: Instant) -> Option<Instant> {
        self.entries
            .values()
            .filter(|entry| !entry.heard)
            .map(|entry| entry.since + UNKNOWN_FOR)
            .filter(|end| *end > now)
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pods(list: &[(&str, u8)]) -> BTreeMap<String, ReplicaPod> {
        let pod = |(uid, ip): &(&str, u8)| {
            let pod = ReplicaPod {
                name: format!("operator-{uid}"),
                ip: [10, 0, 0, *ip].into(),
            };
            ((*uid).to_owned(), pod)
        };
        list.iter().map(pod).collect()
    }

    #[test]
    fn complete_is_listed_and_every_one_heard_gone_or_silent_for_long() {
        let (now, mut census) = (Instant::now(), Census::default());
        assert!(!census.is_complete(now), "nobody was looked for");
        let changes = census.list(&pods(&[("a", 1), ("b", 2), ("c", 3)]), now);
        assert_eq!(changes.came.len(), 3);
        assert!(!census.is_complete(now));
        census.heard("a");
        assert!(!census.is_complete(now));
        let changes = census.list(&pods(&[("a", 1), ("c", 3)]), now);
        assert_eq!(
            (changes.came.len(), changes.gone),
            (0, vec!["b".to_owned()])
        );
        assert!(!census.is_complete(now), "c was not heard");
        let late = now + UNKNOWN_FOR;
        assert!(!census.is_complete(late - Duration::from_millis(1)));
        assert!(census.is_complete(late));
        assert_eq!(census.next_look(now), Some(late));

        let mut alone = Census::default();
        alone.list(&pods(&[]), now);
        assert!(alone.is_complete(now), "a single replica waits for nobody");
    }

    #[test]
    fn another_address_is_another_replica() {
        let (now, mut census) = (Instant::now(), Census::default());
        census.list(&pods(&[("a", 1)]), now);
        census.heard("a");
        let changes = census.list(&pods(&[("a", 9)]), now);
        assert_eq!((changes.came.len(), changes.gone.len()), (1, 1));
        assert!(!census.is_complete(now));
    }

    #[test]
    fn their_number_is_bounded() {
        let names: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
        let list: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let changes = Census::default().list(&pods(&list), Instant::now());
        assert_eq!(changes.came.len(), MAX_REPLICAS);
    }
}
