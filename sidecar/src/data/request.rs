//! The way of one request, phase by phase. Order is security: it is DESIGN's, `sluice_pipeline::order` lists it, and
//! entering a phase out of order is a panic in every test.

use std::{future::poll_fn, panic::AssertUnwindSafe, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, future::LocalBoxFuture};
use http::{Response, Version, request::Parts};
use http_body::Body as _;
use sluice_pipeline::{
    Reject, RejectReason, admit,
    auth::{self, Authenticated, DigestCheck, NonceClaim, Outcome},
    framing::Fault,
    order::Phase,
    program::Rule,
    ratelimit::{self, When},
    route, target,
};
use sluice_snapshot::unit::{
    auth::{NonceFallback, NonceScope},
    route::HeaderEdits,
};

use super::{
    answer,
    body::{Arrived, Body, ClientBody, Leaving, Meter, RequestBody, RequestBodyError},
    cache::{self, Looked},
    deadline::{self, Elapsed},
    extras,
    facts::RequestFacts,
    forward::{self, Forwarding},
    grpc, headers, hop,
    pace::Pace,
    placement::{self, Asked, Place},
    record::Settle,
    serve::Connection,
    thread::Thread,
    upgrade,
};
use crate::{limits, metrics::Closing, nonces::Seen};

/// How long a shared nonce is asked for where this sidecar's own memory may answer instead.
const NONCE_WAIT: Duration = Duration::from_millis(15);
/// And where nobody else may.
const NONCE_LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Answers one request; `refused`: it stands for one that nobody may see. A panic ends this request and no other.
pub async fn handle(
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    arrived: Arrived,
    refused: Option<Fault>,
) -> Response<Body> {
    let mut settle = Settle::begin(&thread, &connection, &arrived.parts);
    let result = match refused {
        None => survive(&thread, phases(&mut settle, arrived)).await,
        Some(fault) => Err(fault.reject()),
    };
    let response = result.unwrap_or_else(|mut reject| {
        if let (RejectReason::BadRequest, Some(fault)) = (reject.reason, connection.fault.get()) {
            reject.detail = Some(fault.what().into());
        }
        if reject.reason == RejectReason::RequestTimeout {
            settle.thread.tally.closings.count(Closing::BodyStalled);
            settle.connection.body_stalled();
        }
        let rule = settle.matched.as_ref().map(|(_, rule)| rule.as_ref());
        let mut response = answer::refusal(&reject, rule);
        if let Some(kind) = settle.grpc {
            response = grpc::refusal(kind, &response, reject.reason);
        }
        settle.reject = Some(reject);
        response
    });
    answer::finish(settle, response)
}

/// Ends a panic with this request. Not an `async fn`: that would hold the work twice.
fn survive<T>(
    thread: &Rc<Thread>,
    work: impl Future<Output = Result<T, Reject>>,
) -> impl Future<Output = Result<T, Reject>> {
    let thread = Rc::clone(thread);
    AssertUnwindSafe(work).catch_unwind().map(move |result| {
        result.unwrap_or_else(|_panic| {
            thread.tally.panicked();
            Err(Reject::new(RejectReason::Internal)
                .detail("panicked; the sidecar's log has the place"))
        })
    })
}

