//! The frames of HTTP/2 that a client sends, by their nine-byte heads (RFC 9113 section 4.1): how many there are that ask
//! for work and bring none. The engine bounds some floods; this bounds all of them alike (CVE-2023-44487,
//! CVE-2024-27316, CVE-2019-9512 to 9518). Payloads are skipped, nothing is decoded, no byte is kept.

/// What a client of HTTP/2 sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
const HEAD: usize = 9;

/// Frames that a client may have sent in advance of what they are for.
const CREDIT: u64 = 1_000;
/// Bytes, read in bodies or written, that explain one frame: acknowledgements, window updates, pings that measure.
pub const BYTES_PER_FRAME: u64 = 1 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// The flag of a frame after which a stream, or a header block, is over.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What the bytes so far were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Not HTTP/2, or not known yet.
    NotHttp2,
    /// HTTP/2.
    Http2 {
        /// A header block has begun and not ended.
        head_open: bool,
    },
    /// More frames than anything explains.
    Flood,
}

/// The state between two reads.
#[derive(Debug, Default)]
pub struct Frames {
    at: At,
    /// A header block has begun and not ended.
    head_open: bool,
    /// The frame under way ends it.
    ends_head: bool,
    /// Control frames that are not explained yet.
    owed: u64,
    /// Bytes of bodies since the last settlement.
    body_bytes: u64,
    /// Frames that had been explained from outside at the last settlement.
    settled: u64,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// In the preface.
    Preface(u8),
    /// In a frame's head, of which so many bytes are known.
    Head([u8; HEAD], u8),
    /// In a payload with so many bytes to go.
    Payload(u32),
    /// It is no HTTP/2.
    Other,
}

