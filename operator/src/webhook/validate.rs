//! The validating webhook: denies only what no other object can mend, by the same `resolve` that translation uses. What
//! does not resolve yet is a warning: translation denies it anyway, and the other object may be on its way.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_crds::{ApiRoute, GROUP, RateLimitPolicy, ShardSet};
use sluice_translate::{
    Change, Condition, Finding, FindingReason, Kind, Object, ObjectId, View, World, resolve,
    world::{Index, Read, Settings},
};

use super::review::{Operation, Review};
use crate::engine::Handle;

/// Rounds in which objects that others refer to are fetched: a route, its shard set, that set's Services, their slices.
const ROUNDS: usize = 4;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Stored, with these warnings.
    Allowed(Vec<String>),
    /// Refused.
    Denied(String),
}

/// Judges one review.
pub async fn judge(engine: &Handle, settings: &Settings, review: &Review) -> Verdict {
    let object = match subject(review) {
        Subject::Unquestioned => return Verdict::Allowed(Vec::new()),
        Subject::Undecodable(error) => {
            // The API server has checked it against the CRD: the CRD is newer than this operator.
            let text = format!("this operator cannot read the object and will refuse its requests: {error}");
            return Verdict::Allowed(vec![text]);
        }
        Subject::Object(object) => *object,
    };
    let id = object.id();
    let alone = Look::at(settings, std::slice::from_ref(&object), &id);
    let faults: Vec<_> = alone.about(&id).filter(|finding| finding.reason.is_own_fault()).map(text).collect();
    if !faults.is_empty() {
        return Verdict::Denied(faults.join("; "));
    }
    Verdict::Allowed(warnings(engine, settings, object, alone.reads).await)
}

/// What is asked about.
enum Subject {
    /// Nothing that could be refused.
    Unquestioned,
    /// Our operator is too old for it.
    Undecodable(String),
    /// An object that is new or has another spec.
    Object(Box<Object>),
}

fn subject(review: &Review) -> Subject {
    let Review { operation, kind, object, old_object, .. } = review;
    let goes = object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null());
    let same = *operation == Operation::Update && object.get("spec") == old_object.get("spec");
    if goes || same || kind.group != GROUP || !matches!(operation, Operation::Create | Operation::Update) {
        return Subject::Unquestioned;
    }
    let decoded = match kind.kind.as_str() {
        "ApiRoute" => decode::<ApiRoute>(object),
        "RateLimitPolicy" => decode::<RateLimitPolicy>(object),
        "ShardSet" => decode::<ShardSet>(object),
        _ => return Subject::Unquestioned,
    };
    match decoded {
        Ok(object) => Subject::Object(Box::new(object)),
        Err(error) => Subject::Undecodable(error.to_string()),
    }
}

/// The object by what its user wrote: the status, where a placement in force may stand, is not theirs.
fn decode<K>(object: &Value) -> Result<Object, serde_json::Error>
where
    K: DeserializeOwned,
    for<'a> Object: From<&'a K>,
{
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    Ok(Object::from(&serde_json::from_value::<K>(object)?))
}

/// One resolution in a world of a few objects.
struct Look {
    findings: Vec<Finding>,
    reads: BTreeSet<Read>,
}

impl Look {
    fn at(settings: &Settings, objects: &[Object], id: &ObjectId) -> Self {
        let mut world = World::new(settings.clone());
        for object in objects {
            world.apply(Change::Upsert(object.clone()));
        }
        let view = View::new(&world);
        let findings = resolve(&view, id).findings;
        Self { findings, reads: view.into_reads() }
    }

    fn about(&self, id: &ObjectId) -> impl Iterator<Item = &Finding> {
        let reference = id.reference();
        self.findings.iter().filter(move |finding| finding.object == reference)
    }
}

fn text(finding: &Finding) -> String {
    format!("{}: {}", finding.reason.as_str(), finding.message)
}

/// What does not resolve among the objects that there are. A cluster that cannot be asked gives none.
async fn warnings(engine: &Handle, settings: &Settings, object: Object, mut reads: BTreeSet<Read>) -> Vec<String> {
    let id = object.id();
    let mut objects = vec![object];
    let mut findings = Vec::new();
    for _ in 0..ROUNDS {
        let asked = reads.clone();
        let Ok(found) = engine.read(move |engine| fetch(engine.world(), &asked)).await else {
            return Vec::new();
        };
        let known: BTreeSet<_> = objects.iter().map(Object::id).collect();
        objects.extend(found.into_iter().filter(|object| !known.contains(&object.id())));
        let look = Look::at(settings, &objects, &id);
        findings = look.about(&id).cloned().collect();
        if look.reads == reads {
            break;
        }
        reads = look.reads;
    }
    let is_reference = |finding: &&Finding| {
        finding.reason.condition() == Condition::ResolvedRefs || finding.reason == FindingReason::Conflicted
    };
    findings.iter().filter(is_reference).map(text).collect()
}

/// The objects behind what was read.
fn fetch(world: &World, reads: &BTreeSet<Read>) -> Vec<Object> {
    let view = View::new(world);
    let mut objects = Vec::new();
    for read in reads {
        match read {
            Read::Object(id) => objects.extend(object(&view, id)),
            Read::By(index, key) => objects.extend(indexed(&view, *index, key)),
        }
    }
    objects
}

