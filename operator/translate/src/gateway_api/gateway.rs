//! A Gateway of ours: its listeners, one unit each, and how it stands. A listener that asks for what cannot be served is
//! present and refuses; one that contradicts an elder listener is left to it. A ListenerSet's listeners are units of the
//! Gateway; how they stand is the set's.

use std::collections::BTreeMap;

use sluice_crds::gateway_api::{GatewaySpec, Listener};
use sluice_snapshot::{Unit, UnitName, unit};

use super::{
    class,
    listener_tls::{self, Made},
    listeners::{self, Refused, Served, ServedListener},
};
use crate::{
    edge,
    finding::FindingReason,
    resolve::{Resolved, report::Report, seal},
    standing::{ListenerStanding, Outcome, Standing},
    view::View,
    world::{Custom, GatewayFacts, ListenerSetFacts, ObjectId},
};

/// The unit of a listener.
pub(crate) fn unit_of(gateway: &ObjectId, listener: &ServedListener) -> UnitName {
    UnitName::listener(&gateway.namespace, &gateway.name, &listener.key)
}

/// The units of a Gateway. One of another class is none of ours.
pub(crate) fn resolve(view: &View<'_>, facts: &GatewayFacts) -> Resolved {
    let mut report = Report::of(&facts.id);
    let mut resolved = Resolved::default();
    undecodable(facts, &mut report);
    let spec = facts.sound();
    if let Some(spec) = spec.filter(|spec| class::is_ours(view, &spec.gateway_class_name)) {
        let mut refused = BTreeMap::new();
        let served = listeners::judged(view, &facts.id, spec, &mut |owner, index, why| {
            if *owner == facts.id {
                refused.insert(index, why);
            }
        });
        let mut made = BTreeMap::new();
        for listener in &served.listeners {
            // What is wrong with a set's listener, its own standing says.
            let mut elsewhere = Report::of(&listener.owner);
            let report = match listener.owner == facts.id {
                true => &mut report,
                false => &mut elsewhere,
            };
            let (unit, tls) = listener_unit(view, &served, spec, listener, report);
            let name = unit_of(&facts.id, listener);
            seal::other(name, Unit::Listener(unit), &mut resolved, report);
            if listener.owner == facts.id {
                made.insert(listener.index, tls);
            }
        }
        let of = Owned {
            owner: &facts.id,
            listeners: &spec.listeners,
            served: &served,
            refused,
            made,
        };
        let listeners = of.standings(&mut report);
        let accepted = match unusable(view, facts, spec) {
            Some(outcome) => outcome,
            None => accepted(&listeners, |listener| !listener.accepted.status),
        };
        resolved.standing = Some(Standing::Gateway {
            accepted,
            listeners,
        });
    }
    resolved.findings = report.into_findings();
    resolved
}

/// How a ListenerSet stands; its units are its Gateway's.
pub(crate) fn resolve_set(view: &View<'_>, facts: &ListenerSetFacts) -> Resolved {
    let mut report = Report::of(&facts.id);
    undecodable(facts, &mut report);
    let mut resolved = Resolved::default();
    if let Some(spec) = facts.sound() {
        let parent = &spec.parent_ref;
        let namespace = parent.namespace.as_deref().unwrap_or(&facts.id.namespace);
        let gateway = view.gateway(namespace, &parent.name);
        let of_gateway = gateway.as_ref().and_then(|gateway| gateway.sound());
        let ours = of_gateway.filter(|spec| class::is_ours(view, &spec.gateway_class_name));
        if let (Some(gateway), Some(of_gateway)) = (&gateway, ours) {
            let standing = set_standing(view, facts, gateway, of_gateway, &mut report);
            resolved.standing = Some(standing);
        }
    }
    resolved.findings = report.into_findings();
    resolved
}

fn set_standing(
    view: &View<'_>,
    set: &ListenerSetFacts,
    gateway: &GatewayFacts,
    spec: &GatewaySpec,
    report: &mut Report,
) -> Standing {
    let mut refused = BTreeMap::new();
    let served = listeners::judged(view, &gateway.id, spec, &mut |owner, index, why| {
        if *owner == set.id {
            refused.insert(index, why);
        }
    });
    if !served.sets.iter().any(|one| one.id == set.id) {
        let what = format!("{} lets no ListenerSet of this namespace in", gateway.id);
        report.add(
            FindingReason::NotAllowedByListeners,
            "spec.parentRef",
            &what,
        );
        return Standing::Gateway {
            accepted: Outcome::bad("NotAllowed", report.last_message()),
            listeners: Vec::new(),
        };
    }
    let mut made = BTreeMap::new();
    for listener in &served.listeners {
        if listener.owner == set.id {
            let (_, tls) = listener_unit(view, &served, spec, listener, report);
            made.insert(listener.index, tls);
        }
    }
    let listeners = set.spec.as_ref().map(|spec| spec.listeners.as_slice());
    let of = Owned {
        owner: &set.id,
        listeners: listeners.unwrap_or_default(),
        served: &served,
        refused,
        made,
    };
    let listeners = of.standings(report);
    // A listener whose certificates may not be named serves nobody: a set of nothing else is not accepted.
    let is_bad = |listener: &ListenerStanding| {
        !listener.accepted.status || listener.broken_for_programmed.is_some()
    };
    Standing::Gateway {
        accepted: accepted(&listeners, is_bad),
        listeners,
    }
}