impl Default for At {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Frames {
    /// Looks at the next bytes; `explained` counts the frames that time, answers and written bytes explain so far. What is
    /// not used does not add up: it only ever pays for what is owed.
    pub fn look(&mut self, mut bytes: &[u8], explained: u64) -> Seen {
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Other => return Seen::NotHttp2,
                At::Preface(known) => {
                    if PREFACE[usize::from(*known)] != first {
                        self.at = At::Other;
                        return Seen::NotHttp2;
                    }
                    *known += 1;
                    if usize::from(*known) == PREFACE.len() {
                        self.at = At::Head([0; HEAD], 0);
                    }
                    bytes = rest;
                }
                At::Head(head, known) => {
                    head[usize::from(*known)] = first;
                    *known += 1;
                    if usize::from(*known) == HEAD {
                        let head = *head;
                        self.frame(head);
                    }
                    bytes = rest;
                }
                At::Payload(left) => {
                    let here = (*left as usize).min(bytes.len());
                    *left -= here as u32;
                    if *left == 0 {
                        self.frame_ends();
                    }
                    bytes = &bytes[here..];
                }
            }
        }
        if matches!(self.at, At::Preface(_) | At::Other) {
            Seen::NotHttp2
        } else if self.settles(explained) {
            let head_open = self.head_open;
            Seen::Http2 { head_open }
        } else {
            Seen::Flood
        }
    }

    /// A frame begins.
    fn frame(&mut self, head: [u8; HEAD]) {
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        match kind {
            DATA if length > 0 || flags & END_STREAM != 0 => self.body_bytes += u64::from(length),
            HEADERS | CONTINUATION => {
                self.owed += u64::from(kind == CONTINUATION);
                self.head_open = true;
                self.ends_head = flags & END_HEADERS != 0;
            }
            // Settings, pings, resets, priorities, window updates, empty data, and what does not exist.
            _ => self.owed += 1,
        }
        self.at = At::Payload(length);
        if length == 0 {
            self.frame_ends();
        }
    }

    fn frame_ends(&mut self) {
        self.at = At::Head([0; HEAD], 0);
        self.head_open &= !self.ends_head;
        self.ends_head = false;
    }

    /// Whether enough explains the frames but for the credit. Looked at only once that is used up.
    fn settles(&mut self, explained: u64) -> bool {
        if self.owed > CREDIT {
            let new = explained.saturating_sub(self.settled) + self.body_bytes / BYTES_PER_FRAME;
            (self.settled, self.body_bytes) = (explained, 0);
            self.owed = self.owed.saturating_sub(new);
        }
        self.owed <= CREDIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("short").to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![0; payload]].concat()
    }

    fn http2() -> Frames {
        let mut frames = Frames::default();
        let open = frames.look(PREFACE, 0);
        assert_eq!(open, Seen::Http2 { head_open: false });
        frames
    }

    #[test]
    fn a_header_block_is_open_until_its_last_frame_however_it_is_cut() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, 6));
        bytes.extend(frame(HEADERS, 0, 20));
        bytes.extend(frame(CONTINUATION, 0, 3));
        let open = bytes.len();
        bytes.extend(frame(CONTINUATION, END_HEADERS, 5));
        for cut in 1..bytes.len() {
            let mut frames = Frames::default();
            frames.look(&bytes[..cut], 0);
            let end = frames.look(&bytes[cut..], 0);
            assert_eq!(end, Seen::Http2 { head_open: false }, "{cut}");
        }
        let mut frames = Frames::default();
        assert_eq!(
            frames.look(&bytes[..open], 0),
            Seen::Http2 { head_open: true }
        );
        let mut frames = http2();
        let headers = frame(HEADERS, END_HEADERS, 20);
        let cut = frames.look(&headers[..28], 0);
        assert_eq!(cut, Seen::Http2 { head_open: true }, "a byte is missing");
        let whole = frames.look(&headers[28..], 0);
        assert_eq!(whole, Seen::Http2 { head_open: false });
        assert_eq!(Frames::default().look(&PREFACE[..10], 0), Seen::NotHttp2);
        assert_eq!(Frames::default().look(b"GET / HTTP/1.1", 0), Seen::NotHttp2);
    }

    #[test]
    fn frames_that_bring_nothing_are_a_flood_whatever_their_kind() {
        for (kind, payload) in [
            (PING, 8),
            (RST_STREAM, 4),
            (4, 0),
            (2, 5),
            (CONTINUATION, 0),
            (DATA, 0),
            (WINDOW_UPDATE, 4),
            (200, 0),
        ] {
            let mut frames = http2();
            let one = frame(kind, 0, payload);
            for _ in 0..CREDIT {
                assert_ne!(frames.look(&one, 0), Seen::Flood, "{kind}");
            }
            assert_eq!(frames.look(&one, 0), Seen::Flood, "{kind}");
        }
    }

    #[test]
    fn a_cancelled_request_is_not_explained_by_itself_but_by_answers() {
        let cancelled = [frame(HEADERS, 5, 10), frame(RST_STREAM, 0, 4)].concat();
        let mut frames = http2();
        for answered in 0..100_000 {
            assert_ne!(frames.look(&cancelled, answered), Seen::Flood);
        }
        let flood = (0..2_000).position(|_| frames.look(&cancelled, 100_000) == Seen::Flood);
        assert!(
            flood.is_some_and(|at| at <= 2 * CREDIT as usize),
            "{flood:?}"
        );
    }

    #[test]
    fn bytes_of_bodies_explain_frames_and_nothing_adds_up_while_it_is_not_needed() {
        let mut frames = http2();
        let body = [frame(DATA, 0, 4_096), frame(PING, 0, 8)].concat();
        for _ in 0..100_000 {
            assert_ne!(frames.look(&body, 0), Seen::Flood);
        }
        let mut frames = http2();
        let ping = frame(PING, 0, 8);
        let flood = (0..10_000).position(|_| frames.look(&ping, 1 << 40) == Seen::Flood);
        assert!(
            flood.is_some_and(|at| at <= 3 * CREDIT as usize),
            "{flood:?}"
        );
    }
}
