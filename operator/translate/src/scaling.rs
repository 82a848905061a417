//! HorizontalPodAutoscalers: one per scale target, merged from every ApiRoute that scales it. Schedules stay as they are:
//! which of them is in force is a matter of time, and this module knows none.

pub mod schedule;

use std::{collections::BTreeMap, sync::Arc};

use sluice_crds::{
    api_route::{
        Scaling,
        scaling::{ScaleTargetRef, ScalingBehavior, ScalingSignal},
    },
    common::Quantity,
};

use crate::{
    finding::{Finding, FindingReason},
    view::View,
    world::{ObjectId, RouteFacts},
};
use schedule::{Floor, Schedule, floor};

/// The metric of requests a second, of each pod.
pub const REQUESTS_PER_SECOND: &str = "sluice_requests_per_second";
/// The metric of requests being answered, of each pod.
pub const IN_FLIGHT: &str = "sluice_in_flight";

/// The HorizontalPodAutoscaler that should exist.
#[derive(Debug, Clone, PartialEq)]
pub struct HpaIntent {
    /// Its namespace: the routes'.
    pub namespace: String,
    /// `sluice-<name of the target>`.
    pub name: String,
    /// The workload, verbatim.
    pub target: ScaleTargetRef,
    /// Fewest pods outside schedules: the most that a route asks for; none: the API's default.
    pub min_replicas: Option<i32>,
    /// Most pods: the eldest route's.
    pub max_replicas: i32,
    /// `Pods` metrics, name and averageValue, in the order in which routes name them, eldest first. Of two values for one
    /// metric the smaller, which asks for more pods.
    pub metrics: Vec<(&'static str, String)>,
    /// How fast it follows, verbatim: the eldest route's.
    pub behavior: Option<ScalingBehavior>,
    /// Known peaks, of all routes.
    pub schedules: Vec<Schedule>,
    /// Every ApiRoute that scales the workload, eldest first: name and uid.
    pub owners: Vec<(ObjectId, String)>,
}

impl HpaIntent {
    /// What `minReplicas` is at a moment, in seconds since 1970, and when to ask again. Never above `maxReplicas`.
    pub fn floor(&self, now_s: i64) -> Floor {
        let scheduled = floor(&self.schedules, now_s);
        Floor {
            min_replicas: self
                .min_replicas
                .max(scheduled.min_replicas)
                .map(|floor| floor.min(self.max_replicas)),
            ..scheduled
        }
    }
}

/// A route that asks for scaling, and what it asks.
type Asks = (Arc<RouteFacts>, Scaling);

/// The HPA that `route` stands for, if it is the eldest that scales its target; and what is wrong with its scaling.
pub(crate) fn resolve(view: &View<'_>, route: &RouteFacts) -> (Option<HpaIntent>, Vec<Finding>) {
    let Some(scaling) = scaling_of(route) else {
        return (None, Vec::new());
    };
    let target = &scaling.scale_target_ref;
    let namespace = &*route.id.namespace;
    let mut asking: Vec<Asks> = view
        .routes_of_scale_target(namespace, &target.name)
        .into_iter()
        .filter_map(|route| Some((route.clone(), scaling_of(&route)?.clone())))
        .collect();
    asking.sort_by_key(|(route, _)| route.age());
    let find = |reason, what: &str| Finding::new(&route.id, reason, Some("spec.scaling"), what);
    let Some((eldest, theirs)) = asking.first().cloned() else {
        return (None, Vec::new());
    };
    // Both would be called sluice-<name>: two kinds of one name are one target to whoever names the HPA.
    if theirs.scale_target_ref != *target {
        let what = format!(
            "{} is elder and scales a {} of the same name",
            eldest.id, theirs.scale_target_ref.kind
        );
        return (None, vec![find(FindingReason::TargetTaken, &what)]);
    }
    asking.retain(|(_, asked)| asked.scale_target_ref == *target);
    let name = format!("sluice-{}", target.name);
    let foreign = view
        .scalers_of(namespace, &target.name)
        .into_iter()
        .find(|scaler| {
            scaler.target_kind == target.kind.as_str() && !(scaler.ours && *scaler.id.name == *name)
        });
    if let Some(foreign) = foreign {
        let what = format!(
            "{} scales {} {} already",
            foreign.id, target.kind, target.name
        );
        return (None, vec![find(FindingReason::TargetTaken, &what)]);
    }
    let mut findings: Vec<Finding> = faults(scaling)
        .map(|fault| find(FindingReason::Invalid, &fault))
        .collect();
    if let Some(what) = overruled(scaling, &eldest.id, &theirs) {
        findings.push(find(FindingReason::ScalingConflict, &what));
    }
    let intent = (eldest.id == route.id)
        .then(|| merge(namespace, name, &theirs, &asking))
        .flatten();
    (intent, findings)
}

fn scaling_of(route: &RouteFacts) -> Option<&Scaling> {
    route.sound().and_then(|spec| spec.scaling.as_ref())
}

/// What of a block cannot be read. The rest of it counts.
fn faults(scaling: &Scaling) -> impl Iterator<Item = String> {
    let metrics = scaling
        .metrics
        .iter()
        .filter_map(|metric| metric.get().err().map(|error| error.to_string()));
    let schedules = scaling.schedules.iter().filter_map(|schedule| {
        let error = Schedule::read(schedule).err()?;
        Some(format!("schedule {}: {error}", schedule.name))
    });
    metrics.chain(schedules)
}

/// What a route asks that the eldest route of its workload decides otherwise.
fn overruled(asked: &Scaling, eldest: &ObjectId, theirs: &Scaling) -> Option<String> {
    let max = theirs.max_replicas;
    let floors = asked.schedules.iter().map(|schedule| schedule.min_replicas);
    let highest = floors.chain(asked.min_replicas).max();
    let behavior = asked.behavior.is_some() && asked.behavior != theirs.behavior;
    let parts: Vec<String> = [
        (asked.max_replicas != max)
            .then(|| format!("maxReplicas {max}, not {}", asked.max_replicas)),
        highest
            .filter(|floor| *floor > max)
            .map(|floor| format!("minReplicas {max}, not {floor}")),
        behavior.then(|| "its behavior".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let target = &theirs.scale_target_ref;
    (!parts.is_empty()).then(|| {
        format!(
            "{eldest} is elder and scales {} {} too, so it decides: {}",
            target.kind,
            target.name,
            parts.join(", ")
        )
    })
}

/// `None`: no route has a metric that can be read, and an HPA without metrics would follow the CPU.
fn merge(namespace: &str, name: String, eldest: &Scaling, asking: &[Asks]) -> Option<HpaIntent> {
    let Scaling {
        scale_target_ref,
        min_replicas: _,
        max_replicas,
        metrics: _,
        behavior,
        schedules: _,
    } = eldest;
    let all = || asking.iter().map(|(_, asked)| asked);
    let metrics = metrics(all());
    (!metrics.is_empty()).then(|| HpaIntent {
        namespace: namespace.to_owned(),
        name,
        target: scale_target_ref.clone(),
        min_replicas: all()
            .filter_map(|asked| asked.min_replicas)
            .max()
            .map(|floor| floor.min(*max_replicas)),
        max_replicas: *max_replicas,
        metrics,
        behavior: behavior.clone(),
        schedules: all()
            .flat_map(|asked| &asked.schedules)
            .filter_map(|schedule| Schedule::read(schedule).ok())
            .collect(),
        owners: asking
            .iter()
            .map(|(route, _)| (route.id.clone(), route.meta.uid.clone()))
            .collect(),
    })
}

fn metrics<'s>(all: impl Iterator<Item = &'s Scaling>) -> Vec<(&'static str, String)> {
    let signals = all.flat_map(|asked| &asked.metrics).filter_map(|metric| {
        Some(match metric.get().ok()? {
            ScalingSignal::RequestsPerSecond(target) => {
                (REQUESTS_PER_SECOND, &target.average_value)
            }
            ScalingSignal::InFlight(target) => (IN_FLIGHT, &target.average_value),
        })
    });
    let mut order = Vec::new();
    let mut smallest: BTreeMap<&str, &Quantity> = BTreeMap::new();
    for (name, value) in signals {
        match smallest.get(name) {
            None => order.push(name),
            Some(known) if known.milli_value() <= value.milli_value() => continue,
            Some(_) => {}
        }
        smallest.insert(name, value);
    }
    order
        .into_iter()
        .filter_map(|name| Some((name, smallest.get(name)?.as_str().to_owned())))
        .collect()
}
