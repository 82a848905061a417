//! What the operator says about objects: conditions from findings and acknowledgements, written where the object lives.
//! It decides nothing about traffic; the part of a ShardSet's status that does is `moves`'.

pub mod conditions;
pub mod events;
pub mod fleet;
pub mod gateway_api;
pub mod gather;
pub mod keeper;
pub mod render;
pub mod store;

pub use keeper::{Keeper, Metrics};
pub use store::{ApiStatuses, FileStatuses, Known, Statuses, Stored, WriteError};
