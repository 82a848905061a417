//! The injector: what a Pod looks like with the sidecar in it. Pure; the Pod is JSON, so that no field of a newer API is
//! lost. Whether a Pod is asked for at all is the webhook configuration's selectors' business, but an opt-out is
//! honoured here too.

use std::collections::BTreeMap;

use json_patch::Patch;
use serde_json::{Map, Value, json};

/// The container's name. A container of the same name and other content is refused.
pub const CONTAINER: &str = "sluice";
/// The label of a Pod that wants none.
pub const OPT_OUT: &str = "sluice.dev/inject";

const TOKEN_VOLUME: &str = "sluice-token";
const STATE_VOLUME: &str = "sluice-state";
const NO_ACCOUNT_VOLUME: &str = "sluice-no-account";
const TOKEN_DIRECTORY: &str = "/var/run/secrets/sluice.dev";
const STATE_DIRECTORY: &str = "/var/run/sluice";
/// Where the API server's own plugin would mount the app's token; something mounted here already keeps it away.
const ACCOUNT_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_SECONDS: u32 = 3600;
/// The user of the container, where the Pod does not say: nobody's.
const USER: u32 = 65_532;

/// What is injected: from flags and SluiceConfig.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// The sidecar's image.
    pub image: String,
    /// `host:port` of the stream server.
    pub operator: String,
    /// The name its certificate carries.
    pub operator_name: String,
    /// The PEM bundle of roots.
    pub roots: String,
    /// `SluiceConfig.injection.dataThreads`.
    pub data_threads: Option<u16>,
    /// `SluiceConfig.injection.logLevel`.
    pub log_level: Option<String>,
    /// `SluiceConfig.injection.resources`, verbatim. Without: a small request and no CPU limit.
    pub resources: Option<Value>,
}

/// Why a Pod is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InjectError {
    /// Not a Pod.
    #[error("the object is not a Pod with a spec")]
    NotAPod,
    /// Somebody else's container of our name.
    #[error(
        "the Pod has a container named `sluice` that is not ours: rename it, or opt out with the label sluice.dev/inject: \"false\""
    )]
    ForeignContainer,
    /// Somebody else's volume of one of our names.
    #[error(
        "the Pod has a volume named `{0}` that is not ours: rename it, or opt out with the label sluice.dev/inject: \"false\""
    )]
    ForeignVolume(&'static str),
}

/// The patch that puts the sidecar into `pod`: empty where it is there already, or not wanted.
pub fn inject(pod: &Value, injection: &Injection) -> Result<Patch, InjectError> {
    if opted_out(pod) {
        return Ok(Patch(Vec::new()));
    }
    let mut injected = pod.clone();
    let spec = injected
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .ok_or(InjectError::NotAPod)?;
    put_container(spec, container(injection))?;
    for (name, volume) in volumes() {
        put_volume(spec, name, volume)?;
    }
    Ok(json_patch::diff(pod, &injected))
}

fn opted_out(pod: &Value) -> bool {
    let labels = pod.pointer("/metadata/labels").and_then(Value::as_object);
    labels
        .and_then(|labels| labels.get(OPT_OUT))
        .and_then(Value::as_str)
        == Some("false")
}

/// First among the init containers: the user's own then run behind a ready sidecar, with network.
fn put_container(spec: &mut Map<String, Value>, ours: Value) -> Result<(), InjectError> {
    let named = |list: Option<&Value>| {
        list.and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(is_ours_by_name))
    };
    if named(spec.get("containers")) {
        return Err(InjectError::ForeignContainer);
    }
    let list = spec.entry("initContainers").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    let list = list.as_array_mut().ok_or(InjectError::NotAPod)?;
    match list.iter().position(is_ours_by_name) {
        None => list.insert(0, ours),
        Some(at) if covers(&list[at], &ours) => {
            // Another webhook put something before us and the API server asks again.
            let there = list.remove(at);
            list.insert(0, there);
        }
        Some(_) => return Err(InjectError::ForeignContainer),
    }
    Ok(())
}

fn is_ours_by_name(container: &Value) -> bool {
    container.get("name").and_then(Value::as_str) == Some(CONTAINER)
}

fn put_volume(
    spec: &mut Map<String, Value>,
    name: &'static str,
    ours: Value,
) -> Result<(), InjectError> {
    let list = spec.entry("volumes").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    let list = list.as_array_mut().ok_or(InjectError::NotAPod)?;
    match list
        .iter()
        .find(|volume| volume.get("name").and_then(Value::as_str) == Some(name))
    {
        None => list.push(ours),
        Some(there) if covers(there, &ours) => {}
        Some(_) => return Err(InjectError::ForeignVolume(name)),
    }
    Ok(())
}

