//! The sidecar's own ports in a Pod's network, and whoever else would use one.

use serde_json::{Map, Value};
use sluice_crds::sluice_config::CaptureMode;

use super::{InjectError, json};

/// Where redirected connections arrive.
pub(super) const CAPTURE: u16 = 15_006;
/// Hops of edges and other sidecars.
pub(super) const HOP: u16 = 15_008;
/// Metrics, readiness, probes.
pub(crate) const PAGES: u16 = 15_020;
/// Ports that are never redirected: the debug endpoint on loopback, the capture itself, hops from other sidecars, pages.
pub(super) const OURS: [u16; 4] = [15_000, CAPTURE, HOP, PAGES];
/// The first port that a moved name may get.
pub(super) const FIRST_MOVED: u16 = 15_100;
/// How many names can move.
pub(super) const MAX_MOVED: u16 = 100;

/// Whether the sidecar listens there.
pub(super) fn is_ours(port: u16, mode: CaptureMode) -> bool {
    let moved = FIRST_MOVED..FIRST_MOVED + MAX_MOVED;
    OURS.contains(&port) || (mode == CaptureMode::NamedPorts && moved.contains(&port))
}

/// Refuses containers that declare a port of ours. Our own containers are taken out before.
pub(super) fn refuse_ours(spec: &Map<String, Value>, mode: CaptureMode) -> Result<(), InjectError> {
    for list in ["containers", "initContainers"] {
        for container in json::items(spec, list) {
            let declared = container.get("ports").and_then(Value::as_array);
            let mut numbers = declared
                .into_iter()
                .flatten()
                .filter_map(|port| port.get("containerPort").and_then(json::port));
            if let Some(port) = numbers.find(|port| is_ours(*port, mode)) {
                return Err(InjectError::OurPort {
                    what: format!("container {:?}", json::name(container)),
                    port,
                });
            }
        }
    }
    Ok(())
}
