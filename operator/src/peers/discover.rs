//! Finding the other replicas: the pods of the operator's own namespace that carry its label, as the API server has them.
//! Each is followed by a task of its own for as long as it is there.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use sluice_process::Shutdown;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    census::{Census, Changes, ReplicaPod},
    follow::Following,
};

/// What the operator's pods are labelled with.
pub const LABEL: &str = "app.kubernetes.io/name=sluice-operator";
/// Turns that wait to be counted.
const QUEUE: usize = 64;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Place {
    /// The operator's namespace.
    pub namespace: String,
    /// This replica's own pod, where it knows it.
    pub own: Option<String>,
    /// The port of every replica's stream.
    pub port: u16,
}

/// Finds and follows.
pub struct Discovery {
    client: Client,
    place: Place,
    following: Following,
    census: Census,
    complete: watch::Sender<bool>,
    tasks: JoinSet<()>,
    ends: HashMap<String, CancellationToken>,
    heard: mpsc::Sender<String>,
}

impl Discovery {
    /// Nobody is known yet. The receiver tells whether the table is complete as things stand.
    pub fn new(
        client: Client,
        place: Place,
        following: Following,
    ) -> (Self, watch::Receiver<bool>, mpsc::Receiver<String>) {
        let (complete, is_complete) = watch::channel(false);
        let (heard, hears) = mpsc::channel(QUEUE);
        let discovery = Self {
            client,
            place,
            following,
            census: Census::default(),
            complete,
            tasks: JoinSet::new(),
            ends: HashMap::new(),
            heard,
        };
        (discovery, is_complete, hears)
    }

    /// Looks and follows until shutdown.
    pub async fn run(
        mut self,
        mut hears: mpsc::Receiver<String>,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.place.namespace);
        let config = watcher::Config::default().labels(LABEL);
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut pods = BTreeMap::new();
        loop {
            let now = Instant::now();
            let complete = self.census.is_complete(now);
            self.complete.send_if_modified(|known| {
                let changed = *known != complete;
                *known = complete;
                changed
            });
            let next = self.census.next_look(now);
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                event = events.next() => match event.context("the watch has ended")? {
                    Ok(event) => {
                        if self.take(event, &mut pods) {
                            let changes = self.census.list(&pods, Instant::now());
                            self.follow(changes);
                        }
                    }
                    // Who was there is taken to be there still.
                    Err(error) => tracing::warn!(%error, "cannot look for other replicas"),
                },
                Some(uid) = hears.recv() => self.census.heard(&uid),
                Some(ended) = self.tasks.join_next() => ended.context("following a replica")?,
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            }
        }
    }

    /// Whether the list is whole after the event.
    fn take(&self, event: Event<Pod>, pods: &mut BTreeMap<String, ReplicaPod>) -> bool {
        match event {
            Event::Init => {
                pods.clear();
                return false;
            }
            Event::InitApply(pod) => {
                self.put(&pod, pods);
                return false;
            }
            Event::InitDone => {}
            Event::Apply(pod) => self.put(&pod, pods),
            Event::Delete(pod) => drop(pods.remove(&pod.uid().unwrap_or_default())),
        }
        true
    }

    fn put(&self, pod: &Pod, pods: &mut BTreeMap<String, ReplicaPod>) {
        let Some(uid) = pod.uid() else { return };
        match replica_of(pod, self.place.own.as_deref()) {
            Some(replica) => drop(pods.insert(uid, replica)),
            None => drop(pods.remove(&uid)),
        }
    }

    fn follow(&mut self, changes: Changes) {
        let Changes { came, gone } = changes;
        for uid in gone {
            if let Some(end) = self.ends.remove(&uid) {
                end.cancel();
            }
        }
        for (uid, ReplicaPod { name, ip }) in came {
            tracing::info!(pod = name, %ip, "another replica");
            let end = CancellationToken::new();
            self.ends.insert(uid.clone(), end.clone());
            let address = SocketAddr::new(ip, self.place.port);
            let following = self.following.clone();
            self.tasks
                .spawn(following.run(uid, address, self.heard.clone(), end));
        }
    }
}

/// A pod as another replica: one that has an address and has not ended. One that terminates still has its sessions.
fn replica_of(pod: &Pod, own: Option<&str>) -> Option<ReplicaPod> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if has_ended || own == Some(name.as_str()) {
        return None;
    }
    let ip = status.pod_ip.as_ref()?.parse().ok()?;
    Some(ReplicaPod { name, ip })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, status: serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"name": name, "uid": name}, "status": status});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_replica_is_another_pod_with_an_address_that_has_not_ended() {
        let running = json!({"phase": "Running", "podIP": "10.1.2.3"});
        let found = replica_of(&pod("b", running.clone()), Some("a"));
        assert_eq!(
            found.map(|it| it.ip.to_string()).as_deref(),
            Some("10.1.2.3")
        );
        assert_eq!(replica_of(&pod("a", running), Some("a")), None, "itself");
        for status in [
            json!({"phase": "Pending"}),
            json!({"phase": "Failed", "podIP": "10.1.2.3"}),
            json!({"phase": "Running", "podIP": "not an address"}),
        ] {
            assert_eq!(
                replica_of(&pod("b", status.clone()), None),
                None,
                "{status}"
            );
        }
    }
}
