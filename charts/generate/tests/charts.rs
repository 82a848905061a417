//! What users install: everything made from something else is fresh, the charts say what the code says, and values
//! that mean nothing are refused. Needs helm: KUBEBUILDER_ASSETS=$(hack/kube.sh).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sluice_charts::{Helm, made_from_charts, made_from_types, values::Values};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).expect("YAML")
}

fn helm() -> Helm {
    Helm::find().expect("helm")
}

#[test]
fn everything_made_from_types_or_charts_is_fresh() {
    let mut made = made_from_types().expect("types");
    made.extend(made_from_charts(&repository(), &helm()).expect("charts"));
    for (path, text) in &made {
        let there = fs::read_to_string(repository().join(path)).unwrap_or_default();
        assert!(
            &there == text,
            "{} is not what would be made: run `make charts` and read the diff",
            path.display()
        );
    }
    // A template that is gone must not leave what was made from it.
    let made: BTreeSet<_> = made.into_iter().map(|(path, _)| path).collect();
    for folder in [
        "charts/golden",
        "charts/sluice-crds/templates",
        "deploy/kustomize",
    ] {
        for entry in fs::read_dir(repository().join(folder)).expect("a folder") {
            let path = Path::new(folder).join(entry.expect("readable").file_name());
            let by_hand = path.to_string_lossy().ends_with(".values.yaml");
            assert!(
                by_hand || made.contains(&path),
                "{} is left over",
                path.display()
            );
        }
    }
}

#[test]
fn the_chart_of_the_kinds_holds_crds_yaml_and_keeps_it() {
    for name in ["apiroutes", "ratelimitpolicies", "shardsets"] {
        let mut chart = yaml(&read(&format!("charts/sluice-crds/templates/{name}.yaml")));
        let annotations = chart["metadata"]
            .as_object_mut()
            .and_then(|metadata| metadata.remove("annotations"));
        assert_eq!(
            annotations,
            Some(serde_json::json!({"helm.sh/resource-policy": "keep"})),
            "{name} would go with the release, and every object of it"
        );
        assert!(
            chart == yaml(&read(&format!("crds/yaml/{name}.yaml"))),
            "{name}: run `make crds charts`"
        );
    }
}

#[test]
fn the_defaults_are_all_fields_and_the_versions_are_the_workspaces() {
    serde_yaml::from_str::<Values>(&read("charts/sluice/values.yaml"))
        .expect("values.yaml has every field of the schema, and no other");
    for chart in ["sluice", "sluice-crds"] {
        let chart = yaml(&read(&format!("charts/{chart}/Chart.yaml")));
        for field in ["version", "appVersion"] {
            assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field}");
        }
    }
}

/// What Helm says to values; none where it takes them.
fn refusal(values: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.yaml");
    fs::write(&file, values).expect("written");
    let argument = format!("--values={}", file.display());
    helm()
        .template(&repository(), "sluice-system", &[&argument])
        .err()
        .map(|error| error.to_string())
}

#[test]
fn values_that_mean_nothing_are_refused_by_name() {
    for (values, named) in [
        ("replica: 3", "replica"),
        ("replicas: two", "replicas"),
        ("replicas: 200", "replicas"),
        ("image: {tags: x}", "tags"),
        ("image: {repository: ''}", "repository"),
        ("image: {repository: null}", "repository"),
        ("image: {digest: sha256:12}", "digest"),
        ("image: {pullPolicy: Sometimes}", "pullPolicy"),
        ("sidecarImage: {pullPolicy: Always}", "pullPolicy"),
        ("imagePullSecrets: [registry]", "imagePullSecrets"),
        ("resources: {request: {cpu: 1}}", "request"),
        ("resources: {requests: {cpu: lots}}", "cpu"),
        ("metricsApi: Off", "metricsApi"),
        ("extraArgs: [verify]", "extraArgs"),
        ("podLabels: {a: 1}", "podLabels"),
        ("tolerations: [{effect: Never}]", "effect"),
        ("affinity: {node: {}}", "node"),
        ("networkPolicy: {from: []}", "from"),
        (
            "networkPolicy: {egress: {apiServerPorts: []}}",
            "apiServerPorts",
        ),
        ("podMonitor: {interval: soon}", "interval"),
        ("config: {trustdomain: x}", "trustdomain"),
        ("config: {trustDomain: null}", "trustDomain"),
        ("config: {injection: {dataThreads: 0}}", "dataThreads"),
        ("config: {injection: {cpu: 1}}", "cpu"),
        (
            "config: {stores: [{name: a, type: Redis, redis: {address: x}}]}",
            "address",
        ),
    ] {
        let said = refusal(values).unwrap_or_else(|| panic!("`{values}` is taken"));
        assert!(
            said.contains("schema") && said.contains(named),
            "`{values}`: {said}"
        );
    }
    // An umbrella chart adds this one.
    assert_eq!(refusal("global: {registry: example}"), None);
}

#[test]
fn nothing_that_the_operator_writes_is_rendered() {
    let text = helm()
        .template(&repository(), "sluice-system", &[])
        .expect("renders");
    // Helm would take it back with each upgrade.
    for owned in [
        "caBundle:",
        "kind: APIService",
        "kind: Lease",
        "kind: Secret",
    ] {
        assert!(!text.contains(owned), "{owned}");
    }
}
