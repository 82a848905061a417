//! The volumes of the sidecar: its token, its state, and the emptiness that keeps the app's token away from it.

use serde_json::{Map, Value, json};

use super::{InjectError, json};

/// The token that proves the Pod to the operator.
pub(super) const TOKEN: &str = "sluice-token";
/// The last-known-good configuration.
pub(super) const STATE: &str = "sluice-state";
/// Nothing.
pub(super) const NO_ACCOUNT: &str = "sluice-no-account";
/// How long a token lasts; kubelet renews it before.
const TOKEN_SECONDS: u32 = 3600;

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
    let token = json!({"serviceAccountToken": {
        "path": "token",
        "audience": sluice_snapshot::TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
    }});
    [
        (
            TOKEN,
            json!({"name": TOKEN, "projected": {"sources": [token]}}),
        ),
        // The last-known-good holds secret units: never on a disk.
        (
            STATE,
            json!({"name": STATE, "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
        ),
        (NO_ACCOUNT, json!({"name": NO_ACCOUNT, "emptyDir": {}})),
    ]
}
