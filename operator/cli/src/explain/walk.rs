//! The way of one request through a configuration: every decision is one of the pipeline's own phases, in their order. What
//! only a running sidecar has (buckets, nonces, stored answers, breakers) takes no part.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use sluice_pipeline::{
    Facts, Identity, Program, Reject, RejectReason, admit,
    auth::{self, NoMemory, Outcome},
    facts::StaticFacts,
    forwarded,
    order::Phase,
    program::{EdgePort, Rule, StreamRoute, Table, Target as To},
    ratelimit::{self, Charge, When},
    route::{self, Matched, Standing, Trace},
    target,
};
use sluice_snapshot::{
    ConfigError,
    unit::{
        auth::Anonymous,
        policy::{Mode, Scope},
    },
};

use super::{
    answer::{Answer, Auth, Destination, Limit, Refusal, Request, Taken},
    ask::Ask,
    destinations::{any_serves, destinations, refused, share},
    known::{At, Known, KnownError},
    rest::{elsewhere, nearest, others},
    words,
};

/// What takes a request where it arrives.
enum Arrival<'p> {
    /// The rules of a listener or of a port of pods.
    Table(&'p Table),
    /// A route of bytes; none: no server name of its is this one.
    Stream(Option<&'p StreamRoute>),
    /// Nobody looks at it: it passes.
    Passes,
}

/// Tells what becomes of a request, at a place or where it would arrive.
pub fn explain(known: &Known, ask: &Ask, at: Option<&At>) -> Result<Answer, KnownError> {
    let (at, group) = known.place(ask, at)?;
    let program = known.program(&group)?;
    let port = at.port.unwrap_or(ask.port);
    let at = At {
        port: Some(port),
        ..at
    };
    let mut facts = seen(&program, &ask.facts);
    facts.listener_port = at.gateway.then_some(port);
    let mut answer = Answer {
        request: Request {
            method: facts.method.clone(),
            scheme: facts.scheme.clone(),
            authority: facts.authority.clone().unwrap_or_default(),
            path: facts.path.clone(),
            query: facts.query.clone(),
            client: facts.peer.to_string(),
        },
        at: at.to_string(),
        listener: None,
        served: false,
        refusal: None,
        rule: None,
        others: Vec::new(),
        elsewhere: Vec::new(),
        notes: Vec::new(),
    };
    let arrived = match at.gateway {
        true => at_gateway(known, &program, &at, port, ask, &facts, &mut answer),
        false => at_service(known, &program, &at, port, &facts),
    };
    match arrived {
        Err(refusal) => answer.refusal = Some(refusal),
        Ok(Arrival::Passes) => {
            answer.served = true;
            answer.notes.push(
                "no route is in force on this port: the connection passes to the app as it is"
                    .to_owned(),
            );
        }
        Ok(Arrival::Stream(route)) => stream(known, route, &mut answer),
        Ok(Arrival::Table(table)) => {
            if let Err(refusal) = requests(known, table, &facts, &mut answer) {
                answer.refusal = Some(refusal);
            }
        }
    }
    answer.elsewhere = elsewhere(known, &group, &at, port, &answer);
    notes(known, &mut answer);
    Ok(answer)
}

/// The request as it is seen behind the proxies that the platform trusts.
fn seen(program: &Program, facts: &StaticFacts) -> StaticFacts {
    let mut facts = facts.clone();
    if let Some(client) = forwarded::client(&facts, program.settings().forwarded_for) {
        facts.peer = client.address;
        if let Some(scheme) = client.scheme {
            facts.scheme = scheme.to_owned();
        }
    }
    facts
}

fn at_gateway<'p>(
    known: &Known,
    program: &'p Program,
    at: &At,
    number: u16,
    ask: &Ask,
    facts: &StaticFacts,
    answer: &mut Answer,
) -> Result<Arrival<'p>, Refusal> {
    let edge = program.edge();
    let Some(port) = edge.and_then(|edge| edge.port(number)) else {
        let ports = edge.into_iter().flat_map(|edge| edge.ports());
        let ports: Vec<String> = ports.map(|port| port.to_string()).collect();
        let ports = match ports.as_slice() {
            [] => "no port".to_owned(),
            some => format!("{} only", some.join(", ")),
        };
        let mut refusal = Refusal::connection(
            "no-listener",
            format!("nobody listens on port {number}: the Gateway listens on {ports}"),
        );
        refusal.hint = Some(format!(
            "where something in front maps ports, name the listener's: --at gateway/{}/{}:PORT",
            at.namespace, at.name
        ));
        return Err(refusal);
    };
    if let Some(listener) = port.tcp() {
        answer.listener = Some(known.listener(&listener.unit));
        let streams = listener.streams.as_ref();
        let route = streams.and_then(|streams| streams.route(""));
        return Ok(Arrival::Stream(route.map(AsRef::as_ref)));
    }
    let server_name = ask.server_name.as_deref();
    match (port.is_tls(), ask.tls) {
        (true, false) => {
            let mut refusal = Refusal::connection(
                "tls-expected",
                format!("port {number} speaks TLS, and the request comes in the clear"),
            );
            refusal.hint = Some("ask with https://".to_owned());
            return Err(refusal);
        }
        (false, true) => {
            let mut refusal = Refusal::connection(
                "no-tls",
                format!("port {number} speaks no TLS, and the request comes with it"),
            );
            refusal.hint = Some("ask with http://, or add an HTTPS listener".to_owned());
            return Err(refusal);
        }
        (false, false) => {}
        (true, true) => {
            if let Some(arrival) = handshake(known, port, number, server_name, answer)? {
                return Ok(arrival);
            }
        }
    }
    admit::admit(facts).map_err(|reject| Refusal::of(&reject, Phase::Admit))?;
    let host = route::hostname(facts);
    let listener = port.listener(&host);
    answer.listener = listener.map(|listener| known.listener(&listener.unit));
    route::at_edge(port, server_name, facts)
        .map(Arrival::Table)
        .map_err(|reject| {
            let mut refusal = Refusal::of(&reject, Phase::Admit);
            refusal.hint = Some(match reject.reason {
                RejectReason::Misdirected => format!(
                    "the handshake was for {}, and {host} is another listener's: a client has to connect anew for it",
                    server_name.unwrap_or("no name")
                ),
                _ => format!("the listeners of port {number} have {}", hosts(port)),
            });
            refusal
        })
}

