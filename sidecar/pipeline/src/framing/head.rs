//! The head of a message, line by line: what must be said once is said once, and where the body ends is clear to everyone
//! (RFC 9112 sections 3 to 6).

use super::{
    Fault, Side,
    line::{self, Ended},
    reader::{Line, Lines, Span},
};
use crate::admit;

/// The longest line of a head, in bytes. What a route allows is less.
const MAX_LINE: usize = 32 << 10;
/// The longest head, in bytes; less than hyper's buffer takes, so that a refusal is always ours.
pub const MAX_HEAD: usize = 60 << 10;
/// Field lines of a head: as many as hyper reads without an allocation.
pub const MAX_FIELDS: u16 = 100;
/// The longest method; the IANA registry's longest has 17.
const MAX_METHOD: usize = 32;
/// The largest body that is believed: what an `i64` holds, in bytes.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// A head under way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    /// Where the line under way begins, from the head's first byte.
    line: u32,
    /// From where on its end is looked for.
    scanned: u32,
    started: bool,
    fields: u16,
    http10: bool,
    status: u16,
    upgrade: bool,
    chunked: bool,
    length: Option<u64>,
    host: Option<Span>,
    authority: Option<Span>,
}

/// A whole head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// Its bytes.
    pub bytes: usize,
    /// What follows.
    pub body: Body,
    /// Whether another protocol is asked for (RFC 9110 section 7.8).
    pub upgrade: bool,
    /// Whether it is one of HTTP/1.0.
    pub http10: bool,
    /// Of an answer: its status code.
    pub status: u16,
}

/// What follows a head (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Nothing: the message is whole.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Whatever comes until the connection ends.
    UntilClose,
    /// Another head of the same answer (RFC 9110 section 15.2).
    Interim,
    /// Another protocol (RFC 9110 section 15.2.2).
    Switched,
}

impl Head {
    /// Goes on with `bytes`, which begin with the head's first byte. `bodiless`: of an answer that has no body whatever
    /// its head says.
    pub fn advance(
        &mut self,
        bytes: &[u8],
        side: Side,
        bodiless: bool,
        lines: &mut Lines,
    ) -> Result<Option<Whole>, Fault> {
        if !self.started {
            if self.scanned == 0
                && let Some(whole) = Self::at_once(bytes, side, bodiless, lines)
            {
                return Ok(Some(whole));
            }
            lines.fields.clear();
        }
        // A head mostly comes whole: where it is is written down where it does not.
        let (mut start, mut scanned) = (self.line as usize, self.scanned as usize);
        loop {
            let ended = line::end(bytes, &mut scanned)?;
            let (end, next) = ended.map_or((bytes.len(), bytes.len()), |Ended { end, next }| {
                (end, next)
            });
            if end - start > MAX_LINE {
                return Err(match (self.started, side) {
                    (false, Side::Request) => Fault::RequestLineTooLong,
                    _ => Fault::LineTooLong,
                });
            }
            if next > MAX_HEAD {
                return Err(Fault::HeadTooLong);
            }
            if ended.is_none() {
                // Not more than `MAX_HEAD`.
                self.line = start as u32;
                self.scanned = scanned as u32;
                return Ok(None);
            }
            let line = &bytes[start..end];
            match (self.started, line.is_empty()) {
                // One empty line before a request (section 2.2).
                (false, true) if start == 0 && side == Side::Request => {}
                (false, _) => {
                    self.started = true;
                    match side {
                        Side::Request => self.request_line(line, start, lines)?,
                        Side::Response => self.status_line(line)?,
                    }
                }
                (true, false) => lines.fields.push(self.field(line, start, side)?),
                (true, true) => return self.whole(&bytes[..next], side, bodiless).map(Some),
            }
            (start, scanned) = (next, next);
        }
    }

