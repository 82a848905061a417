//! What the engine knows of an object, taken out in one go so that nothing is read while it changes.

use sluice_crds::{api_route::ParentRef, shard_set::ShardSetStatus};
use sluice_snapshot::Version;
use sluice_translate::{Condition, Engine, Finding, Kind, ObjectId, View};

use crate::{engine::required, stream::table::Required};

/// One object as of one state of the engine.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// The object.
    pub object: ObjectId,
    /// The generation that the rest was computed from; none where the object has none.
    pub generation: Option<i64>,
    /// Translation's findings and the sources'.
    pub findings: Vec<Finding>,
    /// Who must have acknowledged what.
    pub required: Vec<Required>,
    /// The hash of the object's units, short.
    pub version: String,
    /// What only one kind has.
    pub special: Special,
}

/// What only one kind has.
#[derive(Debug, Clone)]
pub enum Special {
    /// An ApiRoute.
    Route {
        /// Its parents, in the order of the spec.
        parents: Vec<ParentRef>,
        /// Namespace and name of the HorizontalPodAutoscaler that scales its workload, where it asks for one.
        scaler: Option<(String, String)>,
    },
    /// A RateLimitPolicy.
    Policy,
    /// A ShardSet, with the part of its status that the engine works with.
    ShardSet(Box<ShardSetStatus>),
}

/// Every resource of ours.
pub fn all(engine: &Engine) -> Vec<Gathered> {
    engine
        .resources()
        .filter_map(|id| one(engine, id))
        .collect()
}

/// One of our resources; `None` where there is no such object.
pub fn one(engine: &Engine, object: &ObjectId) -> Option<Gathered> {
    let meta = engine.meta(object)?;
    let required = required(engine, object);
    let units = required
        .iter()
        .flat_map(|required| &required.units)
        .map(|(name, hash)| (name, hash));
    let version = match required.is_empty() {
        true => String::new(),
        false => Version::of(units).short().to_owned(),
    };
    Some(Gathered {
        object: object.clone(),
        generation: (meta.generation > 0).then_some(meta.generation),
        findings: engine.findings(object).into_iter().cloned().collect(),
        special: special(engine, object)?,
        required,
        version,
    })
}

fn special(engine: &Engine, object: &ObjectId) -> Option<Special> {
    let view = View::new(engine.world());
    let (namespace, name) = (&*object.namespace, &*object.name);
    Some(match object.kind {
        Kind::ApiRoute => {
            let route = view.route(namespace, name)?;
            let scaling = route.sound().and_then(|spec| spec.scaling.as_ref());
            Special::Route {
                parents: route
                    .spec
                    .as_ref()
                    .map(|spec| spec.parent_refs.clone())
                    .unwrap_or_default(),
                scaler: scaling.map(|scaling| {
                    (
                        namespace.to_owned(),
                        format!("sluice-{}", scaling.scale_target_ref.name),
                    )
                }),
            }
        }
        Kind::RateLimitPolicy => Special::Policy,
        Kind::ShardSet => {
            let set = view.shard_set(namespace, name)?;
            Special::ShardSet(Box::new(ShardSetStatus {
                epoch: set.epoch,
                placement: set.placement.clone(),
                moving: set.moving.clone(),
                ..ShardSetStatus::default()
            }))
        }
        _ => return None,
    })
}

impl Gathered {
    /// Whether a finding speaks against a condition.
    pub fn has(&self, condition: Condition) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.reason.condition() == condition)
    }
}
