//! What the tests of translation share: cases read from files, engines fed with them, results as YAML.

#![allow(dead_code)] // each test binary uses its part

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    path::Path,
    sync::Arc,
};

use aws_lc_rs::hmac;
use k8s_openapi::{
    api::{autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sluice_crds::{
    ApiRoute, ShardSetStatus,
    manifest::{self, ManifestFinding, ManifestObject},
};
use sluice_translate::{
    Change, Engine, Finding, FindingReason, Kind, Object, ObjectId, Pods, Settings, Undecodable,
    manifests::object_of,
    standing::{ListenerStanding, Outcome, Standing},
    world::{HpaFacts, Meta},
};

/// Settings whose every run makes the same bytes.
pub fn settings(pods: Pods) -> Settings {
    Settings {
        hash_key: hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]),
        operator_namespace: "sluice-system".into(),
        pods,
    }
}

/// What a manifest cannot say: `world.yaml` beside `in.yaml`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Rest {
    /// Pods; with any, they and not EndpointSlices say which pods there are.
    pub pods: Vec<Pod>,
    /// HorizontalPodAutoscalers.
    pub hpas: Vec<HorizontalPodAutoscaler>,
    /// KEDA's ScaledObjects.
    pub scaled_objects: Vec<Value>,
    /// Status of ShardSets, by `<namespace>/<name>`.
    pub shard_sets: BTreeMap<String, ShardSetStatus>,
    /// Sessions of policies, by `<namespace>/<name>`.
    pub fleet: BTreeMap<String, u32>,
    /// Objects that do not decode; taken in after all others.
    pub undecodable: Vec<Raw>,
    /// Values of ApiRoutes that are too long to be written out.
    pub inflate: Vec<Inflate>,
}

/// An object that does not decode.
#[derive(Debug, Deserialize)]
pub struct Raw {
    kind: String,
    namespace: String,
    name: String,
    message: String,
    raw: Option<Value>,
}

/// A value that is replaced by so many letters.
#[derive(Debug, Deserialize)]
pub struct Inflate {
    namespace: String,
    name: String,
    pointer: String,
    bytes: usize,
}

/// One case.
pub struct Case {
    pub pods: Pods,
    pub objects: Vec<Object>,
    pub broken: Vec<Undecodable>,
    pub notes: BTreeMap<ObjectId, Vec<Finding>>,
}

fn read<T: DeserializeOwned + Default>(path: &Path) -> T {
    match fs::read_to_string(path) {
        Ok(text) => {
            let value: Value = serde_saphyr::from_str(&text).expect("world.yaml is YAML");
            serde_json::from_value(value).expect("world.yaml has its shape")
        }
        Err(_) => T::default(),
    }
}

impl Case {
    /// Reads `in.yaml` and, where there is one, `world.yaml`.
    pub fn read(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join("in.yaml")).expect("in.yaml");
        let rest: Rest = read(&folder.join("world.yaml"));
        let parsed = manifest::parse("in.yaml", &text);
        let file = ObjectId::new(Kind::File, "", "in.yaml");
        let mut found: Vec<Finding> = parsed
            .findings
            .iter()
            .map(|finding| of_manifest(&file, finding))
            .collect();
        let mut objects: BTreeMap<ObjectId, Object> = BTreeMap::new();
        for located in parsed.objects {
            let object = object(located.object, &rest);
            match objects.entry(object.id()) {
                Entry::Vacant(place) => drop(place.insert(object)),
                Entry::Occupied(_) => {
                    let what = format!("line {}: declares again {}", located.line, object.id());
                    let reason = FindingReason::DuplicateObject;
                    found.push(Finding::new(&file, reason, None, &what));
                }
            }
        }
        let mut objects: Vec<Object> = objects.into_values().collect();
        objects.extend(rest.pods.iter().map(Object::from));
        objects.extend(rest.hpas.iter().map(Object::from));
        objects.extend(rest.scaled_objects.iter().map(scaled_object));
        for (policy, sessions) in &rest.fleet {
            let (namespace, name) = policy.split_once('/').expect("namespace/name");
            let id = ObjectId::new(Kind::RateLimitPolicy, namespace, name);
            objects.push(Object::fleet(&id, *sessions));
        }
        Self {
            pods: match rest.pods.is_empty() {
                true => Pods::FromSlices,
                false => Pods::FromPods,
            },
            objects,
            broken: rest.undecodable.into_iter().map(undecodable).collect(),
            notes: match found.is_empty() {
                true => BTreeMap::new(),
                false => BTreeMap::from([(file, found)]),
            },
        }
    }

    /// An engine that was given everything, object by object in this order.
    pub fn engine(&self, order: &[usize]) -> Engine {
        let mut engine = Engine::new(settings(self.pods));
        for index in order {
            engine.apply([Change::Upsert(self.objects[*index].clone())]);
        }
        for broken in &self.broken {
            engine.apply([Change::Undecodable(broken.clone())]);
        }
        for (about, findings) in &self.notes {
            engine.report(about, findings.clone());
        }
        engine
    }
}

