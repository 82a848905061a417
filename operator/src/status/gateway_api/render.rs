//! The status documents of the Gateway API's kinds, from how an object stands and what is stored: pure. What other
//! controllers say of a route or a policy stays as it is; what is written is the whole list, over exactly what was read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};
use sluice_crds::{CONTROLLER_NAME, common::Condition};
use sluice_translate::{
    Kind, Standing,
    standing::{ListenerStanding, Outcome, ReferenceStanding},
};

use super::{
    FEATURES,
    gather::Gathered,
    programmed::{Facts, programmed},
};
use crate::{children::edge::Address, status::conditions::truncated};

/// Parents of one route, of all controllers, as its CRD bounds them.
const MAX_PARENTS: usize = 32;
/// Ancestors of one policy, of all controllers, as its CRD bounds them.
const MAX_ANCESTORS: usize = 16;
/// The longest message of a condition that is written, in bytes.
const MAX_MESSAGE: usize = 4096;

/// The status that an object should have; `None` where it has it already.
pub fn status(gathered: &Gathered, facts: &Facts, stored: &Value, now: &Time) -> Option<Value> {
    let stamp = Stamp {
        generation: gathered.generation,
        now,
    };
    let new = match &gathered.standing {
        Some(Standing::Route { parents }) => {
            entries(&PARENTS, parents.iter().map(entry), stored, &stamp)
        }
        Some(Standing::Policy { ancestors }) => {
            entries(&ANCESTORS, ancestors.iter().map(entry), stored, &stamp)
        }
        Some(Standing::Gateway {
            accepted,
            listeners,
        }) => gateway(gathered, accepted, listeners, facts, stored, &stamp),
        Some(Standing::GatewayClass { accepted }) => class(accepted, stored, &stamp),
        // What was ours of it is taken back; a Gateway's status is its next controller's.
        None => match gathered.object.kind {
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
                entries(&PARENTS, std::iter::empty(), stored, &stamp)
            }
            Kind::BackendTlsPolicy => entries(&ANCESTORS, std::iter::empty(), stored, &stamp),
            _ => return None,
        },
    };
    (!says(stored, &new)).then_some(new)
}

/// Whether a status says that the object was on edges.
pub fn is_programmed(stored: &Value) -> bool {
    known(stored)
        .iter()
        .any(|condition| condition.type_ == "Programmed" && condition.status == "True")
}

/// What every condition of one document has alike.
struct Stamp<'a> {
    generation: Option<i64>,
    now: &'a Time,
}

impl Stamp<'_> {
    /// One that says the same keeps the time since which it has been so.
    fn condition(&self, type_: &str, outcome: &Outcome, known: &[Condition]) -> Condition {
        let status = if outcome.status { "True" } else { "False" };
        let former = known
            .iter()
            .find(|known| known.type_ == type_ && known.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: outcome.reason.to_owned(),
            message: truncated(outcome.message.clone(), MAX_MESSAGE),
            observed_generation: self.generation,
            last_transition_time: former.map_or_else(
                || self.now.clone(),
                |former| former.last_transition_time.clone(),
            ),
        }
    }

    fn conditions(&self, outcomes: &[(&str, &Outcome)], known: &[Condition]) -> Value {
        let all: Vec<Condition> = outcomes
            .iter()
            .map(|(type_, outcome)| self.condition(type_, outcome, known))
            .collect();
        json!(all)
    }
}

/// Conditions that are stored, whatever else stands there.
fn known(stored: &Value) -> Vec<Condition> {
    let conditions = stored.get("conditions").and_then(Value::as_array);
    let each = |condition: &Value| serde_json::from_value(condition.clone()).ok();
    conditions.into_iter().flatten().filter_map(each).collect()
}

/// A list whose entries are each a controller's.
struct Shared {
    list: &'static str,
    reference: &'static str,
    max: usize,
}

const PARENTS: Shared = Shared {
    list: "parents",
    reference: "parentRef",
    max: MAX_PARENTS,
};
const ANCESTORS: Shared = Shared {
    list: "ancestors",
    reference: "ancestorRef",
    max: MAX_ANCESTORS,
};

type Entry<'a> = (&'a Value, [(&'static str, &'a Outcome); 2]);

