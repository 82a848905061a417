//! The CustomResourceDefinitions as an API server is given them, and the schema of SluiceConfig.
//!
//! What the derives cannot say is patched in here: the bounded condition list, the default of `status`, integer
//! formats that Kubernetes knows. Nothing else may alter a schema.

use kube::CustomResourceExt;
use schemars::{generate::SchemaSettings, transform::AddNullable};
use serde_json::{Value, json};

use crate::{ApiRoute, RateLimitPolicy, ShardSet, SluiceConfig};

/// Why a definition could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A generated definition is no JSON: an error in the derives.
    #[error("a generated definition is no JSON")]
    Json(#[from] serde_json::Error),
    /// A definition could not be written as YAML.
    #[error("a definition could not be written as YAML")]
    Yaml(#[from] serde_yaml::Error),
}

/// The CRDs of the three resources as JSON, in the order ApiRoute, RateLimitPolicy, ShardSet.
///
/// # Errors
/// Only where the derives yield no JSON.
pub fn definitions() -> Result<Vec<Value>, CrdError> {
    [ApiRoute::crd(), RateLimitPolicy::crd(), ShardSet::crd()]
        .into_iter()
        .map(|crd| {
            let mut crd = serde_json::to_value(crd)?;
            patch(&mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
            Ok(crd)
        })
        .collect()
}

/// The CRDs as files: name and YAML.
///
/// # Errors
/// See [`CrdError`].
pub fn files() -> Result<Vec<(String, String)>, CrdError> {
    definitions()?
        .iter()
        .map(|crd| {
            let name = crd["spec"]["names"]["plural"].as_str().unwrap_or_default();
            Ok((format!("{name}.yaml"), serde_yaml::to_string(crd)?))
        })
        .collect()
}

/// The schema of one kind of the three, as its CRD has it.
pub(crate) fn schema_of(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// The schema of SluiceConfig, made and patched as those of the CRDs are.
///
/// # Errors
/// Only where the derives yield no JSON.
pub fn config_schema() -> Result<Value, CrdError> {
    let generator = SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(AddNullable::default())
        .with_transform(kube::core::schema::StructuralSchemaRewriter)
        .with_transform(kube::core::schema::OptionalEnum)
        .with_transform(kube::core::schema::OptionalIntOrString)
        .into_generator();
    let mut schema = serde_json::to_value(generator.into_root_schema_for::<SluiceConfig>())?;
    patch(&mut schema);
    Ok(schema)
}

fn patch(schema: &mut Value) {
    walk(schema, &mut |node| {
        known_integer_format(node);
        words_only(node);
        bounded_conditions(node);
    });
    if let Some(status) = schema.pointer_mut("/properties/status") {
        status["default"] = json!({"conditions": [{
            "type": "Ready",
            "status": "Unknown",
            "reason": "Pending",
            "message": "waiting for the operator",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }]});
    }
}

/// Visits every schema node below and including this one.
fn walk(node: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    visit(node);
    for key in ["items", "additionalProperties"] {
        if let Some(child) = node.get_mut(key).filter(|child| child.is_object()) {
            walk(child, visit);
        }
    }
    if let Some(properties) = node.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|child| walk(child, visit));
    }
}

/// Kubernetes knows int32 and int64 only and warns about `uint16`; the bounds say the rest.
fn known_integer_format(node: &mut Value) {
    let format = match node.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16" | "int8" | "int16") => "int32",
        Some("uint32" | "uint64") => "int64",
        _ => return,
    };
    node["format"] = json!(format);
}

/// `nullable` alone says that null means absent; as a member of the enum it would be offered to people as a word.
fn words_only(node: &mut Value) {
    if let Some(words) = node.get_mut("enum").and_then(Value::as_array_mut) {
        words.retain(|word| !word.is_null());
    }
}

