//! The status document of each kind, from what was gathered and what is stored: pure. It never touches the part of a
//! ShardSet's status that `moves` owns.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_crds::{
    ApiRouteStatus, CONTROLLER_NAME, RateLimitPolicyStatus, ShardSetStatus,
    api_route::{ParentRef, ParentStatus},
    common::{Condition, LiveStatus},
};
use sluice_translate::{Condition as Concern, Finding, FindingReason};

use super::{
    conditions::{Facts, Kind, Reason, Scaling, Verdict, judge, stamped},
    gather::{Gathered, Special},
};
use crate::stream::{Live, table::limits};

/// A status that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// The whole status.
    pub status: Value,
    /// The conditions that were not False before and are now.
    pub turned: Vec<Condition>,
}

/// The status that an object should have; `None` where it has it already.
pub fn render(
    gathered: &Gathered,
    live: &Live,
    scaling: Option<&Scaling>,
    stored: &Value,
    now: &Time,
) -> Option<Rendered> {
    let known = conditions_of(stored);
    let former = moves_part(stored);
    let facts = Facts {
        findings: &gathered.findings,
        live,
        moving: former.moving.as_ref(),
        scaling,
        unresolved_for: unresolved_for(&known, now),
    };
    let verdicts = judge(&facts);
    let conditions = stamped(&verdicts, &known, gathered.generation, now);
    let turned = turned(&conditions, &known);
    let limits = limits::statuses(&live.limits);
    let live = live_status(live, &gathered.version);
    let observed_generation = gathered.generation;
    let status = match &gathered.special {
        Special::Route { parents, .. } => to_value(
            &typed::<ApiRouteStatus>(stored),
            ApiRouteStatus {
                parents: parents_status(parents, gathered, &verdicts, stored, now),
                observed_generation,
                live: Some(live),
                conditions,
            },
        ),
        Special::Policy => to_value(
            &typed::<RateLimitPolicyStatus>(stored),
            RateLimitPolicyStatus {
                observed_generation,
                live: Some(live),
                conditions,
                limits,
            },
        ),
        Special::ShardSet(_) => to_value(
            &typed::<ShardSetStatus>(stored),
            ShardSetStatus {
                observed_generation,
                live: Some(live),
                conditions,
                ..former
            },
        ),
    };
    status.map(|status| Rendered { status, turned })
}

/// The new status, if it differs from the former by more than the order of conditions. Measured times alone are no
/// difference that is worth a write.
fn to_value<S>(former: &Option<S>, new: S) -> Option<Value>
where
    S: serde::Serialize + PartialEq + Comparable,
{
    let same = former
        .as_ref()
        .is_some_and(|former| former.comparable() == new.comparable());
    // A status of ours always serialises: it has string keys only.
    (!same).then(|| serde_json::to_value(new).unwrap_or_default())
}

/// A form in which two statuses that say the same are equal.
trait Comparable {
    fn comparable(&self) -> Self;
}

macro_rules! comparable {
    ($($status:ty),+) => {$(
        impl Comparable for $status {
            fn comparable(&self) -> Self {
                let mut it = self.clone();
                it.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
                if let Some(live) = &mut it.live {
                    live.slowest_ms = None;
                }
                it
            }
        }
    )+};
}
comparable!(ApiRouteStatus, RateLimitPolicyStatus, ShardSetStatus);

fn typed<S: DeserializeOwned>(stored: &Value) -> Option<S> {
    serde_json::from_value(stored.clone()).ok()
}

/// What is known of conditions, whatever else the status holds.
pub fn conditions_of(stored: &Value) -> Vec<Condition> {
    stored.get("conditions").and_then(typed).unwrap_or_default()
}

/// The part that `moves` owns, as it is stored.
pub fn moves_part(stored: &Value) -> ShardSetStatus {
    let part = |name: &str| stored.get(name).cloned();
    ShardSetStatus {
        epoch: part("epoch").and_then(|value| typed(&value)),
        placement: part("placement")
            .and_then(|value| typed(&value))
            .unwrap_or_default(),
        moving: part("move").and_then(|value| typed(&value)),
        ..ShardSetStatus::default()
    }
}

