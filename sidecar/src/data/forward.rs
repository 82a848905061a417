//! The upstream phase: what is sent to the application or to another pod, the tries, and what failing means.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode, Uri,
    header::HOST,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use sluice_pipeline::{
    Decider, Facts, Reject, RejectReason, dispatch,
    program::{Backend, Rule},
    target::Target,
};
use sluice_snapshot::{ConfigReason, unit::backend::BackendProtocol};

use super::{
    body::{Body, ClientBody, Leaving, Meter, Passing, RequestBody},
    deadline,
    facts::RequestFacts,
    forwarded,
    grpc::Kind,
    grpc_web::{self, Format},
    headers, hop,
    knock::Knock,
    placement::{OnShard, Place},
    record::{Settle, Upstream},
    request::is_http2,
    thread::Thread,
    upgrade::{self, Ends, Switching},
    upstream::{Pool, UpstreamBody, UpstreamError, set_version},
};
use crate::metrics::UpstreamFailure;

/// Endpoints that are tried where one cannot be connected to: nothing was sent, so any method may go elsewhere.
const MAX_TRIES: u32 = 3;
/// How long an application may take on a port that has no route any more, in milliseconds.
const UNROUTED_MS: u64 = 60_000;

/// What the upstream phase is told.
pub struct Forwarding<'r> {
    /// Where to.
    pub place: Place,
    /// The normalised target: what was matched is what is sent.
    pub target: &'r Target,
    /// The rule.
    pub rule: &'r Rule,
    /// What is seen of the body.
    pub meter: &'r Meter,
    /// Until when an answer must be there.
    pub deadline_ms: u64,
    /// What the client asked of its connection.
    pub asked: headers::Asked,
    /// The client's end of the connection, where it asks for another protocol.
    pub upgrade: Option<Switching>,
}

/// Sends the request, and waits for the head of the answer. One without a body to come is one behind which no HTTP follows.
pub async fn ask(
    settle: &mut Settle,
    mut request: Leaving,
    forwarding: Forwarding<'_>,
) -> Result<(http::response::Parts, Option<Passing>), Reject> {
    let Forwarding {
        place,
        target,
        rule,
        meter,
        deadline_ms,
        asked,
        upgrade,
    } = forwarding;
    let (towards, shard) = match place {
        Place::App {
            inbound,
            protocol,
            shard,
            edits,
        } => {
            // Made before. What is left in a place that is moved from would be kept to the end.
            drop(edits);
            let app = inbound.map_or(settle.connection.inbound.app, |inbound| inbound.app);
            (Towards::App(app, protocol), shard)
        }
        Place::Forward {
            backend,
            endpoint,
            shard,
            edits,
        } => {
            drop(edits);
            (Towards::Backend(backend, endpoint), shard)
        }
        Place::Redirect { .. } => {
            return Err(Reject::new(RejectReason::Internal).detail("a redirect has no upstream"));
        }
    };
    let upgrade = upgrade.filter(|_| towards.protocol() == BackendProtocol::Http1);
    let asked = headers::Asked {
        websocket: upgrade.is_some(),
        ..asked
    };
    prepare(settle, &mut request.parts, target, &towards, asked)
        .map_err(|reject| reject.by(rule.decider()))?;
    let web = match settle.grpc {
        Some(Kind::Web(format)) if towards.protocol() == BackendProtocol::H2c => Some(format),
        _ => None,
    };
    if let Some(format) = web {
        request = call_grpc(request, format).map_err(|reject| reject.by(rule.decider()))?;
    }
    let try_deadline_ms = match rule.timeouts.backend_request_ms {
        0 => deadline_ms,
        longest_ms => {
            let now_ms = settle.thread.clock().now_ms();
            deadline_ms.min(deadline::after(now_ms, longest_ms))
        }
    };
    let mut request = Some(request);
    let sent = send(settle, &mut request, &towards, &shard, try_deadline_ms).await;
    settle.upstream_us = Some(
        settle
            .thread
            .clock()
            .now_us()
            .saturating_sub(settle.began_us),
    );
    settle.bytes_in = settle.bytes_in.max(meter.bytes());
    let response = sent.map_err(|error| refusal(settle, &error, meter, rule.decider()))?;
    meter.release();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let ends = upgrade.map(|client| Ends {
            client,
            flight: shard.map(|shard| shard.flight),
        });
        let switched = upgrade::switch(&settle.thread, &settle.connection, ends, response);
        let switched = switched.map_err(|reject| reject.by(rule.decider()))?;
        return Ok((switched, None));
    }
    let (mut head, mut passing) = received(response, shard);
    passing.web = web.filter(|format| grpc_web::from_grpc(&mut head.headers, *format));
    Ok((head, Some(passing)))
}

