//! What is told of one request, as a value. How it is found is `walk`'s, how it looks `text`'s.

use serde::Serialize;
use sluice_pipeline::{Reject, order::Phase};
use sluice_snapshot::unit::ObjectRef;

/// Everything about one request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What was asked.
    pub request: Request,
    /// Where it arrives: `gateway/NAMESPACE/NAME` or `service/NAMESPACE/NAME`, and the port.
    pub at: String,
    /// The listener of the Gateway that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Whether something answers it; part of it at least.
    pub served: bool,
    /// Why it is refused, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The rule that has it, whether it serves it or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Taken>,
    /// Why the others have it not, the nearest first.
    pub others: Vec<Other>,
    /// Routes that are not in force there, and why.
    pub elsewhere: Vec<Elsewhere>,
    /// What is to be known beside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A request as it is seen.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Its method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// What it names as host.
    pub authority: String,
    /// The path that is matched; as received where it cannot be normalised.
    pub path: String,
    /// The query as received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The client's address, by which limits count.
    pub client: String,
}

/// Why a request is refused.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The status; none: there is no answer, the connection ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The reason, as the access log names it.
    pub reason: String,
    /// What exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// `namespace/name/part` of the object that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// The phase that refuses, as the access log names it.
    pub phase: &'static str,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal of the pipeline.
    pub(super) fn of(reject: &Reject, phase: Phase) -> Self {
        let description = reject.reason.describe();
        Self {
            status: Some(reject.status()),
            reason: description.name.to_owned(),
            detail: reject.detail.clone(),
            decided_by: reject
                .decider
                .object
                .as_ref()
                .map(|_| reject.decider.path()),
            phase: phase.name(),
            hint: None,
        }
    }

    /// A connection that no request is read from.
    pub(super) fn connection(reason: &str, detail: String) -> Self {
        Self {
            status: None,
            reason: reason.to_owned(),
            detail: Some(detail),
            decided_by: None,
            phase: "connection",
            hint: None,
        }
    }
}

/// The rule that has a request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// Its route.
    pub route: ObjectRef,
    /// Its name.
    pub name: String,
    /// The hostname of the route under which it was found; none is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The match that holds, in words.
    #[serde(rename = "match")]
    pub spec: String,
    /// Who may call: alternatives of providers that must all accept; none: anyone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Limits, all of which must admit.
    pub limits: Vec<Limit>,
    /// Caching, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// What is changed on the way, in words, in order.
    pub filters: Vec<String>,
    /// The time for the whole request, in milliseconds; zero: no bound.
    pub request_timeout_ms: u64,
    /// The time for one try, in milliseconds; zero: no bound of its own.
    pub backend_timeout_ms: u64,
    /// Where it goes, by share.
    pub destinations: Vec<Destination>,
}

/// Who may call.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Alternatives, each a list of providers with their method.
    pub any_of: Vec<Vec<String>>,
    /// Whether requests without credentials pass.
    pub anonymous: bool,
    /// Who this request is, where its credentials were verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// One limit.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// `namespace/policy/limit`.
    pub name: String,
    /// Requests that are admitted at once.
    pub burst: u64,
    /// Seconds in which an empty bucket fills.
    pub fill_seconds: u64,
    /// `Local`, one sidecar's, or `Global`.
    pub scope: &'static str,
    /// Whether it only counts.
    pub shadow: bool,
    /// The bucket that the request takes from; none: it takes from none, or that cannot be told before it is known who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Where a share of the requests goes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Its share, in percent.
    pub percent: f64,
    /// What the access log names as `upstream`; none: it is refused, or answered at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// In words.
    pub to: String,
    /// Endpoints that may be chosen; none: not known from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<usize>,
    /// Why this share is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// A match that has not the request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Other {
    /// Its route.
    pub route: ObjectRef,
    /// Its rule.
    pub rule: String,
    /// Its hostname; none is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The match, in words.
    #[serde(rename = "match")]
    pub spec: String,
    /// What fails first: `hostname`, `path`, `method`, `header`, `query`, `cookie`, or `shadowed`.
    pub fails: &'static str,
    /// The same in words.
    pub why: String,
}

/// A route that is not in force where the request arrives.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Elsewhere {
    /// The route.
    pub route: ObjectRef,
    /// Why, one line each.
    pub why: Vec<String>,
}
