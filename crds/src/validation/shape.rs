//! The structural half of a schema: types, bounds, required and unknown fields, unique keys.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

use super::Violation;

/// A schema of ours that this checker does not understand.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShapeError {
    #[error("a schema has the type {0}, which no check knows")]
    Type(String),
    #[error("a pattern of a schema does not compile")]
    Pattern(#[from] regex::Error),
}

/// One node of a schema, compiled.
#[derive(Debug)]
pub(super) enum Shape {
    Object {
        fields: BTreeMap<String, Self>,
        required: Vec<String>,
    },
    Map {
        values: Box<Self>,
        size: Bounds,
    },
    List {
        items: Box<Self>,
        size: Bounds,
        unique: Unique,
    },
    Text {
        length: Bounds,
        pattern: Option<Regex>,
        words: Vec<String>,
    },
    Integer {
        minimum: i64,
        maximum: i64,
    },
    Boolean,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    min: u64,
    max: u64,
}

/// What must not repeat in a list.
#[derive(Debug)]
pub(super) enum Unique {
    Nothing,
    Items,
    Keys(Vec<String>),
}

impl Shape {
    pub(super) fn compile(schema: &Value) -> Result<Self, ShapeError> {
        let bounds = |min: &str, max: &str| Bounds {
            min: schema[min].as_u64().unwrap_or(0),
            max: schema[max].as_u64().unwrap_or(u64::MAX),
        };
        Ok(match schema["type"].as_str().unwrap_or_default() {
            "object" if schema["additionalProperties"].is_object() => Self::Map {
                values: Box::new(Self::compile(&schema["additionalProperties"])?),
                size: bounds("minProperties", "maxProperties"),
            },
            "object" => Self::Object {
                fields: Self::fields(schema)?,
                required: texts(&schema["required"]),
            },
            "array" => Self::List {
                items: Box::new(Self::compile(&schema["items"])?),
                size: bounds("minItems", "maxItems"),
                unique: Unique::compile(schema),
            },
            "string" => Self::Text {
                length: bounds("minLength", "maxLength"),
                pattern: schema["pattern"].as_str().map(Regex::new).transpose()?,
                words: texts(&schema["enum"]),
            },
            "integer" => Self::Integer {
                minimum: whole(&schema["minimum"]).unwrap_or(i64::MIN),
                maximum: whole(&schema["maximum"]).unwrap_or(i64::MAX),
            },
            "boolean" => Self::Boolean,
            other => return Err(ShapeError::Type(other.to_owned())),
        })
    }

    fn fields(schema: &Value) -> Result<BTreeMap<String, Self>, ShapeError> {
        let properties = schema["properties"].as_object().into_iter().flatten();
        properties
            .map(|(name, field)| Ok((name.clone(), Self::compile(field)?)))
            .collect()
    }

    /// The value without the null fields it knows: null means absent. (The API server drops them where null is not
    /// allowed and skips their rules where it is; a field of closed words it refuses, for null is none of the words.)
    pub(super) fn without_nulls(&self, value: &Value) -> Value {
        match (self, value) {
            (Self::Object { fields, .. }, Value::Object(members)) => members
                .iter()
                .filter(|(name, member)| {
                    !member.is_null() || !fields.get(*name).is_some_and(Self::may_be_null)
                })
                .map(|(name, member)| {
                    (
                        name.clone(),
                        fields
                            .get(name)
                            .map_or_else(|| member.clone(), |field| field.without_nulls(member)),
                    )
                })
                .collect(),
            (Self::Map { values, .. }, Value::Object(members)) => members
                .iter()
                .map(|(name, member)| (name.clone(), values.without_nulls(member)))
                .collect(),
            (Self::List { items, .. }, Value::Array(members)) => members
                .iter()
                .map(|member| items.without_nulls(member))
                .collect(),
            _ => value.clone(),
        }
    }

    fn may_be_null(&self) -> bool {
        !matches!(self, Self::Text { words, .. } if !words.is_empty())
    }

