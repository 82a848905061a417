//! What one line says, written by hand: what serde's machinery costs is felt at every request. No credential, no query, no
//! secret: paths and names only.

use std::{io::Write as _, net::IpAddr};

use sluice_pipeline::ratelimit::Verdict;

use super::{Endpoint, Rfc3339, Trace};

/// One request.
#[derive(Debug, Default)]
pub struct Line<'r> {
    /// When it began.
    pub time: Rfc3339,
    /// `192.0.2.1:4711`.
    pub peer: Option<Endpoint>,
    /// The client behind it, where trusted proxies name one.
    pub client: Option<IpAddr>,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: &'static str,
    /// As received.
    pub method: &'r str,
    /// The host that was asked for.
    pub authority: Option<&'r str>,
    /// As received, without the query: that may hold secrets.
    pub path: &'r str,
    /// The port it arrived for.
    pub port: u16,
    /// What was answered; 499 where the client went away before.
    pub status: u16,
    /// Why it was refused; absent: it was not.
    pub reason: Option<&'static str>,
    /// What exactly was wrong.
    pub detail: Option<&'r str>,
    /// `namespace/name/part` of the object that decided.
    pub decided_by: Option<String>,
    /// Its kind.
    pub decided_by_kind: Option<&'r str>,
    /// The phase it came to: where it was refused, or answered.
    pub phase: &'static str,
    /// Namespace and name of the route.
    pub route: Option<(&'r str, &'r str)>,
    /// The rule.
    pub rule: Option<&'r str>,
    /// Who asked: the provider, and the subject in it.
    pub identity: Option<(&'r str, &'r str)>,
    /// The id of the key that proved it.
    pub key_id: Option<&'r str>,
    /// What the limits said.
    pub limits: &'r [Verdict],
    /// The `Cache-Status` of the answer.
    pub cache: Option<&'r str>,
    /// Who answered: `app`, or the Service.
    pub upstream: Option<&'r str>,
    /// Its address.
    pub upstream_address: Option<Endpoint>,
    /// The shard, where a ShardSet chose.
    pub shard: Option<Sharded<'r>>,
    /// From the head's arrival to the last byte of the answer.
    pub duration_us: u64,
    /// Of that, until the upstream's head was there.
    pub upstream_us: Option<u64>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// The answer did not reach its end.
    pub aborted: bool,
    /// Trace id, as in `traceparent`.
    pub trace: Option<Trace>,
    /// The version of the configuration, its first digits.
    pub config: &'r str,
}

/// Where a ShardSet sent a request.
#[derive(Debug)]
pub struct Sharded<'r> {
    /// `namespace/name` of the ShardSet.
    pub set: &'r str,
    /// The shard.
    pub shard: &'r str,
    /// `Primary` or `Replica`.
    pub role: &'static str,
    /// The key's slot.
    pub slot: u16,
    /// The map's epoch.
    pub epoch: u64,
}

impl Line<'_> {
    /// Adds the line to `out`, without its end. What is absent is left out.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self {
            time,
            peer,
            client,
            protocol,
            method,
            authority,
            path,
            port,
            status,
            reason,
            detail,
            decided_by,
            decided_by_kind,
            phase,
            route,
            rule,
            identity,
            key_id,
            limits,
            cache,
            upstream,
            upstream_address,
            shard,
            duration_us,
            upstream_us,
            bytes_in,
            bytes_out,
            aborted,
            trace,
            config,
        } = self;
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(&time.text());
        out.push(b'"');
        if let Some(peer) = peer {
            out.extend_from_slice(b",\"peer\":\"");
            peer.write(out);
            out.push(b'"');
        }
        if let Some(client) = client {
            // A Vec takes everything.
            let _ = write!(out, ",\"client\":\"{client}\"");
        }
        text(out, b",\"protocol\":\"", protocol);
        text(out, b",\"method\":\"", method);
        given(out, b",\"authority\":\"", *authority);
        text(out, b",\"path\":\"", path);
        number(out, b",\"port\":", (*port).into());
        number(out, b",\"status\":", (*status).into());
        given(out, b",\"reason\":\"", *reason);
        given(out, b",\"detail\":\"", *detail);
        given(out, b",\"decided_by\":\"", decided_by.as_deref());
        given(out, b",\"decided_by_kind\":\"", *decided_by_kind);
        text(out, b",\"phase\":\"", phase);
        pair(out, b",\"route\":\"", *route, b'/');
        given(out, b",\"rule\":\"", *rule);
        pair(out, b",\"identity\":\"", *identity, b'|');
        given(out, b",\"key_id\":\"", *key_id);
        self::limits(out, limits);
        given(out, b",\"cache\":\"", *cache);
        given(out, b",\"upstream\":\"", *upstream);
        if let Some(address) = upstream_address {
            out.extend_from_slice(b",\"upstream_address\":\"");
            address.write(out);
            out.push(b'"');
        }
        if let Some(shard) = shard {
            shard.write(out);
        }
        number(out, b",\"duration_us\":", *duration_us);
        if let Some(upstream_us) = upstream_us {
            number(out, b",\"upstream_us\":", *upstream_us);
        }
        number(out, b",\"bytes_in\":", *bytes_in);
        number(out, b",\"bytes_out\":", *bytes_out);
        if *aborted {
            out.extend_from_slice(b",\"aborted\":true");
        }
        if let Some(trace) = trace {
            out.extend_from_slice(b",\"trace\":\"");
            out.extend_from_slice(&trace.text());
            out.push(b'"');
        }
        text(out, b",\"config\":\"", config);
        out.push(b'}');
    }
}