/// Every phase, in order. What refuses, returns.
async fn phases(settle: &mut Settle, arrived: Arrived) -> Result<Response<Body>, Reject> {
    let Arrived { mut parts, body } = arrived;
    let thread = Rc::clone(&settle.thread);
    let force = Arc::clone(&settle.force);
    let shared = &thread.shared;
    let port = settle.connection.inbound.listen.port();

    let hop = hop::way::arrived(settle, &parts)?;
    if hop
        .as_ref()
        .is_some_and(|hop| hop.delivers(force.program.namespace()))
    {
        return Box::pin(hop::way::deliver(settle, parts, body)).await;
    }

    let table = force.program.table(port);
    if table.is_none() && settle.connection.arrival.get().is_none() {
        // The port had a route when the connection was accepted. What is on its way passes as it is.
        return Box::pin(forward::unrouted(settle, parts, body)).await;
    }

    thread.limits.admit(&parts)?;
    let (target, matched) = {
        let client = settle.client;
        let facts = RequestFacts::new(&parts, &client).over(hop.as_deref());
        admit::admit(&facts)?;
        let table = match (settle.connection.arrival.get(), table) {
            (None, Some(table)) => table,
            (Some(arrival), _) => arrival.table(&force, port, &facts)?,
            (None, None) => return Err(Reject::new(RejectReason::NoRoute)),
        };

        settle.enter(Phase::Target);
        let target = target::normalise(&facts)?;

        settle.enter(Phase::Route);
        let matched = route::find(table, &facts, &target)?;
        (target, matched)
    };
    let (route, rule) = (matched.route, matched.rule);
    settle.matched = Some((Arc::clone(route), Arc::clone(rule)));
    let namespace = force.program.namespace();
    let vouched = hop.clone();
    settle.vouched = vouched.filter(|hop| hop.is_believed(rule, namespace));
    if settle.vouched.is_some() {
        settle.believe_sender(&parts);
    }
    let client = settle.client;
    let facts = RequestFacts::new(&parts, &client).over(hop.as_deref());
    let deadline_ms = deadline::after(settle.began_ms(), rule.timeouts.request_ms);

    if let Some(extras) = &rule.extras
        && let Some(preflight) = extras::routed(settle, extras, &facts)
    {
        return Ok(preflight);
    }

    settle.enter(Phase::Sizes);
    matched.within(&facts, body.size_hint().exact())?;

    settle.enter(Phase::LimitByAddress);
    if let Some(asking) = limit(settle, rule, When::Address, &facts)? {
        asking.await?;
    }

    settle.enter(Phase::Authenticate);
    let digest = match &rule.auth {
        None => None,
        Some(_) => {
            let (digest, nonces) = authenticate(settle, rule, &facts, &target)?;
            if !nonces.is_empty() {
                Box::pin(claim_nonces(settle, nonces)).await?;
            }
            digest
        }
    };

    settle.enter(Phase::LimitByIdentity);
    if let Some(asking) = limit(settle, rule, When::Identity, &facts)? {
        asking.await?;
    }

    settle.enter(Phase::VerifyBody);
    let meter = Meter::new(route.limits.max_body);
    // A call of gRPC may be silent for as long as its deadline lets it.
    if !body.is_end_stream() && settle.grpc.is_none() {
        meter.keep(Pace::new(thread.clock(), &thread.ticker, &thread.limits));
    }
    let body = match &digest {
        Some(check) => {
            RequestBody::Full(Box::pin(verified(settle, check, body, &meter, deadline_ms)).await?)
        }
        None if body.is_end_stream() => RequestBody::Empty,
        None => RequestBody::Stream(body, Rc::clone(&meter)),
    };

    settle.enter(Phase::CacheLookup);
    let miss = match &rule.cache {
        None => None,
        Some(rules) => match Box::pin(cache::look(
            settle,
            rule,
            rules,
            &parts,
            &target,
            deadline_ms,
        ))
        .await?
        {
            Looked::Answer(response) => return Ok(*response),
            Looked::Fetch(miss) => Some(miss),
        },
    };

    settle.enter(Phase::EditRequest);
    let asked = forward::own_hop(settle, &mut parts);
    let bodiless = matches!(body, RequestBody::Empty);
    let upgrade = upgrade::client_end(&settle.connection, &parts, asked, bodiless);
    if rule.request_headers != HeaderEdits::default() {
        headers::edit(&mut parts.headers, &rule.request_headers);
        settle.trace = headers::trace_given(&parts.headers);
    }

    settle.enter(Phase::Dispatch);
    let placed = {
        let arrival = settle.connection.arrival.get();
        let facts = RequestFacts::new(&parts, &client).at_listener(arrival.map(|_| port));
        let asking = Asked {
            facts: &facts,
            target: &target,
            identity: settle.identity.as_deref(),
            port,
            arrival,
        };
        placement::place(&thread, &force, matched, &asking).await?
    };
    let place = match placed {
        Place::Redirect { status, location } => return Ok(answer::redirect(status, &location)),
        place => extras::placed(settle, &mut parts, place),
    };

    settle.enter(Phase::Upstream);
    let invalidation = cache::Invalidation::of(settle, &parts);
    let (mut body, mut seen) = (body, None);
    if let Some(extras) = &rule.extras {
        let asked = upgrade.is_none().then_some(asked);
        (body, seen) = extras::leaving(
            settle,
            extras,
            (matched, &target),
            &mut parts,
            (body, asked),
        );
    }
    let request = Leaving { parts, body };
    let forwarding = Forwarding {
        place,
        target: seen.as_deref().unwrap_or(&target),
        rule,
        meter: &meter,
        deadline_ms,
        asked,
        upgrade,
    };
    let (head, passing) = forward::ask(settle, request, forwarding).await?;
    let Some(mut passing) = passing else {
        return Ok(Response::from_parts(head, Body::memory(Bytes::new())));
    };

    settle.enter(Phase::CacheStore);
    if let Some(invalidation) = invalidation {
        invalidation.apply(settle, &target, &head);
    }
    if let (Some(miss), Some(rules)) = (miss, &rule.cache) {
        passing.fill = miss.keep(settle, rule, rules, &head, shared.clock.wall_s());
    }
    Ok(Response::from_parts(head, Body::passing(passing)))
}

