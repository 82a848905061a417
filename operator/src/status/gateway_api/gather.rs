//! What the engine knows of objects of the Gateway API, taken out in one go.

use std::collections::BTreeSet;

use sluice_snapshot::name::UnitKind;
use sluice_translate::{Engine, GroupId, Kind, ObjectId, Standing};

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
    /// Of a Gateway, which edges must have acknowledged which listeners.
    pub required: Vec<Required>,
}

impl Gathered {
    /// Namespace and name of the Gateway that this is.
    pub fn gateway(&self) -> Option<(&str, &str)> {
        let ObjectId {
            kind,
            namespace,
            name,
        } = &self.object;
        (*kind == Kind::Gateway).then_some((namespace, name))
    }
}

/// Every object that is ours.
pub fn all(engine: &Engine) -> Vec<Gathered> {
    engine
        .standings()
        .map(|(object, _)| one(engine, object))
        .collect()
}

/// These, and Gateways where acks or addresses changed.
pub fn these(engine: &Engine, objects: BTreeSet<ObjectId>, gateways: bool) -> Vec<Gathered> {
    let mut objects = objects;
    if gateways {
        let all = engine.standings().map(|(object, _)| object);
        objects.extend(all.filter(|object| has_acks(object.kind)).cloned());
    }
    objects.iter().map(|object| one(engine, object)).collect()
}

const fn has_acks(kind: Kind) -> bool {
    matches!(kind, Kind::Gateway | Kind::ListenerSet)
}

fn one(engine: &Engine, object: &ObjectId) -> Gathered {
    let meta = engine.meta(object);
    Gathered {
        object: object.clone(),
        generation: meta
            .map(|meta| meta.generation)
            .filter(|generation| *generation > 0),
        standing: engine.standing(object).cloned(),
        required: match object.kind {
            Kind::Gateway => vec![listeners(engine, object)],
            _ => Vec::new(),
        },
    }
}

/// The listeners of a Gateway, and its edges.
fn listeners(engine: &Engine, gateway: &ObjectId) -> Required {
    let group = GroupId::gateway(&gateway.namespace, &gateway.name);
    let units = engine.group_units(&group).into_iter().flatten();
    Required {
        units: units
            .filter(|(name, _)| name.kind() == UnitKind::Listener)
            .map(|(name, hash)| (name.clone(), hash.clone()))
            .collect(),
        pods: engine.pods_of(&group),
    }
}
