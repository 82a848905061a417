//! The data threads: each has a runtime, listeners and upstream connections of its own and shares only what
//! [`crate::shared::Shared`] holds. `request` is the way of one request, phase by phase.

mod answer;
mod aside;
mod body;
mod cache;
mod connection;
mod deadline;
mod dice;
mod edge;
mod extras;
mod facts;
mod forward;
mod forwarded;
mod grpc;
mod grpc_web;
mod headers;
pub(crate) mod hop;
mod http1;
mod interim;
mod knock;
mod l4;
mod mirror;
mod pace;
mod passthrough;
mod placement;
mod preceded;
mod proxy_protocol;
mod record;
mod request;
mod serve;
mod thread;
pub(crate) mod tls;
mod upgrade;
mod upstream;

#[cfg(test)]
mod tests;

pub use connection::{ConnectionLimits, OpenConnections};
pub use thread::{Drained, Plan, Running, StartError, start};