impl Sharded<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let Self {
            set,
            shard,
            role,
            slot,
            epoch,
        } = self;
        text(out, b",\"shard\":{\"set\":\"", set);
        text(out, b",\"shard\":\"", shard);
        text(out, b",\"role\":\"", role);
        number(out, b",\"slot\":", (*slot).into());
        number(out, b",\"epoch\":", *epoch);
        out.push(b'}');
    }
}

/// What each limit said: a list, absent where none was asked.
fn limits(out: &mut Vec<u8>, limits: &[Verdict]) {
    for (index, verdict) in limits.iter().enumerate() {
        let begin: &[u8] = if index == 0 {
            b",\"limits\":[{\"limit\":\""
        } else {
            b",{\"limit\":\""
        };
        text(out, begin, verdict.limit.id.as_str());
        out.extend_from_slice(if verdict.admitted {
            b",\"admitted\":true"
        } else {
            b",\"admitted\":false"
        });
        number(out, b",\"remaining\":", verdict.remaining);
        if verdict.shadow {
            out.extend_from_slice(b",\"shadow\":true");
        }
        out.push(b'}');
    }
    if !limits.is_empty() {
        out.push(b']');
    }
}

/// A field with text, of which `begin` is all up to the text's first letter.
fn text(out: &mut Vec<u8>, begin: &[u8], text: &str) {
    out.extend_from_slice(begin);
    escaped(out, text.as_bytes());
    out.push(b'"');
}

fn given(out: &mut Vec<u8>, begin: &[u8], given: Option<&str>) {
    if let Some(given) = given {
        text(out, begin, given);
    }
}

fn pair(out: &mut Vec<u8>, begin: &[u8], pair: Option<(&str, &str)>, between: u8) {
    if let Some((one, other)) = pair {
        out.extend_from_slice(begin);
        escaped(out, one.as_bytes());
        out.push(between);
        text(out, b"", other);
    }
}

fn number(out: &mut Vec<u8>, begin: &[u8], number: u64) {
    out.extend_from_slice(begin);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The inside of a JSON string (RFC 8259 section 7) from UTF-8. Nearly none has a letter that must be written otherwise.
fn escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(at) = text.iter().position(|byte| is_special(*byte)) {
        out.extend_from_slice(&text[..at]);
        match text[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
        }
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn written(line: &Line<'_>) -> String {
        let mut out = Vec::new();
        line.write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let line = Line {
            status: 200,
            phase: "upstream",
            ..Line::default()
        };
        let text = written(&line);
        serde_json::from_str::<Value>(&text).expect("JSON");
        assert!(
            !text.contains("reason") && !text.contains("null") && !text.contains("limits"),
            "{text}"
        );
        assert!(
            text.contains(r#""time":"1970-01-01T00:00:00.000Z""#),
            "{text}"
        );
    }

    proptest! {
        /// Whatever a caller sends, a line is one line and one object, and says what was sent.
        #[test]
        fn nothing_in_a_text_breaks_the_line(
            path: String, authority: String, detail: String, one: String, other: String, odd in "[\"\\\\\u{0}-\u{1f}a\u{7f}é]{0,20}",
        ) {
            let line = Line {
                path: &path,
                authority: Some(&authority),
                detail: Some(&detail),
                identity: Some((&one, &other)),
                route: Some((&odd, &one)),
                method: &odd,
                shard: Some(Sharded { set: &odd, shard: &other, role: "Primary", slot: 3, epoch: u64::MAX }),
                aborted: true,
                upstream_us: Some(u64::MAX),
                ..Line::default()
            };
            let text = written(&line);
            prop_assert!(!text.contains('\n'));
            let read: Value = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(read["path"].as_str(), Some(path.as_str()));
            prop_assert_eq!(read["authority"].as_str(), Some(authority.as_str()));
            prop_assert_eq!(read["detail"].as_str(), Some(detail.as_str()));
            prop_assert_eq!(read["method"].as_str(), Some(odd.as_str()));
            prop_assert_eq!(&read["identity"], &Value::from(format!("{one}|{other}")));
            prop_assert_eq!(&read["route"], &Value::from(format!("{odd}/{one}")));
            prop_assert_eq!(read["shard"]["set"].as_str(), Some(odd.as_str()));
            prop_assert_eq!(read["shard"]["epoch"].as_u64(), Some(u64::MAX));
            prop_assert_eq!(read["upstream_us"].as_u64(), Some(u64::MAX));
            prop_assert_eq!(read["aborted"].as_bool(), Some(true));
        }
    }
}
