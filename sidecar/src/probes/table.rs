//! The table of probes, as the injector writes it: JSON, `{"<container>/<kind>": {"httpGet": {...}, "timeoutSeconds": n}}`
//! with the kubelet's own words inside (Kubernetes API, `Probe` and `LifecycleHandler`) and numbers for ports. Read
//! strictly: what is not understood would be a probe that says something else than the user meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use url::Url;

/// The longest table, in bytes.
const MAX_BYTES: usize = 256 << 10;
/// Entries of a table.
const MAX_ENTRIES: usize = 64;
/// Header fields of one probe.
const MAX_HEADERS: usize = 32;
/// The longest text of an entry: a path, a header field, a service.
const MAX_TEXT: usize = 4096;
/// The longest `timeoutSeconds`.
const MAX_TIMEOUT_S: u64 = 86_400;
/// The kubelet's default for probes.
const PROBE_TIMEOUT_S: u64 = 1;
/// Hooks have none: the grace period ends them.
const HOOK_TIMEOUT_S: u64 = 3600;

/// A table that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No JSON of this shape.
    #[error("SLUICE_PROBES is no table of probes: {0}")]
    Json(#[from] serde_json::Error),
    /// More than any pod has.
    #[error("SLUICE_PROBES has more than {MAX_ENTRIES} entries or {MAX_BYTES} bytes")]
    TooLarge,
    /// An entry that is not a probe.
    #[error("SLUICE_PROBES[{name:?}]: {reason}")]
    Entry {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// It is not known where the application is.
    #[error("SLUICE_PROBES is given without POD_IPS: the applications are at the pod's address")]
    NoPodAddress,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is done.
    pub action: Action,
    /// How long it may take.
    pub within: Duration,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A GET whose status counts.
    HttpGet(HttpGet),
    /// A connection.
    TcpSocket {
        /// Of the application.
        port: u16,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Of the application.
        port: u16,
        /// The service asked for; empty: the server as a whole.
        service: String,
    },
}

/// The GET of a probe or hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGet {
    /// Scheme, host as the application is to see it, port, path and query. None: the host is the pod's address.
    pub url: Url,
    /// Whether the host is a name of its own and not the pod's address.
    pub named: bool,
    /// What the user added.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    http_get: Option<WrittenGet>,
    tcp_socket: Option<WrittenTcp>,
    grpc: Option<WrittenGrpc>,
    timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenGet {
    port: u16,
    path: Option<String>,
    host: Option<String>,
    scheme: Option<Scheme>,
    http_headers: Option<Vec<WrittenHeader>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    Http,
    Https,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHeader {
    name: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTcp {
    port: u16,
    /// Whatever it says, the pod's own address is connected to.
    #[serde(rename = "host")]
    _host: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrpc {
    port: u16,
    service: Option<String>,
}

/// Reads a table. No entry may name one of the ports `ours`: the sidecar would ask itself.
pub fn parse(text: &str, ours: &BTreeSet<u16>) -> Result<BTreeMap<String, Entry>, TableError> {
    if text.len() > MAX_BYTES {
        return Err(TableError::TooLarge);
    }
    let written: BTreeMap<String, Written> = serde_json::from_str(text)?;
    if written.len() > MAX_ENTRIES {
        return Err(TableError::TooLarge);
    }
    let mut table = BTreeMap::new();
    for (name, written) in written {
        match entry(&name, written, ours) {
            Ok(entry) => table.insert(name, entry),
            Err(reason) => {
                let name = name.chars().take(80).collect();
                return Err(TableError::Entry { name, reason });
            }
        };
    }
    Ok(table)
}

fn entry(name: &str, written: Written, ours: &BTreeSet<u16>) -> Result<Entry, &'static str> {
    let (container, kind) = name
        .split_once('/')
        .ok_or("its name is <container>/<kind>")?;
    let is_label = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&text.len()) && text.bytes().all(allowed)
    };
    if !is_label(container) {
        return Err("a container's name is a DNS label");
    }
    let is_hook = match kind {
        "liveness" | "readiness" | "startup" => false,
        "postStart" | "preStop" => true,
        _ => return Err("a kind is liveness, readiness, startup, postStart or preStop"),
    };
    let Written {
        http_get,
        tcp_socket,
        grpc,
        timeout_seconds,
    } = written;
    let (action, port) = match (http_get, tcp_socket, grpc) {
        (Some(get), None, None) => {
            let port = get.port;
            (Action::HttpGet(http_get_of(get)?), port)
        }
        (None, Some(WrittenTcp { port, _host }), None) if !is_hook => {
            (Action::TcpSocket { port }, port)
        }
        (None, None, Some(WrittenGrpc { port, service })) if !is_hook => {
            let service = text(service)?.unwrap_or_default();
            (Action::Grpc { port, service }, port)
        }
        _ => return Err("exactly one of httpGet, tcpSocket and grpc; a hook has httpGet"),
    };
    if port == 0 {
        return Err("a port is 1 to 65535");
    }
    if ours.contains(&port) {
        return Err("its port is one of the sidecar's own");
    }
    let default = if is_hook {
        HOOK_TIMEOUT_S
    } else {
        PROBE_TIMEOUT_S
    };
    let seconds = timeout_seconds.unwrap_or(default);
    if !(1..=MAX_TIMEOUT_S).contains(&seconds) {
        return Err("timeoutSeconds is 1 to 86400");
    }
    let within = super::within(Duration::from_secs(seconds));
    Ok(Entry { action, within })
}

fn http_get_of(get: WrittenGet) -> Result<HttpGet, &'static str> {
    let WrittenGet {
        port,
        path,
        host,
        scheme,
        http_headers,
    } = get;
    let (path, host) = (text(path)?.unwrap_or_default(), text(host)?);
    let scheme = match scheme.unwrap_or(Scheme::Http) {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let named = host.is_some();
    let host = match host {
        // An IPv6 address as the API has it.
        Some(host) if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        Some(host) => host,
        None => UNNAMED.to_owned(),
    };
    let mut url = Url::parse(&format!("{scheme}://{host}")).map_err(|_| "its host is no host")?;
    let plain = url.path() == "/" && url.query().is_none() && url.username().is_empty();
    if !plain || url.port().is_some() || url.host_str().is_none() {
        return Err("its host is no host");
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    // What the kubelet would escape is escaped here: the path of a probe may hold any text.
    let (path, query) = match path.split('#').next().unwrap_or_default().split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (path.split('#').next().unwrap_or_default().to_owned(), None),
    };
    url.set_path(&format!("{slash}{path}"));
    url.set_query(query.as_deref());
    url.set_port(Some(port))
        .map_err(|()| "a port is 1 to 65535")?;
    let headers = http_headers.unwrap_or_default();
    if headers.len() > MAX_HEADERS {
        return Err("at most 32 httpHeaders");
    }
    let headers = headers.into_iter().map(|written| {
        let WrittenHeader { name, value } = written;
        let value = text(value)?.unwrap_or_default();
        let name = HeaderName::try_from(name).map_err(|_| "a header's name is no token")?;
        let value = HeaderValue::try_from(value).map_err(|_| "a header's value is no text")?;
        Ok((name, value))
    });
    let headers = headers.collect::<Result<_, &'static str>>()?;
    Ok(HttpGet {
        url,
        named,
        headers,
    })
}

/// Stands for the pod's address, which is known later.
const UNNAMED: &str = "pod.invalid";

/// A text of bounded length; an empty one is none.
fn text(text: Option<String>) -> Result<Option<String>, &'static str> {
    match text {
        Some(text) if text.len() > MAX_TEXT => Err("a text is longer than 4096 bytes"),
        text => Ok(text.filter(|text| !text.is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_one(name: &str, json: &str) -> Result<Entry, TableError> {
        let text = format!("{{{name:?}: {json}}}");
        let mut table = parse(&text, &BTreeSet::from([15_020, 15_006]))?;
        Ok(table.remove(name).expect("the entry that was written"))
    }

    #[test]
    fn what_the_api_has_is_understood() {
        let get = parse_one(
            "app/readiness",
            r#"{"httpGet": {"port": 8443, "path": "healthz?full=a b", "scheme": "HTTPS", "host": "shop.example",
                "httpHeaders": [{"name": "X-Probe", "value": "yes"}]}, "timeoutSeconds": 3}"#,
        )
        .expect("parses");
        assert_eq!(get.within, Duration::from_millis(2700));
        let Action::HttpGet(get) = get.action else {
            panic!("a GET")
        };
        assert_eq!(
            get.url.as_str(),
            "https://shop.example:8443/healthz?full=a%20b"
        );
        assert_eq!(get.headers[0].0, "x-probe");

        let tcp = parse_one("db-1/startup", r#"{"tcpSocket": {"port": 5432}}"#).expect("parses");
        assert_eq!(tcp.action, Action::TcpSocket { port: 5432 });
        assert_eq!(
            tcp.within,
            Duration::from_millis(900),
            "the kubelet waits for 1 s"
        );
        let grpc = parse_one(
            "app/liveness",
            r#"{"grpc": {"port": 9000, "service": "orders"}}"#,
        );
        let service = "orders".into();
        assert_eq!(
            grpc.expect("parses").action,
            Action::Grpc {
                port: 9000,
                service
            }
        );
        let hook = parse_one(
            "app/preStop",
            r#"{"httpGet": {"port": 80, "host": "", "path": null}}"#,
        );
        assert_eq!(
            hook.expect("parses").within,
            Duration::from_millis(3_599_500)
        );
    }

    #[test]
    fn whatever_else_is_refused() {
        for (name, json) in [
            ("app", r#"{"tcpSocket": {"port": 80}}"#),
            ("app/other", r#"{"tcpSocket": {"port": 80}}"#),
            ("App/readiness", r#"{"tcpSocket": {"port": 80}}"#),
            ("a/b/readiness", r#"{"tcpSocket": {"port": 80}}"#),
            ("app/readiness", r"{}"),
            (
                "app/readiness",
                r#"{"tcpSocket": {"port": 80}, "grpc": {"port": 80}}"#,
            ),
            ("app/readiness", r#"{"tcpSocket": {"port": "http"}}"#),
            ("app/readiness", r#"{"tcpSocket": {"port": 0}}"#),
            ("app/readiness", r#"{"tcpSocket": {"port": 65536}}"#),
            (
                "app/readiness",
                r#"{"tcpSocket": {"port": 80}, "period": 1}"#,
            ),
            (
                "app/readiness",
                r#"{"tcpSocket": {"port": 80}, "timeoutSeconds": 0}"#,
            ),
            ("app/readiness", r#"{"exec": {"command": ["true"]}}"#),
            ("app/preStop", r#"{"tcpSocket": {"port": 80}}"#),
            (
                "app/readiness",
                r#"{"httpGet": {"port": 80, "host": "a/b"}}"#,
            ),
            (
                "app/readiness",
                r#"{"httpGet": {"port": 80, "host": "a:1"}}"#,
            ),
            (
                "app/readiness",
                r#"{"httpGet": {"port": 80, "host": "me@a"}}"#,
            ),
            (
                "app/readiness",
                r#"{"httpGet": {"port": 80, "scheme": "FTP"}}"#,
            ),
            (
                "app/readiness",
                r#"{"httpGet": {"port": 80, "httpHeaders": [{"name": "a b"}]}}"#,
            ),
            (
                "app/readiness",
                r#"{"httpGet": {"port": 80, "httpHeaders": [{"name": "a", "value": "b\r\nc: d"}]}}"#,
            ),
        ] {
            assert!(parse_one(name, json).is_err(), "{name} {json}");
        }
        let many: Vec<_> = (0..65)
            .map(|n| format!(r#""c{n}/liveness": {{"tcpSocket": {{"port": 80}}}}"#))
            .collect();
        let many = format!("{{{}}}", many.join(","));
        assert!(matches!(
            parse(&many, &BTreeSet::new()),
            Err(TableError::TooLarge)
        ));
    }

    #[test]
    fn no_probe_asks_the_sidecar_itself() {
        for json in [
            r#"{"httpGet": {"port": 15020}}"#,
            r#"{"tcpSocket": {"port": 15006}}"#,
            r#"{"grpc": {"port": 15020}}"#,
        ] {
            let error = parse_one("app/readiness", json)
                .expect_err("refused")
                .to_string();
            assert!(error.contains("own"), "{error}");
        }
    }
}
