//! A connection that speaks another protocol than HTTP/1.1 from now on (RFC 9110 section 7.8). What follows is not looked at.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::data::preceded::Preceded;

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// A stream, behind what was read of it after the last message of HTTP.
pub type Switched = Preceded<Box<dyn Duplex>>;

/// `first` was read behind the last message of HTTP.
pub fn switched(stream: impl Duplex + 'static, first: Bytes) -> Switched {
    let stream = Box::new(stream);
    Preceded { first, stream }
}
