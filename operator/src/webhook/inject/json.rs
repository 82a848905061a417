//! Lists and objects in a Pod as JSON: what may be absent or null counts as empty.

use serde_json::{Map, Value, json};

/// An object as a field of `parent`, made where it is absent; `None` where something else stands there.
pub(super) fn object<'a>(parent: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    let there = parent.as_object_mut()?.entry(field).or_insert(Value::Null);
    if there.is_null() {
        *there = json!({});
    }
    there.as_object_mut()
}

/// A list as a field of `parent`, made where it is absent; `None` where something else stands there.
pub(super) fn list<'a>(
    parent: &'a mut Map<String, Value>,
    field: &str,
) -> Option<&'a mut Vec<Value>> {
    let there = parent.entry(field).or_insert(Value::Null);
    if there.is_null() {
        *there = json!([]);
    }
    there.as_array_mut()
}

/// The items of a list that may be absent.
pub(super) fn items<'a>(
    parent: &'a Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'a Value> + use<'a> {
    parent
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// The containers that run beside the app, to be changed: its own, and its native sidecars. Init containers have neither
/// probes nor hooks, and end before anybody connects.
pub(super) fn running_mut(spec: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    spec.iter_mut()
        .filter(|(field, _)| matches!(field.as_str(), "containers" | "initContainers"))
        .flat_map(|(field, list)| {
            let app = field == "containers";
            let list = list.as_array_mut().into_iter().flatten();
            list.filter(move |container| app || restarts(container))
        })
}

/// Whether an init container is a native sidecar.
fn restarts(container: &Value) -> bool {
    text(container, "restartPolicy") == Some("Always")
}

/// A text field of an object.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object.get(field).and_then(Value::as_str)
}

/// The `name` of an object, for messages.
pub(super) fn name(object: &Value) -> &str {
    text(object, "name").unwrap_or("?")
}

/// A port's number.
pub(super) fn port(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}

/// Whether `there` says everything that `ours` says: the API server adds defaults between two calls, and other webhooks
/// add variables and mounts of theirs.
pub(super) fn covers(there: &Value, ours: &Value) -> bool {
    match (there, ours) {
        (Value::Object(there), Value::Object(ours)) => ours
            .iter()
            .all(|(key, ours)| there.get(key).is_some_and(|there| covers(there, ours))),
        (Value::Array(there), Value::Array(ours)) if is_keyed(ours) => ours
            .iter()
            .all(|ours| there.iter().any(|there| covers(there, ours))),
        (Value::Array(there), Value::Array(ours)) => {
            there.len() == ours.len()
                && there
                    .iter()
                    .zip(ours)
                    .all(|(there, ours)| covers(there, ours))
        }
        (there, ours) => there == ours,
    }
}

/// Lists of named things, of which others may add more.
fn is_keyed(list: &[Value]) -> bool {
    !list.is_empty() && list.iter().all(|item| item.get("name").is_some())
}