fn object(view: &View<'_>, id: &ObjectId) -> Option<Object> {
    let (namespace, name) = (&*id.namespace, &*id.name);
    match id.kind {
        Kind::ApiRoute => view.route(namespace, name).map(Object::ApiRoute),
        Kind::RateLimitPolicy => view.policy(namespace, name).map(Object::RateLimitPolicy),
        Kind::ShardSet => view.shard_set(namespace, name).map(Object::ShardSet),
        Kind::Service => view.service(namespace, name).map(Object::Service),
        Kind::EndpointSlice => view.slice(namespace, name).map(Object::EndpointSlice),
        Kind::Secret => view.secret(namespace, name).map(Object::Secret),
        Kind::Config => view.config().map(Object::Config),
        Kind::Pod | Kind::HorizontalPodAutoscaler | Kind::Fleet | Kind::File => None,
    }
}

/// A key is `<namespace>/<value>`. Indexes that no reference depends on are left out.
fn indexed(view: &View<'_>, index: Index, key: &str) -> Vec<Object> {
    let Some((namespace, value)) = key.split_once('/') else {
        return Vec::new();
    };
    let routes = |ids: Vec<ObjectId>| ids.iter().filter_map(|id| object(view, id)).collect();
    match index {
        Index::RouteByParent => {
            routes(view.routes_of_parent(namespace, value).iter().map(|claim| claim.id.clone()).collect())
        }
        Index::RouteByHost => match value.split_once('/') {
            Some((service, host)) => {
                routes(view.routes_of_host(namespace, service, host).iter().map(|claim| claim.id.clone()).collect())
            }
            None => Vec::new(),
        },
        Index::SecretByUse => view.secrets_for(namespace, value).into_iter().map(Object::Secret).collect(),
        Index::SliceByService | Index::PortsByService => {
            let names = view.slices_of(namespace, value);
            names.iter().filter_map(|name| view.slice(namespace, name)).map(Object::EndpointSlice).collect()
        }
        Index::RouteByScaleTarget
        | Index::PolicyByTarget
        | Index::HpaByTarget
        | Index::GroupByService
        | Index::PodPortsByService => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use serde_json::json;
    use sluice_translate::Pods;

    use super::*;

    fn settings() -> Settings {
        Settings {
            hash_key: hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]),
            operator_namespace: "sluice-system".into(),
            pods: Pods::FromPods,
        }
    }

    fn route(pattern: &str) -> Value {
        json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "ApiRoute",
            "metadata": {"namespace": "shop", "name": "orders", "uid": "u"},
            "spec": {
                "parentRefs": [{"kind": "Service", "name": "orders"}],
                "rules": [{"name": "one", "matches": [{"path": {"type": "RegularExpression", "value": pattern}}]}],
            },
        })
    }

    fn review(operation: Operation, object: Value, old_object: Value) -> Review {
        let kind = super::super::review::ReviewKind { group: GROUP.into(), kind: "ApiRoute".into() };
        Review { uid: "u".into(), operation, kind, object, old_object }
    }

    fn faults(object: &Value) -> Vec<FindingReason> {
        let object = decode::<ApiRoute>(object).expect("decodes");
        let id = object.id();
        let look = Look::at(&settings(), &[object], &id);
        look.about(&id).map(|finding| finding.reason).filter(|reason| reason.is_own_fault()).collect()
    }

    #[test]
    fn only_what_nobody_else_can_mend_is_a_fault() {
        assert_eq!(faults(&route("/v1/(?<id>[0-9]+)")), [], "its Service does not exist, and may yet");
        assert_eq!(faults(&route("/v1/(")), [FindingReason::Invalid]);
    }

    #[test]
    fn an_unchanged_spec_and_an_object_on_its_way_out_are_never_questioned() {
        let bad = route("/v1/(");
        let mut labelled = bad.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        let mut going = bad.clone();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let unquestioned = |review: &Review| matches!(subject(review), Subject::Unquestioned);
        assert!(unquestioned(&review(Operation::Update, labelled, bad.clone())));
        assert!(unquestioned(&review(Operation::Update, going, route("/other"))));
        assert!(unquestioned(&review(Operation::Delete, Value::Null, bad.clone())));
        assert!(!unquestioned(&review(Operation::Update, bad.clone(), route("/other"))));
        assert!(!unquestioned(&review(Operation::Create, bad, Value::Null)));
    }

    #[test]
    fn a_placement_is_judged_by_the_spec_and_not_by_the_status() {
        let set = |slots: &str| {
            json!({
                "apiVersion": "sluice.dev/v1alpha1", "kind": "ShardSet",
                "metadata": {"namespace": "shop", "name": "orders", "uid": "u"},
                "spec": {
                    "keyspace": {"slots": 16384, "hash": "CRC16"},
                    "key": {"from": [{"type": "Header", "header": {"name": "x-tenant"}}]},
                    "shards": [{"name": "s0", "members": [
                        {"name": "a", "role": "Primary", "backendRef": {"kind": "Service", "name": "a", "port": 80}}]}],
                    "placement": [{"slots": slots, "shard": "s0"}],
                },
                "status": {"epoch": 3, "placement": [{"slots": "0-16383", "shard": "s0"}]},
            })
        };
        let faults = |object: &Value| {
            let object = decode::<ShardSet>(object).expect("decodes");
            let id = object.id();
            let look = Look::at(&settings(), &[object], &id);
            look.about(&id).filter(|finding| finding.reason.is_own_fault()).count()
        };
        assert_eq!(faults(&set("0-16383")), 0);
        assert!(faults(&set("0-16000")) > 0);
    }
}
