//! The request target, normalised once: what was matched is what is sent. Two spellings that an app could take for the
//! same resource must not be two resources to a policy, and a spelling whose meaning depends on the reader is refused.

use std::borrow::Cow;

use crate::{Facts, Reject, RejectReason, framing::line::table};

/// A request target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path as received: what signatures cover.
    pub raw_path: String,
    /// The normalised path: what is matched and sent.
    pub path: String,
    /// The query as received, without `?`.
    pub query: Option<String>,
}

impl Target {
    /// The normalised path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query as received.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Whether normalising changed the path. A signed request whose path is sent otherwise than it was signed is refused.
    pub fn changed(&self) -> bool {
        self.raw_path != self.path
    }

    /// What is sent: path and query.
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// A query parameter's first value, decoded as forms are (percent escapes, `+` is a space): apps read it so, and a
    /// policy must not see another value than they do.
    pub fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut pairs = form_urlencoded::parse(self.query.as_deref()?.as_bytes());
        pairs
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    /// A segment of the normalised path, from zero, still percent-encoded; an empty one is none.
    pub fn segment(&self, index: usize) -> Option<&str> {
        self.path
            .strip_prefix('/')?
            .split('/')
            .nth(index)
            .filter(|segment| !segment.is_empty())
    }
}

/// Normalises the target of a request.
pub fn normalise(facts: &impl Facts) -> Result<Target, Reject> {
    let raw_path = facts.path();
    let refuse = |why: &str| Reject::new(RejectReason::BadTarget).detail(why);
    let path = match raw_path {
        // Asterisk form (RFC 9112 section 3.2.4).
        "*" if facts.method() == "OPTIONS" => raw_path.to_owned(),
        _ => normal_path(raw_path).map_err(refuse)?,
    };
    // A query's meaning is the app's: only what could end the request line is refused.
    if facts.query().is_some_and(|query| {
        query
            .bytes()
            .any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#')
    }) {
        return Err(refuse("the query holds a control byte, a space or '#'"));
    }
    Ok(Target {
        raw_path: raw_path.to_owned(),
        path,
        query: facts.query().map(str::to_owned),
    })
}

/// The normal form of a path (RFC 3986 section 6.2.2): escapes of unreserved characters decoded, all others in upper
/// case, characters that should have been escaped escaped, empty and dot segments removed (section 5.2.4). The form of a
/// normal form is itself.
pub(crate) fn normal_path(raw: &str) -> Result<String, &'static str> {
    if !raw.starts_with('/') {
        return Err("the path does not start with '/'");
    }
    if is_normal(raw) {
        return Ok(raw.to_owned());
    }
    let path = without_dot_segments(&unescaped(raw)?);
    if path.contains('%') && path.split('/').any(hides_dots) {
        return Err("the path holds an escaped slash beside a dot segment");
    }
    Ok(path)
}

/// Whether it is in its normal form for certain: nothing to decode or to escape, no segment that is empty or begins with
/// a dot.
fn is_normal(path: &str) -> bool {
    let mut before = b' ';
    for byte in path.bytes() {
        if !AS_IT_IS[usize::from(byte)] || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

/// The bytes that a path may have and that stay as they are (RFC 3986 section 3.3).
static AS_IT_IS: [bool; 256] = table(b"-._~!$&'()*+,;=:@/");

/// Decodes what may be decoded and escapes what must be.
fn unescaped(raw: &str) -> Result<String, &'static str> {
    let mut path = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => match (
                bytes.next().and_then(hex_value),
                bytes.next().and_then(hex_value),
            ) {
                (Some(high), Some(low)) => match high << 4 | low {
                    control if control.is_ascii_control() => {
                        return Err("the path holds an escaped control byte");
                    }
                    b'\\' => return Err("the path holds an escaped backslash"),
                    plain if is_unreserved(plain) => path.push(plain.into()),
                    other => escape(&mut path, other),
                },
                _ => return Err("the path holds a broken escape"),
            },
            b'\\' => return Err("the path holds a backslash"),
            b'#' | b'?' => return Err("the path holds a delimiter"),
            b' ' | 0x80.. => return Err("the path holds a byte that must be escaped"),
            _ if byte.is_ascii_control() => return Err("the path holds a control byte"),
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => escape(&mut path, byte),
            _ => path.push(byte.into()),
        }
    }
    Ok(path)
}

/// Removes empty, `.` and `..` segments. A path above the root is the root (RFC 3986 section 5.2.4).
fn without_dot_segments(path: &str) -> String {
    let mut result = String::with_capacity(path.len());
    let mut directory = true;
    for segment in path.split('/') {
        // After `/a/.` or `/a/b/..` the path is `/a/`.
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => result.truncate(result.rfind('/').unwrap_or(0)),
            _ => {
                result.push('/');
                result.push_str(segment);
            }
        }
    }
    if directory {
        result.push('/');
    }
    result
}

/// Whether an app that decodes `%2F` would find a dot segment where this path has none.
fn hides_dots(segment: &str) -> bool {
    segment.contains("%2F") && segment.split("%2F").any(|part| matches!(part, "." | ".."))
}

