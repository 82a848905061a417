//! What is asked about: a request as a client would send it, from what a command line says of it. It does not judge the
//! request: what a sidecar would refuse, the pipeline refuses.

use std::net::IpAddr;

use sluice_pipeline::{admit::split_authority, facts::StaticFacts};

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No URL.
    #[error("{0:?} is no URL; write it as http://shop.example/v1/orders?page=2")]
    Url(String),
    /// Another scheme.
    #[error("{0:?}: only http and https are served by routes")]
    Scheme(String),
    /// No header.
    #[error("{0:?} is no header line; write it as -H 'Name: value'")]
    Header(String),
}

/// A request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Whether it comes over TLS.
    pub tls: bool,
    /// The server name of its handshake, in lower case; none where the URL has an address.
    pub server_name: Option<String>,
    /// The host of the URL, in lower case.
    pub host: String,
    /// The port of the URL.
    pub port: u16,
    /// The request.
    pub facts: StaticFacts,
}

impl Ask {
    /// A request for `url` from the address `from`; `headers` are lines of `Name: value`, of which `Host` stands before the
    /// URL's.
    pub fn new(
        url: &str,
        method: &str,
        headers: &[String],
        from: Option<IpAddr>,
    ) -> Result<Self, AskError> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(AskError::Scheme(scheme.to_owned())),
        };
        // A fragment never leaves a client (RFC 9110 section 7.1).
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let (host, port) =
            split_authority(authority).ok_or_else(|| AskError::Url(url.to_owned()))?;
        let target = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("/{target}"),
        };
        let mut lines = Vec::new();
        let mut named = None;
        for line in headers {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| AskError::Header(line.clone()))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            match name.as_str() {
                "" => return Err(AskError::Header(line.clone())),
                "host" => named = Some(value.to_owned()),
                _ => lines.push((name, value.as_bytes().to_vec())),
            }
        }
        let authority = named.unwrap_or_else(|| authority.to_owned());
        let mut facts = StaticFacts::new(method, &authority, &target);
        facts.headers.push(("host".to_owned(), authority.into()));
        facts.headers.extend(lines);
        facts.scheme = if tls { "https" } else { "http" }.to_owned();
        if let Some(from) = from {
            facts.peer = from;
        }
        let host = host.to_ascii_lowercase();
        let name = host.strip_suffix('.').unwrap_or(&host);
        let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
        Ok(Self {
            tls,
            server_name: (tls && !is_address).then(|| name.to_owned()),
            port: port.unwrap_or(if tls { 443 } else { 80 }),
            host: name.to_owned(),
            facts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_clients_read_it() {
        let ask = |url: &str, headers: &[&str]| {
            let headers: Vec<String> = headers.iter().map(ToString::to_string).collect();
            Ask::new(url, "GET", &headers, None)
        };
        let plain = ask("Shop.Example?q=1#there", &["X-A:  1"]).expect("a request");
        assert_eq!(
            (plain.tls, plain.host.as_str(), plain.port),
            (false, "shop.example", 80)
        );
        assert_eq!(plain.facts.path, "/");
        assert_eq!(plain.facts.query.as_deref(), Some("q=1"));
        assert_eq!(plain.facts.headers[1], ("x-a".into(), b"1".to_vec()));
        let other = ask("https://a.example:8443/x", &["Host: b.example"]).expect("a request");
        assert_eq!(other.server_name.as_deref(), Some("a.example"));
        assert_eq!(other.facts.authority.as_deref(), Some("b.example"));
        assert_eq!(other.port, 8443);
        assert!(
            ask("https://[::1]/", &[])
                .expect("a request")
                .server_name
                .is_none()
        );
        assert!(matches!(ask("ftp://a/", &[]), Err(AskError::Scheme(_))));
        assert!(matches!(ask("http:///x", &[]), Err(AskError::Url(_))));
        assert!(matches!(ask("http://a/", &["X"]), Err(AskError::Header(_))));
    }
}