fn entry(standing: &ReferenceStanding) -> Entry<'_> {
    let ReferenceStanding {
        reference,
        accepted,
        resolved_refs,
    } = standing;
    (
        reference,
        [("Accepted", accepted), ("ResolvedRefs", resolved_refs)],
    )
}

/// Entries of others as they are, and ours.
fn entries<'a>(
    shared: &Shared,
    ours: impl Iterator<Item = Entry<'a>>,
    stored: &Value,
    stamp: &Stamp<'_>,
) -> Value {
    let there = stored.get(shared.list).and_then(Value::as_array);
    let there = there.map(Vec::as_slice).unwrap_or_default();
    let is_ours = |entry: &&Value| entry.get("controllerName") == Some(&CONTROLLER_NAME.into());
    let mut all: Vec<Value> = there
        .iter()
        .filter(|entry| !is_ours(entry))
        .cloned()
        .collect();
    let entry = |(reference, outcomes): Entry<'_>| {
        let mut former = there.iter().filter(is_ours);
        let former = former.find(|entry| entry.get(shared.reference) == Some(reference));
        json!({
            shared.reference: reference,
            "controllerName": CONTROLLER_NAME,
            "conditions": stamp.conditions(&outcomes, &former.map(known).unwrap_or_default()),
        })
    };
    all.extend(ours.map(entry));
    all.truncate(shared.max);
    json!({shared.list: all})
}

fn gateway(
    gathered: &Gathered,
    accepted: &Outcome,
    listeners: &[ListenerStanding],
    facts: &Facts,
    stored: &Value,
    stamp: &Stamp<'_>,
) -> Value {
    let of_set = gathered.object.kind == Kind::ListenerSet;
    let programmed = match of_set && !accepted.status {
        // A ListenerSet has no word of its own for it.
        true => Outcome::bad(accepted.reason, "it is not accepted"),
        false => programmed(accepted, facts),
    };
    let there = stored.get("listeners").and_then(Value::as_array);
    let there = there.map(Vec::as_slice).unwrap_or_default();
    let listeners: Vec<Value> = listeners
        .iter()
        .map(|standing| {
            let mut former = there.iter();
            let former =
                former.find(|entry| entry.get("name") == Some(&standing.name.as_str().into()));
            listener(
                standing,
                of_set,
                &programmed,
                &former.map(known).unwrap_or_default(),
                stamp,
            )
        })
        .collect();
    let outcomes = [("Accepted", accepted), ("Programmed", &programmed)];
    let mut status = json!({
        "conditions": stamp.conditions(&outcomes, &known(stored)),
        "listeners": listeners,
    });
    if gathered.object.kind == Kind::Gateway {
        let edge = facts.edge.iter();
        let addresses: Vec<Value> = edge.flat_map(|edge| &edge.addresses).map(address).collect();
        status["addresses"] = addresses.into();
        status["attachedListenerSets"] = gathered.listener_sets.into();
    }
    status
}

fn address(address: &Address) -> Value {
    match address {
        Address::Ip(ip) => json!({"type": "IPAddress", "value": ip}),
        Address::Hostname(name) => json!({"type": "Hostname", "value": name}),
    }
}

fn listener(
    standing: &ListenerStanding,
    of_set: bool,
    programmed: &Outcome,
    known: &[Condition],
    stamp: &Stamp<'_>,
) -> Value {
    let ListenerStanding {
        name,
        supported_kinds,
        attached_routes,
        served: _,
        accepted,
        resolved_refs,
        conflicted,
        broken_for_programmed,
    } = standing;
    let refused = Outcome::bad("Invalid", "the listener is not accepted");
    let in_conflict = Outcome {
        status: false,
        ..conflicted.clone()
    };
    let programmed = match broken_for_programmed {
        // Of a ListenerSet's the conflict itself is the reason.
        _ if of_set && conflicted.status => &in_conflict,
        Some(broken) => broken,
        None if !accepted.status => &refused,
        // Reasons of a listener are Programmed, Invalid and Pending.
        None if programmed.status => programmed,
        None => &Outcome {
            reason: "Pending",
            ..programmed.clone()
        },
    };
    let outcomes = [
        ("Accepted", accepted),
        ("Programmed", programmed),
        ("ResolvedRefs", resolved_refs),
        ("Conflicted", conflicted),
    ];
    let kinds: Vec<Value> = supported_kinds
        .iter()
        .map(|(group, kind)| json!({"group": group, "kind": kind}))
        .collect();
    json!({
        "name": name,
        "supportedKinds": kinds,
        "attachedRoutes": attached_routes,
        "conditions": stamp.conditions(&outcomes, known),
    })
}

