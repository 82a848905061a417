//! Messages of HTTP/1 as bytes of one connection: where each begins and ends, and what makes that doubtful (RFC 9112). What
//! two readers could frame differently is refused here, before anything is made of it: a [`Reader`] tells an engine what its
//! bytes are.
//!
//! Nothing is kept but where the reader is: bodies are counted and forgotten. What names, paths and values mean is for
//! the phases; HTTP/2 has frames of its own.

mod chunked;
mod fault;
mod head;
pub(crate) mod line;
mod reader;
#[cfg(test)]
mod scanner;
#[cfg(test)]
mod tests;

pub use chunked::may_trail_request;
pub use fault::Fault;
pub use head::{Body, MAX_FIELDS, MAX_HEAD, Whole, origin_form};
pub use reader::{Line, Lines, Read, Reader, Span};

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