    /// A head that is there as a whole and has no fault, as nearly all are: found faster than line by line. None: it is for
    /// the long way to say what it is.
    pub fn at_once(bytes: &[u8], side: Side, bodiless: bool, lines: &mut Lines) -> Option<Whole> {
        lines.fields.clear();
        let mut head = Self::default();
        let mut start = 0;
        let whole = loop {
            let next = start + memchr::memchr(b'\n', &bytes[start..])? + 1;
            let line = bytes[start..next].strip_suffix(b"\r\n")?;
            if line.len() > MAX_LINE || next > MAX_HEAD {
                return None;
            }
            if !head.started {
                match side {
                    Side::Request => head.request_line(line, start, lines).ok()?,
                    Side::Response => head.status_line(line).ok()?,
                }
                head.started = true;
            } else if line.is_empty() {
                break head.whole(&bytes[..next], side, bodiless).ok()?;
            } else {
                lines.fields.push(head.field(line, start, side).ok()?);
            }
            start = next;
        };
        // Each line ended in CR LF, and these are all control bytes there are.
        let ends = 2 * (usize::from(head.fields) + 2);
        (line::controls_in(&bytes[..whole.bytes]) == ends).then_some(whole)
    }

    /// Its last line was seen: it is all of `bytes`.
    fn whole(&self, bytes: &[u8], side: Side, bodiless: bool) -> Result<Whole, Fault> {
        let body = match side {
            Side::Request => self.request_body(bytes)?,
            Side::Response => self.response_body(bodiless)?,
        };
        Ok(Whole {
            bytes: bytes.len(),
            body,
            upgrade: self.upgrade,
            http10: self.http10,
            status: self.status,
        })
    }

    /// Section 3.
    fn request_line(&mut self, line: &[u8], start: usize, lines: &mut Lines) -> Result<(), Fault> {
        let method = &line[..line::token_len(line)];
        let Some(rest) = line[method.len()..].strip_prefix(b" ") else {
            return Err(if method.is_empty() {
                Fault::RequestLine
            } else {
                Fault::Method
            });
        };
        if method.is_empty() || method.len() > MAX_METHOD {
            return Err(Fault::Method);
        }
        let mut words = rest.splitn(2, |byte| *byte == b' ');
        let (Some(target), Some(version)) = (words.next(), words.next()) else {
            return Err(Fault::RequestLine);
        };
        self.http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ if version.starts_with(b"HTTP/") && !version.contains(&b' ') => {
                return Err(Fault::Version);
            }
            _ => return Err(Fault::RequestLine),
        };
        let at = start + method.len() + 1;
        lines.method = Span::new(start, start + method.len());
        lines.target = Span::new(at, at + target.len());
        self.target(method, target, at)
    }

    /// Section 3.2; `at` is where the target begins.
    fn target(&mut self, method: &[u8], target: &[u8], at: usize) -> Result<(), Fault> {
        let path = match target {
            _ if method == b"CONNECT" => return Err(Fault::Connect),
            [] => return Err(Fault::RequestLine),
            b"*" if method == b"OPTIONS" => return Ok(()),
            b"*" => return Err(Fault::AsteriskForm),
            [b'/', ..] => target,
            _ => {
                let scheme = ["http://", "https://"].into_iter().find(|scheme| {
                    target
                        .get(..scheme.len())
                        .is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
                });
                let from = scheme.ok_or(Fault::TargetForm)?.len();
                let to = target[from..]
                    .iter()
                    .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
                    .map_or(target.len(), |found| from + found);
                self.authority = Some(Span::new(at + from, at + to));
                &target[to..]
            }
        };
        if line::is_path_and_query(path) {
            Ok(())
        } else {
            Err(Fault::TargetByte)
        }
    }

    /// Section 4. The reason phrase is nobody's concern, and some leave even the space before it out.
    fn status_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let rest = match line {
            [
                b'H',
                b'T',
                b'T',
                b'P',
                b'/',
                b'1',
                b'.',
                minor @ (b'0' | b'1'),
                b' ',
                rest @ ..,
            ] => {
                self.http10 = *minor == b'0';
                rest
            }
            _ => return Err(Fault::StatusLine),
        };
        match rest {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']
            | [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => {
                let digit = |byte: u8| u16::from(byte - b'0');
                self.status = digit(*a) * 100 + digit(*b) * 10 + digit(*c);
                Ok(())
            }
            _ => Err(Fault::StatusLine),
        }
    }

    /// Section 5; `at` is where the line begins.
    fn field(&mut self, line: &[u8], at: usize, side: Side) -> Result<Line, Fault> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(Fault::TooManyFields);
        }
        let (name, value) = field(line)?;
        let found = Line::new(at, name, line.len(), value);
        match name.len() {
            4 if side == Side::Request && name.eq_ignore_ascii_case(b"host") => {
                let before = self.host.replace(found.value);
                if before.is_some() {
                    return Err(Fault::ManyHosts);
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = admit::content_length(line::trimmed(value))
                    .filter(|length| *length <= MAX_LENGTH)
                    .ok_or(Fault::Length)?;
                if self.length.replace(length).is_some() {
                    return Err(Fault::ManyLengths);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let chunked = line::trimmed(value).eq_ignore_ascii_case(b"chunked");
                if self.chunked || !chunked {
                    return Err(Fault::Coding);
                }
                if self.http10 {
                    return Err(Fault::CodingOfHttp10);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(found)
    }

    fn framed(&self) -> Result<Option<Body>, Fault> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Fault::LengthAndCoding),
            (None, true) => Ok(Some(Body::Chunked)),
            (Some(0), false) => Ok(Some(Body::None)),
            (Some(length), false) => Ok(Some(Body::Length(length))),
            (None, false) => Ok(None),
        }
    }

    fn request_body(&self, bytes: &[u8]) -> Result<Body, Fault> {
        let host = self.host.ok_or(Fault::NoHost)?.of(bytes);
        let text = std::str::from_utf8(host).map_err(|_| Fault::Host)?;
        if !admit::is_authority(text) {
            return Err(Fault::Host);
        }
        if let Some(authority) = self.authority
            && !authority.of(bytes).eq_ignore_ascii_case(host)
        {
            return Err(Fault::HostDiffers);
        }
        Ok(self.framed()?.unwrap_or(Body::None))
    }

    fn response_body(&self, bodiless: bool) -> Result<Body, Fault> {
        let framed = self.framed()?;
        let announced = !matches!(framed, None | Some(Body::None));
        match self.status {
            100..=199 | 204 if announced => Err(Fault::BodyForbidden),
            101 => Ok(Body::Switched),
            100..=199 => Ok(Body::Interim),
            204 | 304 => Ok(Body::None),
            _ if bodiless => Ok(Body::None),
            _ => Ok(framed.unwrap_or(Body::UntilClose)),
        }
    }
}

