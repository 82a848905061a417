//! The mode without privilege. A Service whose targetPort is a name finds the port of that name in the Pod: the name moves
//! from the app's port to one of the sidecar, which serves it and hands on to the app's number.
//!
//! The app's number stays reachable past the sidecar, for whoever connects to it: probes keep working unchanged, and
//! documentation says that this mode enforces nothing against a client that knows the number.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{InjectError, json, ports};

/// A port that a Service leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The Service.
    pub service: String,
    /// The name of the Pod's port, where it is named and no number.
    pub name: Option<String>,
}

/// A name that has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moved {
    /// The name.
    pub(super) name: String,
    /// The sidecar's port that bears it now.
    pub(super) listen: u16,
    /// The app's port that bore it.
    pub(super) app: u16,
}

impl Moved {
    /// The sidecar's argument: it listens at the Pod's addresses of both families. The one to dial is put in by kubelet, an
    /// IPv6 address without brackets.
    pub(super) fn argument(&self) -> String {
        format!("{}{}", argument_to(self.listen), self.app)
    }

    /// The port of an argument that an earlier call wrote, and of the port that it serves.
    pub(super) fn read(name: &str, listen: u16, arguments: &[&str]) -> Option<Self> {
        let prefix = argument_to(listen);
        let app = arguments
            .iter()
            .find_map(|argument| argument.strip_prefix(&prefix))?;
        Some(Self {
            name: name.to_owned(),
            listen,
            app: app.parse().ok()?,
        })
    }
}

/// The sidecar's argument without the app's port.
fn argument_to(listen: u16) -> String {
    format!("--inbound=[::]:{listen}=$(POD_IP):")
}

/// Takes the names from the app's TCP ports; `moved` are those that an earlier call took, and becomes all of them.
/// Excluded ports keep theirs.
pub(super) fn move_names(
    spec: &mut Map<String, Value>,
    excluded: &BTreeSet<u16>,
    moved: &mut Vec<Moved>,
) -> Result<(), InjectError> {
    for container in json::running_mut(spec) {
        let ports = container.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            let Some((name, app)) = named(port).filter(|(_, app)| !excluded.contains(app)) else {
                continue;
            };
            match moved.iter().find(|moved| moved.name == name) {
                None => moved.push(next(moved, name, app)?),
                Some(moved) if moved.app == app => {}
                Some(_) => return Err(InjectError::SameName(name)),
            }
            if let Some(port) = port.as_object_mut() {
                port.remove("name");
            }
        }
    }
    Ok(())
}

/// Why no connection would reach the sidecar: the Pod's ports bear no names, or none that a Service leads to of those that
/// select it, whose targetPorts are `targets`. A Pod that no Service selects yet may still be reached by its names.
pub(super) fn unreached(
    spec: &Map<String, Value>,
    excluded: &BTreeSet<u16>,
    targets: &[Target],
) -> Option<String> {
    let declared: Vec<&Value> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| json::items(spec, list))
        .filter_map(|container| container.get("ports").and_then(Value::as_array))
        .flatten()
        .collect();
    // The app's, or the sidecar's where they have moved already.
    let names: BTreeSet<String> = declared
        .iter()
        .filter_map(|port| named(port))
        .filter(|(_, number)| *number != ports::PAGES && !excluded.contains(number))
        .map(|(name, _)| name)
        .collect();
    let leads = |target: &Target| {
        target
            .name
            .as_ref()
            .is_some_and(|name| names.contains(name))
    };
    if targets.iter().any(leads) {
        return None;
    }
    if !targets.is_empty() {
        let services: BTreeSet<_> = targets.iter().map(|target| &*target.service).collect();
        return Some(format!(
            "sluice.dev/capture: NamedPorts captures nothing of this Pod: no targetPort of Service {} is the name of one of its ports",
            Vec::from_iter(services).join(", ")
        ));
    }
    (names.is_empty() && !declared.is_empty()).then(|| {
        "sluice.dev/capture: NamedPorts captures nothing of this Pod: give its containerPort a name, and the Service that name as targetPort".to_owned()
    })
}

/// Name and number of a TCP port that has both.
fn named(port: &Value) -> Option<(String, u16)> {
    let tcp = matches!(json::text(port, "protocol"), None | Some("TCP"));
    let name = json::text(port, "name").filter(|name| tcp && !name.is_empty())?;
    Some((name.to_owned(), json::port(port.get("containerPort")?)?))
}

fn next(moved: &[Moved], name: String, app: u16) -> Result<Moved, InjectError> {
    let listen = (ports::FIRST_MOVED..ports::FIRST_MOVED + ports::MAX_MOVED)
        .find(|port| moved.iter().all(|moved| moved.listen != *port))
        .ok_or(InjectError::TooManyPorts)?;
    Ok(Moved { name, listen, app })
}
