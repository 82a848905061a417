//! The validating webhook: denies only what no other object can mend, by the same `resolve` that translation uses. What
//! does not resolve yet is a warning: translation denies it anyway, and the other object may be on its way.

use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_crds::{ApiRoute, GROUP, RateLimitPolicy, ShardSet};
use sluice_translate::{
    Change, Condition, Finding, FindingReason, Object, View, World, resolve, world::Settings,
};

use super::review::{Operation, Review};
use crate::engine::Handle;

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
            let text = format!(
                "this operator cannot read the object and will refuse its requests: {error}"
            );
            return Verdict::Allowed(vec![text]);
        }
        Subject::Object(object) => *object,
    };
    let faults: Vec<_> = faults(settings, &object).iter().map(text).collect();
    match faults.is_empty() {
        true => Verdict::Allowed(warnings(engine, object).await),
        false => Verdict::Denied(faults.join("; ")),
    }
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
    let Review {
        operation,
        kind,
        object,
        old_object,
        ..
    } = review;
    let goes = object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|at| !at.is_null());
    let same = *operation == Operation::Update && object.get("spec") == old_object.get("spec");
    if goes
        || same
        || kind.group != GROUP
        || !matches!(operation, Operation::Create | Operation::Update)
    {
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

/// What is wrong with the object by itself: in a world where there is nothing else.
fn faults(settings: &Settings, object: &Object) -> Vec<Finding> {
    let mut world = World::new(settings.clone());
    world.apply(Change::Upsert(object.clone()));
    let mut findings = resolve(&View::new(&world), &object.id()).findings;
    let reference = object.id().reference();
    findings.retain(|finding| finding.object == reference && finding.reason.is_own_fault());
    findings
}

/// What does not resolve among the objects that there are. An engine that is gone knows none.
async fn warnings(engine: &Handle, object: Object) -> Vec<String> {
    let reference = object.id().reference();
    let judged = engine
        .read(move |engine| engine.judge(&object))
        .await
        .unwrap_or_default();
    let is_reference = |finding: &&Finding| {
        finding.object == reference
            && (finding.reason.condition() == Condition::ResolvedRefs
                || finding.reason == FindingReason::Conflicted)
    };
    judged.iter().filter(is_reference).map(text).collect()
}

fn text(finding: &Finding) -> String {
    format!("{}: {}", finding.reason.as_str(), finding.message)
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
        let kind = super::super::review::ReviewKind {
            group: GROUP.into(),
            kind: "ApiRoute".into(),
        };
        Review {
            uid: "u".into(),
            operation,
            kind,
            namespace: "shop".into(),
            object,
            old_object,
        }
    }

    fn reasons(object: Result<Object, serde_json::Error>) -> Vec<FindingReason> {
        faults(&settings(), &object.expect("decodes"))
            .iter()
            .map(|finding| finding.reason)
            .collect()
    }

    #[test]
    fn only_what_nobody_else_can_mend_is_a_fault() {
        assert_eq!(
            reasons(decode::<ApiRoute>(&route("/v1/(?<id>[0-9]+)"))),
            [],
            "its Service does not exist, and may yet"
        );
        assert_eq!(
            reasons(decode::<ApiRoute>(&route("/v1/("))),
            [FindingReason::Invalid]
        );
    }

    #[test]
    fn an_unchanged_spec_and_an_object_on_its_way_out_are_never_questioned() {
        let bad = route("/v1/(");
        let mut labelled = bad.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        let mut going = bad.clone();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let unquestioned = |review: &Review| matches!(subject(review), Subject::Unquestioned);
        assert!(unquestioned(&review(
            Operation::Update,
            labelled,
            bad.clone()
        )));
        assert!(unquestioned(&review(
            Operation::Update,
            going,
            route("/other")
        )));
        assert!(unquestioned(&review(
            Operation::Delete,
            Value::Null,
            bad.clone()
        )));
        assert!(!unquestioned(&review(
            Operation::Update,
            bad.clone(),
            route("/other")
        )));
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
        assert_eq!(reasons(decode::<ShardSet>(&set("0-16383"))), []);
        assert_eq!(
            reasons(decode::<ShardSet>(&set("0-16000"))),
            [FindingReason::SlotsUncovered]
        );
    }
}
