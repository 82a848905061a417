//! What few rules ask for, at its places on a request's way: CORS, another host and path for the upstream, copies, edits of
//! one target. A request of a rule without any of it comes through none of this. What is decided is the pipeline's.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, Uri,
    header::{HOST, VARY},
    request::Parts,
};
use sluice_pipeline::{
    Facts,
    cors::{self, Decision},
    dispatch,
    order::Phase,
    program::{Extras, Match, TargetEdits},
    rewrite,
    route::Matched,
    target::Target,
};

use super::{
    body::{Body, RequestBody},
    facts::RequestFacts,
    headers::{self, Asked},
    mirror,
    placement::Place,
    record::Settle,
};

/// What is still to be done to the answer.
#[derive(Debug, Default)]
pub struct Decorations {
    /// Who may read it.
    cors: Option<cors::Fields>,
    /// Edits of the target that gave it.
    edits: Option<Arc<TargetEdits>>,
}

/// The phase that follows routing. An answer: of a preflight.
pub fn routed(settle: &mut Settle, extras: &Extras, facts: &impl Facts) -> Option<Response<Body>> {
    let cors = extras.cors.as_ref()?;
    settle.enter(Phase::Cors);
    let (fields, answer) = match cors::decide(cors, facts) {
        Decision::Preflight(fields) => (fields, Some(Response::new(Body::memory(Bytes::new())))),
        Decision::GoesOn(fields) => (fields, None),
    };
    settle.decorations.get_or_insert_default().cors = Some(fields);
    answer
}

/// Edits the request for the target that was chosen, and has the answer edited later. By value: a place that was borrowed
/// would be kept beside where it is moved to.
pub fn placed(settle: &mut Settle, parts: &mut Parts, place: Place) -> Place {
    if let Some(edits) = place.edits() {
        headers::edit(&mut parts.headers, &edits.request);
        settle.decorations.get_or_insert_default().edits = Some(Arc::clone(edits));
        settle.trace = headers::trace_given(&parts.headers);
    }
    place
}

/// What leaves: the head for the host that the upstream is to see, the body as it is copied for mirrors, the target that is
/// to be seen. `asked` is none where the client speaks another protocol from here on: of that there are no copies.
pub fn leaving(
    settle: &mut Settle,
    extras: &Extras,
    (matched, target): (Matched<'_>, &Target),
    parts: &mut Parts,
    (body, asked): (RequestBody, Option<Asked>),
) -> (RequestBody, Option<Box<Target>>) {
    let forwarded = (!extras.mirrors.is_empty()).then(|| {
        let client = settle.client;
        dispatch::may_forward(&matched, &RequestFacts::new(parts, &client)).is_err()
    });
    let seen = rewritten(extras, matched.spec(), target, parts);
    let body = match (forwarded, asked) {
        (Some(forwarded), Some(asked)) => {
            // Request and copies are of one trace.
            settle.trace = Some(headers::trace(
                &mut parts.headers,
                settle.trace,
                &settle.thread.dice,
            ));
            let sent = (&*parts, seen.as_deref().unwrap_or(target), asked);
            mirror::begin(settle, extras, forwarded, sent, body)
        }
        _ => body,
    };
    (body, seen)
}

/// Makes the head one for the host that the upstream is to see; the target that it is to see.
fn rewritten(
    extras: &Extras,
    matched: &Match,
    target: &Target,
    parts: &mut Parts,
) -> Option<Box<Target>> {
    let rewrite = extras.rewrite.as_ref()?;
    if let Some(Ok(host)) = rewrite.hostname.as_deref().map(HeaderValue::from_str) {
        // An authority in the target would count before it.
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from_parts(uri).unwrap_or_default();
        parts.headers.insert(HOST, host);
    }
    Some(Box::new(rewrite::target(rewrite, matched, target)))
}

/// Decorates an answer, before the edits of the rule.
pub fn decorate(headers: &mut HeaderMap, decorations: &Decorations) {
    let Decorations { cors, edits } = decorations;
    if let Some(edits) = edits {
        headers::edit(headers, &edits.response);
    }
    if let Some(fields) = cors {
        let names = headers.keys().filter(|name| cors::is_ours(name.as_str()));
        for name in names.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
        for (name, value) in fields {
            let (name, Ok(value)) = (HeaderName::from_static(name), HeaderValue::try_from(value))
            else {
                continue;
            };
            if name == VARY {
                headers.append(name, value);
            } else {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_says_nothing_of_who_may_read() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-private-network", "true"),
            ("vary", "accept"),
            ("x-kept", "1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let decorations = Decorations {
            cors: Some(vec![("vary", "origin".into())]),
            edits: None,
        };
        decorate(&mut headers, &decorations);
        assert!(!headers.contains_key("access-control-allow-origin"));
        assert!(!headers.contains_key("access-control-allow-private-network"));
        assert_eq!(
            headers.get_all("vary").iter().collect::<Vec<_>>(),
            ["accept", "origin"]
        );
        assert_eq!(headers["x-kept"], "1");
    }
}
