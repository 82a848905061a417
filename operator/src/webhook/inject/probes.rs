//! Probes and hooks that kubelet performs over the network. They arrive captured like any other connection: behind a route
//! that asks for credentials a Pod would never be Ready, and a TCP probe would always find somebody, the sidecar. So
//! kubelet asks the sidecar's own page instead, `/probe/<container>/<kind>`, and the sidecar performs the original.
//!
//! The path is an index into a table that is written here, into the sidecar's environment: never a port or path from the
//! URL, for the page is open to the network. `exec` is left alone, and so is a probe of another `host` than the Pod's: it
//! is not captured.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sluice_crds::sluice_config::CaptureMode;

use super::{InjectError, json, ports};

/// What the sidecar performs: `<container>/<kind>` -> the original and its `timeoutSeconds`.
pub(super) type Table = BTreeMap<String, Value>;

/// Entries of a table.
pub(super) const MAX_ENTRIES: usize = 64;
/// Header fields of one probe.
pub(super) const MAX_HEADERS: usize = 32;
/// The longest text of a probe, in bytes.
const MAX_TEXT: usize = 4096;
/// The largest table, as JSON: one variable of an environment holds 128 KiB.
const MAX_TABLE_BYTES: usize = 64 << 10;
/// Fields of a container and the last segment of the path.
const PROBES: [(&str, &str); 3] = [
    ("livenessProbe", "liveness"),
    ("readinessProbe", "readiness"),
    ("startupProbe", "startup"),
];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
/// What kubelet performs over the network. A `tcpSocket` hook is not performed by anybody.
const PROBE_ACTIONS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
const HOOK_ACTIONS: [&str; 1] = ["httpGet"];
/// How long kubelet waits for a probe that does not say, seconds.
const PROBE_TIMEOUT: u64 = 1;
/// How long a hook may take, seconds: kubelet waits until the grace period is over, which may be raised yet.
const HOOK_TIMEOUT: u64 = 3600;

/// Leads every probe and hook around that would be captured. `table` is what an earlier call made, and becomes what the
/// sidecar must perform now.
pub(super) fn rewrite(
    spec: &mut Map<String, Value>,
    excluded: &BTreeSet<u16>,
    table: &mut Table,
) -> Result<(), InjectError> {
    let former = std::mem::take(table);
    for container in json::running_mut(spec) {
        for probe in each(container) {
            let Probe {
                what,
                key,
                action,
                named,
                timeout,
                handler,
            } = probe;
            let path = format!("/probe/{key}");
            if leads_to(handler, &path)
                && let Some(known) = former.get(&key)
            {
                table.insert(key, known.clone());
                continue;
            }
            if names_a_host(handler, action) {
                continue;
            }
            let port = number(handler, action, &named, &what)?;
            if excluded.contains(&port) {
                continue;
            }
            if ports::is_ours(port, CaptureMode::Redirect) {
                return Err(InjectError::OurPort { what, port });
            }
            let Some(original) = handler.remove(action) else {
                continue;
            };
            table.insert(key, entry(action, original, port, timeout));
            handler.insert(
                "httpGet".to_owned(),
                json!({"path": path, "port": ports::PAGES, "scheme": "HTTP"}),
            );
        }
    }
    match fits(table) {
        true => Ok(()),
        false => Err(InjectError::ProbesTooLarge),
    }
}

/// Whether the sidecar takes the table: it does not start with one that it does not.
fn fits(table: &Table) -> bool {
    fn short(value: &Value) -> bool {
        match value {
            Value::String(text) => text.len() <= MAX_TEXT,
            Value::Array(items) => items.len() <= MAX_HEADERS && items.iter().all(short),
            Value::Object(fields) => fields.values().all(short),
            Value::Null | Value::Bool(_) | Value::Number(_) => true,
        }
    }
    table.len() <= MAX_ENTRIES && table.values().all(short) && text(table).len() <= MAX_TABLE_BYTES
}

/// Turns names of ports into numbers, for the mode in which the names move away from the app.
pub(super) fn resolve_names(spec: &mut Map<String, Value>) -> Result<(), InjectError> {
    for container in json::running_mut(spec) {
        for probe in each(container) {
            let Probe {
                what,
                key: _,
                action,
                named,
                timeout: _,
                handler,
            } = probe;
            let port = number(handler, action, &named, &what)?;
            if let Some(original) = handler.get_mut(action).and_then(Value::as_object_mut) {
                original.insert("port".to_owned(), port.into());
            }
        }
    }
    Ok(())
}

