//! What is remembered of one request while it runs, and its end: exactly once, for answers, refusals and clients that went
//! away, a request is counted and logged.

use std::{
    ops::{Deref, DerefMut},
    rc::Rc,
    sync::Arc,
};

use http::{Method, Uri, Version, request::Parts};
use sluice_pipeline::{
    Identity, Reject,
    dispatch::Role,
    hop::Hop,
    order::{Phase, Progress},
    program::{Backend, Route, Rule},
};

use super::{
    extras::Decorations,
    forwarded::Client,
    grpc,
    headers::{self, TraceId},
    interim::Interims,
    serve::Connection,
    thread::Thread,
};
use crate::{
    limits::{Charged, Verdicts},
    log::{Endpoint, Line, Rfc3339, Sharded, Trace},
    metrics::{CacheEvent, Closing},
    shared::InForce,
};

/// The status the log shows where the client went away before an answer.
const CLIENT_GONE: u16 = 499;

/// One request, from its head to its end.
pub struct Exchange {
    /// The thread that serves it.
    pub thread: Rc<Thread>,
    /// The connection it came over.
    pub connection: Rc<Connection>,
    /// Who sent it.
    pub client: Client,
    /// Whether it is a call of gRPC.
    pub grpc: Option<grpc::Kind>,
    /// The configuration it keeps to its end.
    pub force: Arc<InForce>,
    /// How far it came.
    pub progress: Progress,
    /// When its head was there, in microseconds of the monotonic clock.
    pub began_us: u64,
    /// Its route and rule, once known.
    pub matched: Option<(Arc<Route>, Arc<Rule>)>,
    /// Who asks, once proven.
    pub identity: Option<Arc<Identity>>,
    /// What an edge asserts of it, where that is believed about nonces and limits.
    pub vouched: Option<Rc<Hop>>,
    /// Keys of the nonces it used.
    pub nonces: Vec<[u8; 32]>,
    /// What the limits said.
    pub verdicts: Verdicts,
    /// The answer's `Cache-Status`.
    pub cache_status: Option<String>,
    /// What the cache did, for the metrics.
    pub cache_event: Option<CacheEvent>,
    /// Field lines of an answer over HTTP/1.1 that are written as they are, in place of an upstream's with their names:
    /// those of the limits.
    pub own_lines: Vec<u8>,
    /// What few rules have done to the answer.
    pub decorations: Option<Box<Decorations>>,
    /// Why it was refused.
    pub reject: Option<Reject>,
    /// Who answered.
    pub upstream: Option<Upstream>,
    /// Time until the upstream's head was there, in microseconds.
    pub upstream_us: Option<u64>,
    /// Its trace: as it came, until one is begun for what is passed on.
    pub trace: Option<TraceId>,
    /// Bytes of its body.
    pub bytes_in: u64,
    method: Method,
    uri: Uri,
    authority: Option<http::HeaderValue>,
    version: Version,
    status: u16,
    bytes_out: u64,
}

/// Who answered a request.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Where.
    pub address: std::net::SocketAddr,
    /// The Service; none: this pod's own app.
    pub backend: Option<Arc<Backend>>,
    /// The shard, where a ShardSet chose.
    pub shard: Option<Rc<ShardSeen>>,
}

/// A shard as the log names it.
#[derive(Debug, Clone)]
pub struct ShardSeen {
    /// The ShardSet.
    pub set: String,
    /// The shard.
    pub shard: String,
    /// Who of it.
    pub role: Role,
    /// The key's slot.
    pub slot: u16,
    /// The map's epoch.
    pub epoch: u64,
}

/// Ends a request when it is dropped, at the latest.
pub struct Settle(Option<Box<Exchange>>);

impl Settle {
    /// Who asks, where whoever sent this request over a hop is believed about that: one more than the proxies that are
    /// trusted anyway.
    pub fn believe_sender(&mut self, parts: &Parts) {
        let peer = Client::peer(self.connection.peer.ip(), self.connection.scheme());
        let trusted = self.force.program.settings().forwarded_for;
        self.client = Client::behind(peer, parts, trusted.saturating_add(1));
    }

    /// A request begins.
    pub fn begin(thread: &Rc<Thread>, connection: &Rc<Connection>, parts: &Parts) -> Self {
        thread.tally.begin();
        connection.begin();
        let began_us = thread.clock().now_us();
        thread.touch(began_us);
        let force = thread.shared.live.load();
        let peer = Client::peer(connection.peer.ip(), connection.scheme());
        let client = match force.program.settings().forwarded_for {
            0 => peer,
            trusted => Client::behind(peer, parts, trusted),
        };
        Self(Some(Box::new(Exchange {
            client,
            grpc: grpc::kind(parts),
            force,
            thread: Rc::clone(thread),
            connection: Rc::clone(connection),
            progress: Progress::start(),
            began_us,
            matched: None,
            identity: None,
            vouched: None,
            nonces: Vec::new(),
            verdicts: Verdicts::new(),
            cache_status: None,
            cache_event: None,
            own_lines: Vec::new(),
            decorations: None,
            reject: None,
            upstream: None,
            upstream_us: None,
            trace: headers::trace_given(&parts.headers),
            bytes_in: 0,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            authority: parts.headers.get(http::header::HOST).cloned(),
            version: parts.version,
            status: CLIENT_GONE,
            bytes_out: 0,
        })))
    }

