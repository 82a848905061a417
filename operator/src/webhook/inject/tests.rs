//! Pods before and after, as golden files: `pods/NAME.yaml` and the snapshot of that name.

use json_patch::Patch;
use serde_json::{Value, json};
use sluice_crds::sluice_config::CaptureMode;

use super::*;

fn injection() -> Injection {
    Injection {
        image: "registry.example/sluice-sidecar:1".into(),
        image_pull_policy: None,
        operator: "sluice-operator.sluice-system.svc:8443".into(),
        operator_name: "sluice-operator.sluice-system.svc".into(),
        roots: "PEM".into(),
        data_threads: None,
        log_level: None,
        resources: None,
        capture: CaptureMode::Redirect,
        app_stop_delay_s: 5,
    }
}

const SHOP: Place<'_> = Place {
    namespace: "shop",
    pod_security: None,
};
const STRICT: Place<'_> = Place {
    namespace: "strict",
    pod_security: Some("restricted"),
};

macro_rules! pod {
    ($name:literal) => {
        serde_saphyr::from_str::<Value>(include_str!(concat!("pods/", $name, ".yaml")))
            .expect("YAML")
    };
}

fn injected(pod: &Value, place: Place<'_>) -> Value {
    let mut after = pod.clone();
    let patch = inject(pod, &injection(), place).expect("injects");
    json_patch::patch(&mut after, &patch).expect("patches");
    after
}

fn refusal(pod: &Value) -> String {
    inject(pod, &injection(), SHOP)
        .expect_err("refused")
        .to_string()
}

/// What is there after one call stays after a second, also when the API server has added its defaults in between.
fn once_is_enough(after: &Value, place: Place<'_>) {
    assert_eq!(inject(after, &injection(), place), Ok(Patch(Vec::new())));
    let mut defaulted = after.clone();
    let spec = &mut defaulted["spec"];
    for container in spec["initContainers"].as_array_mut().expect("a list") {
        container["imagePullPolicy"] = "IfNotPresent".into();
        container["terminationMessagePath"] = "/dev/termination-log".into();
        for variable in container["env"].as_array_mut().into_iter().flatten() {
            if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
                field["apiVersion"] = "v1".into();
            }
        }
        if let Some(probe) = container.get_mut("startupProbe") {
            probe["successThreshold"] = 1.into();
        }
    }
    for volume in spec["volumes"].as_array_mut().expect("a list") {
        if let Some(projected) = volume.get_mut("projected") {
            projected["defaultMode"] = 420.into();
        }
    }
    assert_eq!(
        inject(&defaulted, &injection(), place),
        Ok(Patch(Vec::new()))
    );
}

macro_rules! golden {
    ($test:ident, $name:literal, $place:expr) => {
        #[test]
        fn $test() {
            let after = injected(&pod!($name), $place);
            insta::assert_yaml_snapshot!($name, after);
            once_is_enough(&after, $place);
        }
    };
}
golden!(a_deployments_pod, "plain", SHOP);
golden!(probes_of_every_kind_and_hooks, "probes", SHOP);
golden!(a_jobs_pod, "job", SHOP);
golden!(a_pod_of_a_restricted_namespace, "named_ports", STRICT);
golden!(a_pod_with_a_pre_stop_of_its_own, "own_pre_stop", SHOP);

/// Another webhook has put a container in front, one with probes beside the app, variables into every container, and
/// another registry before every image; the API server asks again.
#[test]
fn a_pod_that_another_webhook_has_changed_in_between() {
    let mut between = injected(&pod!("probes"), SHOP);
    let spec = &mut between["spec"];
    spec["initContainers"]
        .as_array_mut()
        .expect("a list")
        .insert(0, json!({"name": "other", "image": "other:1"}));
    spec["containers"]
        .as_array_mut()
        .expect("a list")
        .push(json!({
            "name": "agent", "image": "agent:1",
            "readinessProbe": {"httpGet": {"port": 8125, "path": "/ok"}},
            "resources": {"requests": {"cpu": "4"}},
        }));
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().expect("a list") {
            let image = container["image"].as_str().expect("an image").to_owned();
            container["image"] = format!("mirror.example/{image}").into();
            let variable = json!({"name": "CLUSTER", "value": "eu"});
            match container["env"].as_array_mut() {
                Some(variables) => variables.insert(0, variable),
                None => container["env"] = json!([variable]),
            }
        }
    }
    let after = injected(&between, SHOP);
    insta::assert_yaml_snapshot!("another_webhook", after);
    once_is_enough(&after, SHOP);
}

