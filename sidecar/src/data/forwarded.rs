//! The client as far as what is in front is believed, and what this hop says of it to the next: `X-Forwarded-For`,
//! `-Proto` and `-Host` always, `Forwarded` (RFC 7239) where trusted proxies speak it. What nobody vouches for is not
//! passed on.

use std::{fmt::Write, net::IpAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{FORWARDED, HOST},
    request::Parts,
};
use sluice_pipeline::forwarded;

use super::facts::RequestFacts;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static(forwarded::X_FORWARDED_FOR);
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static(forwarded::X_FORWARDED_PROTO);
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Who asks, as policies by address and the access log see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// `http` or `https`, as it sees the connection.
    pub scheme: &'static str,
    /// The proxies in front that are believed about it; 0: it is the connection's own peer.
    hops: u8,
}

impl Client {
    /// The connection's own peer.
    pub fn peer(address: IpAddr, scheme: &'static str) -> Self {
        Self {
            address,
            scheme,
            hops: 0,
        }
    }

    /// The client behind `trusted` proxies.
    pub fn behind(peer: Self, parts: &Parts, trusted: u8) -> Self {
        match forwarded::client(&RequestFacts::new(parts, &peer), trusted) {
            None => peer,
            Some(believed) => Self {
                address: believed.address,
                scheme: believed.scheme.unwrap_or(peer.scheme),
                hops: trusted,
            },
        }
    }

    /// Whether nothing in front of the connection's peer is believed.
    pub fn is_peer(&self) -> bool {
        self.hops == 0
    }
}

/// The peer as `X-Forwarded-For` names it.
pub fn named(peer: IpAddr) -> HeaderValue {
    // Digits, dots and colons.
    HeaderValue::try_from(peer.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Says to the next hop who asks. `peer`: see [`named`].
pub fn announce(parts: &mut Parts, client: &Client, peer: &HeaderValue) {
    let host = host(parts);
    if client.is_peer() {
        parts.headers.insert(X_FORWARDED_FOR, peer.clone());
        set_or_remove(&mut parts.headers, X_FORWARDED_HOST, host);
        parts.headers.remove(FORWARDED);
    } else {
        append(parts, client, peer, host);
    }
    let scheme = if client.scheme == "https" {
        HTTPS
    } else {
        HTTP
    };
    parts.headers.insert(X_FORWARDED_PROTO, scheme);
}

/// Appends this hop to what trusted proxies said.
fn append(parts: &mut Parts, client: &Client, peer: &HeaderValue, host: Option<HeaderValue>) {
    let peer = peer.to_str().unwrap_or("unknown");
    let facts = RequestFacts::new(parts, client);
    let mut list = forwarded::kept(&facts, forwarded::X_FORWARDED_FOR, client.hops).join(", ");
    if list.is_empty() {
        // They speak RFC 7239 alone; most applications do not.
        list = client.address.to_string();
    }
    // Writing to a String cannot fail.
    let _ = write!(list, ", {peer}");
    let mut standard = forwarded::kept(&facts, forwarded::FORWARDED, client.hops).join(", ");
    if !standard.is_empty() {
        let node = if peer.contains(':') {
            format!("\"[{peer}]\"")
        } else {
            peer.to_owned()
        };
        let _ = write!(standard, ", for={node}");
    }
    let theirs = {
        let mut said = parts.headers.get_all(X_FORWARDED_HOST).iter();
        said.next().filter(|_| said.next().is_none()).cloned()
    };
    let headers = &mut parts.headers;
    set_or_remove(headers, X_FORWARDED_FOR, HeaderValue::try_from(list).ok());
    let standard = HeaderValue::try_from(standard).ok();
    let standard = standard.filter(|value| !value.is_empty());
    set_or_remove(headers, FORWARDED, standard);
    set_or_remove(headers, X_FORWARDED_HOST, theirs.or(host));
}

/// The authority that was asked for.
fn host(parts: &Parts) -> Option<HeaderValue> {
    match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(HOST).cloned(),
    }
}

/// One line, or none: never what was there before.
fn set_or_remove(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: [u8; 4] = [192, 0, 2, 1];

    fn announced(trusted: u8, lines: &[(&str, &str)]) -> Vec<String> {
        let mut request = http::Request::builder().header("host", "a.example:8080");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        let peer = Client::peer(PEER.into(), "http");
        let client = Client::behind(peer, &parts, trusted);
        announce(&mut parts, &client, &named(PEER.into()));
        let said = |name: &str| {
            let values = parts.headers.get_all(name).iter();
            let values = values.map(|value| value.to_str().expect("text").to_owned());
            values.collect::<Vec<_>>().join(" | ")
        };
        [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "forwarded",
        ]
        .map(said)
        .into()
    }

    const FORGED: [(&str, &str); 5] = [
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "admin.example"),
        ("forwarded", "for=10.0.0.1"),
    ];

    #[test]
    fn what_a_client_says_of_itself_is_replaced() {
        let own = ["192.0.2.1", "http", "a.example:8080", ""];
        assert_eq!(announced(0, &FORGED), own);
        assert_eq!(announced(0, &[]), own);
        // Fewer elements than proxies, and two fields that do not agree.
        assert_eq!(announced(3, &FORGED), own);
        assert_eq!(announced(1, &FORGED), own);
    }

    #[test]
    fn what_trusted_proxies_said_is_kept_and_this_hop_appended() {
        let list = ("x-forwarded-for", "10.0.0.1, 198.51.100.7, 203.0.113.9");
        let said = [
            list,
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example"),
        ];
        assert_eq!(
            announced(2, &said),
            [
                "198.51.100.7, 203.0.113.9, 192.0.2.1",
                "https",
                "shop.example",
                ""
            ]
        );
        assert_eq!(
            announced(1, &[list]),
            ["203.0.113.9, 192.0.2.1", "http", "a.example:8080", ""]
        );
        let standard = (
            "forwarded",
            "for=10.0.0.1, for=\"[2001:db8::7]:80\";proto=https",
        );
        assert_eq!(
            announced(1, &[standard]),
            [
                "2001:db8::7, 192.0.2.1",
                "http",
                "a.example:8080",
                "for=\"[2001:db8::7]:80\";proto=https, for=192.0.2.1"
            ]
        );
    }
}
