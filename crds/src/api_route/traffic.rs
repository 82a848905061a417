//! How large a request may be and how long it may take.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Duration, Quantity};

/// How large a request may be; what is not set takes the default of the sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestLimits {
    /// Bytes of the body; a larger one is 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_size: Option<Quantity>,
    /// Bytes of all header lines together; more is 431.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_headers_size: Option<Quantity>,
    /// Bytes of the request target; more is 414.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_target_length: Option<Quantity>,
}

/// How long a request may take (GEP-1742); 0s means without end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.request) || !has(self.backendRequest) || duration(self.request) == duration('0s') || duration(self.backendRequest) <= duration(self.request)")
    .message("backendRequest cannot be longer than request"))]
pub struct Timeouts {
    /// From the request's first byte to the answer's last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// One try of the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    /// The time for the whole request; none means without end.
    pub fn effective_request(&self) -> Option<std::time::Duration> {
        bounded(self.request)
    }

    /// The time for one try of the backend; none means as long as the whole request.
    pub fn effective_backend_request(&self) -> Option<std::time::Duration> {
        bounded(self.backend_request)
    }
}

/// GEP-1742: zero switches a timeout off.
fn bounded(duration: Option<Duration>) -> Option<std::time::Duration> {
    duration
        .filter(|duration| !duration.is_zero())
        .map(Duration::get)
}