/// What the server name of a handshake comes to, where no request is read then.
fn handshake<'p>(
    known: &Known,
    port: &'p EdgePort,
    number: u16,
    server_name: Option<&str>,
    answer: &mut Answer,
) -> Result<Option<Arrival<'p>>, Refusal> {
    let name = server_name.unwrap_or_default();
    let Some(listener) = port.listener(name) else {
        let mut refusal = Refusal::connection(
            "handshake",
            format!("no listener of port {number} has the server name {name:?}"),
        );
        refusal.hint = Some(format!("the listeners of the port have {}", hosts(port)));
        return Err(refusal);
    };
    answer.listener = Some(known.listener(&listener.unit));
    if let Some(Err(error)) = &listener.tls {
        return Err(Refusal::connection("handshake", error.message.clone()));
    }
    let streams = listener.streams.as_ref();
    Ok(streams.map(|streams| Arrival::Stream(streams.route(name).map(AsRef::as_ref))))
}

/// The hostnames of a port's listeners.
fn hosts(port: &EdgePort) -> String {
    let hosts: BTreeSet<&str> = port
        .listeners()
        .map(|listener| listener.hostname().unwrap_or("any host"))
        .collect();
    hosts.into_iter().collect::<Vec<_>>().join(", ")
}

fn at_service<'p>(
    known: &Known,
    program: &'p Program,
    at: &At,
    port: u16,
    facts: &StaticFacts,
) -> Result<Arrival<'p>, Refusal> {
    let Some(target) = known.target_port(at, port) else {
        let ports: Vec<String> = known.service_ports(at).iter().map(u16::to_string).collect();
        let mut refusal = Refusal::connection(
            "no-port",
            format!(
                "the Service has no port {port}; it has {}",
                ports.join(", ")
            ),
        );
        refusal.hint = Some(format!(
            "name it: --at service/{}/{}:PORT",
            at.namespace, at.name
        ));
        return Err(refusal);
    };
    let Some(table) = program.table(target) else {
        return Ok(Arrival::Passes);
    };
    admit::admit(facts).map_err(|reject| Refusal::of(&reject, Phase::Admit))?;
    Ok(Arrival::Table(table))
}

