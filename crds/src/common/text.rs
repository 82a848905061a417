//! Bounded strings: each carries its length and pattern into the schema, so no field can forget them.
//!
//! The bounds are the schema's (enforced by the API server and by `manifest`); decoding does not repeat them, so an
//! object stored under wider bounds stays readable.

use std::{borrow::Borrow, borrow::Cow, fmt, ops::Deref};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

macro_rules! text {
    ($(#[$meta:meta])* $name:ident, $min:literal..=$max:literal, $pattern:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "minLength": $min, "maxLength": $max, "pattern": $pattern})
            }
        }
    };
}

const DNS_SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// RFC 9110 section 5.6.2 `token`.
const TOKEN: &str = r"^[A-Za-z0-9!#$%&'*+\-.^_|~`]+$";
/// No control characters (RFC 9110 section 5.5), so that no value can end a header line.
const NO_CONTROLS: &str = r"^[^\x00-\x08\x0A-\x1F\x7F]*$";

text!(
    /// The name of a Kubernetes object: a DNS subdomain (RFC 1123).
    ObjectName, 1..=253, DNS_SUBDOMAIN
);
text!(
    /// A short name inside an object (rule, provider, limit, shard): a DNS label (RFC 1123).
    DnsLabel, 1..=63, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
);
text!(
    /// An API group; empty is the core group.
    GroupName, 0..=253, r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
);
text!(
    /// An `apiVersion`: `v1` or `group/v1`.
    ApiVersion, 1..=253, r"^([-a-z0-9.]+/)?v[a-z0-9]+$"
);
text!(
    /// A Kubernetes kind.
    KindName, 1..=63, r"^[A-Z][A-Za-z0-9]*$"
);
text!(
    /// A host name in lower case, or one with `*.` in front, which stands for one or more labels.
    Hostname, 1..=253, r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
);
text!(
    /// The name of an HTTP header (RFC 9110 section 5.1), compared without regard to case.
    HeaderName, 1..=256, TOKEN
);
text!(
    /// The value of an HTTP header (RFC 9110 section 5.5).
    HeaderValue, 0..=4096, NO_CONTROLS
);
text!(
    /// The name of a cookie (RFC 6265 section 4.1.1).
    CookieName, 1..=256, TOKEN
);
text!(
    /// The name of a query parameter, decoded.
    QueryName, 1..=256, NO_CONTROLS
);
text!(
    /// The value of a query parameter, decoded.
    QueryValue, 0..=1024, NO_CONTROLS
);
text!(
    /// A path, a prefix of one or a regular expression over one.
    PathText, 1..=1024, NO_CONTROLS
);
text!(
    /// The value of a label.
    LabelValue, 0..=63, r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
);
text!(
    /// The name of an attribute of an identity.
    AttributeName, 1..=63, r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
);
text!(
    /// The name of a claim of a JWT (RFC 7519 section 4).
    ClaimPath, 1..=256, NO_CONTROLS
);
text!(
    /// An absolute URI or any other identifier without white space, as an issuer or audience is.
    Url, 1..=2048, r"^\S+$"
);
text!(
    /// The SPIFFE id of a pod's certificate.
    SpiffeId, 1..=512, r"^spiffe://[^/\s]+/ns/[^/\s]+/sa/[^/\s]+$"
);
text!(
    /// A component of a signature's base (RFC 9421 section 2): `@method`, `content-digest`, `@query-param;name="id"`.
    SignatureComponent, 1..=128, r#"^@?[a-z0-9!#$%&'*+\-.^_|~`]+(;[a-z]+(="[^"\\]*")?)*$"#
);
text!(
    /// A JWK set as JSON text (RFC 7517 section 5).
    JwksText, 2..=32768, r"^\s*\{"
);
text!(
    /// Five fields of cron: minute, hour, day of the month, month, day of the week (0 and 7 are Sunday). Translation reads it.
    CronText, 9..=128, r"^[0-9A-Za-z*/,-]+( [0-9A-Za-z*/,-]+){4}$"
);
text!(
    /// The name of a time zone in the IANA database, such as `Europe/Berlin`. Translation looks it up.
    TimeZoneName, 1..=64, r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$"
);
text!(
    /// Words for people; no machine reads them.
    FreeText, 0..=512, r"^[^\x00]*$"
);
text!(
    /// `host:port` of a store.
    StoreAddress, 3..=262, r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?):[0-9]{1,5}$"
);
text!(
    /// A SPIFFE trust domain.
    TrustDomain, 1..=255, r"^[a-z0-9._-]+$"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn matches<T: JsonSchema>(text: &str) -> bool {
        let schema = T::json_schema(&mut SchemaGenerator::default()).to_value();
        let pattern =
            regex::Regex::new(schema["pattern"].as_str().expect("a pattern")).expect("compiles");
        let length = text.chars().count() as u64;
        pattern.is_match(text)
            && length >= schema["minLength"].as_u64().expect("a bound")
            && length <= schema["maxLength"].as_u64().expect("a bound")
    }

    #[test]
    fn names_accept_what_kubernetes_accepts() {
        assert!(
            matches::<ObjectName>("a.b-c.d")
                && !matches::<ObjectName>("A")
                && !matches::<ObjectName>("a..b")
        );
        assert!(
            matches::<DnsLabel>("s0")
                && !matches::<DnsLabel>("a.b")
                && !matches::<DnsLabel>(&"a".repeat(64))
        );
        assert!(
            matches::<GroupName>("")
                && matches::<GroupName>("sluice.dev")
                && !matches::<GroupName>("-")
        );
        assert!(
            matches::<ApiVersion>("apps/v1")
                && matches::<ApiVersion>("v1")
                && !matches::<ApiVersion>("apps")
        );
    }

    #[test]
    fn host_names_are_lower_case_with_one_leading_wildcard() {
        assert!(matches::<Hostname>("*.shop.example") && matches::<Hostname>("shop.example"));
        assert!(
            !matches::<Hostname>("a.*.example")
                && !matches::<Hostname>("Shop.example")
                && !matches::<Hostname>("*")
        );
    }

    #[test]
    fn headers_cannot_smuggle_a_line() {
        assert!(
            matches::<HeaderName>("X-Api_`")
                && !matches::<HeaderName>("X Api")
                && !matches::<HeaderName>("X:")
        );
        assert!(
            matches::<HeaderValue>("a\tb \u{e9}")
                && !matches::<HeaderValue>("a\r\nB: c")
                && !matches::<HeaderValue>("\u{7f}")
        );
    }

    #[test]
    fn signature_components_are_identifiers_of_rfc_9421() {
        for good in [
            "@method",
            "content-digest",
            "@query-param;name=\"id\"",
            "@path;req",
        ] {
            assert!(matches::<SignatureComponent>(good), "{good}");
        }
        for bad in ["", "@", "Content-Digest", "a b", "a;"] {
            assert!(!matches::<SignatureComponent>(bad), "{bad}");
        }
    }

    #[test]
    fn store_addresses_name_host_and_port() {
        assert!(
            matches::<StoreAddress>("redis-0.redis:6379") && matches::<StoreAddress>("[::1]:6379")
        );
        assert!(
            !matches::<StoreAddress>("redis")
                && !matches::<StoreAddress>("redis://h:1")
                && !matches::<StoreAddress>("u:p@h:1")
        );
    }
}
