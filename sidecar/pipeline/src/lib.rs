//! Request policy: a snapshot compiled into a [`Program`], and the phases as pure decisions over it.
//!
//! Nothing here does I/O, reads a clock or draws a random number: those are arguments. Nothing here knows hyper or
//! `http`: a request is seen through [`Facts`]. Live state (buckets, nonces, cached answers) is the caller's; the rules
//! for changing it are here.

pub mod admit;
pub mod auth;
pub mod cache;
pub mod cors;
pub mod dispatch;
pub mod facts;
#[cfg(test)]
mod fixture;
pub mod forwarded;
pub mod framing;
pub mod hop;
pub mod identity;
pub mod mirror;
pub mod order;
pub mod program;
pub mod proxy_protocol;
pub mod quick;
pub mod ratelimit;
pub mod redirect;
pub mod reject;
pub mod rewrite;
pub mod route;
pub mod shard;
pub mod stable_id;
pub mod stream;
pub mod target;

pub use facts::Facts;
pub use identity::Identity;
pub use program::{Program, UnitSet, compile_unit};
pub use reject::{Decider, Reject, RejectReason};
