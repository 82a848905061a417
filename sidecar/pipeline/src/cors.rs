//! The CORS phase (Fetch standard, section 3.2; CORS filter of the Gateway API, GEP-1767): a preflight is answered here, and
//! every answer of the rule says who may read it. What an upstream says of the same counts for nothing: the rule decides.

use sluice_snapshot::unit::route::Cors;

use crate::{Facts, admit::is_token};

/// The longest `Origin` that is looked at, in bytes: a scheme, a name of 253 bytes and a port.
const MAX_ORIGIN: usize = 512;
/// The longest list of field names that is given back to who asked for it, in bytes.
const MAX_ASKED: usize = 4096;
/// Every value.
const ANY: &str = "*";

/// Fields of an answer; names in lower case.
pub type Fields = Vec<(&'static str, String)>;

/// What the phase has decided of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is a preflight: answered at once, with these fields.
    Preflight(Fields),
    /// It goes on; its answer, a refusal too, gets these fields in place of all the upstream has of the family.
    GoesOn(Fields),
}

/// Decides.
pub fn decide(cors: &Cors, facts: &impl Facts) -> Decision {
    let origin = facts.header_str("origin");
    let origin = origin.filter(|origin| allows_origin(&cors.allow_origins, origin));
    let asked_method = facts.header_str("access-control-request-method");
    match asked_method {
        Some(method) if facts.method() == "OPTIONS" && facts.header("origin").next().is_some() => {
            Decision::Preflight(preflight(cors, facts, origin, method))
        }
        _ => Decision::GoesOn(readable(cors, origin)),
    }
}

/// Whether a field says who may read an answer.
pub fn is_ours(name: &str) -> bool {
    name.starts_with("access-control-")
}

/// Who may read an answer: whom it names, for everyone else nobody. It differs by origin, which caches must know
/// (RFC 9110 section 12.5.5).
fn readable(cors: &Cors, origin: Option<&str>) -> Fields {
    let mut fields = vec![("vary", "origin".to_owned())];
    let Some(origin) = origin else {
        return fields;
    };
    // Named, also where any may read: with credentials `*` means nothing, and whether there are any, the client knows.
    fields.push(("access-control-allow-origin", origin.to_owned()));
    if cors.allow_credentials {
        fields.push(("access-control-allow-credentials", "true".to_owned()));
    }
    if !cors.expose_headers.is_empty() {
        let exposed = cors.expose_headers.join(", ");
        fields.push(("access-control-expose-headers", exposed));
    }
    fields
}

fn preflight(cors: &Cors, facts: &impl Facts, origin: Option<&str>, method: &str) -> Fields {
    let mut fields = readable(cors, origin);
    if origin.is_none() {
        return fields;
    }
    let mut allow = |name, allowed: &[String], asked: Option<String>| {
        let value = match allowed {
            [] => None,
            // With credentials `*` is a name like others (Fetch, 3.2.4): what was asked is named instead.
            [any] if any == ANY && cors.allow_credentials => asked,
            _ => Some(allowed.join(", ")),
        };
        fields.extend(value.map(|value| (name, value)));
    };
    let method = is_token(method).then(|| method.to_owned());
    allow("access-control-allow-methods", &cors.allow_methods, method);
    allow(
        "access-control-allow-headers",
        &cors.allow_headers,
        asked_headers(facts),
    );
    fields.push(("access-control-max-age", cors.max_age_s.to_string()));
    fields
}

/// The field names that a preflight asks for; none where what it says is no list of names.
fn asked_headers(facts: &impl Facts) -> Option<String> {
    let asked = facts.header_str("access-control-request-headers")?;
    let names: Vec<_> = asked.split(',').map(str::trim).collect();
    let listed = asked.len() <= MAX_ASKED && names.iter().all(|name| is_token(name));
    listed.then(|| names.join(", "))
}

/// Whether `origin`, as a browser sends it, is one of those that may read.
fn allows_origin(allowed: &[String], origin: &str) -> bool {
    let Some(given) = Origin::of(origin) else {
        // `null` too: it is everybody who hides who it is.
        return false;
    };
    allowed.iter().any(|pattern| {
        pattern == ANY || Origin::of(pattern).is_some_and(|pattern| pattern.takes(&given))
    })
}

