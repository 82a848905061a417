//! What every container of ours needs of its Pod, injected or an edge's: names, the token's volume, the state's volume.

use serde_json::{Value, json};

pub(crate) use super::ports::PAGES;

/// Where the token is.
pub(crate) const TOKEN_DIRECTORY: &str = "/var/run/secrets/sluice.dev";
/// Where the last-known-good is.
pub(crate) const STATE_DIRECTORY: &str = "/var/run/sluice";
/// The image's only program.
pub(crate) const PROGRAM: &str = "/sluice-sidecar";
/// Metrics and readiness, for whoever looks for a port by its name.
pub(crate) const PAGES_NAME: &str = "sluice-pages";
/// The port of hops, by its name: an operator reads it in the Pod.
pub(crate) const HOP_NAME: &str = "sluice-hop";
/// The user of `sluice`: nobody's.
pub(crate) const USER: u32 = 65_532;
/// The volume of the token that proves the Pod to the operator.
pub(super) const TOKEN: &str = "sluice-token";
/// The volume of the last-known-good configuration.
pub(super) const STATE: &str = "sluice-state";
/// How long a token lasts; kubelet renews it before.
const TOKEN_SECONDS: u32 = 3600;

/// The token that proves the Pod to the operator.
pub(crate) fn token_volume() -> Value {
    let token = json!({"serviceAccountToken": {
        "path": "token",
        "audience": sluice_snapshot::TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
    }});
    json!({"name": TOKEN, "projected": {"sources": [token]}})
}

/// The last-known-good holds secret units: never on a disk.
pub(crate) fn state_volume(limit: &str) -> Value {
    json!({"name": STATE, "emptyDir": {"medium": "Memory", "sizeLimit": limit}})
}

/// Where both are mounted.
pub(crate) fn mounts() -> [Value; 2] {
    [
        json!({"name": TOKEN, "mountPath": TOKEN_DIRECTORY, "readOnly": true}),
        json!({"name": STATE, "mountPath": STATE_DIRECTORY}),
    ]
}