    /// The answer's head is ready.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// Bytes of the answer's body have been handed to the engine.
    pub fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// The answer is over; `complete`: it reached its end.
    pub fn end(mut self, complete: bool) {
        if let Some(exchange) = self.0.take() {
            exchange.end(complete);
        }
    }
}

impl Deref for Settle {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        self.0
            .as_ref()
            .expect("taken only where the value itself is consumed")
    }
}

impl DerefMut for Settle {
    fn deref_mut(&mut self) -> &mut Exchange {
        self.0
            .as_mut()
            .expect("taken only where the value itself is consumed")
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(exchange) = self.0.take() {
            exchange.end(false);
        }
    }
}

impl Exchange {
    /// Where interim answers wait for this client; one of HTTP/1.0 must not be sent any (RFC 9110 section 15.2), and one of
    /// HTTP/2 cannot.
    pub fn interims(&self) -> Option<&Rc<Interims>> {
        (self.version == Version::HTTP_11).then_some(&self.connection.interims)
    }

    /// Notes what the limits of a phase said; refused: by whom.
    pub fn charged(&mut self, charged: Charged) -> Result<(), Reject> {
        let Charged { verdicts, reject } = charged;
        match self.verdicts.is_empty() {
            true => self.verdicts = verdicts,
            false => self.verdicts.extend(verdicts),
        }
        reject.map_or(Ok(()), Err)
    }

    /// Whether it came over HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// Enters a phase.
    pub fn enter(&mut self, phase: Phase) {
        self.progress.enter(phase);
    }

    /// Milliseconds of the monotonic clock at which the request began.
    pub fn began_ms(&self) -> u64 {
        self.began_us / 1000
    }

    fn end(&self, complete: bool) {
        let duration_us = self.thread.clock().now_us().saturating_sub(self.began_us);
        self.connection.end(duration_us, self.began_us, complete);
        self.thread.tally.end(
            self.matched.as_ref().map(|(_, rule)| rule.as_ref()),
            &crate::metrics::Ended {
                status: self.status,
                reason: self.reject.as_ref().map(|reject| reject.reason),
                duration_us,
                cache: self.cache_event,
                verdicts: &self.verdicts,
            },
        );
        if self.thread.log.is_on() {
            self.log(complete, duration_us);
        }
    }

    /// Why this sidecar ended the connection before the answer had.
    fn cut_off_by(&self, complete: bool) -> Option<&'static str> {
        let closing = self.connection.closing().filter(|_| !complete);
        closing.map(Closing::name)
    }

    fn log(&self, complete: bool, duration_us: u64) {
        let decider = self.reject.as_ref().map(|reject| &reject.decider);
        let upstream = self.upstream.as_ref();
        self.thread.log.add(&Line {
            time: Rfc3339(wall().saturating_sub(std::time::Duration::from_micros(duration_us))),
            peer: Some(Endpoint(self.connection.peer)),
            client: (!self.client.is_peer()).then_some(self.client.address),
            protocol: if self.version == Version::HTTP_2 {
                "HTTP/2"
            } else {
                "HTTP/1.1"
            },
            method: self.method.as_str(),
            authority: self
                .uri
                .authority()
                .map(|authority| authority.as_str())
                .or_else(|| self.authority.as_ref()?.to_str().ok()),
            path: self.uri.path(),
            port: self.connection.inbound.listen.port(),
            status: self.status,
            reason: self
                .reject
                .as_ref()
                .map(|reject| reject.reason.describe().name)
                .or_else(|| self.cut_off_by(complete)),
            detail: self
                .reject
                .as_ref()
                .and_then(|reject| reject.detail.as_deref()),
            decided_by: decider
                .filter(|decider| decider.object.is_some())
                .map(|decider| decider.path()),
            decided_by_kind: decider
                .and_then(|decider| Some(decider.object.as_ref()?.kind.as_str())),
            phase: self.progress.phase().name(),
            route: self
                .matched
                .as_ref()
                .map(|(route, _)| (route.object.namespace.as_str(), route.object.name.as_str())),
            rule: self.matched.as_ref().map(|(_, rule)| rule.name.as_str()),
            identity: self
                .identity
                .as_ref()
                .map(|identity| (identity.provider.as_str(), identity.subject.as_str())),
            key_id: self
                .identity
                .as_ref()
                .and_then(|identity| identity.key_id.as_deref()),
            limits: &self.verdicts,
            cache: self.cache_status.as_deref(),
            upstream: upstream.map(|upstream| {
                upstream
                    .backend
                    .as_ref()
                    .map_or("app", |backend| backend.service.as_str())
            }),
            upstream_address: upstream.map(|upstream| Endpoint(upstream.address)),
            shard: upstream
                .and_then(|upstream| upstream.shard.as_ref())
                .map(|seen| Sharded {
                    set: &seen.set,
                    shard: &seen.shard,
                    role: match seen.role {
                        Role::Primary => "Primary",
                        Role::Replica => "Replica",
                    },
                    slot: seen.slot,
                    epoch: seen.epoch,
                }),
            duration_us,
            upstream_us: self.upstream_us,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            aborted: !complete,
            trace: self.trace.map(|TraceId(id)| Trace(id)),
            config: self.force.program.version().short(),
        });
    }
}

/// Time since 1970, for the log only.
fn wall() -> std::time::Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}
