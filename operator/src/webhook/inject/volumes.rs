//! The volumes of the sidecar: its token, its state, and the emptiness that keeps the app's token away from it.

use serde_json::{Map, Value, json};

use super::{InjectError, json, pod};

/// Nothing.
pub(super) const NO_ACCOUNT: &str = "sluice-no-account";
/// Most that the last-known-good takes.
const STATE_LIMIT: &str = "16Mi";

/// Adds what is missing.
pub(super) fn put(spec: &mut Map<String, Value>) -> Result<(), InjectError> {
    let list = json::list(spec, "volumes").ok_or(InjectError::NotAPod)?;
    for (name, ours) in volumes() {
        match list.iter().find(|volume| json::name(volume) == name) {
            None => list.push(ours),
            Some(there) if json::covers(there, &ours) => {}
            Some(_) => return Err(InjectError::ForeignVolume(name)),
        }
    }
    Ok(())
}

fn volumes() -> [(&'static str, Value); 3] {
    [
        (pod::TOKEN, pod::token_volume()),
        (pod::STATE, pod::state_volume(STATE_LIMIT)),
        (NO_ACCOUNT, json!({"name": NO_ACCOUNT, "emptyDir": {}})),
    ]
}
