//! The objects of an edge, whole, from what a Gateway asks for and what this operator runs: pure.
//!
//! Nothing in the pods depends on the listeners: one that comes or goes restarts no edge, which opens and closes the ports
//! itself. `replicas` stand nowhere here.

use serde_json::{Value, json};
use sluice_crds::{
    gateway_api,
    sluice_config::{ImagePullPolicy, Injection, LogLevel},
};
use sluice_translate::{
    EdgeIntent, Kind,
    edge::ServiceType,
    world::{GATEWAY_LABEL, INJECT_LABEL},
};

use super::{
    super::hpa::MANAGED_BY,
    objects::{self, Made},
};
use crate::{
    status::store::FIELD_MANAGER,
    webhook::{Sidecar, inject::pod},
};

/// What the pods are, beside whose they are.
const NAME_LABEL: &str = "app.kubernetes.io/name";
const EDGE: &str = "sluice-edge";
/// How long an edge that is told to go still takes connections: nodes and load balancers hear of it meanwhile.
const LEAVE_S: u64 = 10;
/// How long it then waits for the requests that are under way.
const DRAIN_S: u64 = 30;
/// Of the grace period, what is left when both have passed.
const SPARE_S: u64 = 5;

/// What an edge runs, whichever Gateway it is of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pod {
    sidecar: Sidecar,
    roots: String,
    image_pull_policy: Option<ImagePullPolicy>,
    log_level: Option<LogLevel>,
}

impl Pod {
    /// From flags, the roots in force, and what the platform says of sidecars.
    pub(super) fn new(sidecar: &Sidecar, roots: &str, injection: Option<&Injection>) -> Self {
        Self {
            sidecar: sidecar.clone(),
            roots: roots.to_owned(),
            image_pull_policy: injection.and_then(|injection| injection.image_pull_policy),
            log_level: injection.and_then(|injection| injection.log_level),
        }
    }
}

/// The objects, in the order in which they are made. A Service needs a port: without any it is left as it is.
pub(super) fn all(intent: &EdgeIntent, pod: &Pod) -> Vec<(Made, Value)> {
    Made::ALL
        .into_iter()
        .filter(|made| *made != Made::Service || !intent.ports.is_empty())
        .map(|made| (made, one(made, intent, pod)))
        .collect()
}

fn one(made: Made, intent: &EdgeIntent, pod: &Pod) -> Value {
    let resource = made.resource();
    let mut object = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata(intent),
    });
    match made {
        // Nothing in an edge asks the API server for anything.
        Made::Account => object["automountServiceAccountToken"] = false.into(),
        Made::Service => object["spec"] = service(intent),
        Made::Budget => {
            object["spec"] = json!({
                "maxUnavailable": 1,
                // One that is not ready protects nothing: a node may be drained of it.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": selector(intent)},
            });
        }
        Made::Deployment => object["spec"] = deployment(intent, pod),
    }
    object
}

fn metadata(intent: &EdgeIntent) -> Value {
    json!({
        "name": objects::name(&intent.gateway.name),
        "namespace": &*intent.gateway.namespace,
        "labels": labels(intent, &[(MANAGED_BY, FIELD_MANAGER)]),
        "annotations": intent.annotations,
        "ownerReferences": [{
            "apiVersion": format!("{}/{}", gateway_api::GROUP, gateway_api::VERSION),
            "kind": Kind::Gateway.as_str(),
            "name": &*intent.gateway.name,
            "uid": intent.uid,
            "controller": true,
            "blockOwnerDeletion": false,
        }],
    })
}

/// The Gateway's labels, and over them ours.
fn labels(intent: &EdgeIntent, more: &[(&str, &str)]) -> Value {
    let mut labels = json!(intent.labels);
    for (name, value) in [(NAME_LABEL, EDGE), (GATEWAY_LABEL, &*intent.gateway.name)]
        .iter()
        .chain(more)
    {
        labels[*name] = (*value).into();
    }
    labels
}