    /// Adds whatever of `value` does not fit; `path` is where it stands.
    pub(super) fn check(&self, value: &Value, path: &str, out: &mut Vec<Violation>) {
        let mut report = |message: String| {
            out.push(Violation {
                path: path.to_owned(),
                message,
            })
        };
        match (self, value) {
            (Self::Object { fields, required }, Value::Object(members)) => {
                check_object(fields, required, members, path, out)
            }
            (Self::Map { values, size }, Value::Object(members)) => {
                size.check(members.len(), "entries", &mut report);
                for (name, member) in members {
                    values.check(member, &join(path, name), out);
                }
            }
            (
                Self::List {
                    items,
                    size,
                    unique,
                },
                Value::Array(members),
            ) => {
                size.check(members.len(), "items", &mut report);
                for (index, member) in members.iter().enumerate() {
                    items.check(member, &format!("{path}[{index}]"), out);
                }
                unique.check(members, path, out);
            }
            (
                Self::Text {
                    length,
                    pattern,
                    words,
                },
                Value::String(text),
            ) => {
                check_text(*length, pattern.as_ref(), words, text, &mut report);
            }
            (Self::Integer { minimum, maximum }, Value::Number(number)) => {
                // An integer beyond i64 is beyond every bound of ours.
                match number.as_i64() {
                    None => report(format!("must be a whole number, not {number}")),
                    Some(number) if number < *minimum => {
                        report(format!("must be at least {minimum}, not {number}"))
                    }
                    Some(number) if number > *maximum => {
                        report(format!("must be at most {maximum}, not {number}"))
                    }
                    Some(_) => {}
                }
            }
            (Self::Boolean, Value::Bool(_)) => {}
            (_, value) => report(format!("must be {}, not {}", self.noun(), noun(value))),
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            Self::Object { .. } | Self::Map { .. } => "a mapping",
            Self::List { .. } => "a list",
            Self::Text { .. } => "a string",
            Self::Integer { .. } => "a whole number",
            Self::Boolean => "true or false",
        }
    }
}

fn check_object(
    fields: &BTreeMap<String, Shape>,
    required: &[String],
    members: &serde_json::Map<String, Value>,
    path: &str,
    out: &mut Vec<Violation>,
) {
    for name in required.iter().filter(|name| !members.contains_key(*name)) {
        out.push(Violation {
            path: join(path, name),
            message: "required, but missing".into(),
        });
    }
    for (name, member) in members {
        match fields.get(name) {
            Some(field) => field.check(member, &join(path, name), out),
            // The root's own fields belong to Kubernetes, not to the schema.
            None if path.is_empty()
                && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) => {}
            None => out.push(Violation {
                path: join(path, name),
                message: unknown_field(name, fields.keys().map(String::as_str)),
            }),
        }
    }
}

/// The message for a field that does not exist, with the field that was likely meant.
fn unknown_field<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let folded = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    let glimpse: String = name.chars().take(64).collect();
    match known.into_iter().find(|known| {
        folded(known) == folded(name)
            || folded(known) == folded(name) + "s"
            || folded(known) + "s" == folded(name)
    }) {
        Some(meant) => format!("unknown field {glimpse:?}: did you mean {meant:?}?"),
        None => format!("unknown field {glimpse:?}"),
    }
}

fn check_text(
    length: Bounds,
    pattern: Option<&Regex>,
    words: &[String],
    text: &str,
    report: &mut impl FnMut(String),
) {
    // Shown in the message: enough to recognise it, whatever its size.
    let glimpse: String = text.chars().take(64).collect();
    if !words.is_empty() && !words.iter().any(|word| word == text) {
        return report(format!(
            "must be one of {}, not {glimpse:?}",
            words.join(", ")
        ));
    }
    let count = text.chars().count();
    length.check(count, "characters", report);
    if let Some(pattern) = pattern.filter(|pattern| length.holds(count) && !pattern.is_match(text))
    {
        report(format!("{glimpse:?} does not have the form {pattern}"));
    }
}

impl Bounds {
    fn holds(self, count: usize) -> bool {
        (self.min..=self.max).contains(&(count as u64))
    }

    fn check(self, count: usize, noun: &str, report: &mut impl FnMut(String)) {
        let Self { min, max } = self;
        match count as u64 {
            count if count < min => report(format!("has {count} {noun}, at least {min} needed")),
            count if count > max => report(format!("has {count} {noun}, at most {max} allowed")),
            _ => {}
        }
    }
}

