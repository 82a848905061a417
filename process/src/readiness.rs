//! Whether the process may be sent work: named conditions, all of which must hold. `/readyz` prints those that do not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The conditions of one process. Without any it is ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// Name -> why it does not hold; `None` where it does.
    conditions: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

/// The handle of one condition, kept by whoever knows about it.
#[derive(Debug, Clone)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition, which does not hold yet.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.set(name, Some("not yet".into()));
        Condition {
            name,
            readiness: self.clone(),
        }
    }

    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        self.unmet().is_empty()
    }

    /// The conditions that do not hold, with the reason, by name.
    pub fn unmet(&self) -> Vec<(&'static str, String)> {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter_map(|(name, why)| Some((*name, why.clone()?)))
            .collect()
    }

    fn set(&self, name: &'static str, why: Option<String>) {
        let former = self
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, why.clone());
        match (former, why) {
            (Some(Some(_)), None) => tracing::info!(condition = name, "ready condition holds"),
            (Some(None), Some(why)) => {
                tracing::warn!(
                    condition = name,
                    why,
                    "ready condition does not hold any more"
                );
            }
            _ => {}
        }
    }
}

impl Condition {
    /// It holds.
    pub fn met(&self) {
        self.readiness.set(self.name, None);
    }

    /// It does not hold, and why, in words for people.
    pub fn unmet(&self, why: impl Into<String>) {
        self.readiness.set(self.name, Some(why.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_condition_holds() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let (listeners, snapshot) = (
            readiness.condition("listeners"),
            readiness.condition("snapshot"),
        );
        listeners.met();
        assert_eq!(readiness.unmet(), [("snapshot", "not yet".to_owned())]);
        snapshot.met();
        assert!(readiness.is_ready());
        listeners.unmet("draining");
        assert_eq!(readiness.unmet(), [("listeners", "draining".to_owned())]);
    }
}