fn escape(path: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    path.push('%');
    path.push(DIGITS[usize::from(byte >> 4)].into());
    path.push(DIGITS[usize::from(byte & 15)].into());
}

fn hex_value(digit: u8) -> Option<u8> {
    // A hexadecimal digit's value fits.
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes every escape of a normal path's part; what an app sees.
pub(crate) fn decoded(part: &str) -> Cow<'_, [u8]> {
    if !part.contains('%') {
        return Cow::Borrowed(part.as_bytes());
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => match (
                rest.next().and_then(hex_value),
                rest.next().and_then(hex_value),
            ) {
                (Some(high), Some(low)) => high << 4 | low,
                // A normal path has no broken escape.
                _ => b'%',
            },
            _ => byte,
        });
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Decider, facts::StaticFacts};

    fn target(path: &str) -> Result<Target, Reject> {
        normalise(&StaticFacts::new("GET", "orders", path))
    }

    #[test]
    fn spellings_of_one_resource_are_one_path() {
        for (raw, path) in [
            ("/", "/"),
            ("/v1/orders", "/v1/orders"),
            ("/v1/orders/", "/v1/orders/"),
            ("/v1//orders", "/v1/orders"),
            ("//v1///orders//", "/v1/orders/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/a//../b", "/b"),
            ("/%61dmin", "/admin"),
            ("/public/%2e%2E/admin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/%7euser/%2D%5f", "/~user/-_"),
            ("/100%25/x", "/100%25/x"),
            ("/%2561", "/%2561"),
            ("/a|b{c}", "/a%7Cb%7Bc%7D"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/...", "/..."),
            ("/a:b@c!$&'()*+,;=", "/a:b@c!$&'()*+,;="),
        ] {
            let target = target(raw).unwrap_or_else(|reject| panic!("{raw}: {reject:?}"));
            assert_eq!(target.path(), path, "{raw}");
            assert_eq!(target.changed(), raw != path, "{raw}");
            assert_eq!(target.raw_path, raw);
        }
    }

    #[test]
    fn what_readers_would_read_differently_is_refused() {
        for raw in [
            "",
            "orders",
            "*",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "/a%00",
            "/a%0d%0aX",
            "/a%7F",
            "/a\\b",
            "/a%5Cb",
            "/a\u{1}",
            "/a\u{7f}",
            "/a b",
            "/a#b",
            "/café",
            "/a/..%2Fadmin",
            "/a/%2e%2e%2fadmin",
            "/a/x%2F..",
            "/a/.%2fb",
        ] {
            let reject = target(raw).expect_err(raw);
            assert_eq!(reject.reason, RejectReason::BadTarget, "{raw}");
            assert_eq!(
                *reject.decider,
                Decider::default(),
                "{raw}: the sidecar itself"
            );
        }
        assert!(
            target("/a?b%00=\u{1}").is_err(),
            "control byte in the query"
        );
        assert!(
            target("/a?b=100%&c=\\").is_ok(),
            "a query's escapes are the app's"
        );
    }

    #[test]
    fn the_asterisk_is_for_options_only() {
        assert_eq!(
            normalise(&StaticFacts::new("OPTIONS", "orders", "*"))
                .expect("asterisk form")
                .path(),
            "*"
        );
        assert!(normalise(&StaticFacts::new("GET", "orders", "*")).is_err());
    }

    #[test]
    fn the_query_is_sent_as_received_and_read_as_forms_are() {
        let target = target("/a/../b?x=1%20+2&x=3&%79=z").expect("valid");
        assert_eq!(target.path_and_query(), "/b?x=1%20+2&x=3&%79=z");
        assert_eq!(target.parameter("x").as_deref(), Some("1  2"));
        assert_eq!(target.parameter("y").as_deref(), Some("z"));
        assert_eq!(target.parameter("z"), None);
    }

    #[test]
    fn segments_count_from_zero() {
        let target = target("/v1//acme%2Fx/").expect("valid");
        assert_eq!(
            (target.segment(0), target.segment(1), target.segment(2)),
            (Some("v1"), Some("acme%2Fx"), None)
        );
        assert_eq!(decoded("acme%2Fx").as_ref(), b"acme/x");
    }

    proptest! {
        /// Normalising twice is normalising once, and no dot segment, empty segment or needless escape is left.
        #[test]
        fn a_normal_path_is_its_own_normal_form(raw in "/([a-z./]|%2e|%2F|%41|%25|[|~%\\\\]){0,24}") {
            if is_normal(&raw) {
                let path = unescaped(&raw).map(|path| without_dot_segments(&path));
                prop_assert_eq!(path, Ok(raw.clone()));
            }
            if let Ok(path) = normal_path(&raw) {
                prop_assert_eq!(normal_path(&path), Ok(path.clone()));
                prop_assert!(path.starts_with('/') && !path.contains("//"));
                prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
                for escape in ["%2e", "%2E", "%41", "|", "\\"] {
                    prop_assert!(!path.contains(escape), "{}", path);
                }
            }
        }

        /// Any bytes at all: an answer, never a panic; what is accepted can stand in a request line.
        #[test]
        fn any_path_is_answered(raw in ".{0,40}") {
            if let Ok(path) = normal_path(&raw) {
                prop_assert!(path.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
