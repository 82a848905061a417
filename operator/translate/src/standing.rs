//! How an object of the Gateway API stands, in that API's own words: what its `status` is made of, but for what only acks
//! and addresses can say. Plain values: whoever writes statuses adds generations and times.

use serde_json::Value;

/// The truth of one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `True` or `False`.
    pub status: bool,
    /// A reason of the Gateway API, or one of [`FindingReason`](crate::FindingReason) where it has none that fits.
    pub reason: &'static str,
    /// For people: what, where and the likely mend.
    pub message: String,
}

impl Outcome {
    /// A condition that holds.
    pub fn good(reason: &'static str) -> Self {
        Self {
            status: true,
            reason,
            message: String::new(),
        }
    }

    /// One that does not.
    pub fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: false,
            reason,
            message: message.into(),
        }
    }
}

/// How an object of the Gateway API stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A HTTPRoute, GRPCRoute, TLSRoute or TCPRoute.
    Route {
        /// Its parents that are ours, in the order of the spec.
        parents: Vec<ReferenceStanding>,
    },
    /// A Gateway of ours, or a ListenerSet of one.
    Gateway {
        /// Whether it is served at all.
        accepted: Outcome,
        /// Every listener, in the order of the spec.
        listeners: Vec<ListenerStanding>,
    },
    /// A BackendTLSPolicy.
    Policy {
        /// The Gateways of ours that route to what it targets, by namespace and name.
        ancestors: Vec<ReferenceStanding>,
    },
    /// A GatewayClass of ours.
    GatewayClass {
        /// Whether Gateways of it are served.
        accepted: Outcome,
    },
}

/// How a route stands with one of its parents, or a policy with one Gateway that routes to its targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceStanding {
    /// A parent as the route's spec has it, no default added; an ancestor with group, kind, namespace and name.
    pub reference: Value,
    /// Whether the parent takes the route, or the policy counts there.
    pub accepted: Outcome,
    /// Whether everything that the route or policy names exists, may be named and is usable.
    pub resolved_refs: Outcome,
}

/// How a listener stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStanding {
    /// Its name.
    pub name: String,
    /// API group and kind of the routes it takes.
    pub supported_kinds: Vec<(String, String)>,
    /// Routes of all kinds that it takes.
    pub attached_routes: u32,
    /// Whether routes can attach to it.
    pub served: bool,
    /// Whether it can be served.
    pub accepted: Outcome,
    /// Whether everything that it names exists and may be named.
    pub resolved_refs: Outcome,
    /// `Conflicted`: here `status` true is the bad news.
    pub conflicted: Outcome,
    /// Why it will never be programmed; none: acks decide.
    pub broken_for_programmed: Option<Outcome>,
}
