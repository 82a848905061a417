//! The data threads: each has a runtime, listeners and upstream connections of its own and shares only what
//! [`crate::shared::Shared`] holds. `request` is the way of one request, phase by phase.

mod answer;
mod body;
mod cache;
mod deadline;
mod dice;
mod facts;
mod forward;
mod headers;
mod knock;
mod passthrough;
mod placement;
mod record;
mod request;
mod serve;
mod thread;
mod upstream;
mod wire;

#[cfg(test)]
mod tests;

pub use thread::{Drained, Plan, Running, StartError, start};
