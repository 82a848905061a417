//! What the engine knows of objects of the Gateway API, taken out in one go.

use std::collections::BTreeSet;

use sluice_snapshot::UnitKind;
use sluice_translate::{Engine, GroupId, Kind, ObjectId, Standing, View};

use crate::stream::table::Required;

/// One object as of one state of the engine.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// The object.
    pub object: ObjectId,
    /// The generation that the rest was computed from; none where the object has none.
    pub generation: Option<i64>,
    /// How it stands; none: nothing of it is ours any more.
    pub standing: Option<Standing>,
    /// Of a Gateway, or a ListenerSet of one: which edges must have acknowledged which listeners.
    pub required: Vec<Required>,
    /// Namespace and name of that Gateway.
    pub gateway: Option<(String, String)>,
    /// Of a Gateway, how many ListenerSets it lets in.
    pub listener_sets: usize,
}

/// Every object that is ours.
pub fn all(engine: &Engine) -> Vec<Gathered> {
    engine
        .standings()
        .map(|(object, _)| one(engine, object))
        .collect()
}

/// These, and Gateways where acks or addresses changed, or sets of their listeners.
pub fn these(engine: &Engine, objects: BTreeSet<ObjectId>, gateways: bool) -> Vec<Gathered> {
    let mut objects = objects;
    let sets = objects
        .iter()
        .any(|object| object.kind == Kind::ListenerSet);
    if gateways || sets {
        objects.extend(engine.owners_of_listeners().cloned());
    }
    objects.iter().map(|object| one(engine, object)).collect()
}

fn one(engine: &Engine, object: &ObjectId) -> Gathered {
    let meta = engine.meta(object);
    let view = View::new(engine.world());
    let gateway = gateway_of(&view, object);
    Gathered {
        object: object.clone(),
        generation: meta
            .map(|meta| meta.generation)
            .filter(|generation| *generation > 0),
        standing: engine.standing(object).cloned(),
        required: gateway
            .iter()
            .map(|(namespace, name)| listeners(engine, namespace, name))
            .collect(),
        listener_sets: match object.kind {
            Kind::Gateway => listener_sets(engine, &view, object),
            _ => 0,
        },
        gateway,
    }
}

/// The Gateway that an object is, or whose listeners it adds to.
fn gateway_of(view: &View<'_>, object: &ObjectId) -> Option<(String, String)> {
    let (namespace, name) = (object.namespace.to_string(), object.name.to_string());
    match object.kind {
        Kind::Gateway => Some((namespace, name)),
        Kind::ListenerSet => {
            let set = view.listener_set(&namespace, &name)?;
            let parent = set.spec.as_ref()?.parent_ref.clone();
            Some((parent.namespace.unwrap_or(namespace), parent.name))
        }
        _ => None,
    }
}

/// The listeners of a Gateway, and its edges.
fn listeners(engine: &Engine, namespace: &str, gateway: &str) -> Required {
    let group = GroupId::gateway(namespace, gateway);
    let root = engine.unit(&group.inbound());
    let held = engine.group_units(&group);
    let listeners = root.into_iter().flat_map(|root| root.needs.iter());
    let listeners = listeners.filter(|name| name.kind() == UnitKind::Listener);
    Required {
        units: listeners
            .filter_map(|name| Some((name.clone(), held?.get(name)?.clone())))
            .collect(),
        pods: engine.pods_of(&group),
    }
}

fn listener_sets(engine: &Engine, view: &View<'_>, gateway: &ObjectId) -> usize {
    let sets = view.listener_sets_of(&gateway.namespace, &gateway.name);
    let is_accepted = |set: &ObjectId| matches!(engine.standing(set), Some(Standing::Gateway { accepted, .. }) if accepted.status);
    sets.iter().filter(|set| is_accepted(&set.id)).count()
}
