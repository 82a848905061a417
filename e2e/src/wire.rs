//! What a test and its client pod say to each other, as JSON: the request on the client's standard input, the answer on
//! its standard output. No behaviour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ask {
    /// `host:port`; resolved inside the cluster.
    pub to: String,
    /// The method; GET where it is empty.
    #[serde(default)]
    pub method: String,
    /// What goes on the request line.
    pub path: String,
    /// Header lines in their order.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(default)]
    pub body: String,
}

/// What came back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Told {
    /// An answer.
    Answer {
        /// The status.
        status: u16,
        /// Header lines.
        headers: Vec<(String, String)>,
        /// The body, lossily as text.
        body: String,
    },
    /// No answer, and why.
    Error(String),
}

/// Requests at a constant rate until the client's standard input ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadSpec {
    /// The request; all are alike.
    pub ask: Ask,
    /// Requests started per second, over all connections.
    pub per_second: u32,
    /// Kept connections that share them; 0 = each request has a new one.
    pub connections: u32,
    /// Cleartext HTTP/2 in place of HTTP/1.1.
    #[serde(default)]
    pub http2: bool,
    /// The longest it may last.
    pub at_most_seconds: u32,
}

/// What a load saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests that were due.
    pub sent: u64,
    /// Without an answer, or with one of 400 and more.
    pub failed: u64,
    /// Of these, those whose connection could not be made.
    pub unconnected: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// The first few reasons of failures.
    pub reasons: Vec<String>,
    /// From due to answered, in milliseconds.
    pub p50_ms: f64,
    /// As `p50_ms`.
    pub p99_ms: f64,
    /// As `p50_ms`.
    pub max_ms: f64,
}

/// A raw TCP connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TcpAsk {
    /// `host:port`.
    pub to: String,
    /// Sent after the first bytes came, or at once where `server_first` is not set.
    #[serde(default)]
    pub send: String,
    /// Wait for the server's first bytes before sending.
    #[serde(default)]
    pub server_first: bool,
}

/// What a raw connection saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TcpTold {
    /// The bytes received until the end, or until nothing came for a while; lossily as text.
    pub received: String,
    /// Why it could not connect, read or write.
    pub error: Option<String>,
}

/// Changes of one ApiRoute, each timed until every pod answers with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LatencySpec {
    /// Namespace of the route.
    pub namespace: String,
    /// Its name. Its first rule's first filter sets the response header `x-version`.
    pub route: String,
    /// `host:port` of each pod.
    pub pods: Vec<String>,
    /// The version in force; the first change makes the next one.
    pub from: u32,
    /// Changes to make.
    pub changes: u32,
    /// Changes a second; 0 = the next one after the former is live everywhere.
    pub per_second: u32,
}

/// Times in milliseconds, ascending.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LatencyReport {
    /// From the API server's answer to the patch until the last pod's first answer with it (or a newer one).
    pub live_ms: Vec<f64>,
    /// Requests sent while polling.
    pub polls: u64,
    /// Of these, without an answer of status 200.
    pub failed: u64,
    /// The first few reasons.
    pub reasons: Vec<String>,
}