/// Conditions with the bounds of metav1, one sentence per field, merged by type.
fn bounded_conditions(node: &mut Value) {
    let Some(conditions) = node.pointer_mut("/properties/conditions") else {
        return;
    };
    conditions["x-kubernetes-list-type"] = json!("map");
    conditions["x-kubernetes-list-map-keys"] = json!(["type"]);
    conditions["items"] = json!({
        "type": "object",
        "description": "One aspect of the object's state.",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": {
                "type": "string", "description": "The aspect.", "minLength": 1, "maxLength": 316,
                "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
            },
            "status": {"type": "string", "description": "Whether it holds.", "enum": ["True", "False", "Unknown"]},
            "reason": {
                "type": "string", "description": "Why, for machines.", "minLength": 1, "maxLength": 1024,
                "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            },
            "message": {"type": "string", "description": "Why, for people.", "maxLength": 32768},
            "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When status last changed."},
            "observedGeneration": {
                "type": "integer", "format": "int64", "minimum": 0,
                "description": "The generation of the spec that this condition speaks of.",
            },
        },
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn schemas() -> Vec<(String, Value)> {
        let mut schemas: Vec<(String, Value)> = definitions()
            .expect("definitions")
            .iter()
            .map(|crd| {
                (
                    crd["spec"]["names"]["kind"]
                        .as_str()
                        .expect("kind")
                        .to_owned(),
                    schema_of(crd).clone(),
                )
            })
            .collect();
        schemas.push(("SluiceConfig".into(), config_schema().expect("schema")));
        schemas
    }

    /// Calls back with the path of every node; properties end in `.name`, items in `[]`, map values in `{}`.
    fn each(path: &str, node: &Value, visit: &mut impl FnMut(&str, &Value)) {
        visit(path, node);
        for (name, child) in node["properties"].as_object().into_iter().flatten() {
            each(&format!("{path}.{name}"), child, visit);
        }
        if node["items"].is_object() {
            each(&format!("{path}[]"), &node["items"], visit);
        }
        if node["additionalProperties"].is_object() {
            each(&format!("{path}{{}}"), &node["additionalProperties"], visit);
        }
    }

    fn offenders(fails: impl Fn(&str, &Value) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, schema) in schemas() {
            each(&kind, &schema, &mut |path, node| {
                if fails(path, node) {
                    found.push(path.to_owned());
                }
            });
        }
        found
    }

    #[test]
    fn the_yaml_is_fresh() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
        let generated = files().expect("files");
        for (name, yaml) in &generated {
            let stored = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            assert!(
                stored == *yaml,
                "crds/yaml/{name} is stale: run `cargo run -p sluice-crds --bin crdgen crds/yaml`"
            );
        }
        let stored = std::fs::read_dir(&folder).expect("the folder").count();
        assert_eq!(stored, generated.len(), "crds/yaml holds a file of no kind");
    }

    #[test]
    fn what_was_written_reads_back_equal_as_kubectl_reads_it() {
        for ((_, yaml), crd) in files()
            .expect("files")
            .iter()
            .zip(definitions().expect("definitions"))
        {
            let read: Value = serde_saphyr::from_str(yaml).expect("YAML");
            assert_eq!(read, crd, "a scalar changed its type on the way");
        }
    }

    #[test]
    fn no_definition_is_above_150_kb() {
        for crd in definitions().expect("definitions") {
            let size = serde_json::to_string(&crd).expect("JSON").len();
            assert!(
                size <= 150 * 1024,
                "{} has {size} bytes",
                crd["metadata"]["name"]
            );
        }
    }

    #[test]
    fn no_enum_value_is_a_boolean_of_yaml_1_1() {
        let booleans = [
            "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~",
        ];
        // The status of a condition is Kubernetes' own and always quoted by its writers.
        let found = offenders(|path, node| {
            let words = node["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str);
            !path.ends_with(".conditions[].status")
                && words
                    .into_iter()
                    .any(|word| booleans.contains(&word.to_lowercase().as_str()))
        });
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn every_field_has_a_description_of_one_sentence() {
        let found = offenders(|path, node| {
            let text = node["description"].as_str().unwrap_or_default();
            let is_field = !path.ends_with("[]") && !path.ends_with("{}");
            is_field
                && (text.is_empty()
                    || !text.ends_with('.')
                    || text.contains('\n')
                    || text.len() > 160)
        });
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn every_list_map_string_and_number_is_bounded() {
        let found = offenders(|path, node| match node["type"].as_str() {
            // Kubernetes itself bounds generations and object metadata.
            _ if path.ends_with("bservedGeneration")
                || path.ends_with(".slowestMs")
                || path.ends_with(".epoch")
                || path.ends_with(".shadowed") =>
            {
                false
            }
            Some("array") => node["maxItems"].is_null(),
            Some("string") => {
                node["maxLength"].is_null()
                    && node["enum"].is_null()
                    && node["format"] != "date-time"
            }
            Some("integer") => node["maximum"].is_null() && node["enum"].is_null(),
            Some("object") => {
                node["additionalProperties"].is_object() && node["maxProperties"].is_null()
            }
            Some("boolean") => false,
            _ => true,
        });
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn formats_are_those_kubernetes_knows() {
        let found = offenders(|_, node| {
            node["format"]
                .as_str()
                .is_some_and(|format| !["int32", "int64", "date-time"].contains(&format))
        });
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn only_status_has_a_default() {
        let found =
            offenders(|path, node| !node["default"].is_null() && !path.ends_with(".status"));
        assert_eq!(found, Vec::<String>::new());
        for (kind, schema) in schemas().iter().filter(|(kind, _)| kind != "SluiceConfig") {
            let condition = &schema["properties"]["status"]["default"]["conditions"][0];
            assert_eq!(
                (
                    &condition["type"],
                    &condition["status"],
                    &condition["reason"]
                ),
                (&json!("Ready"), &json!("Unknown"), &json!("Pending")),
                "{kind}"
            );
        }
    }

    #[test]
    fn conditions_are_merged_by_type() {
        let mut seen = 0;
        for (kind, schema) in schemas() {
            each(&kind, &schema, &mut |path, node| {
                if path.ends_with(".conditions") {
                    seen += 1;
                    assert_eq!(
                        node["x-kubernetes-list-map-keys"],
                        json!(["type"]),
                        "{path}"
                    );
                    assert_eq!(node["x-kubernetes-list-type"], json!("map"), "{path}");
                }
            });
        }
        assert_eq!(seen, 4, "three statuses and the parents of a route");
    }

    #[test]
    fn list_map_keys_are_required_in_their_items() {
        let found = offenders(|_, node| {
            let keys = node["x-kubernetes-list-map-keys"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let required = node["items"]["required"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            keys.iter().any(|key| !required.contains(key))
        });
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn names_and_columns_are_the_agreed_ones() {
        let seen: Vec<Value> = definitions()
            .expect("definitions")
            .iter()
            .map(|crd| {
                let version = &crd["spec"]["versions"][0];
                let columns: Vec<&Value> = version["additionalPrinterColumns"]
                    .as_array()
                    .expect("columns")
                    .iter()
                    .map(|column| &column["name"])
                    .collect();
                assert_eq!(version["subresources"]["status"], json!({}));
                assert_eq!(crd["spec"]["scope"], "Namespaced");
                json!([
                    crd["metadata"]["name"],
                    crd["spec"]["names"]["shortNames"],
                    crd["spec"]["names"]["categories"],
                    version["name"],
                    columns
                ])
            })
            .collect();
        let columns = json!(["READY", "LIVE", "OUTDATED", "AGE"]);
        let row = |name: &str, short: &str| {
            json!([
                format!("{name}.sluice.dev"),
                [short],
                ["sluice"],
                "v1alpha1",
                columns
            ])
        };
        assert_eq!(
            seen,
            [
                row("apiroutes", "ar"),
                row("ratelimitpolicies", "rlp"),
                row("shardsets", "ss")
            ]
        );
    }
}
