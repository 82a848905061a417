//! What one line says. No credential, no query, no secret: paths and names only.

use std::net::IpAddr;

use serde::Serialize;

use super::{Endpoint, Rfc3339, Trace};

/// One request.
#[derive(Debug, Default, Serialize)]
pub struct Line<'r> {
    /// When it began.
    pub time: Rfc3339,
    /// `192.0.2.1:4711`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Endpoint>,
    /// The client behind it, where trusted proxies name one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: &'static str,
    /// As received.
    pub method: &'r str,
    /// The host that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<&'r str>,
    /// As received, without the query: that may hold secrets.
    pub path: &'r str,
    /// The port it arrived for.
    pub port: u16,
    /// What was answered; 499 where the client went away before.
    pub status: u16,
    /// Why it was refused; absent: it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What exactly was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'r str>,
    /// `namespace/name/part` of the object that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// Its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by_kind: Option<&'r str>,
    /// The phase it came to: where it was refused, or answered.
    pub phase: &'static str,
    /// `namespace/name` of the ApiRoute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'r str>,
    /// `provider|subject` of who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The id of the key that proved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<&'r str>,
    /// What the limits said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limited>,
    /// The `Cache-Status` of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'r str>,
    /// Who answered: `app`, or the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'r str>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_address: Option<Endpoint>,
    /// The shard, where a ShardSet chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<Sharded<'r>>,
    /// From the head's arrival to the last byte of the answer.
    pub duration_us: u64,
    /// Of that, until the upstream's head was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_us: Option<u64>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// The answer did not reach its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub aborted: bool,
    /// Trace id, as in `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// The version of the configuration, its first digits.
    pub config: &'r str,
}

/// What one limit said.
#[derive(Debug, Serialize)]
pub struct Limited {
    /// `namespace/policy/limit`.
    pub limit: String,
    /// Whether it let the request pass.
    pub admitted: bool,
    /// Requests left.
    pub remaining: u64,
    /// It only counts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// Where a ShardSet sent a request.
#[derive(Debug, Serialize)]
pub struct Sharded<'r> {
    /// `namespace/name` of the ShardSet.
    pub set: &'r str,
    /// The shard.
    pub shard: &'r str,
    /// `Primary` or `Replica`.
    pub role: &'static str,
    /// The key's slot.
    pub slot: u16,
    /// The map's epoch.
    pub epoch: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_left_out() {
        let line = Line {
            status: 200,
            phase: "upstream",
            ..Line::default()
        };
        let text = serde_json::to_string(&line).expect("JSON");
        assert!(
            !text.contains("reason") && !text.contains("null") && !text.contains("limits"),
            "{text}"
        );
        assert!(
            text.contains(r#""time":"1970-01-01T00:00:00.000Z""#),
            "{text}"
        );
    }
}
