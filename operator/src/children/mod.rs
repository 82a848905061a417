//! Objects that the operator itself makes: HorizontalPodAutoscalers, the edges of Gateways, and the Secret of the
//! certificate authority. Each carries the operator's field manager; nothing here writes what a user wrote.

pub mod ca_secret;
pub mod edge;
pub mod hpa;

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use tokio::sync::watch;

use crate::status::conditions::Scaling;

/// How far HorizontalPodAutoscalers have come, by namespace and name.
#[derive(Debug)]
pub struct Scalers {
    states: RwLock<HashMap<(String, String), Scaling>>,
    /// What holds where nothing is known.
    otherwise: Scaling,
    changes: watch::Sender<u64>,
}

impl Scalers {
    /// Of a cluster: what is not known yet is pending.
    pub fn of_cluster() -> Self {
        Self::new(Scaling::Pending)
    }

    /// Of file mode: nobody scales.
    pub fn of_files() -> Self {
        Self::new(Scaling::NoCluster)
    }

    fn new(otherwise: Scaling) -> Self {
        Self {
            states: RwLock::default(),
            otherwise,
            changes: watch::Sender::new(0),
        }
    }

    /// How far one has come.
    pub fn get(&self, name: &(String, String)) -> Scaling {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        states.get(name).unwrap_or(&self.otherwise).clone()
    }

    /// Ticks with every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn set(&self, name: &(String, String), state: Option<Scaling>) {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        if states.get(name) == state.as_ref() {
            return;
        }
        match state {
            Some(state) => drop(states.insert(name.clone(), state)),
            None => drop(states.remove(name)),
        }
        drop(states);
        self.changes.send_modify(|count| *count += 1);
    }
}
