//! HTTP/1.1 (RFC 9112) as this data path speaks it, beside hyper, which speaks HTTP/2: what both sides of it share. What
//! makes a message doubtful is told by `sluice_pipeline::framing`, not here.
//!
//! There is no task and no channel between a request and its connections: who waits for bytes reads them. A connection
//! that waits keeps no buffer; the room to read and write in belongs to the thread.

mod answer;
mod asking;
mod client;
mod incoming;
mod names;
mod outgoing;
mod server;
mod switched;
#[cfg(test)]
mod tests;
mod values;

use std::{
    cell::{Cell, RefCell},
    io::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use httpdate::HttpDate;
use sluice_pipeline::framing::{Fault, Line};

pub use answer::Answer;
pub use client::{Broken, Room, exchange, is_idle};
pub use incoming::{Body, BodyError, Incoming, Shared};
use names::{NAMES, Names};
pub use server::{Ended, serve};
pub use switched::Switched;

/// Bytes that are read at once: most messages are smaller, and bodies that are larger get room of their own.
const READ: usize = 16 << 10;
/// Bytes of the room for writing that are kept between two messages.
const WRITE: usize = 16 << 10;
/// Field lines that this hop adds to a head, mostly: of the client, of the way and of the trace.
const ADDED: usize = 5;

/// Room to read and write in, for all connections of one thread in turn.
#[derive(Debug)]
pub struct Scratch {
    read: RefCell<Box<[u8]>>,
    write: RefCell<Vec<u8>>,
    /// The second that `date` tells.
    date_s: Cell<i64>,
    date: Cell<Date>,
}

/// A date as fields have it (RFC 9110 section 5.6.7).
pub type Date = [u8; 29];

impl Default for Scratch {
    fn default() -> Self {
        Self {
            read: RefCell::new(vec![0; READ].into()),
            write: RefCell::new(Vec::with_capacity(WRITE)),
            date_s: Cell::new(i64::MIN),
            date: Cell::new([b' '; 29]),
        }
    }
}

impl Scratch {
    /// Room to read in. What stands in it is anybody's.
    pub fn read<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        work(&mut self.read.borrow_mut())
    }

    /// The date of a second since 1970: made once for each.
    pub fn date(&self, now_s: i64) -> Date {
        if self.date_s.replace(now_s) != now_s {
            let now = UNIX_EPOCH + Duration::from_secs(now_s.unsigned_abs());
            let mut date = [b' '; 29];
            // It has the length of every such date of four digits' years.
            let _ = write!(&mut date[..], "{}", HttpDate::from(now));
            self.date.set(date);
        }
        self.date.get()
    }

    /// Empty room to write in.
    pub fn write<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut room = self.write.borrow_mut();
        let done = work(&mut room);
        room.clear();
        room.shrink_to(WRITE);
        done
    }
}

/// The fields of a head, or of a trailer line, that a reader found sound; their values share its bytes.
pub fn fields(head: &Bytes, lines: &[Line]) -> Result<HeaderMap, Fault> {
    NAMES.with_borrow_mut(|names| collect(head, lines, names))
}

/// The name of a field that is asked for; none: it is no name.
pub fn name(spelt: &str) -> Option<HeaderName> {
    NAMES.with_borrow_mut(|names| names.get(spelt.as_bytes()))
}

fn collect(head: &Bytes, lines: &[Line], names: &mut Names) -> Result<HeaderMap, Fault> {
    let mut fields = HeaderMap::with_capacity(lines.len() + ADDED);
    for line in lines {
        // A sound line has a token for a name.
        let name = names.get(line.name.of(head)).ok_or(Fault::FieldName)?;
        fields.append(name, values::of_sound(head.slice(line.value.range())));
    }
    Ok(fields)
}

/// Writes field lines (RFC 9112 section 5).
pub fn write_fields(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
}

/// Writes one field line.
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
