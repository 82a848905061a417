//! The framing of a chunked body (RFC 9112 section 7.1), byte by byte; the bytes of the chunks are only counted.

use super::{
    Fault, Side,
    line::{self, Ended},
    reader::{Line, Lines, Read},
};

/// Digits of a chunk size; leading zeros count.
const MAX_DIGITS: u8 = 16;
/// Bytes of the chunk extensions of an answer, for each chunk.
const MAX_EXTENSION: u16 = 256;
/// Bytes of a trailer section.
const MAX_TRAILERS: u32 = 8 << 10;
/// Field lines of a trailer section.
const MAX_TRAILER_LINES: u8 = 64;

/// Where in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunked {
    Size { value: u64, digits: u8 },
    Extension { size: u64, bytes: u16 },
    SizeLineFeed { size: u64 },
    Data { left: u64 },
    DataReturn,
    DataLineFeed,
    Trailers(Trailers),
}

/// Where in a trailer section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Trailers {
    scanned: u32,
    bytes: u32,
    lines: u8,
}

impl Chunked {
    pub const fn begin() -> Self {
        Self::Size {
            value: 0,
            digits: 0,
        }
    }

    /// Goes on with `bytes`, which begin with what is not used up yet.
    pub fn read(&mut self, bytes: &[u8], side: Side, lines: &mut Lines) -> Result<Read, Fault> {
        let mut framing = 0;
        while let Some(&byte) = bytes.get(framing) {
            *self = match *self {
                Self::Data { .. } | Self::Trailers(_) if framing > 0 => break,
                Self::Data { left } => {
                    let here = left.min(bytes.len() as u64);
                    *self = match left - here {
                        0 => Self::DataReturn,
                        left => Self::Data { left },
                    };
                    return Ok(Read::Data(here as usize));
                }
                Self::Trailers(mut trailers) => {
                    let read = trailers.read(bytes, side, lines)?;
                    *self = Self::Trailers(trailers);
                    return Ok(read);
                }
                place => {
                    framing += 1;
                    place.step(byte, side)?
                }
            };
        }
        Ok(match framing {
            0 => Read::Needed,
            framing => Read::Skip(framing),
        })
    }

    /// One byte of what stands around the chunks.
    fn step(self, byte: u8, side: Side) -> Result<Self, Fault> {
        match (self, byte) {
            (Self::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                match value.checked_mul(16) {
                    Some(value) if digits < MAX_DIGITS => Ok(Self::Size {
                        value: value | u64::from(digit),
                        digits: digits + 1,
                    }),
                    _ => Err(Fault::ChunkSize),
                }
            }
            (Self::Size { digits: 0, .. }, b'\n') => Err(Fault::ChunkSize),
            (Self::Size { value, digits: 1.. }, b'\r') => Ok(Self::SizeLineFeed { size: value }),
            (Self::Size { digits: 1.., .. }, b'\n') => Err(Fault::BareLineFeed),
            (Self::Size { value, digits: 1.. }, b';' | b' ' | b'\t') => match side {
                Side::Request => Err(Fault::ChunkExtension),
                // What is not known of them must be ignored (section 7.1.1); they end here.
                Side::Response => Ok(Self::Extension {
                    size: value,
                    bytes: 0,
                }),
            },
            (Self::Size { .. }, _) => Err(Fault::ChunkSize),
            (Self::Extension { size, .. }, b'\r') => Ok(Self::SizeLineFeed { size }),
            (Self::Extension { .. }, b'\n') => Err(Fault::BareLineFeed),
            (Self::Extension { size, bytes }, _) => {
                if bytes >= MAX_EXTENSION {
                    Err(Fault::LineTooLong)
                } else if byte.is_ascii_control() && byte != b'\t' {
                    Err(Fault::ControlByte)
                } else {
                    Ok(Self::Extension {
                        size,
                        bytes: bytes + 1,
                    })
                }
            }
            (Self::SizeLineFeed { size: 0 }, b'\n') => Ok(Self::Trailers(Trailers::default())),
            (Self::SizeLineFeed { size }, b'\n') => Ok(Self::Data { left: size }),
            (Self::SizeLineFeed { .. }, _) => Err(Fault::BareCarriageReturn),
            (Self::DataReturn, b'\r') => Ok(Self::DataLineFeed),
            (Self::DataReturn, b'\n') => Err(Fault::BareLineFeed),
            (Self::DataLineFeed, b'\n') => Ok(Self::begin()),
            (Self::DataReturn | Self::DataLineFeed, _) => Err(Fault::ChunkEnd),
            (Self::Data { .. } | Self::Trailers(_), _) => Ok(self),
        }
    }
}

impl Trailers {
    /// The next line; an incomplete one has to be shown again.
    fn read(&mut self, bytes: &[u8], side: Side, lines: &mut Lines) -> Result<Read, Fault> {
        let mut scanned = self.scanned as usize;
        let ended = line::end(bytes, &mut scanned)?;
        let held = ended.map_or(bytes.len(), |ended| ended.next);
        if self.bytes as usize + held > MAX_TRAILERS as usize {
            return Err(Fault::TrailersTooLong);
        }
        let Some(Ended { end, next }) = ended else {
            // Not more than `MAX_TRAILERS`.
            self.scanned = scanned as u32;
            return Ok(Read::Needed);
        };
        self.scanned = 0;
        self.bytes += next as u32;
        if end == 0 {
            return Ok(Read::End(next));
        }
        self.lines += 1;
        if self.lines > MAX_TRAILER_LINES {
            return Err(Fault::TrailersTooLong);
        }
        let (name, value) = super::head::field(&bytes[..end])?;
        if is_forbidden(name, side) {
            return Err(Fault::Trailer);
        }
        lines.fields.clear();
        lines.fields.push(Line::new(0, name, end, value));
        Ok(Read::Trailer(next))
    }
}

/// Whether a request may have this field in its trailer section, by whatever protocol it came.
pub fn may_trail_request(name: &[u8]) -> bool {
    !is_forbidden(name, Side::Request)
}

/// Fields that a trailer section must not hold (RFC 9110 section 6.5.1): they say how the message is framed, where it
/// goes, who sends it or how it is read, and were acted on before it came. Of an answer only those that frame it.
fn is_forbidden(name: &[u8], side: Side) -> bool {
    const FRAMING: [&str; 8] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    const OTHERS: [&str; 18] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "max-forwards",
        "origin",
        "pragma",
        "proxy-authorization",
        "range",
        "set-cookie",
        "via",
        "x-real-ip",
    ];
    let one_of = |names: &[&str]| {
        names
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    };
    one_of(&FRAMING)
        || side == Side::Request
            && (one_of(&OTHERS)
                || name
                    .get(..12)
                    .is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-")))
}
