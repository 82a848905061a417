//! The two containers. Both are init containers, and come first: `sluice-capture` redirects the Pod's ports and ends,
//! `sluice` is a native sidecar: what follows starts when it is ready, and it stops last.
//!
//! `sluice` has a startup probe and no other. Readiness: while it does not run the Pod is unready anyway, what hangs in it
//! fails the app's own probes, which pass through it, and from its preStop hook on its page says `draining` while it must
//! still be given what is on its way; a probe that every Pod has alike could take the whole fleet out at once. Liveness: process 1 restarts its worker by itself, and a restart of
//! the container would break every connection of a node that is merely slow.

use serde_json::{Map, Value, json};
use sluice_crds::{common::Quantity, sluice_config::CaptureMode};

use super::{
    CAPTURE_CONTAINER, CONTAINER, InjectError, Injection,
    annotations::Wishes,
    json,
    named_ports::Moved,
    pod,
    pod::{HOP_NAME, PAGES_NAME, PROGRAM, STATE_DIRECTORY, TOKEN_DIRECTORY, USER},
    ports, probes, volumes,
};

/// Where the API server's own plugin would mount the app's token; something mounted here already keeps it away.
const ACCOUNT_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const PROBES_VARIABLE: &str = "SLUICE_PROBES";
const DATA_THREADS: &str = "--data-threads=";
/// As many seconds does a Pod wait for the operator before kubelet restarts the sidecar, after which it waits longer.
const START_ATTEMPTS: u32 = 100_000;
/// Thousandths of a core from which on a Pod gets a second thread.
const WHOLE_CORE: u64 = 1000;

/// What varies from Pod to Pod and is found in the Pod, not said by anybody: an earlier call must be understood by it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    /// What the sidecar performs for kubelet.
    pub(super) probes: probes::Table,
    /// Names of ports that are the sidecar's now.
    pub(super) moved: Vec<Moved>,
    /// Threads that carry traffic.
    threads: Option<u16>,
}

impl State {
    fn read(sluice: &Value) -> Self {
        let arguments: Vec<&str> = texts(sluice.get("args")).collect();
        let variables = sluice.get("env").and_then(Value::as_array);
        let table = variables
            .into_iter()
            .flatten()
            .find(|variable| json::name(variable) == PROBES_VARIABLE)
            .and_then(|variable| json::text(variable, "value"));
        let declared = sluice.get("ports").and_then(Value::as_array);
        let moved = declared.into_iter().flatten().filter_map(|port| {
            let listen = json::port(port.get("containerPort")?)?;
            Moved::read(json::name(port), listen, &arguments)
        });
        Self {
            probes: table
                .and_then(|table| serde_json::from_str(table).ok())
                .unwrap_or_default(),
            moved: moved.collect(),
            threads: arguments
                .iter()
                .find_map(|argument| argument.strip_prefix(DATA_THREADS)?.parse().ok()),
        }
    }

    /// Settles the number of threads: as wished, else as an earlier call chose, else by what the Pod asks for.
    pub(super) fn settle_threads(&mut self, wished: Option<u16>, spec: &Map<String, Value>) {
        let by_itself = self.threads.filter(|threads| matches!(threads, 1 | 2));
        let threads = wished
            .or(by_itself)
            .unwrap_or_else(|| if asked_cpu(spec) >= WHOLE_CORE { 2 } else { 1 });
        self.threads = Some(threads);
    }
}

fn texts(list: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str)
}

/// What the Pod's own containers ask for, in thousandths of a core.
fn asked_cpu(spec: &Map<String, Value>) -> u64 {
    let asked = |resources: Option<&Value>| {
        let cpu = resources.and_then(|resources| resources.pointer("/requests/cpu"));
        let cpu = cpu.map(|cpu| match cpu.as_str() {
            Some(text) => text.to_owned(),
            None => cpu.to_string(),
        });
        let cpu = cpu.and_then(|text| text.parse::<Quantity>().ok());
        cpu.map_or(0, |cpu| cpu.milli_value())
    };
    let each = json::items(spec, "containers").map(|container| asked(container.get("resources")));
    each.fold(0, u64::saturating_add)
        .max(asked(spec.get("resources")))
}

/// What an earlier call left in the Pod; nothing at the first one.
#[derive(Debug, Default)]
pub(super) struct Former {
    capture: Option<Value>,
    sluice: Option<Value>,
}

impl Former {
    /// Takes containers of our names out of the init containers, wherever another webhook has put something before them.
    pub(super) fn take(spec: &mut Map<String, Value>) -> Result<Self, InjectError> {
        for name in [CAPTURE_CONTAINER, CONTAINER] {
            if json::items(spec, "containers").any(|container| json::name(container) == name) {
                return Err(InjectError::ForeignContainer(name));
            }
        }
        let list = json::list(spec, "initContainers").ok_or(InjectError::NotAPod)?;
        let mut take = |name: &str| {
            let at = list
                .iter()
                .position(|container| json::name(container) == name)?;
            Some(list.remove(at))
        };
        Ok(Self {
            capture: take(CAPTURE_CONTAINER),
            sluice: take(CONTAINER),
        })
    }

    /// What it had found.
    pub(super) fn state(&self) -> State {
        self.sluice.as_ref().map(State::read).unwrap_or_default()
    }

