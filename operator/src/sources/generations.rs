//! Generations of objects in file mode: the number of changes of a spec that were seen, kept over restarts in
//! `generations.json` of the state directory.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_snapshot::hash::hex;
use sluice_translate::ObjectId;

use crate::state_dir::{StateDir, StateDirError};

const FILE: &str = "generations.json";

/// The generations of all objects.
#[derive(Debug)]
pub(super) struct Generations {
    state: Arc<StateDir>,
    known: BTreeMap<String, Known>,
    changed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    generation: i64,
    /// Of the spec that has it.
    digest: String,
}

impl Generations {
    /// Those that `state` remembers; a file that does not parse is begun anew.
    pub(super) fn load(state: Arc<StateDir>) -> Result<Self, StateDirError> {
        let content = state.read(Path::new(FILE))?.unwrap_or_default();
        let known = match serde_json::from_slice(&content) {
            Ok(known) => known,
            Err(error) => {
                if !content.is_empty() {
                    tracing::error!(file = FILE, %error, "generations begin anew");
                }
                BTreeMap::new()
            }
        };
        Ok(Self {
            state,
            known,
            changed: false,
        })
    }

    /// The generation of an object with this spec.
    pub(super) fn of(&mut self, id: &ObjectId, spec: &Value) -> i64 {
        let digest = hex(&digest(&SHA256, spec.to_string().as_bytes()).as_ref()[..16]);
        let known = self.known.entry(id.to_string()).or_insert(Known {
            generation: 0,
            digest: String::new(),
        });
        if known.digest != digest {
            *known = Known {
                generation: known.generation + 1,
                digest,
            };
            self.changed = true;
        }
        known.generation
    }

    /// Writes them down if any changed.
    pub(super) fn save(&mut self) -> Result<(), StateDirError> {
        if std::mem::take(&mut self.changed) {
            // Strings and numbers: nothing that serde_json refuses.
            let content = serde_json::to_vec(&self.known).unwrap_or_default();
            self.state.write(Path::new(FILE), &content)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_translate::Kind;

    use super::*;

    #[test]
    fn a_generation_counts_changes_of_the_spec_over_restarts() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = Arc::new(StateDir::open(&dir.path().join("state")).expect("made"));
        let id = ObjectId::new(Kind::ApiRoute, "shop", "orders");
        let mut generations = Generations::load(state.clone()).expect("loads");
        assert_eq!(generations.of(&id, &json!({"a": 1})), 1);
        assert_eq!(generations.of(&id, &json!({"a": 1})), 1);
        assert_eq!(generations.of(&id, &json!({"a": 2})), 2);
        generations.save().expect("saved");
        let mut restarted = Generations::load(state).expect("loads");
        assert_eq!(restarted.of(&id, &json!({"a": 2})), 2);
        assert_eq!(restarted.of(&id, &json!({"a": 1})), 3);
    }
}
