//! The standard gRPC health service, always serving: what a `grpc` probe asks. Two messages of one field each do not
//! need a gRPC library.

use std::{
    convert::Infallible,
    future::{Ready, ready},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::WithTrailers};
use hyper::{
    HeaderMap, Response,
    header::{CONTENT_TYPE, HeaderValue},
};

/// The only method (grpc.health.v1).
pub(crate) const PATH: &str = "/grpc.health.v1.Health/Check";

/// `HealthCheckResponse{status: SERVING}`: not compressed, two bytes long, field 1 = 1.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 1];

/// A message and `grpc-status` behind it.
pub(crate) type Reply = WithTrailers<Full<Bytes>, Ready<Option<Result<HeaderMap, Infallible>>>>;

/// `SERVING`, whatever service is asked for.
pub(crate) fn serving() -> Response<Reply> {
    let trailers = HeaderMap::from_iter([(
        hyper::header::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(Bytes::from_static(&SERVING)).with_trailers(ready(Some(Ok(trailers))));
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