fn undecodable(raw: Raw) -> Undecodable {
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == raw.kind);
    Undecodable {
        id: ObjectId::new(kind.expect("a known kind"), &raw.namespace, &raw.name),
        meta: Meta::default(),
        message: raw.message,
        raw: raw.raw,
    }
}

fn object(object: ManifestObject, rest: &Rest) -> Object {
    match object {
        ManifestObject::ApiRoute(route) => Object::from(&inflated(*route, &rest.inflate)),
        ManifestObject::ShardSet(mut set) => {
            let meta = &set.metadata;
            let name = [&meta.namespace, &meta.name].map(|part| part.clone().unwrap_or_default());
            set.status = rest.shard_sets.get(&name.join("/")).cloned();
            Object::from(&*set)
        }
        other => object_of(&other),
    }
}

fn inflated(route: ApiRoute, inflate: &[Inflate]) -> ApiRoute {
    let mut value = serde_json::to_value(&route).expect("encodes");
    for Inflate {
        namespace,
        name,
        pointer,
        bytes,
    } in inflate
    {
        let meta = &route.metadata;
        if meta.namespace.as_ref() == Some(namespace) && meta.name.as_ref() == Some(name) {
            *value.pointer_mut(pointer).expect("pointer") = json!("x".repeat(*bytes));
        }
    }
    serde_json::from_value(value).expect("decodes")
}

/// As the directory source reports it.
fn of_manifest(file: &ObjectId, finding: &ManifestFinding) -> Finding {
    let reason = match (finding.path.is_empty(), finding.message.as_str()) {
        (true, _) => FindingReason::UnreadableFile,
        (false, message) if message.starts_with("unknown field") => FindingReason::UnknownField,
        (false, _) => FindingReason::SchemaViolation,
    };
    let path = Some(finding.path.as_str()).filter(|path| !path.is_empty());
    Finding::new(
        file,
        reason,
        path,
        &format!("line {}: {}", finding.line, finding.message),
    )
}