#[test]
fn in_the_mode_without_privilege_a_second_call_finds_a_new_port() {
    let mut between = injected(&pod!("named_ports"), STRICT);
    between["spec"]["containers"].as_array_mut().expect("a list").push(json!({
        "name": "agent", "image": "agent:1", "ports": [{"name": "agent", "containerPort": 8125}],
    }));
    let after = injected(&between, STRICT);
    let sluice = &after["spec"]["initContainers"][0];
    let ports: Vec<_> = sluice["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .map(|port| (json::name(port), port["containerPort"].clone()))
        .collect();
    assert_eq!(
        ports,
        [
            ("http", 15_100.into()),
            ("grpc", 15_101.into()),
            ("agent", 15_102.into()),
            ("sluice-pages", 15_020.into()),
            ("sluice-hop", 15_008.into())
        ]
    );
    let arguments = sluice["args"].to_string();
    assert!(
        arguments.contains("--inbound=[::]:15102=$(POD_IP):8125"),
        "{arguments}"
    );
    once_is_enough(&after, STRICT);
}

#[test]
fn a_pod_of_the_mode_without_privilege_that_nobody_would_reach_is_warned_of() {
    let target = |service: &str, name: Option<&str>| Target {
        service: service.into(),
        name: name.map(Into::into),
    };
    let (number, http) = (target("orders", None), target("orders", Some("http")));
    let named = pod!("named_ports");
    let warns = |pod: &Value, targets: &[Target]| warning(pod, &injection(), targets);
    assert_eq!(warns(&named, &[]), None, "a Service may come");
    assert_eq!(warns(&named, &[number.clone(), http.clone()]), None);
    // Excluded, of another protocol, and of another pod.
    for name in ["metrics", "dns", "https"] {
        let said = warns(&named, &[number.clone(), target("orders", Some(name))]);
        let said = said.expect("a warning");
        assert!(said.contains("of Service orders"), "{said}");
    }
    // The same of what it has become.
    let after = injected(&named, STRICT);
    assert_eq!(warns(&after, std::slice::from_ref(&http)), None);
    let after = warns(&after, &[target("stock", Some("sluice-pages"))]);
    assert!(after.expect("a warning").contains("of Service stock"));

    let mut nameless = named.clone();
    for port in nameless["spec"]["containers"][0]["ports"]
        .as_array_mut()
        .expect("ports")
    {
        port.as_object_mut().expect("a port").remove("name");
    }
    let said = warns(&nameless, &[]).expect("a warning");
    assert!(said.contains("containerPort a name"), "{said}");
    assert!(warns(&nameless, std::slice::from_ref(&number)).is_some());
    // A Job listens nowhere; the other mode needs no names; nobody injects what opted out.
    nameless["spec"]["containers"][0]["ports"] = Value::Null;
    assert_eq!(warns(&nameless, &[]), None);
    assert_eq!(warns(&pod!("plain"), std::slice::from_ref(&number)), None);
    let mut out = named;
    out["metadata"]["labels"][OPT_OUT] = "false".into();
    assert_eq!(warns(&out, &[number]), None);
}

#[test]
fn every_mount_has_its_volume_and_the_apps_token_is_kept_away() {
    let after = injected(
        &json!({"metadata": {}, "spec": {"containers": [{"name": "app"}], "volumes": null}}),
        SHOP,
    );
    let spec = &after["spec"];
    let volumes: Vec<_> = spec["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .map(json::name)
        .collect();
    for container in spec["initContainers"].as_array().expect("two") {
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        assert!(
            mounts
                .iter()
                .all(|mount| volumes.contains(&json::name(mount))),
            "{mounts:?}"
        );
        let away = |mount: &Value| {
            mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
                && mount["name"] == "sluice-no-account"
        };
        assert!(mounts.iter().any(away), "{mounts:?}");
    }
}

#[test]
fn opted_out_and_host_network_pods_are_left_alone() {
    let mut out = pod!("plain");
    out["metadata"]["labels"][OPT_OUT] = "false".into();
    let mut host = pod!("plain");
    host["spec"]["hostNetwork"] = true.into();
    let mut mirror = pod!("plain");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    for pod in [out, host, mirror] {
        assert_eq!(inject(&pod, &injection(), STRICT), Ok(Patch(Vec::new())));
    }
}

#[test]
fn foreign_containers_and_volumes_of_our_names_are_refused() {
    for list in ["containers", "initContainers"] {
        for name in [CONTAINER, CAPTURE_CONTAINER] {
            let mut foreign = pod!("plain");
            let evil = json!({"name": name, "image": "evil", "restartPolicy": "Always"});
            foreign["spec"][list]
                .as_array_mut()
                .expect("list")
                .push(evil);
            assert_eq!(
                inject(&foreign, &injection(), SHOP),
                Err(InjectError::ForeignContainer(name)),
                "{list}"
            );
        }
    }
    // Ours with another program in it, or with more rights, is not ours.
    let once = injected(&pod!("plain"), SHOP);
    for (pointer, value) in [
        ("/args", json!(["sleep"])),
        ("/securityContext/runAsUser", json!(0)),
        ("/lifecycle", json!({})),
    ] {
        let mut foreign = once.clone();
        *foreign
            .pointer_mut(&format!("/spec/initContainers/1{pointer}"))
            .expect("there") = value;
        assert_eq!(
            inject(&foreign, &injection(), SHOP),
            Err(InjectError::ForeignContainer(CONTAINER)),
            "{pointer}"
        );
    }
    let mut foreign = pod!("plain");
    foreign["spec"]["volumes"]
        .as_array_mut()
        .expect("list")
        .push(json!({"name": "sluice-token", "hostPath": {"path": "/"}}));
    assert_eq!(
        inject(&foreign, &injection(), SHOP),
        Err(InjectError::ForeignVolume("sluice-token"))
    );
    assert_eq!(
        inject(&json!({"spec": 1}), &injection(), SHOP),
        Err(InjectError::NotAPod)
    );
    assert_eq!(
        inject(&json!([]), &injection(), SHOP),
        Err(InjectError::NotAPod)
    );
}

#[test]
fn a_namespace_that_would_refuse_the_capability_is_named_and_the_mode_never_changed() {
    for level in ["baseline", "restricted", "Restrictd"] {
        let place = Place {
            namespace: "strict",
            pod_security: Some(level),
        };
        let text = inject(&pod!("plain"), &injection(), place)
            .expect_err("refused")
            .to_string();
        for word in [
            "strict",
            level,
            "NET_ADMIN",
            "sluice.dev/capture: NamedPorts",
        ] {
            assert!(text.contains(word), "{word} is not in {text:?}");
        }
    }
    let place = Place {
        namespace: "strict",
        pod_security: Some("privileged"),
    };
    assert!(inject(&pod!("plain"), &injection(), place).is_ok());
}

#[test]
fn a_bad_annotation_refuses_the_pod_and_names_itself_its_value_and_the_mend() {
    let cases = [
        ("sluice.dev/capture", "redirect", "Redirect or NamedPorts"),
        (
            "sluice.dev/exclude-inbound-ports",
            "9090;9100",
            "\"9090,9100\"",
        ),
        ("sluice.dev/exclude-inbound-ports", "0", "1 to 65535"),
        (
            "sluice.dev/exclude-inbound-ports",
            "15020",
            "the sidecar's own port",
        ),
        ("sluice.dev/log-level", "loud", "debug"),
        ("sluice.dev/data-threads", "0", "1 to 256"),
        ("sluice.dev/data-threads", "two", "1 to 256"),
        ("sluice.dev/cpu-request", "0", "more than zero"),
        ("sluice.dev/cpu-request", "1 core", "such as"),
        ("sluice.dev/cpu-limit", "10m", "at least the request, 50m"),
        ("sluice.dev/memory-request", "64", "at least 4Mi"),
        (
            "sluice.dev/memory-limit",
            "16Mi",
            "sluice.dev/memory-request",
        ),
        ("sluice.dev/app-stop-delay", "5", "no duration"),
        ("sluice.dev/app-stop-delay", "1500ms", "whole seconds"),
        ("sluice.dev/app-stop-delay", "11m", "at most 10m"),
        (
            "sluice.dev/exclude-ports",
            "1",
            "known are sluice.dev/capture",
        ),
        ("sluice.dev/inject", "false", "read as a label"),
    ];
    for (name, value, mend) in cases {
        let mut bad = pod!("plain");
        bad["metadata"]["annotations"] = json!({name: value});
        let text = refusal(&bad);
        for word in [name, value, mend] {
            assert!(text.contains(word), "{word} is not in {text:?}");
        }
    }
    let many: Vec<_> = (1..=65).map(|port: u16| port.to_string()).collect();
    let mut bad = pod!("plain");
    bad["metadata"]["annotations"] = json!({"sluice.dev/exclude-inbound-ports": many.join(",")});
    assert!(refusal(&bad).contains("at most 64"));
}

#[test]
fn ports_of_the_sidecar_and_names_that_nobody_has_are_refused() {
    let with = |field: &str, value: Value| {
        let mut pod = pod!("plain");
        pod["spec"]["containers"][0][field] = value;
        pod
    };
    let text = refusal(&with("ports", json!([{"containerPort": 15_006}])));
    assert!(text.contains("\"app\"") && text.contains("15006"), "{text}");
    let text = refusal(&with(
        "readinessProbe",
        json!({"httpGet": {"port": 15_000, "path": "/drain"}}),
    ));
    assert!(
        text.contains("readiness") && text.contains("15000"),
        "{text}"
    );
    // Written as if it had been rewritten: there is no original to perform.
    let made_up = json!({"httpGet": {"port": 15_020, "path": "/probe/app/liveness"}});
    assert!(refusal(&with("livenessProbe", made_up)).contains("15020"));
    let text = refusal(&with("livenessProbe", json!({"httpGet": {"port": "htpp"}})));
    assert!(text.contains("liveness") && text.contains("htpp"), "{text}");
    let long = json!({"httpGet": {"port": 8080, "path": "/".repeat(5_000)}});
    assert!(refusal(&with("livenessProbe", long)).contains("4096"));
    let header = json!({"name": "x", "value": "y"});
    let many = json!({"httpGet": {"port": 8080, "httpHeaders": vec![header; 33]}});
    assert!(refusal(&with("livenessProbe", many)).contains("32 httpHeaders"));
}

#[test]
fn in_the_mode_without_privilege_a_name_belongs_to_one_port() {
    let mut pod = pod!("named_ports");
    let app = json!({"name": "b", "ports": [{"name": "http", "containerPort": 8081}]});
    pod["spec"]["containers"]
        .as_array_mut()
        .expect("list")
        .push(app);
    assert_eq!(
        inject(&pod, &injection(), STRICT),
        Err(InjectError::SameName("http".into()))
    );

    let many: Vec<_> = (1..=101)
        .map(|n: u16| json!({"name": format!("p{n}"), "containerPort": n}))
        .collect();
    pod["spec"]["containers"] = json!([{"name": "a", "ports": many}]);
    assert_eq!(
        inject(&pod, &injection(), STRICT),
        Err(InjectError::TooManyPorts)
    );
}

/// The number that `--data-threads` has.
fn threads(pod: &Value, injection: &Injection) -> String {
    let mut after = pod.clone();
    json_patch::patch(&mut after, &inject(pod, injection, SHOP).expect("injects"))
        .expect("patches");
    let arguments = after["spec"]["initContainers"][1]["args"]
        .as_array()
        .expect("arguments");
    let found = arguments
        .iter()
        .filter_map(Value::as_str)
        .find_map(|argument| argument.strip_prefix("--data-threads="));
    found.expect("given").to_owned()
}

#[test]
fn a_pod_that_asks_for_a_whole_core_gets_two_threads_unless_somebody_says_otherwise() {
    let asking = |cpu: Value| {
        let mut pod = pod!("plain");
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        pod
    };
    assert_eq!(threads(&asking(json!("999m")), &injection()), "1");
    assert_eq!(threads(&asking(json!("1")), &injection()), "2");
    assert_eq!(threads(&asking(json!(2)), &injection()), "2");
    let platform = Injection {
        data_threads: Some(3),
        ..injection()
    };
    assert_eq!(threads(&asking(json!("1")), &platform), "3");
    let mut said = asking(json!("1"));
    said["metadata"]["annotations"] = json!({"sluice.dev/data-threads": "4"});
    assert_eq!(threads(&said, &platform), "4");
}

#[test]
fn the_grace_period_is_raised_once_whatever_it_was() {
    let grace = |pod: &Value| pod["spec"]["terminationGracePeriodSeconds"].clone();
    let mut pod = pod!("plain");
    for (own, raised) in [
        (Value::Null, json!(35)),
        (json!(3), json!(8)),
        (json!(0), json!(0)),
    ] {
        pod["spec"]["terminationGracePeriodSeconds"] = own;
        let after = injected(&pod, SHOP);
        assert_eq!(grace(&after), raised);
        assert_eq!(grace(&injected(&after, SHOP)), raised);
    }
    // Raised further by somebody in between: that stays, and is not raised again.
    let mut further = injected(&pod!("plain"), SHOP);
    further["spec"]["terminationGracePeriodSeconds"] = 60.into();
    further["spec"]["containers"]
        .as_array_mut()
        .expect("list")
        .push(json!({"name": "late"}));
    let after = injected(&further, SHOP);
    assert_eq!(grace(&after), 60);
    assert_eq!(
        after["spec"]["containers"][1]["lifecycle"]["preStop"]["sleep"]["seconds"],
        5
    );

    let mut none = pod!("plain");
    none["metadata"]["annotations"] = json!({"sluice.dev/app-stop-delay": "0s"});
    let after = injected(&none, SHOP);
    assert_eq!(
        (grace(&after), &after["spec"]["containers"]),
        (json!(30), &none["spec"]["containers"])
    );
}
