//! The arrows between the crates: who may know whom, and what the pure ones must not know. Nothing is started here.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Product crate -> the product crates it may depend on. The two binaries never know each other.
const ARROWS: [(&str, &[&str]); 8] = [
    ("sluice-crds", &[]),
    ("sluice-snapshot", &[]),
    ("sluice-process", &[]),
    ("sluice-pipeline", &["sluice-snapshot"]),
    (
        "sluice-translate",
        &["sluice-crds", "sluice-pipeline", "sluice-snapshot"],
    ),
    (
        "sluice-operator",
        &[
            "sluice-crds",
            "sluice-pipeline",
            "sluice-process",
            "sluice-snapshot",
            "sluice-translate",
        ],
    ),
    (
        "sluice-sidecar",
        &["sluice-pipeline", "sluice-process", "sluice-snapshot"],
    ),
    (
        "kubectl-sluice",
        &[
            "sluice-crds",
            "sluice-pipeline",
            "sluice-process",
            "sluice-snapshot",
            "sluice-translate",
        ],
    ),
];

/// Pure crate -> what would end its purity.
const BANNED: [(&str, &[&str]); 3] = [
    (
        "sluice-snapshot",
        &["kube", "k8s-openapi", "tokio", "hyper"],
    ),
    (
        "sluice-pipeline",
        &["kube", "k8s-openapi", "tokio", "hyper", "http", "redis"],
    ),
    ("sluice-translate", &["tokio", "hyper", "tonic", "redis"]),
];

/// Member -> its direct dependencies, without those of tests and build scripts.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().expect("dependencies");
            let normal = normal
                .iter()
                .filter(|dependency| dependency["kind"].is_null());
            (
                text(&package["name"]),
                normal.map(|dependency| text(&dependency["name"])).collect(),
            )
        })
        .collect()
}

#[test]
fn crates_know_only_whom_they_may() {
    let dependencies = dependencies();
    for (name, allowed) in ARROWS {
        let known = dependencies[name]
            .iter()
            .map(String::as_str)
            .filter(|known| known.contains("sluice"))
            .filter(|known| !allowed.contains(known))
            .collect::<Vec<_>>();
        assert!(known.is_empty(), "{name} must not depend on {known:?}");
    }
}

#[test]
fn pure_crates_stay_pure() {
    let dependencies = dependencies();
    for (name, banned) in BANNED {
        for banned in banned {
            assert!(
                !dependencies[name].contains(*banned),
                "{name} must not depend on {banned}"
            );
        }
    }
}
