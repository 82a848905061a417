//! Golden files: one folder for each concern, `in.yaml` (manifests), sometimes `world.yaml` (what manifests cannot say),
//! and `out.yaml`, which `UPDATE_GOLDEN=1` writes anew.

mod support;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sluice_crds::{crd, manifest};
use sluice_translate::FindingReason;
use support::{Case, render};

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(root).expect("tests/golden");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    folders.sort();
    folders
}

#[test]
fn each_concern_translates_as_written_down() {
    let mut wrong = Vec::new();
    for folder in folders() {
        let case = Case::read(&folder);
        let order: Vec<usize> = (0..case.objects.len()).collect();
        let engine = case.engine(&order);
        engine.verify().expect("incremental and full agree");
        let now = render(&engine);
        let read: Value = serde_saphyr::from_str(&now).expect("our YAML is YAML");
        assert!(read.is_object());
        let path = folder.join("out.yaml");
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &now).expect("writes");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        if written != now {
            wrong.push(format!(
                "{}:\n{}",
                folder.display(),
                difference(&written, &now)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "UPDATE_GOLDEN=1 rewrites them; look at the difference first\n{}",
        wrong.join("\n")
    );
}

fn difference(written: &str, now: &str) -> String {
    let old: BTreeSet<&str> = written.lines().collect();
    let new: BTreeSet<&str> = now.lines().collect();
    let gone = written
        .lines()
        .filter(|line| !new.contains(line))
        .map(|line| format!("- {line}"));
    let came = now
        .lines()
        .filter(|line| !old.contains(line))
        .map(|line| format!("+ {line}"));
    gone.chain(came).take(40).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_order_in_which_objects_are_applied_does_not_matter() {
    for folder in folders() {
        let case = Case::read(&folder);
        let mut order: Vec<usize> = (0..case.objects.len()).collect();
        let first = render(&case.engine(&order));
        let mut state: u64 = 42;
        for _ in 0..8 {
            for index in (1..order.len()).rev() {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                order.swap(index, (state >> 33) as usize % (index + 1));
            }
            assert_eq!(
                render(&case.engine(&order)),
                first,
                "{} in order {order:?}",
                folder.display()
            );
        }
    }
}

#[test]
fn every_finding_reason_has_a_golden() {
    let mut seen = BTreeSet::new();
    for folder in folders() {
        let case = Case::read(&folder);
        let order: Vec<usize> = (0..case.objects.len()).collect();
        let engine = case.engine(&order);
        for id in engine.troubled() {
            seen.extend(
                engine
                    .findings(id)
                    .into_iter()
                    .map(|finding| finding.reason),
            );
        }
    }
    let missing: Vec<_> = FindingReason::ALL
        .iter()
        .filter(|reason| !seen.contains(*reason))
        .collect();
    assert!(missing.is_empty(), "no golden shows {missing:?}");
}

#[test]
fn every_schema_field_has_a_golden() {
    let mut used = BTreeSet::new();
    for folder in folders() {
        let text = fs::read_to_string(folder.join("in.yaml")).expect("in.yaml");
        for located in manifest::parse("in.yaml", &text).objects {
            let (kind, value) = match &located.object {
                manifest::ManifestObject::ApiRoute(object) => {
                    ("ApiRoute", serde_json::to_value(&object.spec))
                }
                manifest::ManifestObject::RateLimitPolicy(object) => {
                    ("RateLimitPolicy", serde_json::to_value(&object.spec))
                }
                manifest::ManifestObject::ShardSet(object) => {
                    ("ShardSet", serde_json::to_value(&object.spec))
                }
                _ => continue,
            };
            paths_of_value(kind, &value.expect("encodes"), &mut used);
        }
    }
    let mut missing = Vec::new();
    for definition in crd::definitions().expect("definitions") {
        let kind = definition["spec"]["names"]["kind"]
            .as_str()
            .expect("kind")
            .to_owned();
        let schema =
            &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut leaves = BTreeSet::new();
        paths_of_schema(&kind, schema, &mut leaves);
        missing.extend(leaves.difference(&used).cloned());
    }
    assert!(missing.is_empty(), "no golden uses {missing:#?}");
}

fn paths_of_value(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            found.insert(path.to_owned());
            members.iter().for_each(|(name, member)| {
                paths_of_value(&format!("{path}.{name}"), member, found)
            });
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| paths_of_value(path, item, found)),
        _ => drop(found.insert(path.to_owned())),
    }
}

/// Leaves only: a field with fields is used where one of them is. Words of an enum are leaves of their own elsewhere.
fn paths_of_schema(path: &str, schema: &Value, found: &mut BTreeSet<String>) {
    if let Some(items) = schema.get("items") {
        return paths_of_schema(path, items, found);
    }
    match schema.get("properties").and_then(Value::as_object) {
        Some(properties) => {
            properties.iter().for_each(|(name, property)| {
                paths_of_schema(&format!("{path}.{name}"), property, found)
            });
        }
        None => drop(found.insert(path.to_owned())),
    }
}
