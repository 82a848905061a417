//! Answers that the sidecar gives itself, and the response phases that every answer passes, refusals too: edits of the
//! rule, rate limit fields, `Cache-Status`.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
};
use sluice_pipeline::{
    Reject, auth,
    order::Phase,
    program::Rule,
    ratelimit::{Verdict, headers::Field},
    reject,
};
use smallvec::SmallVec;

use super::{body::Body, extras, headers, record::Settle};

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static(Field::Policy.name());
const RATELIMIT: HeaderName = HeaderName::from_static(Field::Limit.name());

/// The answer of a refusal: problem details (RFC 9457) that name no object and no secret.
pub fn refusal(reject: &Reject, rule: Option<&Rule>) -> Response<Body> {
    let description = reject.reason.describe();
    let mut response = Response::new(Body::memory(Bytes::from(reject::problem_json(reject))));
    *response.status_mut() =
        StatusCode::from_u16(reject.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM);
    headers.insert(CACHE_CONTROL, NO_STORE);
    if let Some(seconds) = reject.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if description.status == 401 {
        // RFC 9110 section 15.5.2: a 401 says how to authenticate.
        for challenge in rule
            .map(|rule| auth::challenge_after(rule, reject.reason))
            .unwrap_or_default()
        {
            if let Ok(value) = HeaderValue::try_from(challenge) {
                headers.append(WWW_AUTHENTICATE, value);
            }
        }
    }
    response
}

/// An answer that sends the client elsewhere.
pub fn redirect(status: u16, location: &str) -> Response<Body> {
    let mut response = Response::new(Body::memory(Bytes::new()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// The response phases; the answer then settles its request at its end.
pub fn finish(mut settle: Settle, response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    settle.progress_to_answer();
    edit(&mut head.headers, &mut settle);
    // A refused call is a 200 by which only clients of gRPC see the refusal: it counts as what it stands for.
    let refused = settle.reject.as_ref().filter(|_| settle.grpc.is_some());
    let status = refused.map_or(head.status.as_u16(), Reject::status);
    settle.answered(status);
    Response::from_parts(head, body.settling(settle))
}

fn edit(headers: &mut HeaderMap, settle: &mut Settle) {
    if let Some(decorations) = &settle.decorations {
        extras::decorate(headers, decorations);
    }
    if let Some((_, rule)) = &settle.matched {
        headers::edit(headers, &rule.response_headers);
    }
    if !settle.verdicts.is_empty() {
        match settle.is_http2() {
            true => limits(headers, &settle.verdicts),
            false => settle.own_lines = limit_lines(&settle.verdicts),
        }
    }
    if let Some(status) = &settle.cache_status
        && let Ok(value) = HeaderValue::from_str(status)
    {
        headers.append(CACHE_STATUS, value);
    }
}

/// What the limits say to a client of HTTP/1.1, as it is written.
fn limit_lines(verdicts: &[Verdict]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(160);
    for field in Field::ALL {
        let begin = lines.len();
        lines.extend_from_slice(field.name().as_bytes());
        lines.extend_from_slice(b": ");
        match field.write(verdicts, |bytes| lines.extend_from_slice(bytes)) {
            true => lines.extend_from_slice(b"\r\n"),
            false => lines.truncate(begin),
        }
    }
    lines
}

/// What the limits say to a client of HTTP/2.
fn limits(headers: &mut HeaderMap, verdicts: &[Verdict]) {
    let mut value = SmallVec::<[u8; 128]>::new();
    for field in Field::ALL {
        value.clear();
        if field.write(verdicts, |bytes| value.extend_from_slice(bytes))
            && let Ok(value) = HeaderValue::from_bytes(&value)
        {
            headers.insert(
                match field {
                    Field::Policy => RATELIMIT_POLICY,
                    Field::Limit => RATELIMIT,
                },
                value,
            );
        }
    }
}

impl Settle {
    /// Notes that the answer passes the response phases. The log goes on to name the phase that decided.
    fn progress_to_answer(&mut self) {
        let mut progress = self.progress;
        progress.enter(Phase::EditResponse);
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use sluice_pipeline::RejectReason;

    use super::*;

    #[test]
    fn a_refusal_is_problem_details_with_its_wait() {
        let reject = Reject::new(RejectReason::ShardMoving)
            .retry_after(2)
            .detail("internal to the log");
        let response = refusal(&reject, None);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert!(
            response
                .body()
                .size_hint()
                .exact()
                .is_some_and(|length| length > 20)
        );
        let text = String::from_utf8(reject::problem_json(&reject)).expect("text");
        assert!(
            text.contains("shard-moving") && !text.contains("internal to the log"),
            "{text}"
        );
    }
}