/// A connection whose bytes are routed.
fn stream(known: &Known, route: Option<&StreamRoute>, answer: &mut Answer) {
    let Some(route) = route else {
        answer.refusal = Some(Refusal::connection(
            "no-route",
            "no route of the listener has this server name".to_owned(),
        ));
        return;
    };
    let StreamRoute {
        object,
        targets,
        total,
        broken,
    } = route;
    answer.notes.push(
        "bytes are routed here, not requests: nothing of the request is looked at".to_owned(),
    );
    let destinations: Vec<Destination> = targets
        .iter()
        .map(|weighted| {
            let percent = share(weighted, *total);
            match &weighted.target {
                Ok(To::Backend(backend)) => {
                    let name =
                        format!("{}/{}:{}", backend.namespace, backend.service, backend.port);
                    let endpoints = (!known.assumed_pods).then(|| backend.endpoints().len());
                    let refusal = (endpoints == Some(0)).then(|| {
                        Refusal::connection("no-endpoint", format!("{name} has no endpoints"))
                    });
                    Destination {
                        percent,
                        upstream: Some(backend.service.clone()),
                        to: name,
                        endpoints,
                        refusal,
                    }
                }
                Ok(To::App | To::Shards(_)) => refused(
                    percent,
                    Refusal::connection("internal", "no Service".to_owned()),
                ),
                Err(error) => refused(percent, misconfigured(error)),
            }
        })
        .collect();
    answer.refusal = broken.as_ref().map(misconfigured);
    answer.served = answer.refusal.is_none() && any_serves(&destinations);
    answer.rule = Some(Taken {
        route: object.clone(),
        name: "-".to_owned(),
        hostname: None,
        spec: "every connection".to_owned(),
        auth: None,
        limits: Vec::new(),
        cache: None,
        filters: Vec::new(),
        request_timeout_ms: 0,
        backend_timeout_ms: 0,
        destinations,
    });
}

fn misconfigured(error: &ConfigError) -> Refusal {
    Refusal::connection(
        RejectReason::Config(error.reason).describe().name,
        error.message.clone(),
    )
}

/// Every phase from the target on, in order. What refuses, returns; the answer has what was found until then.
fn requests(
    known: &Known,
    table: &Table,
    facts: &StaticFacts,
    answer: &mut Answer,
) -> Result<(), Refusal> {
    let target = target::normalise(facts).map_err(|reject| Refusal::of(&reject, Phase::Target))?;
    answer.request.path = target.path().to_owned();

    let found = route::find(table, facts, &target);
    let traces = route::trace(table, facts, &target);
    answer.others = others(&traces, facts, &target);
    let decides = traces
        .iter()
        .find(|trace| matches!(trace.standing, Standing::Decides));
    if let Some(trace) = decides {
        let candidate = trace.candidate;
        let matched = Matched {
            route: &candidate.route,
            rule: &candidate.rule,
            match_index: candidate.match_index,
        };
        let mut taken = taken(trace, matched.rule);
        taken.destinations = destinations(known, &matched, facts, &target, None);
        answer.rule = Some(taken);
    }
    let matched = found.map_err(|reject| {
        let mut refusal = Refusal::of(&reject, Phase::Route);
        if reject.reason == RejectReason::NoRoute {
            refusal.hint = answer.others.first().map(nearest);
        }
        refusal
    })?;
    let Some(taken) = &mut answer.rule else {
        return Ok(());
    };
    let length = facts.header("content-length").next();
    matched
        .within(facts, length.and_then(admit::content_length))
        .map_err(|reject| Refusal::of(&reject, Phase::Sizes))?;

    let charges = ratelimit::charges(matched.rule, When::Address, facts, None)
        .map_err(|reject| Refusal::of(&reject, Phase::LimitByAddress))?;
    charge(taken, &charges, facts, None);

    let outcome = auth::authenticate(matched.rule, facts, &target, &mut NoMemory, wall_s())
        .map_err(|reject| unauthenticated(&reject, taken))?;
    let identity = match outcome {
        Outcome::Anonymous => None,
        Outcome::Identified(authenticated) => Some(authenticated.identity),
    };
    if let (Some(auth), Some(identity)) = (&mut taken.auth, &identity) {
        auth.identity = Some(identity.key());
    }

    let charges = ratelimit::charges(matched.rule, When::Identity, facts, identity.as_deref())
        .map_err(|reject| Refusal::of(&reject, Phase::LimitByIdentity))?;
    charge(taken, &charges, facts, identity.as_deref());

    taken.destinations = destinations(known, &matched, facts, &target, identity.as_deref());
    answer.served = any_serves(&taken.destinations);
    let refusals = taken.destinations.iter();
    match refusals
        .filter_map(|destination| destination.refusal.clone())
        .next()
    {
        Some(refusal) if !answer.served => Err(refusal),
        _ => Ok(()),
    }
}

