//! Messages of HTTP/1 as bytes of one connection: where each begins and ends, and what makes that doubtful (RFC 9112). What
//! two readers could frame differently is refused here, before any engine reads it: a [`Scanner`] stands in front of it.
//!
//! Nothing is kept but where the scanner is: bodies are counted and forgotten. What names, paths and values mean is for
//! the phases; HTTP/2 has frames of its own and passes.

mod chunked;
mod fault;
mod head;
pub(crate) mod line;
#[cfg(test)]
mod tests;

use chunked::{Came, Chunked};
pub use fault::Fault;
use head::{Body, Head, Whole};
pub use head::{MAX_FIELDS, MAX_HEAD, origin_form};

/// What a connection of HTTP/2 begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whose messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client's.
    Request,
    /// A server's.
    Response,
}

/// Follows the messages that one side of a connection sends.
///
/// It is shown bytes with [`advance`](Self::advance) as they arrive and says how many of them are understood: whole heads,
/// and bodies as far as they came. What is not understood yet (a part of a head, of a trailer line) is to be shown again,
/// with more behind it. So nobody is given a byte of a head before the whole of it is known to be sound.
#[derive(Debug, Clone)]
pub struct Scanner {
    side: Side,
    place: Place,
    /// The message asks for another protocol.
    upgrade: bool,
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
    /// In an answer that ends with the connection.
    UntilClose,
    /// After a request for another protocol: what follows is the answer's to say.
    Undecided,
    /// Between answers.
    Unasked,
    /// Not HTTP/1: everything passes.
    Opaque,
}

/// A message that must not be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong.
    pub fault: Fault,
    /// So many of the bytes shown are before this message, and sound.
    pub sound: usize,
    /// Its head was understood in an earlier call: a part of it has been passed on.
    pub begun: bool,
}

impl Scanner {
    /// For what a client sends, from its first byte.
    pub fn requests() -> Self {
        Self::new(Side::Request, Place::Preface)
    }

    /// For what a server sends, before the first request.
    pub fn responses() -> Self {
        Self::new(Side::Response, Place::Unasked)
    }

    const fn new(side: Side, place: Place) -> Self {
        Self {
            side,
            place,
            upgrade: false,
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

    /// The connection speaks another protocol now (RFC 9110 section 7.8): everything passes.
    pub fn pass_all(&mut self) {
        self.place = Place::Opaque;
    }

    /// The request for another protocol was answered without it: requests go on.
    pub fn stay(&mut self) {
        if self.is_undecided() {
            self.place = Place::Head(Head::default());
        }
    }

    /// Whether the last request asks for another protocol: what follows it is not looked at before
    /// [`pass_all`](Self::pass_all) or [`stay`](Self::stay).
    pub fn is_undecided(&self) -> bool {
        matches!(self.place, Place::Undecided)
    }

    /// Whether everything passes.
    pub fn is_opaque(&self) -> bool {
        matches!(self.place, Place::Opaque)
    }

    /// Looks at `bytes`, which begin where the last call stopped understanding, and says how many are understood now.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        self.advance_telling(bytes, |_| {})
    }

    /// The same; `interim` is told the head of each interim answer among them (RFC 9110 section 15.2): whoever passes those on
    /// has no other way to find them.
    pub fn advance_telling(
        &mut self,
        bytes: &[u8],
        mut interim: impl FnMut(&[u8]),
    ) -> Result<usize, Refused> {
        let mut at = 0;
        // Where the message under way begins in `bytes`; none: before them.
        let mut begins = None;
        while at < bytes.len() {
            if let Place::Head(_) | Place::Preface = self.place {
                begins = Some(at);
            }
            match self.step(&bytes[at..]) {
                Ok(0) => break,
                Ok(understood) => {
                    // Behind any other answer nothing is expected.
                    if self.side == Side::Response && matches!(self.place, Place::Head(_)) {
                        interim(&bytes[at..at + understood]);
                    }
                    at += understood;
                }
                Err(fault) => {
                    // A fault is for ever: nothing after it is known to begin a message.
                    return Err(Refused {
                        fault,
                        sound: if fault == Fault::Unasked {
                            at
                        } else {
                            begins.unwrap_or(0)
                        },
                        begun: begins.is_none(),
                    });
                }
            }
        }
        Ok(at)
    }

    /// One step: a head, what there is of a body. Zero: more is needed.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match &mut self.place {
            Place::Preface => {
                if bytes.starts_with(PREFACE) {
                    self.place = Place::Opaque;
                    return Ok(bytes.len());
                }
                if PREFACE.starts_with(bytes) {
                    return Ok(0);
                }
                self.place = Place::Head(Head::default());
                self.step(bytes)
            }
            Place::Head(head) => match head.advance(bytes, self.side, self.bodiless)? {
                None => Ok(0),
                Some(whole) => {
                    self.enter(whole);
                    Ok(whole.bytes)
                }
            },
            Place::Length(left) => {
                let here = (*left).min(bytes.len() as u64);
                *left -= here;
                if *left == 0 {
                    self.end();
                }
                Ok(here as usize)
            }
            Place::Chunked(chunked) => {
                let Came { bytes, ended } = chunked.advance(bytes, self.side)?;
                if ended {
                    self.end();
                }
                Ok(bytes)
            }
            Place::Undecided => Ok(0),
            Place::Unasked => Err(Fault::Unasked),
            Place::UntilClose | Place::Opaque => Ok(bytes.len()),
        }
    }

    /// A head is whole.
    fn enter(&mut self, Whole { body, upgrade, .. }: Whole) {
        self.upgrade = upgrade;
        match body {
            Body::None => self.end(),
            Body::Length(length) => self.place = Place::Length(length),
            Body::Chunked => self.place = Place::Chunked(Chunked::begin()),
            Body::UntilClose => self.place = Place::UntilClose,
            Body::Interim => self.place = Place::Head(Head::default()),
            Body::Switched => self.place = Place::Opaque,
        }
    }

    /// A message is whole.
    fn end(&mut self) {
        self.place = match self.side {
            Side::Request if self.upgrade => Place::Undecided,
            Side::Request => Place::Head(Head::default()),
            Side::Response => Place::Unasked,
        };
    }
}
