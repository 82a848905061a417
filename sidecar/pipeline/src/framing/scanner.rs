//! A whole stream shown to a [`Reader`] in pieces, as its tests see it: how much is understood, and what is refused where.

use super::*;

/// Follows the messages that one side of a connection sends.
///
/// It is shown bytes with [`advance`](Self::advance) as they arrive and says how many of them are understood: whole heads,
/// and bodies as far as they came. What is not understood yet (a part of a head, of a trailer line) is to be shown again,
/// with more behind it. So nobody is given a byte of a head before the whole of it is known to be sound.
#[derive(Debug, Clone)]
pub struct Scanner {
    pub reader: Reader,
    lines: Lines,
    side: Side,
    /// The message asks for another protocol.
    upgrade: bool,
    beyond: Beyond,
}

/// What is no HTTP/1 for the scanner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beyond {
    /// Nothing: messages follow one another.
    Messages,
    /// What follows a request for another protocol is the answer's to say.
    Undecided,
    /// Everything: it passes.
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
        Self::new(Side::Request, Reader::requests())
    }

    /// For what a server sends, before the first request.
    pub fn responses() -> Self {
        Self::new(Side::Response, Reader::responses())
    }

    fn new(side: Side, reader: Reader) -> Self {
        Self {
            reader,
            lines: Lines::default(),
            side,
            upgrade: false,
            beyond: Beyond::Messages,
        }
    }

    /// A request was sent: an answer may come. `bodiless`: it is one to HEAD.
    pub fn expect(&mut self, bodiless: bool) {
        self.reader.expect(bodiless);
    }

    /// The connection speaks another protocol now (RFC 9110 section 7.8): everything passes.
    pub fn pass_all(&mut self) {
        self.beyond = Beyond::Opaque;
    }

    /// The request for another protocol was answered without it: requests go on.
    pub fn stay(&mut self) {
        if self.is_undecided() {
            self.beyond = Beyond::Messages;
        }
    }

    /// Whether the last request asks for another protocol: what follows it is not looked at before
    /// [`pass_all`](Self::pass_all) or [`stay`](Self::stay).
    pub fn is_undecided(&self) -> bool {
        self.beyond == Beyond::Undecided
    }

    /// Whether everything passes.
    pub fn is_opaque(&self) -> bool {
        self.beyond == Beyond::Opaque
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
        let mut begins = (!self.reader.is_within()).then_some(0);
        loop {
            match self.beyond {
                Beyond::Messages => {}
                Beyond::Undecided => return Ok(at),
                Beyond::Opaque => return Ok(bytes.len()),
            }
            let rest = &bytes[at..];
            match self.reader.read(rest, &mut self.lines) {
                Ok(Read::Needed) => return Ok(at),
                Ok(Read::Http2) => self.beyond = Beyond::Opaque,
                Ok(Read::Head(whole)) => {
                    self.upgrade = whole.upgrade;
                    match whole.body {
                        Body::Interim => interim(&rest[..whole.bytes]),
                        Body::Switched => self.beyond = Beyond::Opaque,
                        Body::None | Body::Length(_) | Body::Chunked | Body::UntilClose => {}
                    }
                    at += whole.bytes;
                }
                Ok(Read::Skip(used) | Read::Data(used) | Read::Trailer(used)) => at += used,
                Ok(Read::End(used)) => {
                    at += used;
                    begins = Some(at);
                    if self.side == Side::Request && self.upgrade {
                        self.beyond = Beyond::Undecided;
                    }
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
    }
}