fn wall_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

fn unauthenticated(reject: &Reject, taken: &Taken) -> Refusal {
    let mut refusal = Refusal::of(reject, Phase::Authenticate);
    if reject.reason == RejectReason::Unauthenticated {
        let any_of = taken.auth.iter().flat_map(|auth| &auth.any_of);
        let any_of: Vec<String> = any_of.map(|all_of| all_of.join(" and ")).collect();
        refusal.hint = Some(format!(
            "it needs the credentials of {}; send them with -H",
            any_of.join(", or ")
        ));
    }
    refusal
}

/// The bucket of each limit that is charged.
fn charge(
    taken: &mut Taken,
    charges: &[Charge<'_>],
    facts: &impl Facts,
    identity: Option<&Identity>,
) {
    for charge in charges {
        let id = charge.limit.id.as_str();
        if let Some(limit) = taken.limits.iter_mut().find(|limit| limit.name == id) {
            let label = charge.label(facts, identity);
            limit.key = Some(if label.is_empty() {
                "one for all".to_owned()
            } else {
                label
            });
        }
    }
}

/// What a rule asks for, whoever asks.
fn taken(trace: &Trace<'_>, rule: &Rule) -> Taken {
    let policies = rule.policies.iter().flatten();
    let limits = policies.flat_map(|policy| {
        policy.limits.iter().map(|limit| Limit {
            name: limit.id.as_str().to_owned(),
            burst: limit.bucket.burst(),
            fill_seconds: limit.bucket.fill_s(),
            scope: match limit.scope {
                Scope::Local => "Local",
                Scope::Global(_) => "Global",
            },
            shadow: policy.mode == Mode::Shadow,
            key: None,
        })
    });
    Taken {
        route: rule.object.clone(),
        name: rule.name.clone(),
        hostname: trace.hostname.as_ref().map(ToString::to_string),
        spec: words::spec(trace.spec()),
        auth: rule.auth.as_ref().map(|auth| Auth {
            any_of: auth
                .any_of
                .iter()
                .map(|all_of| all_of.iter().map(|one| words::provider(one)).collect())
                .collect(),
            anonymous: matches!(auth.anonymous, Anonymous::Allow),
            identity: None,
        }),
        limits: limits.collect(),
        cache: rule.cache.as_ref().map(words::cache),
        filters: words::filters(rule),
        request_timeout_ms: rule.timeouts.request_ms,
        backend_timeout_ms: rule.timeouts.backend_request_ms,
        destinations: Vec::new(),
    }
}

/// What is wrong with the route that has the request, and what could not be read.
fn notes(known: &Known, answer: &mut Answer) {
    let route = answer.rule.as_ref().map(|taken| &taken.route);
    let decides = route.and_then(|route| {
        let mut routes = known.routes.iter();
        routes.find(|id| id.reference() == *route)
    });
    let findings = decides.into_iter().flat_map(|id| known.findings(id));
    answer.notes.extend(findings);
    if known.assumed_pods && answer.rule.is_some() {
        answer.notes.push(
            "there are no EndpointSlices: which endpoints backends have is not known".to_owned(),
        );
    }
    answer.notes.extend(
        known
            .unread
            .iter()
            .map(|finding| format!("not read: {finding}")),
    );
}
