//! A request's part in hops: what arrived with it is read and believed or not, what leaves with it is written.

use std::{net::SocketAddr, rc::Rc};

use http::{HeaderName, HeaderValue, Response, request::Parts};
use sluice_pipeline::{
    Reject, RejectReason, admit,
    hop::{self, Asserted, Assertion, Hop, Role},
    program::{Action, Target as Destination},
    route, target,
};

use crate::data::{
    body::{Body, ClientBody, Leaving},
    facts::RequestFacts,
    forward,
    record::{Settle, ShardSeen},
};

/// The field of the assertion.
pub const HOP: HeaderName = HeaderName::from_static(hop::HEADER);

/// What a request asserts that came over a hop. None: nothing, or from somebody who may not.
pub fn arrived(settle: &Settle, parts: &Parts) -> Result<Option<Rc<Hop>>, Reject> {
    let Some(peer) = settle.connection.hop.get() else {
        return Ok(None);
    };
    let port = settle.connection.inbound.listen.port();
    let lines = parts.headers.get_all(&HOP).iter();
    let arrived = Hop::arrived(peer, port, lines.map(HeaderValue::as_bytes))?;
    Ok(arrived.map(Rc::new))
}

/// Gives a request to the own application that a sidecar of this namespace ran a route for. Where the own route leads
/// only to others, it is not given back: that would be a loop.
pub async fn deliver(
    settle: &mut Settle,
    parts: Box<Parts>,
    body: ClientBody,
) -> Result<Response<Body>, Reject> {
    let thread = Rc::clone(&settle.thread);
    thread.limits.admit(&parts)?;
    settle.believe_sender(&parts);
    let client = settle.client;
    let facts = RequestFacts::new(&parts, &client);
    admit::admit(&facts)?;
    let port = settle.connection.inbound.listen.port();
    let force = std::sync::Arc::clone(&settle.force);
    if let Some(table) = force.program.table(port) {
        let target = target::normalise(&facts)?;
        if let Ok(matched) = route::find(table, &facts, &target)
            && let Action::Backends { targets, .. } = &matched.rule.action
        {
            let elsewhere = |destination: &Destination| match destination {
                Destination::Backend(backend) => !backend
                    .endpoints()
                    .iter()
                    .any(|one| thread.own(*one).is_some()),
                _ => false,
            };
            let mut weighted = targets.iter().filter(|target| target.weight > 0).peekable();
            let leads = weighted.peek().is_some();
            if leads && weighted.all(|target| target.target.as_ref().is_ok_and(elsewhere)) {
                return Err(matched.reject(RejectReason::Loop));
            }
        }
    }
    // How long it may take, who forwards knows.
    forward::pass(settle, parts, body, 0).await
}

/// Says to the sidecar of `endpoint` what was decided about a request. What is too long is not said: the receiver then
/// decides for itself.
pub fn announce(
    settle: &Settle,
    request: &mut Option<Leaving>,
    endpoint: SocketAddr,
    shard: Option<&ShardSeen>,
) {
    let Some(request) = request else {
        return;
    };
    let value = assertion(settle, endpoint, shard).encode();
    match value.and_then(|value| HeaderValue::try_from(value).ok()) {
        Some(value) => drop(request.parts.headers.insert(HOP, value)),
        None => withdraw(request),
    }
}

/// Says nothing.
pub fn withdraw(request: &mut Leaving) {
    request.parts.headers.remove(&HOP);
}

fn assertion(settle: &Settle, endpoint: SocketAddr, shard: Option<&ShardSeen>) -> Assertion {
    let (route, rule) = match &settle.matched {
        Some((_, rule)) => {
            let object = &rule.object;
            let route = format!("{}/{}", object.namespace, object.name);
            (route, rule.name.clone())
        }
        None => Default::default(),
    };
    let charged = settle.verdicts.iter().filter(|verdict| verdict.admitted);
    Assertion {
        from: match settle.connection.arrival.get() {
            Some(_) => Role::Edge,
            None => Role::Sidecar,
        },
        port: endpoint.port(),
        route,
        rule: rule.to_string(),
        identity: settle.identity.as_deref().map(Asserted::from),
        charged: charged
            .map(|verdict| verdict.limit.id.as_str().to_owned())
            .collect(),
        nonces: settle.nonces.clone(),
        epoch: shard.map(|shard| shard.epoch),
    }
}