/// The port had a route and has none any more: the request passes to the application without any policy.
pub async fn unrouted(
    settle: &mut Settle,
    parts: Box<Parts>,
    body: ClientBody,
) -> Result<Response<Body>, Reject> {
    pass(settle, parts, body, UNROUTED_MS).await
}

/// The request passes to the application as it is, which has `longest_ms` to answer; 0: as long as the client waits.
pub async fn pass(
    settle: &mut Settle,
    mut parts: Box<Parts>,
    body: ClientBody,
    longest_ms: u64,
) -> Result<Response<Body>, Reject> {
    let meter = Meter::new(u64::MAX);
    let body = if body.is_end_stream() {
        RequestBody::Empty
    } else {
        RequestBody::Stream(body, Rc::clone(&meter))
    };
    let port = settle.connection.inbound.listen.port();
    let protocol = settle.force.program.app_protocol(port);
    let towards = Towards::App(settle.connection.inbound.app, protocol);
    let asked = own_hop(settle, &mut parts);
    let bodiless = matches!(body, RequestBody::Empty);
    let upgrade = upgrade::client_end(&settle.connection, &parts, asked, bodiless);
    let upgrade = upgrade.filter(|_| protocol == BackendProtocol::Http1);
    let asked = headers::Asked {
        websocket: upgrade.is_some(),
        ..asked
    };
    let facts = RequestFacts::new(&parts, &settle.client);
    let (raw_path, query) = (facts.path().to_owned(), facts.query().map(str::to_owned));
    let target = Target {
        path: raw_path.clone(),
        raw_path,
        query,
    };
    prepare(settle, &mut parts, &target, &towards, asked)?;
    let mut request = Some(Leaving { parts, body });
    let deadline_ms = deadline::after(settle.began_ms(), longest_ms);
    let sent = send(settle, &mut request, &towards, &None, deadline_ms).await;
    let response = sent.map_err(|error| refusal(settle, &error, &meter, Decider::default()))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let ends = upgrade.map(|client| Ends {
            client,
            flight: None,
        });
        let head = upgrade::switch(&settle.thread, &settle.connection, ends, response)?;
        return Ok(Response::from_parts(head, Body::memory(Bytes::new())));
    }
    let (head, passing) = received(response, None);
    Ok(Response::from_parts(head, Body::passing(passing)))
}

enum Towards {
    App(SocketAddr, BackendProtocol),
    Backend(Arc<Backend>, SocketAddr),
}

impl Towards {
    fn protocol(&self) -> BackendProtocol {
        match self {
            Self::App(_, protocol) => *protocol,
            Self::Backend(backend, _) => backend.protocol,
        }
    }

    fn scheme(&self) -> Scheme {
        match self {
            Self::Backend(backend, _) if backend.tls.is_some() => Scheme::HTTPS,
            Self::App(..) | Self::Backend(..) => Scheme::HTTP,
        }
    }

    /// The connections that may be used. Those of a policy are made as it asks, or not at all.
    fn pool(&self, thread: &Thread) -> Result<Pool, UpstreamError> {
        match self {
            Self::Backend(backend, _) => pool_of(backend, thread),
            Self::App(..) => Ok(thread.pool.clone()),
        }
    }
}

/// The connections that may be used to a backend.
pub fn pool_of(backend: &Backend, thread: &Thread) -> Result<Pool, UpstreamError> {
    match &backend.tls {
        Some(tls) => {
            let pools = &thread.tls_pools;
            pools.of(tls, backend.protocol, &thread.pool)
        }
        None => Ok(thread.pool.clone()),
    }
}

/// The head of a copy of a request, for a mirror.
pub fn head_for(
    settle: &mut Settle,
    parts: &Parts,
    target: &Target,
    (backend, address): (&Arc<Backend>, SocketAddr),
    asked: headers::Asked,
) -> Result<Box<Parts>, Reject> {
    let mut copy = Box::new(parts.clone());
    let towards = Towards::Backend(Arc::clone(backend), address);
    prepare(settle, &mut copy, target, &towards, asked)?;
    Ok(copy)
}

