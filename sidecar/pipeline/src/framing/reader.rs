//! The messages of one side of a connection, step by step: what of the bytes is a head, what is body, what only frames it. For
//! an engine that has the bytes; it keeps them, here is only where in a message they stand.

use super::{
    Fault, PREFACE, Side,
    chunked::Chunked,
    head::{Body, Head, Whole},
    line,
};

/// Follows the messages that one side of a connection sends.
#[derive(Debug, Clone)]
pub struct Reader {
    side: Side,
    place: Place,
    /// The answer has no body, whatever its head says: it is one to HEAD.
    bodiless: bool,
}

/// Where in the stream of messages.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// At the first byte of a client's connection: it may be HTTP/2.
    Preface,
    Head(Head),
    Length(u64),
    Chunked(Chunked),
    /// In what ends with the connection.
    UntilClose,
    /// Behind the last byte of a message.
    Whole,
    /// Between answers.
    Unasked,
}

/// One step. The bytes it counts are used up; the next step begins behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// More bytes are needed: these are to be shown again, with more behind.
    Needed,
    /// The client speaks HTTP/2: nothing is used up, and nothing more to be read here.
    Http2,
    /// A whole head. Its lines are in [`Lines`].
    Head(Whole),
    /// So many bytes frame a body, and are no part of it.
    Skip(usize),
    /// So many bytes of a body.
    Data(usize),
    /// A line of a trailer section of so many bytes; it is the only one of [`Lines::fields`].
    Trailer(usize),
    /// The message is whole; so many bytes belonged to it still.
    End(usize),
}

/// Bytes of a head, counted from its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The first.
    pub from: u32,
    /// The one behind the last.
    pub to: u32,
}

/// A field line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Its name, as it was sent.
    pub name: Span,
    /// Its value, without the spaces around it.
    pub value: Span,
}

/// What a head consists of. Made once for a connection and filled again for each head.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lines {
    /// Of a request: its method.
    pub method: Span,
    /// And its target, as it was sent.
    pub target: Span,
    /// The field lines.
    pub fields: Vec<Line>,
}

impl Span {
    /// Heads are bounded: their bytes can be counted so.
    #[inline(always)]
    pub(super) const fn new(from: usize, to: usize) -> Self {
        Self {
            from: from as u32,
            to: to as u32,
        }
    }

    /// These bytes of the head.
    pub fn of(self, head: &[u8]) -> &[u8] {
        &head[self.range()]
    }

    /// The same as a range.
    pub const fn range(self) -> std::ops::Range<usize> {
        self.from as usize..self.to as usize
    }
}

impl Line {
    /// The line that begins at `at` and has `length` bytes: its value, with the spaces around it, is their end.
    #[inline(always)]
    pub(super) fn new(at: usize, name: &[u8], length: usize, value: &[u8]) -> Self {
        let trimmed = line::trimmed(value);
        // The spaces before it end where it begins.
        let from = at + length - value.len() + (trimmed.as_ptr().addr() - value.as_ptr().addr());
        Self {
            name: Span::new(at, at + name.len()),
            value: Span::new(from, from + trimmed.len()),
        }
    }
}

impl Reader {
    /// For what a client sends, from its first byte.
    pub const fn requests() -> Self {
        Self {
            side: Side::Request,
            place: Place::Preface,
            bodiless: false,
        }
    }

    /// For what a server sends, before the first request.
    pub const fn responses() -> Self {
        Self {
            side: Side::Response,
            place: Place::Unasked,
            bodiless: false,
        }
    }

    /// A request was sent: an answer may come. `bodiless`: it is one to HEAD.
    pub fn expect(&mut self, bodiless: bool) {
        if let Place::Unasked = self.place {
            self.place = Place::Head(Head::default());
            self.bodiless = bodiless;
        }
    }

    /// Whether a message is under way: a part of its head was seen, or it has not ended.
    pub fn is_within(&self) -> bool {
        !matches!(
            self.place,
            Place::Preface | Place::Unasked | Place::Head(_) | Place::Whole
        )
    }

    /// One step with `bytes`, which begin with what is not used up yet.
    pub fn read(&mut self, bytes: &[u8], lines: &mut Lines) -> Result<Read, Fault> {
        match &mut self.place {
            Place::Preface => {
                if bytes.starts_with(PREFACE) {
                    return Ok(Read::Http2);
                }
                if PREFACE.starts_with(bytes) {
                    return Ok(Read::Needed);
                }
                self.place = Place::Head(Head::default());
                self.read(bytes, lines)
            }
            Place::Head(head) => {
                let whole = head.advance(bytes, self.side, self.bodiless, lines)?;
                Ok(whole.map_or(Read::Needed, |whole| {
                    self.place = Place::behind(whole.body);
                    Read::Head(whole)
                }))
            }
            Place::Length(left) => {
                let here = (*left).min(bytes.len() as u64);
                *left -= here;
                match (here, *left) {
                    (0, 0) => Ok(self.end(0)),
                    (0, _) => Ok(Read::Needed),
                    (here, _) => Ok(Read::Data(here as usize)),
                }
            }
            Place::Chunked(chunked) => match chunked.read(bytes, self.side, lines)? {
                Read::End(bytes) => Ok(self.end(bytes)),
                read => Ok(read),
            },
            Place::UntilClose if bytes.is_empty() => Ok(Read::Needed),
            Place::UntilClose => Ok(Read::Data(bytes.len())),
            Place::Whole => Ok(self.end(0)),
            Place::Unasked if bytes.is_empty() => Ok(Read::Needed),
            Place::Unasked => Err(Fault::Unasked),
        }
    }

    /// The message is whole.
    fn end(&mut self, bytes: usize) -> Read {
        self.place = match self.side {
            Side::Request => Place::Head(Head::default()),
            Side::Response => Place::Unasked,
        };
        Read::End(bytes)
    }
}

impl Place {
    /// Behind a head.
    fn behind(body: Body) -> Self {
        match body {
            Body::None => Self::Whole,
            Body::Length(length) => Self::Length(length),
            Body::Chunked => Self::Chunked(Chunked::begin()),
            Body::UntilClose | Body::Switched => Self::UntilClose,
            Body::Interim => Self::Head(Head::default()),
        }
    }
}
