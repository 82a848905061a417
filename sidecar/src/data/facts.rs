//! A request as the pipeline sees it. Nothing is copied.

use std::net::IpAddr;

use http::{Version, header::HOST, request::Parts};
use sluice_pipeline::{Facts, hop::Hop};

use super::{forwarded::Client, http1};

/// The head of a request and where it came from.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'r> {
    parts: &'r Parts,
    client: Client,
    hop: Option<&'r Hop>,
    listener_port: Option<u16>,
}

impl<'r> RequestFacts<'r> {
    /// A view of `parts`, which came from `client`.
    pub fn new(parts: &'r Parts, client: &Client) -> Self {
        let client = *client;
        Self {
            parts,
            client,
            hop: None,
            listener_port: None,
        }
    }

    /// The same, of a request that came over a hop.
    #[must_use]
    pub fn over(self, hop: Option<&'r Hop>) -> Self {
        Self { hop, ..self }
    }

    /// The same, of a request that came by a Gateway's listener, if it did.
    #[must_use]
    pub fn at_listener(self, port: Option<u16>) -> Self {
        Self {
            listener_port: port,
            ..self
        }
    }
}

impl Facts for RequestFacts<'_> {
    fn hop(&self) -> Option<&Hop> {
        self.hop
    }

    fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    fn path(&self) -> &str {
        self.parts.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }

    /// The target's authority counts where there is one: `:authority` of HTTP/2 and the absolute form of HTTP/1.1
    /// (RFC 9112 section 3.2.2), else `Host`.
    fn authority(&self) -> Option<&str> {
        match self.parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => self
                .parts
                .headers
                .get(HOST)
                .and_then(|value| std::str::from_utf8(value.as_bytes()).ok()),
        }
    }

    /// Of HTTP/1.1 there is one engine, and it reads nothing else.
    fn is_framed(&self) -> bool {
        self.parts.version < Version::HTTP_2
    }

    fn scheme(&self) -> &str {
        self.client.scheme
    }

    fn listener_port(&self) -> Option<u16> {
        self.listener_port
    }

    fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let headers = &self.parts.headers;
        let all = http1::name(name).map(|name| headers.get_all(name));
        all.into_iter().flatten().map(|value| value.as_bytes())
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    fn peer(&self) -> IpAddr {
        self.client.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_authority_counts_before_host() {
        let facts = |uri: &str| {
            let request = http::Request::builder()
                .uri(uri)
                .header("host", "b.example")
                .header("X-A", "1")
                .header("x-a", "2");
            request.body(()).expect("a request").into_parts().0
        };
        let parts = facts("http://a.example:81/p?q=1");
        let client = Client::peer(IpAddr::from([192, 0, 2, 1]), "http");
        let view = RequestFacts::new(&parts, &client);
        assert_eq!(
            (view.authority(), view.path(), view.query()),
            (Some("a.example:81"), "/p", Some("q=1"))
        );
        assert_eq!(view.header("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
        let parts = facts("/p");
        assert_eq!(
            RequestFacts::new(&parts, &client).authority(),
            Some("b.example")
        );
    }
}