/// Whether `there` says everything that `ours` says: the API server adds defaults between two calls.
fn covers(there: &Value, ours: &Value) -> bool {
    match (there, ours) {
        (Value::Object(there), Value::Object(ours)) => ours
            .iter()
            .all(|(key, ours)| there.get(key).is_some_and(|there| covers(there, ours))),
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

fn container(injection: &Injection) -> Value {
    let Injection {
        image,
        operator,
        operator_name,
        roots,
        data_threads,
        log_level,
        resources,
    } = injection;
    let mut arguments = vec![
        format!("--operator={operator}"),
        format!("--operator-name={operator_name}"),
        format!("--token-file={TOKEN_DIRECTORY}/token"),
        format!("--state-dir={STATE_DIRECTORY}/state"),
    ];
    arguments.extend(data_threads.map(|threads| format!("--data-threads={threads}")));
    let mut environment = BTreeMap::from([("SLUICE_ROOTS_PEM", roots.as_str())]);
    environment.extend(log_level.as_deref().map(|level| ("SLUICE_LOG", level)));
    json!({
        "name": CONTAINER,
        "image": image,
        "restartPolicy": "Always",
        "args": arguments,
        "env": environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>(),
        "resources": resources.clone().unwrap_or_else(|| json!({"requests": {"cpu": "50m", "memory": "32Mi"}})),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": true},
            {"name": STATE_VOLUME, "mountPath": STATE_DIRECTORY},
            {"name": NO_ACCOUNT_VOLUME, "mountPath": ACCOUNT_DIRECTORY, "readOnly": true},
        ],
    })
}

fn volumes() -> [(&'static str, Value); 3] {
    let token = json!({"serviceAccountToken": {
        "path": "token",
        "audience": sluice_snapshot::TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
    }});
    [
        (
            TOKEN_VOLUME,
            json!({"name": TOKEN_VOLUME, "projected": {"sources": [token]}}),
        ),
        // The last-known-good holds secret units: never on a disk.
        (
            STATE_VOLUME,
            json!({"name": STATE_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
        ),
        (
            NO_ACCOUNT_VOLUME,
            json!({"name": NO_ACCOUNT_VOLUME, "emptyDir": {}}),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injection() -> Injection {
        Injection {
            image: "registry.example/sluice-sidecar:1".into(),
            operator: "sluice-operator.sluice-system.svc:8443".into(),
            operator_name: "sluice-operator.sluice-system.svc".into(),
            roots: "PEM".into(),
            data_threads: Some(2),
            log_level: Some("debug".into()),
            resources: None,
        }
    }

    fn pod() -> Value {
        json!({
            "metadata": {"name": "orders-0", "labels": {"app": "orders"}},
            "spec": {
                "containers": [{"name": "app", "image": "app", "fieldOfTomorrow": {"kept": true}}],
                "initContainers": [{"name": "migrate", "image": "m"}],
                "volumes": [{"name": "data", "emptyDir": {}}],
            },
        })
    }

    fn injected(pod: &Value) -> Value {
        let mut after = pod.clone();
        json_patch::patch(&mut after, &inject(pod, &injection()).expect("injects"))
            .expect("patches");
        after
    }

    #[test]
    fn the_sidecar_comes_first_and_everything_else_stays() {
        let after = injected(&pod());
        assert_eq!(after["spec"]["initContainers"][0]["name"], "sluice");
        assert_eq!(
            after["spec"]["initContainers"][0]["restartPolicy"],
            "Always"
        );
        assert_eq!(
            after["spec"]["initContainers"][1],
            pod()["spec"]["initContainers"][0]
        );
        assert_eq!(after["spec"]["containers"], pod()["spec"]["containers"]);
        assert_eq!(after["spec"]["volumes"][0], pod()["spec"]["volumes"][0]);
        let mounts = after["spec"]["initContainers"][0]["volumeMounts"]
            .as_array()
            .expect("mounts");
        for mount in mounts {
            let volumes = after["spec"]["volumes"].as_array().expect("volumes");
            assert!(
                volumes.iter().any(|volume| volume["name"] == mount["name"]),
                "{mount}"
            );
        }
    }

    #[test]
    fn a_pod_without_lists_gets_them() {
        let after = injected(
            &json!({"metadata": {}, "spec": {"containers": [{"name": "app"}], "volumes": null}}),
        );
        assert_eq!(
            after["spec"]["initContainers"].as_array().map(Vec::len),
            Some(1)
        );
        assert_eq!(after["spec"]["volumes"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn injecting_twice_changes_nothing_even_after_the_server_added_defaults() {
        let mut once = injected(&pod());
        once["spec"]["initContainers"][0]["imagePullPolicy"] = "IfNotPresent".into();
        once["spec"]["volumes"][1]["projected"]["defaultMode"] = 420.into();
        assert_eq!(inject(&once, &injection()), Ok(Patch(Vec::new())));
    }

    #[test]
    fn called_again_it_moves_back_to_the_front() {
        let mut once = injected(&pod());
        once["spec"]["initContainers"]
            .as_array_mut()
            .expect("list")
            .insert(0, json!({"name": "other"}));
        let mut after = once.clone();
        json_patch::patch(&mut after, &inject(&once, &injection()).expect("injects"))
            .expect("patches");
        assert_eq!(after["spec"]["initContainers"][0]["name"], "sluice");
        assert_eq!(
            after["spec"]["initContainers"].as_array().map(Vec::len),
            Some(3)
        );
    }

    #[test]
    fn an_opt_out_is_left_alone_and_a_foreign_container_or_volume_refused() {
        let mut out = pod();
        out["metadata"]["labels"][OPT_OUT] = "false".into();
        assert_eq!(inject(&out, &injection()), Ok(Patch(Vec::new())));

        for list in ["containers", "initContainers"] {
            let mut foreign = pod();
            foreign["spec"][list]
                .as_array_mut()
                .expect("list")
                .push(json!({"name": "sluice", "image": "evil"}));
            assert_eq!(
                inject(&foreign, &injection()),
                Err(InjectError::ForeignContainer),
                "{list}"
            );
        }
        let mut foreign = pod();
        foreign["spec"]["volumes"]
            .as_array_mut()
            .expect("list")
            .push(json!({"name": "sluice-token", "hostPath": {"path": "/"}}));
        assert_eq!(
            inject(&foreign, &injection()),
            Err(InjectError::ForeignVolume("sluice-token"))
        );
        assert_eq!(
            inject(&json!({"spec": 1}), &injection()),
            Err(InjectError::NotAPod)
        );
    }
}