/// The limits of one phase. Where a store may have to be asked, the asking is still to be waited for: boxed, since few
/// requests do.
fn limit<'s>(
    settle: &'s mut Settle,
    rule: &'s Rule,
    when: When,
    facts: &RequestFacts<'_>,
) -> Result<Option<LocalBoxFuture<'s, Result<(), Reject>>>, Reject> {
    if rule.policies.is_empty() {
        return Ok(None);
    }
    let mut charges = ratelimit::charges(rule, when, facts, settle.identity.as_deref())?;
    if let Some(hop) = &settle.vouched {
        charges.retain(|charge| !hop.charged(charge.limit.id.as_str()));
    }
    if charges.is_empty() {
        return Ok(None);
    }
    let now_us = match when {
        // It came this moment.
        When::Address => settle.began_us,
        When::Identity => settle.thread.clock().now_us(),
    };
    if let Some(charged) = limits::charge_here(&settle.thread.shared, &charges, now_us) {
        return settle.charged(charged).map(|()| None);
    }
    let (thread, force) = (Rc::clone(&settle.thread), Arc::clone(&settle.force));
    Ok(Some(Box::pin(async move {
        let charged = limits::charge(&thread.shared, &force.program, &charges).await;
        settle.charged(charged)
    })))
}

/// Who asks, once the nonces are claimed; what of the body is still to be verified.
fn authenticate(
    settle: &mut Settle,
    rule: &Rule,
    facts: &RequestFacts<'_>,
    target: &target::Target,
) -> Result<(Option<DigestCheck>, Vec<NonceClaim>), Reject> {
    let thread = Rc::clone(&settle.thread);
    let outcome = auth::authenticate(
        rule,
        facts,
        target,
        &mut *thread.tokens.borrow_mut(),
        thread.clock().wall_s(),
    )?;
    let Authenticated {
        identity,
        others: _,
        nonces,
        digest,
    } = match outcome {
        Outcome::Anonymous => return Ok((None, Vec::new())),
        Outcome::Identified(authenticated) => authenticated,
    };
    settle.identity = Some(identity);
    Ok((digest, nonces))
}

