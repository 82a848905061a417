//! What replicas of the operator tell each other, so that each of them has one session table of the whole fleet: who is
//! connected where, what it acknowledged, refused and settled, and its load.
//!
//! Every replica follows every other one: a gRPC stream on the listener of the config stream, between certificates that
//! only a replica can have. It begins with everything; then come turns, at least every [`INTERVAL`], of what has changed.
//! A replica that falls silent is lost: its sessions are unknown for [`crate::stream::table::UNKNOWN_FOR`], in which their
//! sidecars find another replica. Nothing is told on, nothing is written, nobody is asked: which of two records counts
//! is the table's to judge.

pub mod census;
pub mod discover;
pub mod follow;
pub mod incoming;
pub mod metrics;
pub mod outgoing;
pub mod service;
#[cfg(test)]
mod tests;
pub mod wire;

use std::time::Duration;

pub use discover::{Discovery, Place};
pub use follow::Following;
pub use metrics::Metrics;
pub use service::Service;

/// The gRPC types of the exchange, generated from `proto/peers.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)] // generated
pub mod proto {
    tonic::include_proto!("sluice.peers.v1");
}

/// The longest time between two turns.
pub const INTERVAL: Duration = Duration::from_millis(500);