/// Everything an engine says, as YAML: units redacted, endpoints and secrets too.
pub fn render(engine: &Engine) -> String {
    let groups: BTreeMap<String, Value> = engine
        .groups()
        .map(|group| {
            let units = engine.group_units(group).expect("a group has a list");
            let units = units.sorted().into_iter();
            let units: Vec<&str> = units.map(|(name, _)| name.as_str()).collect();
            let pods: Vec<String> = engine
                .pods_of(group)
                .into_iter()
                .map(|pod| pod.name)
                .collect();
            (group.to_string(), json!({"pods": pods, "units": units}))
        })
        .collect();
    let units: BTreeMap<&str, Value> = engine
        .units()
        .map(|(name, encoded)| {
            let unit = sluice_snapshot::Unit::decode(name, &encoded.body).expect("decodes");
            sluice_pipeline::compile_unit(name, &unit).expect("what leaves compiles");
            (name.as_str(), unit.redacted())
        })
        .collect();
    let findings: BTreeMap<String, Vec<Value>> = engine
        .troubled()
        .into_iter()
        .map(|id| {
            let findings = engine.findings(id).into_iter().map(|finding| {
                json!({
                    "reason": finding.reason.as_str(),
                    "condition": format!("{:?}", finding.reason.condition()),
                    "message": finding.message,
                })
            });
            (id.to_string(), findings.collect())
        })
        .collect();
    let children: BTreeMap<String, Value> = engine
        .children()
        .iter()
        .map(|((namespace, name), hpa)| {
            let value = json!({
                "target": hpa.target,
                "minReplicas": hpa.min_replicas,
                "maxReplicas": hpa.max_replicas,
                "metrics": hpa.metrics,
                "behavior": hpa.behavior,
                "schedules": hpa.schedules.iter().map(|schedule| (&schedule.name, schedule.min_replicas)).collect::<Vec<_>>(),
                "owners": hpa.owners.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(),
            });
            (format!("{namespace}/{name}"), value)
        })
        .collect();
    let standings: BTreeMap<String, Value> = engine
        .standings()
        .map(|(id, standing)| (id.to_string(), of_standing(standing)))
        .collect();
    let mut all = json!({
        "groups": groups,
        "units": units,
        "findings": findings,
        "horizontalPodAutoscalers": children,
    });
    if !standings.is_empty() {
        all["standings"] = json!(standings);
    }
    serde_yaml::to_string(&all).expect("YAML")
}

/// One condition as a line.
fn said(outcome: &Outcome) -> String {
    let Outcome {
        status,
        reason,
        message,
    } = outcome;
    format!("{status} {reason}: {message}")
}

/// How an object stands, a line for each condition.
fn of_standing(standing: &Standing) -> Value {
    match standing {
        Standing::Route { parents } => parents
            .iter()
            .map(|parent| {
                json!({
                    "parentRef": parent.reference,
                    "accepted": said(&parent.accepted),
                    "resolvedRefs": said(&parent.resolved_refs),
                })
            })
            .collect(),
        Standing::Gateway {
            accepted,
            listeners,
        } => json!({
            "accepted": said(accepted),
            "listeners": listeners.iter().map(of_listener).collect::<Vec<_>>(),
        }),
        Standing::Policy { ancestors } => ancestors
            .iter()
            .map(|ancestor| {
                json!({
                    "ancestorRef": ancestor.reference,
                    "accepted": said(&ancestor.accepted),
                    "resolvedRefs": said(&ancestor.resolved_refs),
                })
            })
            .collect(),
        Standing::GatewayClass { accepted } => json!({"accepted": said(accepted)}),
    }
}

fn of_listener(listener: &ListenerStanding) -> Value {
    let kinds = listener.supported_kinds.iter();
    let kinds: Vec<String> = kinds
        .map(|(group, kind)| format!("{group}/{kind}"))
        .collect();
    json!({
        "name": listener.name,
        "supportedKinds": kinds,
        "attachedRoutes": listener.attached_routes,
        "accepted": said(&listener.accepted),
        "resolvedRefs": said(&listener.resolved_refs),
        "conflicted": said(&listener.conflicted),
        "brokenForProgrammed": listener.broken_for_programmed.as_ref().map(said),
    })
}

/// A ScaledObject, as its source reads it.
pub fn scaled_object(object: &Value) -> Object {
    let meta = serde_json::from_value(object["metadata"].clone()).expect("metadata");
    let facts = HpaFacts::of_scaled_object(&meta, object).expect("it names a workload");
    Object::ScaledObject(Arc::new(facts))
}

/// A time so many seconds after the first day.
pub fn time(seconds: i64) -> Time {
    serde_json::from_value(json!(format!(
        "2026-01-01T00:{:02}:{:02}Z",
        seconds / 60 % 60,
        seconds % 60
    )))
    .expect("a time")
}