/// For how long `ResolvedRefs` has been False, by the status itself: a new leader need not start anew.
fn unresolved_for(known: &[Condition], now: &Time) -> Duration {
    let unresolved = known.iter().find(|condition| {
        condition.type_ == Kind::ResolvedRefs.as_str() && condition.status == "False"
    });
    let seconds = unresolved.map_or(0, |condition| {
        now.0.as_second() - condition.last_transition_time.0.as_second()
    });
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn turned(conditions: &[Condition], known: &[Condition]) -> Vec<Condition> {
    let was_false = |condition: &&Condition| {
        let former = known.iter().find(|known| known.type_ == condition.type_);
        former.is_some_and(|former| former.status == "False" && former.reason == condition.reason)
    };
    // What is on its way is no news; what its owner must mend is.
    let told = [Kind::Accepted, Kind::ResolvedRefs, Kind::Scaling].map(Kind::as_str);
    let on_its_way = [Reason::Pending, Reason::NoCluster].map(Reason::as_str);
    let is_news = |condition: &&Condition| {
        condition.status == "False"
            && told.contains(&condition.type_.as_str())
            && !on_its_way.contains(&condition.reason.as_str())
            && !was_false(condition)
    };
    conditions.iter().filter(is_news).cloned().collect()
}

fn live_status(live: &Live, version: &str) -> LiveStatus {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let slowest = live
        .slowest_ms
        .and_then(|slowest| i64::try_from(slowest).ok());
    LiveStatus {
        outdated: (live.outdated > 0).then(|| count(live.outdated)),
        ..LiveStatus::new(count(live.pods), count(live.of), version, slowest)
    }
}

/// What each parent made of the route: what is wrong with the reference itself, else what holds for the route.
fn parents_status(
    parents: &[ParentRef],
    gathered: &Gathered,
    verdicts: &[Verdict],
    stored: &Value,
    now: &Time,
) -> Vec<ParentStatus> {
    let known: Vec<ParentStatus> = stored.get("parents").and_then(typed).unwrap_or_default();
    let entry = |(index, parent): (usize, &ParentRef)| {
        let known = known.iter().find(|known| known.parent_ref == *parent);
        let known = known
            .map(|known| known.conditions.as_slice())
            .unwrap_or_default();
        let verdicts: Vec<_> = verdicts
            .iter()
            .filter(|verdict| matches!(verdict.kind, Kind::Accepted | Kind::ResolvedRefs))
            .map(|verdict| of_parent(verdict, index, &gathered.findings))
            .collect();
        ParentStatus {
            parent_ref: parent.clone(),
            controller_name: CONTROLLER_NAME.to_owned(),
            conditions: stamped(&verdicts, known, gathered.generation, now),
        }
    };
    parents.iter().enumerate().map(entry).collect()
}

/// A parent that does not exist has accepted nothing.
fn of_parent(verdict: &Verdict, index: usize, findings: &[Finding]) -> Verdict {
    let path = format!("spec.parentRefs[{index}]");
    let about_this = |finding: &&Finding| {
        matches!(
            finding.reason,
            FindingReason::ParentNotFound
                | FindingReason::NoMatchingParent
                | FindingReason::NotAllowedByListeners
                | FindingReason::NoMatchingListenerHostname
        ) && finding
            .path
            .as_deref()
            .is_some_and(|found| found.strip_prefix(&path).is_some_and(ends_segment))
    };
    match findings.iter().find(about_this) {
        Some(finding) if verdict.kind == Kind::Accepted && verdict.holds => Verdict {
            holds: false,
            reason: Reason::Finding(finding.reason),
            message: finding.message.clone(),
            ..*verdict
        },
        _ => verdict.clone(),
    }
}

fn ends_segment(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('.')
}

/// Whether a status says that the object was on pods.
pub fn was_programmed(stored: &Value) -> bool {
    conditions_of(stored)
        .iter()
        .any(|condition| condition.type_ == Kind::Programmed.as_str())
}

/// Whether unresolved references will change the conditions by the mere passing of time.
pub fn waits_for_references(gathered: &Gathered) -> bool {
    gathered.has(Concern::ResolvedRefs) && !gathered.has(Concern::Accepted)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;
    use sluice_translate::{Kind as ObjectKind, ObjectId};

    use super::*;
    use crate::stream::{Missing, Why};

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("a time"))
    }

    fn gathered(findings: Vec<Finding>, special: Special) -> Gathered {
        Gathered {
            object: ObjectId::new(ObjectKind::ApiRoute, "shop", "orders"),
            generation: Some(3),
            findings,
            required: Vec::new(),
            version: "0a1b2c3d".into(),
            special,
        }
    }

    fn route(findings: Vec<Finding>) -> Gathered {
        let parents: Vec<ParentRef> = serde_json::from_value(json!([
            {"kind": "Service", "name": "orders", "port": 80}, {"kind": "Service", "name": "gone"},
        ]))
        .expect("parents");
        gathered(
            findings,
            Special::Route {
                parents,
                scaler: None,
            },
        )
    }

    fn live(pods: usize, of: usize) -> Live {
        let missing = (pods..of).map(|n| Missing {
            namespace: "shop".into(),
            pod: format!("p{n}"),
            why: Why::Pending,
        });
        Live {
            pods,
            of,
            slowest_ms: Some(12),
            missing: missing.collect(),
            ..Live::default()
        }
    }

    #[test]
    fn a_status_that_says_the_same_is_not_written_again() {
        let route = route(Vec::new());
        let first = render(&route, &live(2, 2), None, &Value::Null, &at(10)).expect("written");
        assert_eq!(
            render(&route, &live(2, 2), None, &first.status, &at(99)),
            None
        );

        // As an API server merges it: the default of the CRD first, another order.
        let mut merged = first.status.clone();
        merged["conditions"]
            .as_array_mut()
            .expect("conditions")
            .reverse();
        assert_eq!(render(&route, &live(2, 2), None, &merged, &at(99)), None);
        // A pod that took longer this time is no news either.
        let slow = Live {
            slowest_ms: Some(900),
            ..live(2, 2)
        };
        assert_eq!(render(&route, &slow, None, &first.status, &at(99)), None);

        let later = Gathered {
            generation: Some(4),
            ..route.clone()
        };
        assert!(render(&later, &live(2, 2), None, &first.status, &at(99)).is_some());
        assert!(render(&route, &live(1, 2), None, &first.status, &at(99)).is_some());
    }

    #[test]
    fn documents_of_a_route_good_and_broken() {
        let id = ObjectId::new(ObjectKind::ApiRoute, "shop", "orders");
        let finding = Finding::new(
            &id,
            FindingReason::ParentNotFound,
            Some("spec.parentRefs[1]"),
            "no Service shop/gone",
        );
        let good =
            render(&route(Vec::new()), &live(2, 2), None, &Value::Null, &at(10)).expect("written");
        let broken = render(
            &route(vec![finding]),
            &live(1, 2),
            None,
            &good.status,
            &at(20),
        )
        .expect("written");
        insta::assert_yaml_snapshot!("a_good_route", good.status);
        insta::assert_yaml_snapshot!("a_broken_route", broken.status);
        let told: Vec<_> = broken
            .turned
            .iter()
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!((good.turned.len(), told), (0, vec!["ResolvedRefs"]));
    }

    #[test]
    fn the_moves_part_of_a_shard_set_is_kept_as_it_is_stored() {
        let stored = json!({
            "epoch": 12,
            "placement": [{"slots": "0-16383", "shard": "no"}],
            "move": {
                "phase": "Waiting", "epoch": 12, "slots": ["0-1"], "placement": [{"slots": "0-16383", "shard": "s1"}],
                "since": "2026-01-01T00:00:00Z", "attempts": 0, "message": "waits for b",
            },
            "conditions": "nonsense",
        });
        // The engine may be behind what is stored; what is stored counts.
        let set = gathered(Vec::new(), Special::ShardSet(Box::default()));
        let rendered = render(&set, &live(2, 2), None, &stored, &at(10)).expect("written");
        for part in ["epoch", "placement", "move"] {
            assert_eq!(rendered.status[part], stored[part], "{part}");
        }
        let programmed = &rendered.status["conditions"][2];
        assert_eq!(programmed["reason"], "MovePending", "{programmed}");
    }

    #[test]
    fn a_reference_is_stuck_only_after_a_while() {
        let id = ObjectId::new(ObjectKind::ApiRoute, "shop", "orders");
        let broken = route(vec![Finding::new(
            &id,
            FindingReason::BackendNotFound,
            None,
            "no Service shop/stock",
        )]);
        let stalled = |status: &Value| {
            let found = conditions_of(status)
                .into_iter()
                .find(|condition| condition.type_ == "Stalled");
            found.expect("written").status
        };
        let first = render(&broken, &live(2, 2), None, &Value::Null, &at(100))
            .expect("written")
            .status;
        assert_eq!(stalled(&first), "False");
        assert_eq!(render(&broken, &live(2, 2), None, &first, &at(109)), None);
        let later = render(&broken, &live(2, 2), None, &first, &at(110))
            .expect("it is time")
            .status;
        assert_eq!(stalled(&later), "True");
    }
}