/// Makes of the client's head one that this hop sends: what belonged to the client's connection goes, what is said of the
/// client is what is believed. Before the rule's edits: nothing that a client names can undo them.
pub fn own_hop(settle: &Settle, parts: &mut Parts) -> headers::Asked {
    let asked = headers::remove_hop_by_hop(&mut parts.headers);
    forwarded::announce(parts, &settle.client, settle.connection.named());
    asked
}

/// Makes of the client's head the head for the next hop.
fn prepare(
    settle: &mut Settle,
    parts: &mut Parts,
    target: &Target,
    towards: &Towards,
    asked: headers::Asked,
) -> Result<(), Reject> {
    let rewritten = parts.uri.authority().is_some() || towards.protocol() == BackendProtocol::H2c;
    let authority = if rewritten {
        RequestFacts::new(parts, &settle.client)
            .authority()
            .map(str::to_owned)
    } else {
        None
    };
    if asked.trailers {
        let http1 = towards.protocol() == BackendProtocol::Http1;
        headers::take_trailers(&mut parts.headers, http1);
    }
    if asked.websocket {
        upgrade::ask(&mut parts.headers);
    }
    if is_http2(parts) {
        headers::join_cookies(&mut parts.headers);
    }
    let via = match towards {
        Towards::App(..) => headers::via(parts.version),
        Towards::Backend(..) => settle.force.via_forward.clone(),
    };
    headers::add_via(&mut parts.headers, via);
    settle.trace = Some(headers::trace(
        &mut parts.headers,
        settle.trace,
        &settle.thread.dice,
    ));
    set_target(parts, target, authority, towards)?;
    set_version(parts, towards.protocol());
    Ok(())
}

/// Makes a call of gRPC of one of gRPC-Web, for an upstream that speaks HTTP/2.
fn call_grpc(mut request: Leaving, format: Format) -> Result<Leaving, Reject> {
    grpc_web::to_grpc(&mut request.parts.headers, format);
    headers::take_trailers(&mut request.parts.headers, false);
    if format == Format::Text {
        request.body = request
            .body
            .decoded()
            .map_err(|error| Reject::new(RejectReason::BadRequest).detail(error.to_string()))?;
    }
    Ok(request)
}

/// The target as the next hop wants it: origin form for HTTP/1.1, with scheme and authority for HTTP/2.
fn set_target(
    parts: &mut Parts,
    target: &Target,
    authority: Option<String>,
    towards: &Towards,
) -> Result<(), Reject> {
    let protocol = towards.protocol();
    let bad = || {
        Reject::new(RejectReason::BadTarget).detail("the target cannot be written for the upstream")
    };
    let bare = parts.uri.authority().is_none();
    if protocol == BackendProtocol::Http1 && bare && !target.changed() {
        return Ok(());
    }
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(PathAndQuery::try_from(target.path_and_query()).map_err(|_| bad())?);
    match protocol {
        BackendProtocol::Http1 => {
            // The target's authority is what `Host` must say (RFC 9112 section 3.2.2).
            if let (false, Some(authority)) = (bare, &authority) {
                let host = HeaderValue::from_str(authority).map_err(|_| {
                    Reject::new(RejectReason::BadRequest).detail("the authority is no header value")
                })?;
                parts.headers.insert(HOST, host);
            }
        }
        BackendProtocol::H2c => {
            uri.scheme = Some(towards.scheme());
            let authority = authority.unwrap_or_default();
            uri.authority = Some(Authority::try_from(authority).map_err(|_| bad())?);
            parts.headers.remove(HOST);
        }
    }
    parts.uri = Uri::from_parts(uri).map_err(|_| bad())?;
    Ok(())
}

