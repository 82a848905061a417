//! Why a request is refused: the closed list, with status, client text, metric label and problem type in one place
//! (RFC 9457). A reason is added here and nowhere else.

use sluice_snapshot::{ConfigReason, unit::ObjectRef};

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// Who decided: for the access log, never for the client. Boxed: refusals travel in every `Result` of the phases.
    pub decider: Box<Decider>,
    /// Seconds for `Retry-After`, where waiting helps.
    pub retry_after_s: Option<u64>,
    /// For the access log: what exactly; never a secret, never sent to the client.
    pub detail: Option<String>,
}

impl Reject {
    /// A refusal by nothing more specific than the sidecar itself.
    pub fn new(reason: RejectReason) -> Self {
        Self {
            reason,
            decider: Box::default(),
            retry_after_s: None,
            detail: None,
        }
    }

    /// The status it is answered with. Configuration that cannot serve is 503, and 500 where it is a route of the Gateway API
    /// that decides (HTTPRouteRule.backendRefs).
    pub fn status(&self) -> u16 {
        let object = self.decider.object.as_ref();
        match self.reason {
            RejectReason::Config(_) if object.is_some_and(ObjectRef::is_gateway_route) => 500,
            reason => reason.describe().status,
        }
    }

    /// The same refusal, decided by `decider`.
    #[must_use]
    pub fn by(mut self, decider: Decider) -> Self {
        self.decider = Box::new(decider);
        self
    }

    /// The same refusal with a detail for the access log.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same refusal with a `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

/// The object, and the rule or limit of it, that decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decider {
    /// The resource; none: the sidecar's own checks.
    pub object: Option<ObjectRef>,
    /// The rule, limit or provider in it.
    pub part: Option<String>,
}

impl Decider {
    /// `part` of `object`.
    pub fn new(object: &ObjectRef, part: impl Into<String>) -> Self {
        Self {
            object: Some(object.clone()),
            part: Some(part.into()),
        }
    }

    /// `namespace/name/part` as the access log prints it; `-` where nothing decided.
    pub fn path(&self) -> String {
        match (&self.object, &self.part) {
            (Some(object), Some(part)) => format!("{}/{}/{part}", object.namespace, object.name),
            (Some(object), None) => format!("{}/{}", object.namespace, object.name),
            (None, _) => "-".into(),
        }
    }
}

/// The closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // told by `RejectReason::describe`, one line each
pub enum RejectReason {
    BadRequest,
    BadTarget,
    TargetTooLong,
    HeadersTooLarge,
    BodyTooLarge,
    NoRoute,
    Misdirected,
    Unauthenticated,
    BadCredentials,
    BadSignature,
    SignatureExpired,
    NonceMissing,
    NonceReplayed,
    NonceStoreUnavailable,
    BadToken,
    BadDigest,
    LimitExceeded,
    LimitKeyMissing,
    LimitStoreUnavailable,
    ShardKeyMissing,
    ShardMoving,
    Loop,
    NoEndpoint,
    UpstreamConnect,
    UpstreamReset,
    UpstreamTimeout,
    RequestTimeout,
    TooManyConnections,
    Internal,
    Config(ConfigReason),
}

/// What a reason means on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// Status code.
    pub status: u16,
    /// Metric label, access-log value, and the last segment of the problem type.
    pub name: &'static str,
    /// Title of the problem details: for clients.
    pub title: &'static str,
}

impl RejectReason {
    /// Every reason that is not of configuration; those are [`ConfigReason::ALL`].
    pub const ALL: [Self; 29] = [
        Self::BadRequest,
        Self::BadTarget,
        Self::TargetTooLong,
        Self::HeadersTooLarge,
        Self::BodyTooLarge,
        Self::NoRoute,
        Self::Misdirected,
        Self::Unauthenticated,
        Self::BadCredentials,
        Self::BadSignature,
        Self::SignatureExpired,
        Self::NonceMissing,
        Self::NonceReplayed,
        Self::NonceStoreUnavailable,
        Self::BadToken,
        Self::BadDigest,
        Self::LimitExceeded,
        Self::LimitKeyMissing,
        Self::LimitStoreUnavailable,
        Self::ShardKeyMissing,
        Self::ShardMoving,
        Self::Loop,
        Self::NoEndpoint,
        Self::UpstreamConnect,
        Self::UpstreamReset,
        Self::UpstreamTimeout,
        Self::RequestTimeout,
        Self::TooManyConnections,
        Self::Internal,
    ];

