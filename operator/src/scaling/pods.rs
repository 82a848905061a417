//! Which pods a question is about, by the operator's own store, and the loads of those. A load counts only for the pod
//! that reported it: by uid, so that a StatefulSet's new pod is not given its predecessor's.

use std::collections::HashSet;

use kube::core::{Selector, SelectorExt};
use sluice_translate::{Engine, View};

use crate::{
    engine::{EngineGone, Handle},
    load::{Loads, PodLoad},
};

/// Which pods of a namespace.
#[derive(Debug, Clone)]
pub enum Pick {
    /// The one of this name.
    Named(String),
    /// Those with matching labels.
    Labelled(Selector),
    /// Those of a Service.
    OfService(String),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// How many pods there are that should serve: ready now or once, and not on their way out.
    pub serving: usize,
    /// The loads of those that report; on their way out or not.
    pub loads: Vec<PodLoad>,
}

/// Pods and their loads. Cheap to clone.
#[derive(Clone)]
pub struct Pods {
    engine: Handle,
    loads: Loads,
}

impl Pods {
    /// The pods that `engine` knows with the loads that replicas share.
    pub fn new(engine: Handle, loads: Loads) -> Self {
        Self { engine, loads }
    }

    /// The pods that `pick` names, and what they report.
    pub async fn find(&self, namespace: &str, pick: Pick) -> Result<Found, EngineGone> {
        let of = namespace.to_owned();
        let picked = self
            .engine
            .read(move |engine| picked(engine, &of, &pick))
            .await?;
        let serving = picked.iter().filter(|(_, serves)| *serves).count();
        let uids: HashSet<String> = picked.into_iter().map(|(uid, _)| uid).collect();
        let loads = self
            .loads
            .of_pods(namespace, |load| uids.contains(&load.uid));
        Ok(Found { serving, loads })
    }
}

/// Uid of each pod, and whether it should serve.
fn picked(engine: &Engine, namespace: &str, pick: &Pick) -> Vec<(String, bool)> {
    let world = engine.world();
    match pick {
        Pick::OfService(service) => View::new(world)
            .groups_with(namespace, service)
            .iter()
            .flat_map(|group| world.pods_of(group))
            .map(|pod| (pod.uid.clone(), pod.counts))
            .collect(),
        Pick::Named(_) | Pick::Labelled(_) => world
            .pods_in(namespace)
            .filter(|pod| match pick {
                Pick::Named(name) => *pod.id.name == **name,
                Pick::Labelled(selector) => selector.matches(&pod.labels),
                Pick::OfService(_) => false,
            })
            .map(|pod| (pod.uid.clone(), pod.was_ready && !pod.terminating))
            .collect(),
    }
}
