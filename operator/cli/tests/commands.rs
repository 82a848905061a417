//! The binary as people run it: what it prints, and how it ends. No network but a closed port of loopback.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs the binary in the workspace's root, so that paths read the same everywhere.
fn sluice(arguments: &[&str]) -> Output {
    command(arguments).output().expect("runs")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-sluice"));
    command
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HOME", "/nonexistent");
    command
}

fn with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("taken");
    drop(pipe);
    child.wait_with_output().expect("ends")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[track_caller]
fn ends(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        out(output),
        err(output)
    );
}

const BASE: &str = "examples/quickstart/base";
const LOCAL: &str = "examples/quickstart/local";
const CONFIG: &str = "examples/quickstart/local/sluiceconfig.yaml";

#[test]
fn the_quickstart_is_sound() {
    ends(
        &sluice(&["validate", "--strict", "-f", BASE, "-f", LOCAL]),
        0,
    );
    let alone = ["validate", "--strict", "-f", BASE, "--config", CONFIG];
    ends(&sluice(&alone), 0);
}

#[test]
fn references_to_what_is_elsewhere_are_warnings_unless_strict() {
    let lenient = sluice(&["validate", "-f", BASE]);
    ends(&lenient, 0);
    insta::assert_snapshot!("warnings", out(&lenient));
    ends(&sluice(&["validate", "--strict", "-f", BASE]), 1);
}

#[test]
fn each_mistake_has_its_place() {
    let output = sluice(&["validate", "-f", "crds/testdata/broken.yaml"]);
    ends(&output, 1);
    insta::assert_snapshot!("broken", out(&output));
    assert!(!out(&output).contains("hunter2"), "a Secret's content");
}

/// Two routes of one host; the second leads nowhere, and has a regular expression that is none.
const CONFLICT: &str = "\
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{port: 80}]}
---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: elder, namespace: shop, creationTimestamp: \"2026-01-01T00:00:00Z\"}
spec: {parentRefs: [{kind: Service, name: orders}], hostnames: [a.example]}
---
apiVersion: sluice.dev/v1alpha1
kind: ApiRoute
metadata: {name: younger, namespace: shop}
spec:
  parentRefs: [{kind: Service, name: orders}]
  hostnames: [a.example]
  rules:
  - name: a
    matches:
    - path: {type: RegularExpression, value: \"/(\"}
    backendRefs:
    - {kind: Service, name: stock, port: 80}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{port: 81}]}
";

#[test]
fn what_is_wrong_only_beside_others_has_its_place_too() {
    let output = with_input(&["validate", "-f", "-"], CONFLICT);
    ends(&output, 1);
    insta::assert_snapshot!("conflict", out(&output));
    let json = out(&with_input(
        &["validate", "-f", "-", "-o", "json"],
        CONFLICT,
    ));
    insta::assert_snapshot!("conflict_json", json);
}

#[test]
fn translation_shows_units_and_no_secret() {
    let output = sluice(&["translate", "-f", BASE, "-f", LOCAL]);
    ends(&output, 0);
    assert!(!out(&output).contains("demo-only"), "a Secret's content");
    let one = [
        "translate",
        "-f",
        BASE,
        "-f",
        LOCAL,
        "--group",
        "shop/inventory",
    ];
    let (first, second) = (sluice(&one), sluice(&one));
    assert_eq!(out(&first), out(&second), "the same files, the same text");
    insta::assert_snapshot!("inventory", out(&first));
    let none = sluice(&["translate", "-f", BASE, "--group", "shop/x"]);
    ends(&none, 2);
    assert!(err(&none).contains("shop/inventory"), "{}", err(&none));
}

#[test]
fn a_broken_manifest_makes_translation_incomplete() {
    let output = sluice(&["translate", "-f", "crds/testdata/broken.yaml"]);
    ends(&output, 1);
    assert!(err(&output).contains("broken.yaml:9:5"), "{}", err(&output));
}

#[test]
fn status_of_file_mode_tells_and_counts() {
    let state = "operator/cli/tests/state";
    let all = sluice(&["status", "--state-dir", state]);
    ends(&all, 1);
    let text = out(&all);
    for part in [
        "orders-1 not connected",
        "manifests/routes.yaml",
        "epoch 12",
        "2 of 4 objects are Ready",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let missing = sluice(&["status", "--state-dir", state, "ar/gone"]);
    ends(&missing, 1);
    assert!(out(&missing).contains("ApiRoute gone: not found"));
    let json = sluice(&["status", "--state-dir", state, "ss/orders", "-o", "json"]);
    assert!(
        out(&json).contains("\"phase\": \"BackingOff\""),
        "{}",
        out(&json)
    );
}

#[test]
fn status_is_good_where_all_is_ready() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("status/ratelimitpolicy/shop");
    fs::create_dir_all(&folder).expect("made");
    let from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/state/status/ratelimitpolicy/shop/per-identity.yaml");
    fs::copy(from, folder.join("per-identity.yaml")).expect("copied");
    fs::write(folder.join(".tmp-1-0"), "half a fi").expect("written");
    let state = dir.path().display().to_string();
    let good = sluice(&["status", "--state-dir", &state]);
    ends(&good, 0);
    assert!(
        out(&good).contains("The object is Ready."),
        "{}",
        out(&good)
    );
    ends(
        &sluice(&["status", "--state-dir", &state, "-n", "elsewhere"]),
        0,
    );
    fs::write(folder.join("x.yaml"), "status: [").expect("written");
    ends(&sluice(&["status", "--state-dir", &state]), 2);
}