fn undecodable<S>(facts: &Custom<S>, report: &mut Report) {
    if let Some(defect) = &facts.defect {
        let kept = match defect.outline {
            true => "it listens nowhere",
            false => "its last good form stays in force",
        };
        let what = format!(
            "the stored object does not decode ({}); {kept}",
            defect.message
        );
        report.add(FindingReason::Undecodable, "", &what);
    }
}

/// Whether any listener is served; `is_bad` tells those that are not.
fn accepted(listeners: &[ListenerStanding], is_bad: impl Fn(&ListenerStanding) -> bool) -> Outcome {
    const NOT_VALID: &str = "ListenersNotValid";
    let bad: Vec<&str> = listeners
        .iter()
        .filter(|listener| is_bad(listener))
        .map(|listener| listener.name.as_str())
        .collect();
    let said = format!("not served: {}", bad.join(", "));
    match (listeners.len(), bad.len()) {
        (all, bad) if all == bad => Outcome::bad(NOT_VALID, said),
        (_, 0) => Outcome::good("Accepted"),
        _ => Outcome {
            status: true,
            reason: NOT_VALID,
            message: said,
        },
    }
}

/// What is wrong with what it asks of its edge.
fn unusable(view: &View<'_>, gateway: &GatewayFacts, spec: &GatewaySpec) -> Option<Outcome> {
    let error = edge::asked(view, &gateway.id.namespace, spec).err()?;
    Some(Outcome::bad(error.reason(), error.to_string()))
}

/// The unit of a listener, and what is to be said about its TLS.
fn listener_unit(
    view: &View<'_>,
    served: &Served,
    spec: &GatewaySpec,
    listener: &ServedListener,
    report: &mut Report,
) -> (unit::Listener, Made) {
    let of_set = served.sets.iter().find(|set| set.id == listener.owner);
    let listeners = match of_set {
        Some(set) => set.sound().map(|spec| spec.listeners.as_slice()),
        None => Some(spec.listeners.as_slice()),
    };
    let written = listeners.and_then(|listeners| listeners.get(listener.index));
    let tls = written.and_then(|listener| listener.tls.as_ref());
    let made = listener_tls::of(view, &served.gateway, spec, listener, tls, report);
    let unit = unit::Listener {
        object: served.gateway.reference(),
        name: listener.key.clone(),
        port: listener.port,
        protocol: listener.protocol,
        hostname: listener.hostname.clone(),
        tls: made.tls.clone(),
        broken: made.broken.clone(),
    };
    (unit, made)
}

/// The listeners of one Gateway or ListenerSet, and what was found out about them.
struct Owned<'a> {
    owner: &'a ObjectId,
    listeners: &'a [Listener],
    served: &'a Served,
    refused: BTreeMap<usize, Refused>,
    made: BTreeMap<usize, Made>,
}

impl Owned<'_> {
    fn standings(mut self, report: &mut Report) -> Vec<ListenerStanding> {
        let listeners = self.listeners.iter().enumerate();
        listeners
            .map(|(index, listener)| self.standing(index, listener, report))
            .collect()
    }

    fn standing(
        &mut self,
        index: usize,
        listener: &Listener,
        report: &mut Report,
    ) -> ListenerStanding {
        let path = format!("spec.listeners[{index}]");
        let served = self.served.listeners.iter();
        let served = served
            .clone()
            .find(|one| one.owner == *self.owner && one.index == index);
        let (kinds, others) = listeners::kinds(listener);
        let mut accepted = Outcome::good("Accepted");
        let mut resolved_refs = Outcome::good("ResolvedRefs");
        let mut conflicted = Outcome {
            status: false,
            ..Outcome::good("NoConflicts")
        };
        let mut broken = None;
        if others {
            let what = "allowedRoutes names kinds that no such listener takes";
            report.add(FindingReason::InvalidRouteKinds, &path, what);
            resolved_refs = Outcome::bad("InvalidRouteKinds", report.last_message());
        }
        if let Some(Made {
            tls: _,
            broken: error,
            accepted: refused,
            resolved_refs: unresolved,
        }) = self.made.remove(&index)
        {
            broken = error.map(|error| Outcome::bad("Invalid", error.message));
            accepted = refused.unwrap_or(accepted);
            resolved_refs = unresolved.unwrap_or(resolved_refs);
        }
        if served.is_none() {
            let (refusal, what) = self.refused.remove(&index).unwrap_or((
                listeners::Refusal::UnsupportedValue,
                "the object has more listeners than are read".into(),
            ));
            report.add(refusal.finding(), &path, &what);
            let message = report.last_message();
            if refusal.finding() == FindingReason::Conflicted {
                conflicted = Outcome {
                    status: true,
                    ..Outcome::bad(refusal.as_str(), message.clone())
                };
            }
            broken = Some(Outcome::bad("Invalid", message.clone()));
            accepted = Outcome::bad(refusal.as_str(), message);
        }
        ListenerStanding {
            name: listener.name.clone(),
            supported_kinds: kinds
                .into_iter()
                .map(|kind| (listeners::group_of(kind).into(), kind.as_str().into()))
                .collect(),
            // The engine counts them.
            attached_routes: 0,
            served: served.is_some(),
            accepted,
            resolved_refs,
            conflicted,
            broken_for_programmed: broken,
        }
    }
}