/// Tries the upstream; where nothing was sent, another endpoint of it.
async fn send(
    settle: &mut Settle,
    request: &mut Option<Leaving>,
    towards: &Towards,
    shard: &Option<OnShard>,
    deadline_ms: u64,
) -> Result<Response<UpstreamBody>, UpstreamError> {
    let thread = Rc::clone(&settle.thread);
    let pool = towards.pool(&thread)?;
    let mut tries = 1;
    let mut knock = Knock::until(deadline_ms);
    let mut address = match towards {
        Towards::App(address, _) | Towards::Backend(_, address) => *address,
    };
    loop {
        settle.upstream = Some(Upstream {
            address,
            backend: match towards {
                Towards::App(..) => None,
                Towards::Backend(backend, _) => Some(Arc::clone(backend)),
            },
            shard: shard.as_ref().map(|shard| Rc::clone(&shard.seen)),
        });
        let pool = match leap(settle, request, (towards, address), shard, tries > 1)? {
            Some(pool) => pool,
            None => pool.clone(),
        };
        let error = match pool
            .send(
                address,
                towards.protocol(),
                request,
                deadline_ms,
                settle.interims(),
            )
            .await
        {
            Ok(response) => {
                if let Towards::App(app, _) = towards {
                    thread.reached(*app);
                }
                return Ok(response);
            }
            Err(error) => error,
        };
        match (towards, &error) {
            (Towards::App(..), UpstreamError::Connect(_, cause))
                if request.is_some() && Box::pin(knock.again(&thread, cause)).await => {}
            // Still in its place: not a byte was sent.
            (Towards::Backend(backend, _), _)
                if request.is_some()
                    && tries < MAX_TRIES
                    && !matches!(error, UpstreamError::Timeout(_)) =>
            {
                tries += 1;
                thread.tally.upstream(UpstreamFailure::Retried);
                address = another(backend, address, thread.dice.roll32());
            }
            _ => return Err(error),
        }
    }
}

/// The way over a hop, where the endpoint's sidecar takes hops; the request then says what was decided about it.
fn leap(
    settle: &Settle,
    request: &mut Option<Leaving>,
    (towards, endpoint): (&Towards, SocketAddr),
    shard: &Option<OnShard>,
    again: bool,
) -> Result<Option<Pool>, UpstreamError> {
    let Towards::Backend(backend, _) = towards else {
        return Ok(None);
    };
    let thread = &settle.thread;
    let pool = match backend.hop(endpoint) {
        Some(hop) => thread.hop_pools.of(thread, backend, endpoint, hop)?,
        None => None,
    };
    match (&pool, request.as_mut()) {
        (Some(_), _) => {
            let shard = shard.as_ref().map(|shard| &*shard.seen);
            hop::way::announce(settle, request, endpoint, shard);
        }
        // The endpoint before this one was told.
        (None, Some(request)) if again => hop::way::withdraw(request),
        (None, _) => {}
    }
    Ok(pool)
}

/// Another endpoint than the one that failed, where there is one.
pub fn another(backend: &Backend, failed: SocketAddr, random: u32) -> SocketAddr {
    let first = dispatch::endpoint(backend, random).unwrap_or(failed);
    if first != failed {
        return first;
    }
    let endpoints = backend.endpoints();
    let place = endpoints
        .iter()
        .position(|endpoint| *endpoint == failed)
        .unwrap_or(0);
    endpoints
        .get((place + 1) % endpoints.len().max(1))
        .copied()
        .unwrap_or(failed)
}

/// What a failed try means for the client.
fn refusal(settle: &Settle, error: &UpstreamError, meter: &Meter, decider: Decider) -> Reject {
    let tally = &settle.thread.tally;
    let reason = match error {
        _ if meter.too_large() => RejectReason::BodyTooLarge,
        _ if meter.stalled() => RejectReason::RequestTimeout,
        _ if meter.broken() => RejectReason::BadRequest,
        UpstreamError::Connect(..) | UpstreamError::ConnectTimeout(_) => {
            tally.upstream(UpstreamFailure::Connect);
            RejectReason::UpstreamConnect
        }
        UpstreamError::Broken(..) | UpstreamError::Taken(_) => {
            tally.upstream(UpstreamFailure::Reset);
            RejectReason::UpstreamReset
        }
        UpstreamError::Policy { .. } => RejectReason::Config(ConfigReason::Invalid),
        UpstreamError::Timeout(_) if meter.is_waited_for() => RejectReason::RequestTimeout,
        UpstreamError::Timeout(_) => {
            tally.upstream(UpstreamFailure::Timeout);
            RejectReason::UpstreamTimeout
        }
    };
    Reject::new(reason).by(decider).detail(error.to_string())
}

fn received(
    response: Response<UpstreamBody>,
    shard: Option<OnShard>,
) -> (http::response::Parts, Passing) {
    let (mut head, incoming) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    headers::add_via(&mut head.headers, headers::via(head.version));
    // The version belongs to the connection too.
    head.version = http::Version::HTTP_11;
    let flight = shard.map(|shard| shard.flight);
    (
        head,
        Passing {
            incoming,
            fill: None,
            flight,
            web: None,
        },
    )
}