/// It may never change.
fn selector(intent: &EdgeIntent) -> Value {
    json!({NAME_LABEL: EDGE, GATEWAY_LABEL: &*intent.gateway.name})
}

fn service(intent: &EdgeIntent) -> Value {
    let port = |port: &u16| json!({"name": format!("port-{port}"), "protocol": "TCP", "port": port, "targetPort": port});
    let mut spec = json!({
        "type": intent.parameters.service_type.as_str(),
        "selector": selector(intent),
        "ports": intent.ports.iter().map(port).collect::<Vec<_>>(),
    });
    // Deprecated, for providers differ in it, and the only field that says it at all: the status tells what came of it.
    let is_balanced = intent.parameters.service_type == ServiceType::LoadBalancer;
    if let Some(address) = intent.addresses.first().filter(|_| is_balanced) {
        spec["loadBalancerIP"] = address.to_string().into();
    }
    spec
}

fn deployment(intent: &EdgeIntent, pod: &Pod) -> Value {
    json!({
        // A new one serves before an old one goes.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "selector": {"matchLabels": selector(intent)},
        "template": {
            "metadata": {
                // It is one whole edge: a sidecar beside it would take its ports.
                "labels": labels(intent, &[(MANAGED_BY, FIELD_MANAGER), (INJECT_LABEL, "false")]),
                "annotations": intent.annotations,
            },
            "spec": pod_spec(intent, pod),
        },
    })
}

fn pod_spec(intent: &EdgeIntent, pod: &Pod) -> Value {
    let spread = |topology: &str| {
        json!({
            "topologyKey": topology,
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(intent)},
            "matchLabelKeys": ["pod-template-hash"],
        })
    };
    json!({
        "serviceAccountName": objects::name(&intent.gateway.name),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": LEAVE_S + DRAIN_S + SPARE_S,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": pod::USER,
            "runAsGroup": pod::USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            // Listeners have ports below 1024. It is a safe sysctl, of the pod's own network, and no capability.
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "topologySpreadConstraints": [spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")],
        "containers": [container(intent, pod)],
        "volumes": [pod::token_volume(), pod::state_volume("64Mi")],
    })
}

