//! Refusals as clients of gRPC understand them: status 200 with the outcome in `grpc-status`, and no body ("Trailers-Only"
//! of the gRPC-over-HTTP/2 protocol). Calls themselves pass like any other request; those of gRPC-Web see `grpc_web`.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Response, Version,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    request::Parts,
};
use sluice_pipeline::{RejectReason, reject::Description};

use super::{
    body::Body,
    grpc_web::{self, Format},
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a call comes as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// gRPC itself.
    Grpc,
    /// gRPC-Web.
    Web(Format),
}

/// Whether it is a call: by its media type or one of its formats. gRPC itself is over HTTP/2.
pub fn kind(parts: &Parts) -> Option<Kind> {
    if parts.method != Method::POST {
        return None;
    }
    if let Some(format) = grpc_web::format(&parts.headers) {
        return Some(Kind::Web(format));
    }
    let media = parts.headers.get(CONTENT_TYPE)?.as_bytes();
    let format = media.strip_prefix(GRPC.as_bytes())?;
    let call =
        parts.version == Version::HTTP_2 && matches!(format.first(), None | Some(b'+' | b';'));
    call.then_some(Kind::Grpc)
}

/// The same refusal for a client of gRPC. Configuration that cannot serve is unavailable, whoever's route it is
/// (GRPCRouteRule.backendRefs).
pub fn refusal(kind: Kind, refusal: &Response<Body>, reason: RejectReason) -> Response<Body> {
    let Description { status, title, .. } = reason.describe();
    let mut response = Response::new(Body::memory(Bytes::new()));
    let headers = response.headers_mut();
    for name in [RETRY_AFTER, WWW_AUTHENTICATE] {
        for value in refusal.headers().get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    let media = match kind {
        Kind::Grpc => GRPC,
        Kind::Web(format) => HeaderValue::from_static(format.media()),
    };
    headers.insert(CONTENT_TYPE, media);
    headers.insert(GRPC_STATUS, HeaderValue::from(code(status)));
    // Titles are visible ASCII without a percent sign: nothing is to be encoded.
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(title));
    response
}

/// The code that clients take such a status for ("HTTP to gRPC Status Code Mapping"), so that a refusal means the same
/// whoever made it.
fn code(status: u16) -> u16 {
    const UNKNOWN: u16 = 2;
    const PERMISSION_DENIED: u16 = 7;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use sluice_pipeline::Reject;
    use sluice_snapshot::ConfigReason;

    use super::*;
    use crate::data::answer;

    #[test]
    fn a_refusal_is_an_outcome_without_a_body() {
        for (reason, code) in [
            (RejectReason::BadRequest, "13"),
            (RejectReason::Unauthenticated, "16"),
            (RejectReason::NoRoute, "12"),
            (RejectReason::LimitExceeded, "14"),
            (RejectReason::UpstreamTimeout, "14"),
            (RejectReason::Internal, "2"),
            (RejectReason::Config(ConfigReason::BackendNotFound), "14"),
        ] {
            let reject = Reject::new(reason).retry_after(7);
            let refused = answer::refusal(&reject, None);
            let response = refusal(Kind::Grpc, &refused, reason);
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
            assert_eq!(response.headers()[GRPC_STATUS], code, "{reason:?}");
            assert_eq!(response.headers()[GRPC_MESSAGE], reason.describe().title);
            assert_eq!(response.headers()[RETRY_AFTER], "7");
            assert!(response.body().is_end_stream());
        }
    }

    #[test]
    fn a_call_is_known_by_version_and_media_type() {
        let web = |format| Some(Kind::Web(format));
        for (version, media, call) in [
            (Version::HTTP_2, "application/grpc", Some(Kind::Grpc)),
            (Version::HTTP_2, "application/grpc+proto", Some(Kind::Grpc)),
            (Version::HTTP_2, "application/grpc;v=1", Some(Kind::Grpc)),
            (Version::HTTP_11, "application/grpc", None),
            (Version::HTTP_2, "application/json", None),
            (
                Version::HTTP_2,
                "application/grpc-web+proto",
                web(Format::Binary),
            ),
            (
                Version::HTTP_11,
                "application/grpc-web-text",
                web(Format::Text),
            ),
            (Version::HTTP_11, "application/grpc-website", None),
        ] {
            let request = http::Request::post("/").version(version);
            let request = request.header("content-type", media).body(());
            let (parts, ()) = request.expect("a request").into_parts();
            assert_eq!(kind(&parts), call, "{version:?} {media}");
        }
    }
}