#[test]
fn what_cannot_be_asked_says_what_was_tried() {
    let none = sluice(&["status"]);
    ends(&none, 2);
    for tried in ["$KUBECONFIG (not set)", "~/.kube/config", "--state-dir"] {
        assert!(err(&none).contains(tried), "{tried}: {}", err(&none));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
        contexts: [{name: a, context: {cluster: a, user: a}}]\n\
        clusters: [{name: a, cluster: {server: \"http://127.0.0.1:1\"}}]\n\
        users: [{name: a, user: {}}]\n";
    fs::write(&file, text).expect("written");
    let file = file.display().to_string();
    let closed = sluice(&["status", "--kubeconfig", &file]);
    ends(&closed, 2);
    assert!(err(&closed).contains("127.0.0.1:1"), "{}", err(&closed));
    let context = sluice(&["status", "--kubeconfig", &file, "--context", "b"]);
    ends(&context, 2);
    assert!(err(&context).contains("get-contexts"), "{}", err(&context));
    let nowhere = sluice(&["status", "--state-dir", "/nonexistent"]);
    ends(&nowhere, 2);
    assert!(err(&nowhere).contains("--state-dir"), "{}", err(&nowhere));
}

#[test]
fn bad_usage_ends_with_two() {
    for arguments in [
        &["status", "pod/x"][..],
        &["validate"],
        &["validate", "-f", "/nonexistent"],
        &["status", "-A", "-n", "shop"],
        &["nonsense"],
    ] {
        ends(&sluice(arguments), 2);
    }
}

#[test]
fn version_and_completion_answer() {
    let version = sluice(&["version", "-o", "json"]);
    ends(&version, 0);
    assert!(out(&version).contains("sluice.dev/v1alpha1"));
    for shell in ["bash", "zsh", "fish"] {
        let script = sluice(&["completion", shell]);
        ends(&script, 0);
        let text = out(&script);
        assert!(
            ["kubectl-sluice", "validate", "explain", "convert"]
                .iter()
                .all(|word| text.contains(word)),
            "{shell}"
        );
    }
}

/// What `explain` says of a request to the shop in `explain/shop.yaml`.
fn explained(arguments: &[&str], code: i32) -> String {
    let manifests = ["explain", "-f", "operator/cli/tests/explain/shop.yaml"];
    let output = sluice(&[&manifests[..], arguments].concat());
    ends(&output, code);
    out(&output)
}

#[test]
fn a_request_is_explained() {
    let served = explained(
        &[
            "http://A.example/v1//orders?page=1",
            "--from",
            "203.0.113.7",
        ],
        0,
    );
    insta::assert_snapshot!("explain_served", served);
    let hostname = explained(&["http://other.test/v1/orders"], 1);
    insta::assert_snapshot!("explain_hostname", hostname);
    let shadowed = explained(
        &[
            "http://a.example/v1/orders",
            "-X",
            "POST",
            "-H",
            "X-Tenant: acme",
        ],
        0,
    );
    insta::assert_snapshot!("explain_shadowed", shadowed);
    let broken = explained(&["http://a.example/gone"], 1);
    insta::assert_snapshot!("explain_broken", broken);
    let misdirected = explained(&["https://a.example/", "-H", "Host: b.example"], 1);
    insta::assert_snapshot!("explain_misdirected", misdirected);
    let unknown = explained(&["http://a.example/nothing/here"], 1);
    insta::assert_snapshot!("explain_unknown", unknown);
    let method = explained(&["http://c.example/files", "-X", "PUT", "-o", "yaml"], 0);
    insta::assert_snapshot!("explain_yaml", method);
}

#[test]
fn a_request_that_meets_no_listener_is_told_so() {
    for (arguments, words) in [
        (&["http://a.example:8080/"][..], "it listens on"),
        (&["http://a.example:443/"], "https://"),
        (&["https://a.example:80/"], "speaks no TLS"),
        (&["https://c.example/"], "a.example, b.example"),
        (
            &["http://a.example:9999/v1", "--at", "gateway/shop/public:81"],
            "port 81",
        ),
    ] {
        let text = explained(arguments, 1);
        assert!(
            text.contains("no answer") || text.contains("hint"),
            "{text}"
        );
        let flat = text.replace("listens on", "it listens on");
        assert!(flat.contains(words), "{words}: {text}");
    }
    let manifests = "operator/cli/tests/explain/shop.yaml";
    for (arguments, words) in [
        (&["ftp://a.example/"][..], "only http and https"),
        (&["http://a.example/", "-H", "nothing"], "-H 'Name: value'"),
        (
            &["http://a.example/", "--at", "public"],
            "gateway/NAMESPACE/NAME",
        ),
        (
            &["http://a.example/", "--at", "gateway/shop/x"],
            "gateway/shop/public",
        ),
    ] {
        let output = sluice(&[&["explain", "-f", manifests][..], arguments].concat());
        ends(&output, 2);
        assert!(err(&output).contains(words), "{words}: {}", err(&output));
    }
}

#[test]
fn an_ingress_becomes_routes_that_validate() {
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: shop, namespace: shop}\n\
        spec: {rules: [{host: a.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}]}}]}\n";
    let whole = with_input(&["convert", "-f", "-"], ingress);
    ends(&whole, 0);
    ends(&with_input(&["validate", "-f", "-"], &out(&whole)), 0);
    let tls = ingress.replace("spec: {", "spec: {tls: [{hosts: [a.example]}], ");
    let lossy = with_input(&["convert", "-f", "-", "-o", "json"], &tls);
    ends(&lossy, 3);
    assert!(err(&lossy).contains("spec.tls[0]"), "{}", err(&lossy));
    ends(&with_input(&["validate", "-f", "-"], &out(&lossy)), 0);
    ends(&with_input(&["convert", "-f", "-", "--lossy"], &tls), 0);
    ends(&with_input(&["convert", "-f", "-"], CONFLICT), 2);
}