fn container(intent: &EdgeIntent, pod: &Pod) -> Value {
    let Pod {
        sidecar:
            Sidecar {
                image,
                operator,
                operator_name,
            },
        roots,
        image_pull_policy,
        log_level,
    } = pod;
    let mut environment = vec![
        json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
        json!({"name": "SLUICE_ROOTS_PEM", "value": roots}),
    ];
    if let Some(level) = log_level {
        environment.push(json!({"name": "SLUICE_LOG", "value": level.as_str()}));
    }
    let mut container = json!({
        "name": "sluice",
        "image": image,
        "args": [
            "supervise",
            "--edge=$(POD_IP)",
            format!("--operator={operator}"),
            format!("--operator-name={operator_name}"),
            format!("--token-file={}/token", pod::TOKEN_DIRECTORY),
            format!("--state-dir={}/state", pod::STATE_DIRECTORY),
            format!("--drain-timeout={DRAIN_S}s"),
        ],
        "env": environment,
        // The ports of listeners stand in the Service alone.
        "ports": [{"name": pod::PAGES_NAME, "containerPort": pod::PAGES, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": pod::PAGES}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3},
        "lifecycle": {"preStop": {"exec": {"command": [pod::PROGRAM, "drain", format!("--wait={LEAVE_S}s")]}}},
        "resources": intent.parameters.resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        },
        "volumeMounts": pod::mounts(),
    });
    if let Some(policy) = image_pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use k8s_openapi::api::{
        apps::v1::Deployment,
        core::v1::{Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
    };
    use sluice_translate::{ObjectId, edge::EdgeParameters};

    use super::*;

    fn intent() -> EdgeIntent {
        let text = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        EdgeIntent {
            gateway: ObjectId::new(Kind::Gateway, "shop", "public"),
            uid: "uid-public".into(),
            labels: text("team", "shop"),
            annotations: text("provider.example/scheme", "internal"),
            ports: BTreeSet::from([80, 443]),
            addresses: BTreeSet::new(),
            parameters: EdgeParameters::default(),
        }
    }

    fn pod() -> Pod {
        let sidecar = Sidecar {
            image: "registry.example/sluice-sidecar:1".into(),
            operator: "sluice-operator.sluice-system.svc:8443".into(),
            operator_name: "sluice-operator.sluice-system.svc".into(),
        };
        Pod::new(&sidecar, "ROOTS\n", None)
    }

    fn of(made: Made, intent: &EdgeIntent) -> Value {
        one(made, intent, &pod())
    }

    #[test]
    fn the_objects_of_an_edge() {
        for (made, object) in all(&intent(), &pod()) {
            insta::assert_yaml_snapshot!(made.resource().kind.to_lowercase(), object);
        }
    }

    #[test]
    fn they_are_of_the_apis_shapes() {
        fn shape<T: serde::de::DeserializeOwned + serde::Serialize>(object: Value) {
            let typed: T = serde_json::from_value(object.clone()).expect("of the API's shape");
            // What the API does not know would be lost on the way.
            assert_eq!(serde_json::to_value(typed).expect("serialises"), object);
        }
        shape::<ServiceAccount>(of(Made::Account, &intent()));
        shape::<Service>(of(Made::Service, &intent()));
        shape::<PodDisruptionBudget>(of(Made::Budget, &intent()));
        shape::<Deployment>(of(Made::Deployment, &intent()));
    }

    #[test]
    fn a_listener_that_comes_restarts_nothing_and_nobody_says_replicas() {
        let mut more = intent();
        more.ports.insert(8443);
        more.parameters.replicas = 7;
        more.parameters.service_type = ServiceType::ClusterIp;
        assert_eq!(of(Made::Deployment, &more), of(Made::Deployment, &intent()));
        assert_ne!(of(Made::Service, &more), of(Made::Service, &intent()));
        let spec = &of(Made::Deployment, &more)["spec"];
        assert!(spec.get("replicas").is_none(), "{spec}");
    }

    #[test]
    fn an_address_is_asked_of_load_balancers_only() {
        let mut asking = intent();
        asking.addresses.insert([192, 0, 2, 1].into());
        let spec = of(Made::Service, &asking)["spec"].take();
        assert_eq!(spec["loadBalancerIP"], "192.0.2.1");
        asking.parameters.service_type = ServiceType::ClusterIp;
        let spec = of(Made::Service, &asking)["spec"].take();
        assert!(spec.get("loadBalancerIP").is_none(), "{spec}");
    }

    #[test]
    fn without_a_port_the_service_keeps_its_address() {
        let mut none = intent();
        none.ports.clear();
        let made: Vec<_> = all(&none, &pod())
            .into_iter()
            .map(|(made, _)| made)
            .collect();
        assert_eq!(made, [Made::Account, Made::Budget, Made::Deployment]);
    }

    #[test]
    fn a_users_labels_do_not_take_ours_away() {
        let mut bold = intent();
        for ours in [NAME_LABEL, GATEWAY_LABEL, INJECT_LABEL, MANAGED_BY] {
            bold.labels.insert(ours.to_owned(), "mine".to_owned());
        }
        let template =
            of(Made::Deployment, &bold)["spec"]["template"]["metadata"]["labels"].clone();
        assert_eq!(template[GATEWAY_LABEL], "public");
        assert_eq!(
            (
                &template[NAME_LABEL],
                &template[INJECT_LABEL],
                &template[MANAGED_BY]
            ),
            (&json!(EDGE), &json!("false"), &json!(FIELD_MANAGER))
        );
    }
}
