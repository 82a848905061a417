//! Translation: resources in, configuration units and findings out.
//!
//! Pure: no client, no clock, no randomness, no I/O. It never fails and never panics: what is wrong with an object is a
//! finding on that object, and what cannot be enforced denies. Same objects, same bytes.
//!
//! [`World`] holds the objects, [`View`] is the only way to read them and records what was read, [`mod@resolve`] makes the
//! units of one object, [`groups`] those of one group of pods, [`assemble`] keeps what each group needs, and [`Engine`]
//! keeps all of it up to date by recomputing only what changed.

pub mod assemble;
pub mod edge;
pub mod engine;
pub mod finding;
mod gateway_api;
pub mod groups;
pub mod manifests;
pub mod resolve;
pub mod scaling;
pub mod standing;
pub mod view;
pub mod world;

pub use edge::EdgeIntent;
pub use engine::{Delta, Encoded, Engine};
pub use finding::{Condition, Finding, FindingReason};
pub use groups::{GroupId, PodRef};
pub use resolve::{Resolved, resolve};
pub use scaling::HpaIntent;
pub use standing::Standing;
pub use view::View;
pub use world::{Change, Kind, Object, ObjectId, PodKey, Pods, Settings, Undecodable, World};