/// The table as the sidecar reads it.
pub(super) fn text(table: &Table) -> String {
    // Maps with text keys always serialise.
    serde_json::to_string(table).unwrap_or_default()
}

/// One probe or hook over the network.
struct Probe<'a> {
    /// For people.
    what: String,
    /// `<container>/<kind>`.
    key: String,
    /// Which field of the handler says what to do.
    action: &'static str,
    /// The ports that the container names.
    named: BTreeMap<String, u16>,
    /// How long kubelet waits for it, seconds.
    timeout: u64,
    /// The probe or hook.
    handler: &'a mut Map<String, Value>,
}

fn each(container: &mut Value) -> Vec<Probe<'_>> {
    let name = json::name(container).to_owned();
    let named = named_ports(container);
    let mut found = Vec::new();
    for (field, value) in container.as_object_mut().into_iter().flatten() {
        if let Some((_, kind)) = PROBES.iter().find(|(probe, _)| probe == field) {
            let timeout = value.get("timeoutSeconds").and_then(Value::as_u64);
            let timeout = timeout.unwrap_or(PROBE_TIMEOUT);
            found.extend(over_the_network(value, &PROBE_ACTIONS).map(|it| (*kind, timeout, it)));
        } else if field == "lifecycle" {
            let hooks = value.as_object_mut().into_iter().flatten();
            for (hook, value) in hooks {
                let kind = HOOKS.iter().find(|kind| *kind == hook);
                let handler = over_the_network(value, &HOOK_ACTIONS);
                found.extend(
                    kind.zip(handler)
                        .map(|(kind, it)| (*kind, HOOK_TIMEOUT, it)),
                );
            }
        }
    }
    let probe = |(kind, timeout, (handler, action))| Probe {
        what: format!("the {kind} of container {name:?}"),
        key: format!("{name}/{kind}"),
        action,
        named: named.clone(),
        timeout,
        handler,
    };
    found.into_iter().map(probe).collect()
}

fn over_the_network<'a>(
    value: &'a mut Value,
    actions: &[&'static str],
) -> Option<(&'a mut Map<String, Value>, &'static str)> {
    let handler = value.as_object_mut()?;
    let action = actions
        .iter()
        .find(|action| handler.get(**action).is_some_and(Value::is_object))?;
    Some((handler, *action))
}

fn named_ports(container: &Value) -> BTreeMap<String, u16> {
    let ports = container.get("ports").and_then(Value::as_array);
    let named = ports.into_iter().flatten().filter_map(|port| {
        let number = json::port(port.get("containerPort")?)?;
        Some((json::text(port, "name")?.to_owned(), number))
    });
    named.collect()
}

/// Whether this is what an earlier call made of it.
fn leads_to(handler: &Map<String, Value>, path: &str) -> bool {
    let made = json!({"path": path, "port": ports::PAGES});
    handler
        .get("httpGet")
        .is_some_and(|there| json::covers(there, &made))
}

fn names_a_host(handler: &Map<String, Value>, action: &str) -> bool {
    let host = handler
        .get(action)
        .and_then(|action| json::text(action, "host"));
    host.is_some_and(|host| !host.is_empty())
}

/// The port's number, as kubelet finds it: by the name that the same container gives it, or from digits.
fn number(
    handler: &Map<String, Value>,
    action: &str,
    named: &BTreeMap<String, u16>,
    what: &str,
) -> Result<u16, InjectError> {
    let port = handler.get(action).and_then(|action| action.get("port"));
    let number = port.and_then(|port| match port.as_str() {
        Some(name) => named.get(name).copied().or_else(|| name.parse().ok()),
        None => json::port(port),
    });
    number.ok_or_else(|| InjectError::NoSuchPort {
        what: what.to_owned(),
        port: match port {
            Some(Value::String(name)) => name.clone(),
            other => other.cloned().unwrap_or_default().to_string(),
        },
    })
}

/// What the sidecar performs: the original with its number, and how long kubelet waits for it.
fn entry(action: &str, mut original: Value, port: u16, timeout: u64) -> Value {
    if let Some(original) = original.as_object_mut() {
        original.insert("port".to_owned(), port.into());
        // Empty, or the probe would not be led around.
        original.remove("host");
        if action == "httpGet" {
            original.entry("path").or_insert_with(|| "/".into());
            original.entry("scheme").or_insert_with(|| "HTTP".into());
        }
    }
    json!({action: original, "timeoutSeconds": timeout})
}