fn class(accepted: &Outcome, stored: &Value, stamp: &Stamp<'_>) -> Value {
    let features = FEATURES.map(|name| json!({"name": name})).to_vec();
    json!({
        "conditions": stamp.conditions(&[("Accepted", accepted)], &known(stored)),
        "supportedFeatures": features,
    })
}

/// Whether a stored status says everything that `new` says. Of conditions and features others may have theirs beside ours;
/// every other list is whole. What is absent is empty.
fn says(stored: &Value, new: &Value) -> bool {
    let empty = Map::new();
    let of = |value: &Value, name: &str| {
        let list = value.get(name).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let fields = new.as_object().unwrap_or(&empty);
    fields.keys().all(|name| {
        let (there, ours) = (of(stored, name), of(new, name));
        match name.as_str() {
            "conditions" => ours.iter().all(|condition| there.contains(condition)),
            "listeners" => {
                there.len() == ours.len()
                    && ours.iter().all(|listener| {
                        let same = |there: &&Value| there.get("name") == listener.get("name");
                        there
                            .iter()
                            .find(same)
                            .is_some_and(|there| same_listener(there, listener))
                    })
            }
            // A number; none is what the API's definition takes for it.
            "attachedListenerSets" => {
                stored.get(name).and_then(Value::as_u64).unwrap_or(0)
                    == new.get(name).and_then(Value::as_u64).unwrap_or(0)
            }
            _ => there == ours,
        }
    })
}

fn same_listener(there: &Value, ours: &Value) -> bool {
    let of = |value: &Value, name: &str| value.get(name).cloned().unwrap_or_default();
    of(there, "supportedKinds") == of(ours, "supportedKinds")
        && of(there, "attachedRoutes") == of(ours, "attachedRoutes")
        && says(
            &json!({"conditions": of(there, "conditions")}),
            &json!({"conditions": of(ours, "conditions")}),
        )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use sluice_translate::ObjectId;

    use super::*;
    use crate::{children::edge::State, stream::Live};

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("a time"))
    }

    fn gathered(kind: Kind, standing: Option<Standing>) -> Gathered {
        Gathered {
            object: ObjectId::new(kind, "shop", "it"),
            generation: Some(3),
            standing,
            required: Vec::new(),
            gateway: None,
            listener_sets: 0,
        }
    }

    fn route(names: &[&str], resolved: &Outcome) -> Gathered {
        let parents = names.iter().map(|name| ReferenceStanding {
            reference: json!({"name": name}),
            accepted: Outcome::good("Accepted"),
            resolved_refs: resolved.clone(),
        });
        let parents = parents.collect();
        gathered(Kind::HttpRoute, Some(Standing::Route { parents }))
    }

    fn good() -> Outcome {
        Outcome::good("ResolvedRefs")
    }

    fn facts() -> Facts {
        Facts {
            live: Live {
                pods: 2,
                of: 2,
                ..Live::default()
            },
            edge: Some(State {
                addresses: vec![Address::Ip("192.0.2.1".into())],
                ..State::default()
            }),
        }
    }

    fn public(accepted: Outcome) -> Gathered {
        let listener = |name: &str, broken: Option<Outcome>| ListenerStanding {
            name: name.into(),
            supported_kinds: vec![("gateway.networking.k8s.io".into(), "HTTPRoute".into())],
            attached_routes: 2,
            served: true,
            accepted: Outcome::good("Accepted"),
            resolved_refs: match &broken {
                Some(_) => Outcome::bad("InvalidCertificateRef", "no Secret shop/gone"),
                None => good(),
            },
            conflicted: Outcome {
                status: false,
                ..Outcome::good("NoConflicts")
            },
            broken_for_programmed: broken,
        };
        let broken = Outcome::bad("Invalid", "it has no certificate");
        let listeners = vec![listener("http", None), listener("https", Some(broken))];
        gathered(
            Kind::Gateway,
            Some(Standing::Gateway {
                accepted,
                listeners,
            }),
        )
    }

    #[test]
    fn documents() {
        let of = |gathered: &Gathered| {
            status(gathered, &facts(), &Value::Null, &at(10)).expect("written")
        };
        insta::assert_yaml_snapshot!("a_gateway", of(&public(Outcome::good("Accepted"))));
        insta::assert_yaml_snapshot!(
            "a_route",
            of(&route(
                &["public"],
                &Outcome::bad("BackendNotFound", "no Service shop/gone")
            ))
        );
        let accepted = Outcome::good("Accepted");
        let class = of(&gathered(
            Kind::GatewayClass,
            Some(Standing::GatewayClass { accepted }),
        ));
        assert_eq!(class["conditions"][0]["status"], "True");
        assert!(FEATURES.is_sorted(), "as the Gateway API asks for it");
    }

    #[test]
    fn what_others_say_of_a_route_stays() {
        let theirs = json!({"parentRef": {"name": "other"}, "controllerName": "example.net/other", "conditions": []});
        let stored = json!({"parents": [theirs]});
        let first =
            status(&route(&["public"], &good()), &facts(), &stored, &at(10)).expect("written");
        assert_eq!(first["parents"][0], theirs);
        assert_eq!(first["parents"][1]["parentRef"], json!({"name": "public"}));
        // Nothing changes, and nothing is written.
        let same = status(&route(&["public"], &good()), &facts(), &first, &at(99));
        assert_eq!(same, None);
        // A parent that is named no more is ours to take back, and so are all where none is ours.
        let moved =
            status(&route(&["private"], &good()), &facts(), &first, &at(99)).expect("written");
        assert_eq!(moved["parents"].as_array().map(Vec::len), Some(2));
        let none = gathered(Kind::HttpRoute, None);
        let gone = status(&none, &facts(), &first, &at(99)).expect("written");
        assert_eq!(gone, stored);
        assert_eq!(status(&none, &facts(), &stored, &at(99)), None);
        assert_eq!(status(&none, &facts(), &Value::Null, &at(99)), None);
    }

    #[test]
    fn a_condition_that_says_the_same_keeps_its_time() {
        let first = status(
            &route(&["public"], &good()),
            &facts(),
            &Value::Null,
            &at(10),
        )
        .expect("written");
        let broken = route(&["public"], &Outcome::bad("BackendNotFound", "gone"));
        let second = status(&broken, &facts(), &first, &at(20)).expect("written");
        let conditions = |status: &Value| known(&status["parents"][0]);
        assert_eq!(conditions(&second)[0].last_transition_time, at(10));
        assert_eq!(conditions(&second)[1].last_transition_time, at(20));
    }

    #[test]
    fn a_new_generation_is_written_whatever_it_says() {
        let first = status(
            &route(&["public"], &good()),
            &facts(),
            &Value::Null,
            &at(10),
        )
        .expect("written");
        let later = Gathered {
            generation: Some(4),
            ..route(&["public"], &good())
        };
        let second = status(&later, &facts(), &first, &at(20)).expect("written");
        assert_eq!(
            second["parents"][0]["conditions"][0]["observedGeneration"],
            4
        );
    }

    #[test]
    fn a_gateway_is_written_over_the_defaults_of_its_definition_and_then_no_more() {
        let pending = json!({"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "Waiting for controller", "lastTransitionTime": "1970-01-01T00:00:00Z"});
        let stored = json!({"conditions": [pending]});
        let gathered = public(Outcome::good("Accepted"));
        let mut first = status(&gathered, &facts(), &stored, &at(10)).expect("written");
        // Another controller's condition is none of our business, nor is the order.
        let conditions = first["conditions"].as_array_mut().expect("a list");
        conditions.reverse();
        conditions.push(json!({"type": "example.net/Seen", "status": "True"}));
        assert_eq!(status(&gathered, &facts(), &first, &at(99)), None);
        let nowhere = Facts {
            edge: Some(State::default()),
            ..facts()
        };
        let lost = status(&gathered, &nowhere, &first, &at(99)).expect("written");
        assert_eq!(lost["addresses"], json!([]));
        assert!(is_programmed(&first) && !is_programmed(&lost));
        // A listener of it then waits, whatever the Gateway lacks.
        let programmed = lost["listeners"][0]["conditions"][1].clone();
        assert_eq!(
            (&programmed["type"], &programmed["reason"]),
            (&json!("Programmed"), &json!("Pending"))
        );
    }
}