impl Unique {
    fn compile(schema: &Value) -> Self {
        match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Self::Items,
            Some("map") => Self::Keys(texts(&schema["x-kubernetes-list-map-keys"])),
            _ => Self::Nothing,
        }
    }

    fn check(&self, members: &[Value], path: &str, out: &mut Vec<Violation>) {
        let identity = |member: &Value| match self {
            Self::Nothing => None,
            Self::Items => Some(member.to_string()),
            Self::Keys(keys) => Some(
                keys.iter()
                    .map(|key| member[key].to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        };
        let mut seen = BTreeSet::new();
        for (index, member) in members.iter().enumerate() {
            let Some(identity) = identity(member) else {
                return;
            };
            if seen.contains(&identity) {
                let glimpse: String = identity.chars().take(64).collect();
                out.push(Violation {
                    path: format!("{path}[{index}]"),
                    message: format!("{glimpse} is there twice"),
                });
            }
            seen.insert(identity);
        }
    }
}

fn noun(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean (quote it if a string is meant)",
        Value::Number(_) => "a number (quote it if a string is meant)",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn join(path: &str, name: &str) -> String {
    match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Bounds come as floats, as JSON schema has them.
fn whole(number: &Value) -> Option<i64> {
    number
        .as_i64()
        .or_else(|| number.as_f64().map(|number| number as i64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn violations(schema: Value, value: Value) -> Vec<(String, String)> {
        let shape = Shape::compile(&schema).expect("compiles");
        let mut out = Vec::new();
        shape.check(&shape.without_nulls(&value), "", &mut out);
        out.into_iter()
            .map(|Violation { path, message }| (path, message))
            .collect()
    }

    fn text(max: u32) -> Value {
        json!({"type": "string", "maxLength": max, "minLength": 1, "pattern": "^[a-z]*$"})
    }

    #[test]
    fn types_bounds_and_words() {
        let schema = json!({"type": "object", "properties": {
            "name": text(3), "count": {"type": "integer", "minimum": 1.0, "maximum": 9.0}, "mode": {"type": "string", "enum": ["A", "B"]},
            "flag": {"type": "boolean"},
        }});
        assert_eq!(
            violations(
                schema.clone(),
                json!({"name": "abc", "count": 9, "mode": "A", "flag": true})
            ),
            []
        );
        let bad = violations(
            schema,
            json!({"name": "abcd", "count": 0, "mode": "C", "flag": "true"}),
        );
        let bad: Vec<_> = bad
            .iter()
            .map(|(path, message)| format!("{path}: {message}"))
            .collect();
        assert_eq!(
            bad,
            [
                "count: must be at least 1, not 0",
                "flag: must be true or false, not a string",
                "mode: must be one of A, B, not \"C\"",
                "name: has 4 characters, at most 3 allowed",
            ]
        );
    }

    #[test]
    fn unknown_and_missing_fields_are_named_with_their_path() {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {
            "spec": {"type": "object", "required": ["backendRefs"], "properties": {"backendRefs": {"type": "array", "maxItems": 1, "items": text(3)}}},
        }});
        assert_eq!(
            violations(schema.clone(), json!({"kind": "X"})),
            [("spec".into(), "required, but missing".into())]
        );
        let bad = violations(schema, json!({"spec": {"backendRef": [], "x": 1}}));
        assert_eq!(
            bad,
            [
                ("spec.backendRefs".into(), "required, but missing".into()),
                (
                    "spec.backendRef".into(),
                    "unknown field \"backendRef\": did you mean \"backendRefs\"?".into()
                ),
                ("spec.x".into(), "unknown field \"x\"".into()),
            ]
        );
    }

    #[test]
    fn a_null_field_is_absent_and_a_null_item_is_not() {
        let schema = json!({"type": "object", "properties": {
            "a": text(3), "b": {"type": "string", "maxLength": 3, "nullable": true},
            "l": {"type": "array", "maxItems": 3, "items": text(3)}, "w": {"type": "string", "enum": ["A"], "nullable": true},
        }});
        assert_eq!(
            violations(schema.clone(), json!({"a": null, "b": null, "l": null})),
            []
        );
        assert_eq!(
            violations(schema.clone(), json!({"w": null})),
            [("w".into(), "must be a string, not null".into())]
        );
        assert_eq!(
            violations(schema, json!({"l": [null]})),
            [("l[0]".into(), "must be a string, not null".into())]
        );
    }

    #[test]
    fn keys_and_sets_do_not_repeat() {
        let map = json!({"type": "array", "maxItems": 9, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": text(3), "v": text(3)}}});
        assert_eq!(
            violations(
                map,
                json!([{"name": "a", "v": "x"}, {"name": "b"}, {"name": "a", "v": "y"}])
            ),
            [("[2]".into(), "\"a\" is there twice".into())]
        );
        let set = json!({"type": "array", "maxItems": 9, "x-kubernetes-list-type": "set", "items": text(3)});
        assert_eq!(
            violations(set, json!(["a", "b", "a"])),
            [("[2]".into(), "\"a\" is there twice".into())]
        );
    }

    #[test]
    fn maps_are_bounded_and_their_values_checked() {
        let schema = json!({"type": "object", "maxProperties": 1, "additionalProperties": text(1)});
        assert_eq!(
            violations(schema, json!({"a": "xx", "b": "x"})),
            [
                ("".into(), "has 2 entries, at most 1 allowed".into()),
                ("a".into(), "has 2 characters, at most 1 allowed".into()),
            ]
        );
    }
}