    /// Status, name and title.
    pub const fn describe(self) -> Description {
        let (status, name, title) = match self {
            Self::BadRequest => (400, "bad-request", "The request is malformed"),
            Self::BadTarget => (400, "bad-target", "The request target is malformed"),
            Self::TargetTooLong => (414, "target-too-long", "The request target is too long"),
            Self::HeadersTooLarge => (431, "headers-too-large", "The header section is too large"),
            Self::BodyTooLarge => (413, "body-too-large", "The body is too large"),
            Self::NoRoute => (404, "no-route", "Nothing is served here"),
            Self::Misdirected => (
                421,
                "misdirected",
                "This host is served on another connection",
            ),
            Self::Unauthenticated => (401, "unauthenticated", "Credentials are required"),
            Self::BadCredentials => (401, "bad-credentials", "The credentials are not accepted"),
            Self::BadSignature => (401, "bad-signature", "The signature is not accepted"),
            Self::SignatureExpired => (
                401,
                "signature-expired",
                "The signature is too old or from the future",
            ),
            Self::NonceMissing => (401, "nonce-missing", "The signature needs a nonce"),
            Self::NonceReplayed => (401, "nonce-replayed", "The nonce was used before"),
            Self::NonceStoreUnavailable => (
                503,
                "nonce-store-unavailable",
                "Replay protection is not available now",
            ),
            Self::BadToken => (401, "bad-token", "The token is not accepted"),
            Self::BadDigest => (400, "bad-digest", "The body does not match its digest"),
            Self::LimitExceeded => (429, "limit-exceeded", "The rate limit is exceeded"),
            Self::LimitKeyMissing => (
                400,
                "limit-key-missing",
                "The request lacks what the rate limit is counted by",
            ),
            Self::LimitStoreUnavailable => (
                503,
                "limit-store-unavailable",
                "The rate limit cannot be checked now",
            ),
            Self::ShardKeyMissing => (
                400,
                "shard-key-missing",
                "The request lacks the key that chooses its shard",
            ),
            Self::ShardMoving => (503, "shard-moving", "The data is being moved; try again"),
            Self::Loop => (508, "loop", "The request was forwarded before"),
            Self::NoEndpoint => (503, "no-endpoint", "No upstream is available"),
            Self::UpstreamConnect => (502, "upstream-connect", "The upstream cannot be reached"),
            Self::UpstreamReset => (502, "upstream-reset", "The upstream broke off"),
            Self::UpstreamTimeout => (
                504,
                "upstream-timeout",
                "The upstream did not answer in time",
            ),
            Self::RequestTimeout => (408, "request-timeout", "The request did not arrive in time"),
            Self::TooManyConnections => (
                503,
                "too-many-connections",
                "There is no room for another connection",
            ),
            Self::Internal => (500, "internal", "Something failed here"),
            Self::Config(reason) => (503, reason.reject(), "The service is misconfigured"),
        };
        Description {
            status,
            name,
            title,
        }
    }
}

/// The body of a refusal (RFC 9457), of media type `application/problem+json`. It says what the client can act on and
/// nothing else: who decided and the detail are for the access log.
pub fn problem_json(reject: &Reject) -> Vec<u8> {
    let Description { name, title, .. } = reject.reason.describe();
    let status = reject.status();
    // Names and titles are literals of the list above: none holds what JSON would escape.
    format!(
        r#"{{"type":"https://sluice.dev/problems/{name}","title":"{title}","status":{status}}}"#
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_configuration_is_never_the_callers_fault() {
        let all = RejectReason::ALL
            .into_iter()
            .chain(ConfigReason::ALL.map(RejectReason::Config))
            .map(RejectReason::describe);
        let mut names = BTreeSet::new();
        for Description {
            status,
            name,
            title,
        } in all
        {
            assert!(names.insert(name), "{name} twice");
            assert!(!title.is_empty());
            if name.starts_with("config-") {
                assert_eq!(status, 503, "{name}");
            }
        }
        assert_eq!(
            names.len(),
            RejectReason::ALL.len() + ConfigReason::ALL.len()
        );
    }

    #[test]
    fn a_route_of_the_gateway_api_that_cannot_serve_is_500() {
        for (kind, expected) in [
            ("ApiRoute", 503),
            ("ShardSet", 503),
            ("HTTPRoute", 500),
            ("GRPCRoute", 500),
        ] {
            let by = |reason| {
                let decider = Decider::new(&ObjectRef::new(kind, "shop", "orders"), "all");
                Reject::new(reason).by(decider)
            };
            for reason in ConfigReason::ALL {
                let reject = by(RejectReason::Config(reason));
                assert_eq!(reject.status(), expected, "{kind}");
                let body = String::from_utf8(problem_json(&reject)).expect("text");
                assert!(body.contains(&format!("\"status\":{expected}")), "{body}");
            }
            assert_eq!(by(RejectReason::NoEndpoint).status(), 503, "{kind}");
        }
    }

    #[test]
    fn a_problem_is_json_and_tells_nothing_inside() {
        for reason in RejectReason::ALL
            .into_iter()
            .chain(ConfigReason::ALL.map(RejectReason::Config))
        {
            let decider =
                Decider::new(&ObjectRef::new("ApiRoute", "inner", "secret-route"), "rule");
            let body = problem_json(&Reject::new(reason).by(decider).detail("key \"k\" of inner"));
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            let Description {
                status,
                name,
                title,
            } = reason.describe();
            let expected = serde_json::json!({"type": format!("https://sluice.dev/problems/{name}"), "title": title, "status": status});
            assert_eq!(body, expected);
        }
    }
}