/// Marks the nonces of a request as used. Until all are, nobody has proven anything: its identity is not told.
async fn claim_nonces(settle: &mut Settle, nonces: Vec<NonceClaim>) -> Result<(), Reject> {
    let thread = Rc::clone(&settle.thread);
    let identity = settle.identity.take();
    for claim in &nonces {
        let before = settle.vouched.as_ref();
        if !before.is_some_and(|hop| hop.claimed(&claim.key)) {
            claim_nonce(&thread, claim).await?;
        }
        settle.nonces.push(claim.key);
    }
    settle.identity = identity;
    Ok(())
}

/// Marks a nonce as used.
async fn claim_nonce(thread: &Thread, claim: &NonceClaim) -> Result<(), Reject> {
    let shared = &thread.shared;
    let here = || match shared
        .nonces
        .claim(claim.key, claim.ttl_ms, shared.clock.now_ms())
    {
        Seen::Fresh => Ok(()),
        Seen::Replayed => Err(claim.replayed()),
        Seen::Full => Err(claim.unavailable()),
    };
    let NonceScope::Shared {
        store,
        on_store_failure,
    } = &claim.scope
    else {
        return here();
    };
    // This sidecar's own memory comes first: it costs no round trip, and it is right about what it has seen.
    here()?;
    let asked = async {
        if shared.stores.is_open(store) {
            return None;
        }
        let longest = match on_store_failure {
            NonceFallback::Local => NONCE_WAIT,
            NonceFallback::Deny => NONCE_LONGEST_WAIT,
        };
        let answer = shared.stores.nonce(store, claim.key, claim.ttl_ms);
        tokio::time::timeout(longest, answer).await.ok()?.ok()
    };
    match (asked.await, on_store_failure) {
        (Some(true), _) | (None, NonceFallback::Local) => Ok(()),
        (Some(false), _) => Err(claim.replayed()),
        (None, NonceFallback::Deny) => Err(claim.unavailable()),
    }
}

/// Holds the whole body back until its digest is verified.
async fn verified(
    settle: &mut Settle,
    check: &DigestCheck,
    mut body: ClientBody,
    meter: &Meter,
    deadline_ms: u64,
) -> Result<Bytes, Reject> {
    let too_large = || Reject::new(RejectReason::BodyTooLarge).by(check.decider.clone());
    let whole = async {
        let mut whole = BytesMut::new();
        let mut next = async || {
            poll_fn(|context| meter.paced(Pin::new(&mut body).poll_frame(context), context)).await
        };
        while let Some(frame) = next().await {
            let broken = |error| {
                let (reason, detail) = match error {
                    RequestBodyError::Stalled => {
                        (RejectReason::RequestTimeout, "the body came too slowly")
                    }
                    _ => (RejectReason::BadRequest, "the body broke off"),
                };
                Reject::new(reason).by(check.decider.clone()).detail(detail)
            };
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                if !meter.pass(data.len()) || (whole.len() + data.len()) as u64 > check.max_buffered
                {
                    return Err(too_large());
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.freeze())
    };
    let thread = Rc::clone(&settle.thread);
    let whole = thread.ticker.within(deadline_ms, whole).await;
    settle.bytes_in = meter.bytes();
    let whole = whole
        .map_err(|Elapsed| Reject::new(RejectReason::RequestTimeout).by(check.decider.clone()))??;
    check.verify(&whole)?;
    Ok(whole)
}

/// The version that the client spoke.
pub fn is_http2(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn the_way_of_a_request_is_small_to_move() {
        fn size<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        // The engine moves it once per request: what is rare is boxed.
        let bytes = size(handle);
        assert!(bytes <= 4 << 10, "{bytes} bytes");
    }

    #[tokio::test]
    async fn a_panic_is_a_500_of_one_request_and_counted() {
        let thread = Thread::idle();
        let reject = survive(&thread, async { panic!("on purpose") })
            .await
            .map(|()| "passed")
            .expect_err("refused");
        assert_eq!(reject.reason.describe().status, 500);
        assert_eq!(thread.tally.panics(), 1);
        assert_eq!(
            survive(&thread, async { Ok("goes on") }).await,
            Ok("goes on")
        );
    }
}