/// `METHOD TARGET` of a message that was refused: where its request line is sound and has the origin form, it may be shown
/// to people.
pub fn origin_form(message: &[u8]) -> Option<&[u8]> {
    let message = message.strip_prefix(b"\r\n").unwrap_or(message);
    let Ended { end, .. } = line::end(message, &mut 0).ok()??;
    let line = &message[..end];
    let is_origin = line.get(line::token_len(line)..)?.starts_with(b" /");
    Head::default()
        .request_line(line, 0, &mut Lines::default())
        .ok()?;
    let version = b" HTTP/1.1".len();
    (is_origin && end <= MAX_LINE).then(|| &line[..end - version])
}

/// Name and value of a field line (section 5); the value with the spaces around it.
#[inline(always)]
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let (name, rest) = line.split_at(line::token_len(line));
    match rest {
        [b':', value @ ..] if !name.is_empty() => Ok((name, value)),
        [b' ' | b'\t', ..] if name.is_empty() => Err(Fault::Folded),
        [] => Err(Fault::NoColon),
        [b' ' | b'\t', ..] if rest.contains(&b':') => {
            let before = rest.iter().take_while(|byte| **byte != b':');
            if before.into_iter().all(|byte| matches!(byte, b' ' | b'\t')) {
                Err(Fault::SpaceBeforeColon)
            } else {
                Err(Fault::FieldName)
            }
        }
        _ if !rest.contains(&b':') => Err(Fault::NoColon),
        _ => Err(Fault::FieldName),
    }
}
