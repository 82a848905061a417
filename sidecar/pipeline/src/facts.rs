//! What the phases may know of a request. The one seam between policy and an HTTP engine.

use std::net::IpAddr;

use crate::hop::Hop;

/// A request as received: nothing decoded, nothing normalised.
pub trait Facts {
    /// The method, exact.
    fn method(&self) -> &str;
    /// The path of the target as received, without query; starts with `/` (or is `*` for OPTIONS).
    fn path(&self) -> &str;
    /// The query as received, without `?`.
    fn query(&self) -> Option<&str>;
    /// The authority the request names: `Host`, or `:authority` of HTTP/2; as received.
    fn authority(&self) -> Option<&str>;
    /// `http` or `https`, as the client sees the connection.
    fn scheme(&self) -> &str;
    /// The port of the Gateway's listener that it came by; none: this is a pod.
    fn listener_port(&self) -> Option<u16> {
        None
    }
    /// Every field line of a lower-case name, in order.
    fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]>;
    /// Every field line: lower-case name and value, in order. For size checks, and for who asks for many names at once.
    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])>;
    /// Whether [`framing`](crate::framing) has read it: what admission asks of a message was asked there.
    fn is_framed(&self) -> bool {
        false
    }
    /// The client's address.
    fn peer(&self) -> IpAddr;

    /// What another sidecar or an edge asserts of it; none: it came from anybody.
    fn hop(&self) -> Option<&Hop> {
        None
    }

    /// The first value of a header that is visible ASCII or UTF-8.
    fn header_str<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.header(name)
            .next()
            .and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// A request held in memory: for tests, `explain` and benches.
#[derive(Debug, Clone)]
pub struct StaticFacts {
    /// See [`Facts::method`].
    pub method: String,
    /// See [`Facts::path`].
    pub path: String,
    /// See [`Facts::query`].
    pub query: Option<String>,
    /// See [`Facts::authority`].
    pub authority: Option<String>,
    /// Lower-case names and values, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// See [`Facts::peer`].
    pub peer: IpAddr,
    /// See [`Facts::scheme`].
    pub scheme: String,
    /// See [`Facts::listener_port`].
    pub listener_port: Option<u16>,
}

impl StaticFacts {
    /// A request for `target` (path and query) at `authority`, from 192.0.2.1.
    pub fn new(method: &str, authority: &str, target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        Self {
            method: method.into(),
            path: path.into(),
            query,
            authority: Some(authority.into()),
            headers: Vec::new(),
            peer: IpAddr::from([192, 0, 2, 1]),
            scheme: "http".into(),
            listener_port: None,
        }
    }

    /// The same request with one more header line.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }
}

impl Facts for StaticFacts {
    fn method(&self) -> &str {
        &self.method
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn listener_port(&self) -> Option<u16> {
        self.listener_port
    }

    fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_slice())
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    fn peer(&self) -> IpAddr {
        self.peer
    }
}
