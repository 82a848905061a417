//! The resources of Sluice as Rust types, the YAML made from them, and the reading of manifests.
//!
//! Holds shapes, bounds and the rules one object can break by itself. Must not hold anything that needs a second
//! object, a client, a clock or a file: that is `translate` and the operator.

pub mod api_route;
pub mod common;
pub mod crd;
pub mod gateway_api;
pub mod manifest;
pub mod rate_limit_policy;
pub mod shard_set;
pub mod sluice_config;
pub mod validation;

pub use api_route::{ApiRoute, ApiRouteSpec, ApiRouteStatus};
pub use rate_limit_policy::{RateLimitPolicy, RateLimitPolicySpec, RateLimitPolicyStatus};
pub use shard_set::{ShardSet, ShardSetSpec, ShardSetStatus};
pub use sluice_config::SluiceConfig;

#[cfg(test)]
mod effective_tests;

/// The API group of the three resources.
pub const GROUP: &str = "sluice.dev";
/// The API group of [`SluiceConfig`], which is a file and never an API object.
pub const CONFIG_GROUP: &str = "config.sluice.dev";
/// The only version of both groups.
pub const VERSION: &str = "v1alpha1";
/// The field manager and `controllerName` of the operator.
pub const CONTROLLER_NAME: &str = "sluice.dev/operator";
