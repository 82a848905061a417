//! An ApiRoute, HTTPRoute or GRPCRoute with everything it needs at hand. A rule that lacks something holds the [`ConfigError`] in its place.

use std::sync::Arc;

use sluice_snapshot::{
    ConfigError,
    unit::{
        ObjectRef,
        auth::Anonymous,
        cache::CacheRule,
        route::{Cors, HeaderEdits, Redirect, RequestLimits, Rewrite, Timeouts},
    },
};

use super::{Backend, Match};
use crate::{
    auth::Provider, ratelimit::Policy, reject::Decider, shard::CompiledShardMap,
    stable_id::StableId,
};

/// One route.
#[derive(Debug)]
pub struct Route {
    /// The resource.
    pub object: ObjectRef,
    /// Sizes beyond which a request is refused.
    pub limits: RequestLimits,
    /// In the order of the resource.
    pub rules: Vec<Arc<Rule>>,
    /// The route as a whole cannot serve.
    pub broken: Option<ConfigError>,
}

/// One rule of a route.
#[derive(Debug)]
pub struct Rule {
    /// What live state of it is kept by.
    pub id: StableId,
    /// Its place in the route.
    pub index: usize,
    /// Its name: unique in the route.
    pub name: String,
    /// The route's resource.
    pub object: ObjectRef,
    /// Any of them; shared by all programs whose route is the same.
    pub matches: Arc<[Match]>,
    /// Who may call; none: anyone.
    pub auth: Option<Requirement>,
    /// The policies whose limits all apply, in order of their unit names. One that is missing denies.
    pub policies: Vec<Result<Arc<Policy>, ConfigError>>,
    /// Caching; none: answers are neither stored nor looked up.
    pub cache: Option<CacheRule>,
    /// Edits before the request leaves.
    pub request_headers: HeaderEdits,
    /// Edits of the answer.
    pub response_headers: HeaderEdits,
    /// What few rules ask for.
    pub extras: Option<Box<Extras>>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// What happens to a request that passed every phase before.
    pub action: Action,
    /// The rule cannot serve: what it matches is refused.
    pub broken: Option<ConfigError>,
}

impl Rule {
    /// This rule, for the access log.
    pub fn decider(&self) -> Decider {
        Decider::new(&self.object, &self.name)
    }
}

/// What few rules ask for, apart so that the others pay one look for all of it.
#[derive(Debug, Default)]
pub struct Extras {
    /// What the upstream sees in place of the request's host and path.
    pub rewrite: Option<Rewrite>,
    /// Who gets a copy of the request.
    pub mirrors: Vec<Mirror>,
    /// Whom a browser may let read the answers.
    pub cors: Option<Cors>,
}

/// Who gets a copy of a share of the requests.
#[derive(Debug)]
pub struct Mirror {
    /// Where to; one that cannot serve gets nothing, and the requests go on.
    pub backend: Result<Arc<Backend>, ConfigError>,
    /// Of `denominator` requests so many.
    pub numerator: u32,
    /// Never zero.
    pub denominator: u32,
}

/// Who may call.
#[derive(Debug)]
pub struct Requirement {
    /// Alternatives, each a list of providers that must all accept; the first alternative whose credentials are present
    /// decides. A list is never empty.
    pub any_of: Vec<Vec<Arc<Provider>>>,
    /// What a request without credentials meets.
    pub anonymous: Anonymous,
}

/// Where a request goes.
#[derive(Debug)]
pub enum Action {
    /// One of these, by weight.
    Backends {
        /// In the order of the resource.
        targets: Vec<WeightedTarget>,
        /// The sum of the weights.
        total: u64,
    },
    /// An answer that sends the client elsewhere.
    Redirect(Redirect),
}

/// A target and its share.
#[derive(Debug)]
pub struct WeightedTarget {
    /// Relative to the sum of the list.
    pub weight: u32,
    /// Where to; what cannot serve refuses its share.
    pub target: Result<Target, ConfigError>,
    /// Edits of what goes there and comes from there.
    pub edits: Option<Arc<TargetEdits>>,
}

/// Edits of one target.
#[derive(Debug, PartialEq)]
pub struct TargetEdits {
    /// Of the requests, after those of the rule.
    pub request: HeaderEdits,
    /// Of the answers, before those of the rule.
    pub response: HeaderEdits,
}

/// A place that answers.
#[derive(Debug)]
pub enum Target {
    /// This pod's own app.
    App,
    /// A Service port.
    Backend(Arc<Backend>),
    /// A ShardSet.
    Shards(Arc<CompiledShardMap>),
}