    /// Puts ours at the front: as they are there where nothing new was found, and never over somebody else's.
    pub(super) fn put_back(
        self,
        spec: &mut Map<String, Value>,
        injection: &Injection,
        wishes: &Wishes,
        before: &State,
        state: &State,
    ) -> Result<(), InjectError> {
        let Self { capture, sluice } = self;
        let list = json::list(spec, "initContainers").ok_or(InjectError::NotAPod)?;
        let build = |state: &State| self::sluice(injection, wishes, state);
        let there = ours(sluice, build(before), CONTAINER)?;
        list.insert(
            0,
            match there {
                Some(there) if before == state => there,
                _ => build(state),
            },
        );
        let built = match wishes.capture {
            CaptureMode::Redirect => Some(self::capture(injection, wishes)),
            CaptureMode::NamedPorts => None,
        };
        match (capture, built) {
            (None, None) => {}
            (Some(_), None) => return Err(InjectError::ForeignContainer(CAPTURE_CONTAINER)),
            (there, Some(built)) => {
                let there = ours(there, built.clone(), CAPTURE_CONTAINER)?;
                list.insert(0, there.unwrap_or(built));
            }
        }
        Ok(())
    }
}

/// The container that is there, if it is what we would have made. Image and resources may be another's work: registries
/// are mirrored and requests are tuned by webhooks, too.
fn ours(
    there: Option<Value>,
    mut built: Value,
    name: &'static str,
) -> Result<Option<Value>, InjectError> {
    let Some(there) = there else {
        return Ok(None);
    };
    if let Some(built) = built.as_object_mut() {
        for field in ["image", "imagePullPolicy", "resources"] {
            built.remove(field);
        }
    }
    match json::covers(&there, &built) {
        true => Ok(Some(there)),
        false => Err(InjectError::ForeignContainer(name)),
    }
}

/// The container that serves.
fn sluice(injection: &Injection, wishes: &Wishes, state: &State) -> Value {
    let State {
        probes: table,
        moved,
        threads,
    } = state;
    let mut arguments = vec![
        "supervise".to_owned(),
        format!("--operator={}", injection.operator),
        format!("--operator-name={}", injection.operator_name),
        format!("--token-file={TOKEN_DIRECTORY}/token"),
        format!("--state-dir={STATE_DIRECTORY}/state"),
    ];
    arguments.extend(threads.map(|threads| format!("{DATA_THREADS}{threads}")));
    match wishes.capture {
        CaptureMode::Redirect => arguments.push(format!("--capture=[::]:{}", ports::CAPTURE)),
        CaptureMode::NamedPorts => arguments.extend(moved.iter().map(Moved::argument)),
    }
    arguments.push(format!("--hop=[::]:{}", ports::HOP));
    let of_pod = |name: &str, field: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}});
    let mut environment = vec![
        of_pod("POD_IP", "status.podIP"),
        of_pod("POD_IPS", "status.podIPs"),
        json!({"name": "SLUICE_ROOTS_PEM", "value": injection.roots}),
    ];
    if let Some(level) = wishes.log_level {
        environment.push(json!({"name": "SLUICE_LOG", "value": level.as_str()}));
    }
    if !table.is_empty() {
        environment.push(json!({"name": PROBES_VARIABLE, "value": probes::text(table)}));
    }
    let mut declared: Vec<Value> = moved
        .iter()
        .map(|moved| port(&moved.name, moved.listen))
        .collect();
    declared.push(port(PAGES_NAME, ports::PAGES));
    // Its name tells the operator that this build takes hops.
    declared.push(port(HOP_NAME, ports::HOP));
    let [token, state] = pod::mounts();
    let mut container = json!({
        "name": CONTAINER,
        "restartPolicy": "Always",
        "args": arguments,
        "env": environment,
        "ports": declared,
        // The app starts at most a second after the sidecar can serve. There is no limit to how long it may wait for the
        // operator: a restart would only make it wait longer.
        "startupProbe": {
            "httpGet": {"path": "/readyz", "port": ports::PAGES},
            "periodSeconds": 1,
            "failureThreshold": START_ATTEMPTS,
        },
        // Not httpGet: that would need a port at which anybody could drain the Pod.
        "lifecycle": {"preStop": {"exec": {"command": [PROGRAM, "drain"]}}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            token, state, no_account(),
        ],
    });
    with_image(&mut container, injection, wishes);
    container
}

/// The container that sets up the capture.
fn capture(injection: &Injection, wishes: &Wishes) -> Value {
    let excluded = wishes
        .excluded
        .iter()
        .map(|port| format!("--exclude={port}"));
    let arguments: Vec<String> = ["capture".to_owned(), format!("--port={}", ports::CAPTURE)]
        .into_iter()
        .chain(excluded)
        .collect();
    let mut container = json!({
        "name": CAPTURE_CONTAINER,
        "args": arguments,
        // An added capability is effective for the superuser only. Said here, it holds in a Pod that must not be root.
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [no_account()],
    });
    with_image(&mut container, injection, wishes);
    container
}

fn port(name: &str, number: u16) -> Value {
    json!({"name": name, "containerPort": number, "protocol": "TCP"})
}

fn no_account() -> Value {
    json!({"name": volumes::NO_ACCOUNT, "mountPath": ACCOUNT_DIRECTORY, "readOnly": true})
}

/// Both run the same program. Both have the same requests and limits: a quota that demands them demands them of both, and
/// what has ended before the app starts is not added to it.
fn with_image(container: &mut Value, injection: &Injection, wishes: &Wishes) {
    container["image"] = injection.image.as_str().into();
    container["resources"] = wishes.resources.clone();
    if let Some(policy) = injection.image_pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
}
