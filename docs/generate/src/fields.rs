//! From a schema to Markdown tables: one row per field, with what it may be and what it means.

use std::fmt::Write as _;

use serde_json::Value;

const HEAD: &str = "| field | may be | meaning |\n|---|---|---|\n";

/// A table of the top-level fields of `schema`, and one more for each that has fields itself.
pub(crate) fn tables(schema: &Value, prefix: &str) -> String {
    let title = if prefix.is_empty() {
        "Top level"
    } else {
        prefix
    };
    let (mut text, mut below, mut blocks) = (String::new(), String::new(), String::new());
    rules(&mut below, "", schema);
    for (name, field) in properties(schema) {
        let path = join(prefix, name);
        row(&mut text, &path, field, required(schema, name));
        if items(field)["properties"].is_object() {
            blocks.push_str(&table(&path, field));
        } else {
            rules(&mut below, &path, field);
        }
    }
    format!("## {title}\n\n{HEAD}{text}{}\n{blocks}", set_off(&below))
}

/// The table of everything below one field, whose rows leave its own name out.
pub(crate) fn table(path: &str, field: &Value) -> String {
    let (mut text, mut below) = (String::new(), String::new());
    rows(&mut text, &mut below, "", field);
    let described = described(field);
    format!(
        "## {path}\n\n{described}\n\n{HEAD}{text}{}\n",
        set_off(&below)
    )
}

/// Writes the fields of a block, or of a list's items, to `text` and what they must hold to `below`.
fn rows(text: &mut String, below: &mut String, path: &str, schema: &Value) {
    rules(below, path, schema);
    let block = items(schema);
    let listed = schema["items"].is_object();
    let path = match listed && !path.is_empty() {
        true => format!("{path}[]"),
        false => path.to_owned(),
    };
    if listed {
        rules(below, &path, block);
    }
    for (name, field) in properties(block) {
        let path = join(&path, name);
        row(text, &path, field, required(block, name));
        rows(text, below, &path, field);
    }
}

/// A list after a table: with an empty line between, or nothing.
fn set_off(list: &str) -> String {
    match list {
        "" => String::new(),
        list => format!("\n{list}"),
    }
}

fn row(text: &mut String, path: &str, field: &Value, required: bool) {
    let star = if required { " *" } else { "" };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "| `{path}`{star} | {} | {} |",
        may_be(field),
        cell(described(field))
    );
}

/// What a field or block must hold beyond the shape of its fields, as a list.
fn rules(text: &mut String, path: &str, schema: &Value) {
    for rule in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let message = rule["message"].as_str().unwrap_or_default();
        // Every union has this one; the page before the tables explains it.
        if message == "exactly the member that type names must be set" {
            continue;
        }
        let _ = match path {
            "" => writeln!(text, "- {message}"),
            path => writeln!(text, "- `{path}`: {message}"),
        };
    }
}

/// The values a field may have.
fn may_be(field: &Value) -> String {
    let words: Vec<_> = field["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|word| format!("`{word}`"))
        .collect();
    if !words.is_empty() {
        return words.join(", ");
    }
    match field["type"].as_str() {
        Some("array") => {
            let most = field["maxItems"]
                .as_u64()
                .map(|most| format!(", at most {most}"));
            format!("list{}", most.unwrap_or_default())
        }
        Some("integer") => match (number(&field["minimum"]), number(&field["maximum"])) {
            (Some(least), Some(most)) if least == most => most.to_string(),
            (Some(least), Some(most)) => format!("{least} to {most}"),
            (None, Some(most)) => format!("up to {most}"),
            _ => "number".into(),
        },
        Some("object") if field["additionalProperties"].is_object() => "map".into(),
        Some("object") => "block".into(),
        Some(kind) => kind.into(),
        None => String::new(),
    }
}

fn number(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|number| number as i64))
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// The schema of a list's items, or the schema itself.
fn items(schema: &Value) -> &Value {
    if schema["items"].is_object() {
        &schema["items"]
    } else {
        schema
    }
}

fn required(schema: &Value, name: &str) -> bool {
    schema["required"]
        .as_array()
        .is_some_and(|names| names.iter().any(|required| required == name))
}

fn described(field: &Value) -> &str {
    field["description"].as_str().unwrap_or_default()
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// A text that stays in its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_fields_lists_and_rules_are_written() {
        let schema = json!({"type": "object", "required": ["rules"], "properties": {
            "mode": {"type": "string", "enum": ["A", "B", null], "description": "A | B."},
            "rules": {"type": "array", "maxItems": 4, "description": "Rules.", "items": {
                "type": "object", "required": ["name"],
                "x-kubernetes-validations": [{"rule": "true", "message": "one of two"}],
                "properties": {"name": {"type": "string", "description": "Name."},
                               "parts": {"type": "array", "description": "Parts.", "x-kubernetes-validations": [{"rule": "true", "message": "not empty"}], "items": {"type": "object", "properties": {
                                   "size": {"type": "integer", "minimum": 1.0, "maximum": 9.0, "description": "Size."}}}}}}},
        }});
        assert_eq!(
            tables(&schema, "spec"),
            "## spec\n\n| field | may be | meaning |\n|---|---|---|\n\
             | `spec.mode` | `A`, `B` | A \\| B. |\n\
             | `spec.rules` * | list, at most 4 | Rules. |\n\n\
             ## spec.rules\n\nRules.\n\n| field | may be | meaning |\n|---|---|---|\n\
             | `name` * | string | Name. |\n\
             | `parts` | list | Parts. |\n\
             | `parts[].size` | 1 to 9 | Size. |\n\n- one of two\n- `parts`: not empty\n\n"
        );
    }
}
