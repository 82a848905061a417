//! Manifests from text to objects and findings.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;

fn shown(parsed: &Parsed) -> Vec<String> {
    let objects = parsed
        .objects
        .iter()
        .map(|located| format!("line {}: {:?}", located.line, located.object));
    objects
        .chain(parsed.findings.iter().map(ToString::to_string))
        .collect()
}

fn only(text: &str) -> ManifestObject {
    let mut parsed = parse("a.yaml", text);
    assert_eq!(shown(&parsed).len(), 1, "{:?}", shown(&parsed));
    parsed.objects.remove(0).object
}

#[test]
fn the_complete_example_loads() {
    let parsed = parse(
        "complete.yaml",
        include_str!("../../testdata/complete.yaml"),
    );
    insta::assert_snapshot!(shown(&parsed).join("\n"));
}

#[test]
fn each_mistake_is_found_at_its_place_and_the_rest_loads() {
    let parsed = parse("broken.yaml", include_str!("../../testdata/broken.yaml"));
    insta::assert_snapshot!(shown(&parsed).join("\n"));
}

#[test]
fn plain_kinds_load_and_foreign_kinds_are_skipped() {
    let parsed = parse("plain.yaml", include_str!("../../testdata/plain.yaml"));
    insta::assert_snapshot!(shown(&parsed).join("\n"));
}

#[test]
fn no_finding_and_no_debug_text_shows_what_a_secret_holds() {
    let text = concat!(
        include_str!("../../testdata/broken.yaml"),
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: sound}\nstringData: {a: hunter2}\n",
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: no-map}\ndata: hunter2\n",
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: syntax}\nstringData: {a: hunter2\n",
    );
    let parsed = parse("a.yaml", text);
    assert!(
        parsed
            .objects
            .iter()
            .any(|located| located.object.name() == "sound"),
        "the last Secret loads"
    );
    for shown in shown(&parsed).into_iter().chain([format!("{parsed:?}")]) {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn string_data_wins_over_data() {
    let ManifestObject::Secret(secret) = only(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {a: b2xk, b: a2VwdA==}\nstringData: {a: new}\n",
    ) else {
        panic!("a Secret");
    };
    let data = secret.data.expect("data");
    assert_eq!(
        (data["a"].0.as_slice(), data["b"].0.as_slice()),
        (&b"new"[..], &b"kept"[..])
    );
    assert_eq!(
        (secret.string_data, secret.type_.as_deref()),
        (None, Some("Opaque"))
    );
}

#[test]
fn ports_get_the_defaults_of_the_api_server() {
    let ManifestObject::Service(service) = only(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}, {port: 81, targetPort: admin, protocol: UDP}]}\n",
    ) else {
        panic!("a Service");
    };
    let ports = service.spec.expect("spec").ports.expect("ports");
    assert_eq!(
        (ports[0].protocol.as_deref(), &ports[0].target_port),
        (Some("TCP"), &Some(IntOrString::Int(80)))
    );
    assert_eq!(
        (ports[1].protocol.as_deref(), &ports[1].target_port),
        (Some("UDP"), &Some(IntOrString::String("admin".into())))
    );
}

#[test]
fn the_namespace_is_default_and_a_status_is_dropped() {
    let text = "apiVersion: sluice.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: a}\nspec: {auth: null}\nstatus: {x: 1}\n";
    let ManifestObject::ApiRoute(route) = only(text) else {
        panic!("an ApiRoute")
    };
    assert_eq!(route.metadata.namespace.as_deref(), Some("default"));
    assert_eq!((route.status, route.spec.auth), (None, None));
}

#[test]
fn an_object_with_any_finding_does_not_load() {
    // A misspelt `auth` that was merely reported would open the route.
    let parsed = parse(
        "a.yaml",
        "apiVersion: sluice.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: a}\nspec: {outh: {}}\n",
    );
    assert_eq!(parsed.objects, []);
    assert_eq!(parsed.findings.len(), 1);
}

#[test]
fn sizes_are_bounded() {
    let large = "#".repeat(MAX_TEXT_BYTES + 1);
    assert_eq!(parse("a.yaml", &large).findings.len(), 1);
    let many = "---\na: 1\n".repeat(MAX_DOCUMENTS + 1);
    let findings = parse("a.yaml", &many).findings;
    assert_eq!(findings.len(), MAX_DOCUMENTS + 1);
    assert!(
        findings
            .last()
            .is_some_and(|finding| finding.message.contains("split it"))
    );
}

#[test]
fn nothing_is_nothing() {
    for text in ["", "# a comment\n", "---\n---\n# a comment\n", "~\n"] {
        assert_eq!(
            shown(&parse("a.yaml", text)),
            Vec::<String>::new(),
            "{text:?}"
        );
    }
}
