//! Interim answers of an upstream (RFC 9110 section 15.2) such as 103 Early Hints (RFC 8297), passed on to a client of
//! HTTP/1.1 as soon as they come: they wait here until the client's connection writes them. 100 and 101 are not among them:
//! each hop answers those itself.

use std::{cell::RefCell, rc::Rc, task::Waker};

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_LENGTH};

use super::headers;

/// Bytes that wait for a client at most; what comes beyond is dropped, as an interim answer may be.
const MAX_WAITING: usize = 16 << 10;

/// What waits to be written to a client before its answer.
#[derive(Debug, Default)]
pub struct Interims(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    /// Grows with every request that is sent, and when it is answered: what an upstream says of a former turn is late.
    turn: u64,
    bytes: Vec<u8>,
    waker: Option<Waker>,
}

impl Interims {
    /// A request goes to an upstream; `waker` is its task's.
    fn open(&self, waker: &Waker) -> u64 {
        let mut state = self.0.borrow_mut();
        state.turn += 1;
        match &mut state.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        state.turn
    }

    /// It is answered.
    pub fn close(&self) {
        self.0.borrow_mut().turn += 1;
    }

    fn push(&self, turn: u64, answer: &[u8]) {
        let mut state = self.0.borrow_mut();
        if state.turn != turn || state.bytes.len() + answer.len() > MAX_WAITING {
            return;
        }
        state.bytes.extend_from_slice(answer);
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
    }

    /// What waits.
    pub fn take(&self) -> Option<Vec<u8>> {
        let waiting = std::mem::take(&mut self.0.borrow_mut().bytes);
        (!waiting.is_empty()).then_some(waiting)
    }
}

/// Whom an upstream's interim answers are for: one request of one client.
#[derive(Debug, Clone)]
pub struct Hearer {
    interims: Rc<Interims>,
    turn: u64,
}

impl Hearer {
    /// The request whose answer is read by the task of `waker`.
    pub fn new(interims: &Rc<Interims>, waker: &Waker) -> Self {
        Self {
            interims: Rc::clone(interims),
            turn: interims.open(waker),
        }
    }

    /// Hears one, whole and sound as an upstream sent it.
    pub fn hear(&self, head: &[u8]) {
        if let Some(answer) = passed_on(head) {
            self.interims.push(self.turn, &answer);
        }
    }
}

/// The interim answer as this hop sends it: without what belongs to the upstream's connection. None: it is not passed on.
fn passed_on(head: &[u8]) -> Option<Vec<u8>> {
    let mut lines = head
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty());
    let status = lines.next()?.strip_prefix(b"HTTP/1.1")?;
    if status.starts_with(b" 100") || status.starts_with(b" 101") {
        return None;
    }
    let mut fields = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let value = HeaderValue::from_bytes(value[1..].trim_ascii()).ok()?;
        fields.append(HeaderName::from_bytes(name).ok()?, value);
    }
    headers::remove_hop_by_hop(&mut fields);
    fields.remove(CONTENT_LENGTH);
    let mut answer = [b"HTTP/1.1", status, b"\r\n"].concat();
    for (name, value) in &fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            answer.extend_from_slice(part);
        }
    }
    answer.extend_from_slice(b"\r\n");
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_connections_stays_there() {
        let head = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-mine\r\nX-Mine: 1\r\nLink: </b>\r\n\r\n";
        let passed = passed_on(head).expect("passed on");
        let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&passed), expected);
        for kept in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 101 X\r\n\r\n"] {
            assert_eq!(passed_on(kept.as_bytes()), None);
        }
    }

    #[test]
    fn an_answered_request_hears_nothing_more() {
        let interims = Rc::<Interims>::default();
        let head = b"HTTP/1.1 103 Early Hints\r\n\r\n";
        let first = Hearer::new(&interims, Waker::noop());
        first.hear(head);
        assert_eq!(interims.take().as_deref(), Some(&head[..]));
        let tried_again = Hearer::new(&interims, Waker::noop());
        first.hear(head);
        assert_eq!(interims.take(), None, "of a try that was given up");
        tried_again.hear(head);
        interims.close();
        tried_again.hear(head);
        assert_eq!(interims.take().as_deref(), Some(&head[..]), "once");
        let next = Hearer::new(&interims, Waker::noop());
        tried_again.hear(head);
        assert_eq!(interims.take(), None);
        for _ in 0..10_000 {
            next.hear(head);
        }
        assert!(interims.take().expect("some").len() <= MAX_WAITING);
    }
}