/// `*`, or an origin whose host may be `*` or begin with `*.`.
pub(crate) fn is_origin_pattern(text: &str) -> bool {
    let named = |origin: Origin<'_>| {
        let host = origin.host.strip_prefix("*.").unwrap_or(origin.host);
        host == ANY || !host.contains(ANY)
    };
    text == ANY || Origin::of(text).is_some_and(named)
}

/// An origin: RFC 6454 section 6.1. Browsers write the port where it is not the scheme's own.
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
    port: &'a str,
}

impl<'a> Origin<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme_ok = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        // An IPv6 address holds colons of its own.
        let cut = match rest.rfind(']') {
            Some(end) => end + 1,
            None => rest.find(':').unwrap_or(rest.len()),
        };
        let (host, port) = (rest.get(..cut)?, rest.get(cut..)?);
        let port = match port.strip_prefix(':') {
            Some(digits) if port.len() > 1 => digits,
            None if port.is_empty() => match scheme {
                "http" => "80",
                "https" => "443",
                _ => "",
            },
            _ => return None,
        };
        let host_ok = !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_*[]:".contains(&byte));
        let port_ok = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
        (text.len() <= MAX_ORIGIN && scheme_ok && host_ok && port_ok).then_some(Self {
            scheme,
            host,
            port,
        })
    }

    /// Whether it, as a pattern, takes `given`. A wildcard stands for one label or more.
    fn takes(&self, given: &Origin<'_>) -> bool {
        let host = match self.host.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => {
                let labels = given.host.len().checked_sub(suffix.len());
                labels.is_some_and(|labels| {
                    labels > 0
                        && given
                            .host
                            .get(labels..)
                            .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
                })
            }
            None => self.host.eq_ignore_ascii_case(given.host),
        };
        host && self.scheme.eq_ignore_ascii_case(given.scheme) && self.port == given.port
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::StaticFacts;

    fn list(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    fn cors(origins: &[&str]) -> Cors {
        Cors {
            allow_origins: list(origins),
            allow_methods: list(&["GET", "PUT"]),
            allow_headers: list(&["x-a", "x-b"]),
            expose_headers: list(&["x-c"]),
            allow_credentials: true,
            max_age_s: 60,
        }
    }

    fn get(origin: &str) -> StaticFacts {
        StaticFacts::new("GET", "orders.shop", "/").with("origin", origin)
    }

    fn asking(origin: &str, method: &str, headers: &str) -> StaticFacts {
        StaticFacts::new("OPTIONS", "orders.shop", "/")
            .with("origin", origin)
            .with("access-control-request-method", method)
            .with("access-control-request-headers", headers)
    }

    fn value<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
        let mut found = fields.iter().filter(|(known, _)| *known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice");
        value
    }

    fn answered(cors: &Cors, facts: &StaticFacts) -> Fields {
        match decide(cors, facts) {
            Decision::Preflight(fields) => fields,
            Decision::GoesOn(_) => panic!("no preflight: {facts:?}"),
        }
    }

    fn decorated(cors: &Cors, facts: &StaticFacts) -> Fields {
        match decide(cors, facts) {
            Decision::GoesOn(fields) => fields,
            Decision::Preflight(_) => panic!("a preflight: {facts:?}"),
        }
    }

    #[test]
    fn a_preflight_of_an_origin_that_may_is_told_all_that_it_may() {
        let fields = answered(
            &cors(&["https://a.example"]),
            &asking("https://a.example", "PUT", "x-a"),
        );
        for (name, expected) in [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-a, x-b"),
            ("access-control-expose-headers", "x-c"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "60"),
            ("vary", "origin"),
        ] {
            assert_eq!(value(&fields, name), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_preflight_of_a_stranger_is_answered_with_nothing() {
        let fields = answered(
            &cors(&["https://a.example"]),
            &asking("https://b.example", "PUT", "x-a"),
        );
        assert_eq!(fields, [("vary", "origin".to_owned())]);
    }

    #[test]
    fn only_options_with_an_origin_and_a_method_is_a_preflight() {
        let cors = cors(&["https://a.example"]);
        let simple = get("https://a.example").with("access-control-request-method", "GET");
        let options = StaticFacts::new("OPTIONS", "orders.shop", "/");
        let of_nobody = options.clone().with("access-control-request-method", "GET");
        let of_no_method = options.with("origin", "https://a.example");
        for facts in [&simple, &of_nobody, &of_no_method] {
            assert!(
                matches!(decide(&cors, facts), Decision::GoesOn(_)),
                "{facts:?}"
            );
        }
        let fields = decorated(&cors, &simple);
        assert_eq!(
            value(&fields, "access-control-allow-origin"),
            Some("https://a.example")
        );
        assert_eq!(
            value(&fields, "access-control-allow-methods"),
            None,
            "of preflights only"
        );
    }

    #[test]
    fn every_value_is_named_where_credentials_are_allowed() {
        let mut any = Cors {
            allow_methods: list(&["*"]),
            allow_headers: list(&["*"]),
            ..cors(&["*"])
        };
        let asked = asking("https://a.example", "PATCH", "x-1,  X-2");
        let fields = answered(&any, &asked);
        assert_eq!(
            value(&fields, "access-control-allow-origin"),
            Some("https://a.example")
        );
        assert_eq!(
            value(&fields, "access-control-allow-methods"),
            Some("PATCH")
        );
        assert_eq!(
            value(&fields, "access-control-allow-headers"),
            Some("x-1, X-2")
        );
        any.allow_credentials = false;
        let fields = answered(&any, &asked);
        assert_eq!(value(&fields, "access-control-allow-methods"), Some("*"));
        assert_eq!(value(&fields, "access-control-allow-headers"), Some("*"));
        assert_eq!(value(&fields, "access-control-allow-credentials"), None);
    }

    #[test]
    fn origins_are_compared_whole() {
        for (pattern, origin, allowed) in [
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://A.Example", true),
            ("https://a.example", "https://a.example:443", true),
            ("https://a.example:443", "https://a.example", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example", "https://a.example.evil.example", false),
            ("https://a.example", "https://xa.example", false),
            ("https://*.a.example", "https://b.a.example", true),
            ("https://*.a.example", "https://c.b.a.example", true),
            ("https://*.a.example", "https://a.example", false),
            ("https://*.a.example", "https://.a.example", false),
            ("https://*.a.example", "https://xa.example", false),
            ("https://*", "https://any.example", true),
            ("https://*", "http://any.example", false),
            ("http://[::1]:80", "http://[::1]", true),
            ("*", "https://any.example:12345", true),
            ("*", "null", false),
            ("*", "a.example", false),
            ("*", "https://a b", false),
        ] {
            let fields = decorated(&cors(&[pattern]), &get(origin));
            let named = value(&fields, "access-control-allow-origin");
            assert_eq!(named, allowed.then_some(origin), "{pattern} {origin}");
        }
    }

    #[test]
    fn patterns_are_origins() {
        for pattern in [
            "*",
            "https://*",
            "https://*.a.example",
            "http://a.example:8080",
        ] {
            assert!(is_origin_pattern(pattern), "{pattern}");
        }
        for pattern in [
            "",
            "a.example",
            "https://",
            "https://a.*.example",
            "https://a*",
            "https://a/b",
            "https://a:",
            "**",
        ] {
            assert!(!is_origin_pattern(pattern), "{pattern}");
        }
    }

    proptest! {
        /// Whatever a client says: no panic, no field that could not be sent, and nobody may read whom no pattern takes.
        #[test]
        fn any_origin_is_answered(origin in "(https?://)?[ -~]{0,24}", method in "[ -~]{0,8}", headers in "[ -~]{0,24}") {
            let cors = Cors { allow_methods: list(&["*"]), allow_headers: list(&["*"]), ..cors(&["https://*.a.example"]) };
            let fields = answered(&cors, &asking(&origin, &method, &headers));
            for (_, value) in &fields {
                prop_assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", value);
            }
            if let Some(named) = value(&fields, "access-control-allow-origin") {
                prop_assert_eq!(named, &origin);
                let host = named.strip_prefix("https://").unwrap_or_default();
                let host = host.strip_suffix(":443").unwrap_or(host).to_ascii_lowercase();
                prop_assert!(host.len() > ".a.example".len() && host.ends_with(".a.example"));
            }
        }
    }
}
