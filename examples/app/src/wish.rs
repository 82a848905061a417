//! What a request's query asks of the sample application. Every number is bounded here, so that no caller
//! can hold the application or fill its memory.

use std::time::Duration;

use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};

/// The longest `delay` that is honoured.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// The largest `bytes` that is honoured: 8 MiB.
const MAX_BYTES: usize = 8 << 20;
/// The most `header` parameters of one request.
const MAX_HEADERS: usize = 16;

/// What one request wants its answer to look like.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Wish {
    /// Status of the answer; 200 where nothing was asked.
    pub(crate) status: StatusCode,
    /// Time to wait before the answer.
    pub(crate) delay: Duration,
    /// Length of a filler body that takes the place of the JSON.
    pub(crate) bytes: Option<usize>,
    /// Value of Cache-Control.
    pub(crate) cache: Option<HeaderValue>,
    /// Entity tag, quoted (RFC 9110 section 8.8.3).
    pub(crate) etag: Option<HeaderValue>,
    /// Further response headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a query was not understood; its text is the answer's body.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(crate) enum WishError {
    /// A `status` outside 200 to 599.
    #[error("status={0}: write a number from 200 to 599")]
    Status(String),
    /// A `delay` without unit or above the bound.
    #[error("delay={0}: write a whole number with unit ms or s, at most 30s")]
    Delay(String),
    /// A `bytes` that is no number or above the bound.
    #[error("bytes={0}: write a number up to 8388608")]
    Bytes(String),
    /// Something that cannot stand in a header field.
    #[error("{0}: not a valid header field; `header` is written Name:value, percent-encoded")]
    Header(String),
    /// More `header` parameters than are honoured.
    #[error("at most {MAX_HEADERS} header parameters")]
    TooManyHeaders,
}

impl Wish {
    /// Reads a raw query string; parameters it does not know are left alone.
    pub(crate) fn parse(query: &str) -> Result<Self, WishError> {
        let mut wish = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "status" => wish.status = status(&value)?,
                "delay" => wish.delay = delay(&value)?,
                "bytes" => wish.bytes = Some(bytes(&value)?),
                "cache" => wish.cache = Some(header_value(&value)?),
                "etag" => wish.etag = Some(header_value(&format!("\"{value}\""))?),
                "header" if wish.headers.len() == MAX_HEADERS => {
                    return Err(WishError::TooManyHeaders);
                }
                "header" => wish.headers.push(header(&value)?),
                _ => {}
            }
        }
        Ok(wish)
    }
}

fn status(value: &str) -> Result<StatusCode, WishError> {
    value
        .parse::<u16>()
        .ok()
        .filter(|code| (200..600).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| WishError::Status(value.to_owned()))
}

fn delay(value: &str) -> Result<Duration, WishError> {
    let whole = |digits: &str| digits.parse::<u64>().ok();
    let parsed = match value.strip_suffix("ms") {
        Some(digits) => whole(digits).map(Duration::from_millis),
        None => value
            .strip_suffix('s')
            .and_then(whole)
            .map(Duration::from_secs),
    };
    parsed
        .filter(|delay| *delay <= MAX_DELAY)
        .ok_or_else(|| WishError::Delay(value.to_owned()))
}

fn bytes(value: &str) -> Result<usize, WishError> {
    value
        .parse()
        .ok()
        .filter(|count| *count <= MAX_BYTES)
        .ok_or_else(|| WishError::Bytes(value.to_owned()))
}

fn header(value: &str) -> Result<(HeaderName, HeaderValue), WishError> {
    let refused = || WishError::Header(value.to_owned());
    let (name, content) = value.split_once(':').ok_or_else(refused)?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| refused())?;
    // These two frame the message: they are the server's to write.
    if name == hyper::header::CONTENT_LENGTH || name == hyper::header::TRANSFER_ENCODING {
        return Err(refused());
    }
    Ok((name, header_value(content.trim())?))
}

fn header_value(value: &str) -> Result<HeaderValue, WishError> {
    HeaderValue::from_str(value).map_err(|_| WishError::Header(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_query_wishes_nothing() {
        assert_eq!(Wish::parse("").expect("empty"), Wish::default());
        assert_eq!(Wish::default().status, StatusCode::OK);
    }

    #[test]
    fn each_wish_is_read_from_its_encoded_form() {
        let wish = Wish::parse(
            "status=503&delay=200ms&bytes=9&cache=max-age%3D60&etag=v1&header=Vary%3A+Accept&tenant=acme",
        )
        .expect("all well formed");
        assert_eq!(wish.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(wish.delay, Duration::from_millis(200));
        assert_eq!(wish.bytes, Some(9));
        assert_eq!(wish.cache.expect("given"), "max-age=60");
        assert_eq!(wish.etag.expect("given"), "\"v1\"");
        assert_eq!(
            wish.headers,
            [(hyper::header::VARY, HeaderValue::from_static("Accept"))]
        );
    }

    #[test]
    fn bounds_hold_at_their_edge() {
        assert!(Wish::parse("delay=30s").is_ok());
        assert!(Wish::parse("delay=30001ms").is_err());
        assert!(Wish::parse("bytes=8388608").is_ok());
        assert!(Wish::parse("bytes=8388609").is_err());
        assert!(Wish::parse("status=199").is_err());
        assert!(Wish::parse("status=600").is_err());
        let many = |count| vec!["header=X-A:1"; count].join("&");
        assert!(Wish::parse(&many(16)).is_ok());
        assert_eq!(Wish::parse(&many(17)), Err(WishError::TooManyHeaders));
    }

    #[test]
    fn what_would_break_a_message_is_refused() {
        for query in [
            "cache=a%0d%0ab",
            "header=no-colon",
            "header=Content-Length:1",
            "header=Transfer-Encoding:chunked",
            "header=bad%20name:1",
            "delay=5",
            "delay=-1s",
        ] {
            assert!(Wish::parse(query).is_err(), "{query}");
        }
    }
}
