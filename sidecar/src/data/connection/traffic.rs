//! What a connection's bytes tell about its client while they pass, and the I/O they pass through. Counting costs no clock
//! and no lock; judging what was counted is the [sweep](super::sweep)'s.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{BYTES_PER_FRAME, Frames, Seen};

/// Counted by the thread that serves the connection, and read there too.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes read.
    read: Cell<u64>,
    /// Bytes written.
    written: Cell<u64>,
    /// Control frames of HTTP/2 that time and answers explain.
    explained: Cell<u64>,
    /// The last write found no room: the client does not read, or not as fast.
    blocked: Cell<bool>,
    /// It speaks HTTP/2.
    http2: Cell<bool>,
    /// A header block of HTTP/2 has begun and not ended.
    head_open: Cell<bool>,
    /// It sends more control frames than its requests explain.
    flooding: Cell<bool>,
}

impl Traffic {
    /// Bytes read.
    pub fn read(&self) -> u64 {
        self.read.get()
    }

    /// Bytes written.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Whether the client has to read before more can be written.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Whether it speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.http2.get()
    }

    /// Whether a header block of HTTP/2 is under way.
    pub fn is_head_open(&self) -> bool {
        self.head_open.get()
    }

    /// Whether it floods.
    pub fn is_flooding(&self) -> bool {
        self.flooding.get()
    }

    /// Something happened that explains so many control frames.
    pub fn explain(&self, frames: u64) {
        add(&self.explained, frames);
    }

    fn explained(&self) -> u64 {
        self.explained.get() + self.written() / BYTES_PER_FRAME
    }
}

fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// Where a [`Watched`] leaves its stream at its end, for last words.
pub type Returned<S> = Rc<RefCell<Option<S>>>;

/// A client's stream whose bytes are counted.
#[derive(Debug)]
pub struct Watched<S> {
    /// None: it was left in `returned`.
    stream: Option<S>,
    /// What was read before: served first.
    prefix: Bytes,
    /// What was looked at and given back.
    again: Bytes,
    frames: Frames,
    traffic: Rc<Traffic>,
    returned: Returned<S>,
}

impl<S> Watched<S> {
    /// A stream of which `prefix` was read already.
    pub fn new(stream: S, prefix: Bytes, traffic: Rc<Traffic>, returned: Returned<S>) -> Self {
        Self {
            stream: Some(stream),
            prefix,
            again: Bytes::new(),
            frames: Frames::default(),
            traffic,
            returned,
        }
    }

    /// Takes bytes back that were read last: they are read again.
    pub fn give_back(&mut self, bytes: Bytes) {
        self.again = bytes;
    }

    /// Looks at bytes that came; false: they are not to be passed on.
    fn came(&mut self, bytes: &[u8]) -> bool {
        let traffic = &self.traffic;
        add(&traffic.read, bytes.len() as u64);
        match self.frames.look(bytes, traffic.explained()) {
            Seen::NotHttp2 => true,
            Seen::Http2 { head_open } => {
                traffic.http2.set(true);
                traffic.head_open.set(head_open);
                true
            }
            Seen::Flood => {
                traffic.flooding.set(true);
                false
            }
        }
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.returned.replace(self.stream.take());
    }
}

/// Nobody polls a stream after its drop.
fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.traffic.is_flooding() {
            // As if it had ended: the engine gives up its streams.
            return Poll::Ready(Ok(()));
        }
        if !this.again.is_empty() {
            let bytes = this.again.len().min(buffer.remaining());
            buffer.put_slice(&this.again.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if this.prefix.is_empty() {
            let stream = this.stream.as_mut().ok_or_else(gone)?;
            ready!(Pin::new(stream).poll_read(context, buffer))?;
        } else {
            let bytes = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix[..bytes]);
            this.prefix.advance(bytes);
        }
        if !this.came(&buffer.filled()[before..]) {
            buffer.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => {
                add(&self.traffic.written, *bytes as u64);
                self.traffic.blocked.set(false);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.traffic.blocked.set(true),
        }
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let stream = this.stream.as_mut().ok_or_else(gone)?;
        let written = Pin::new(stream).poll_write(context, bytes);
        this.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let stream = this.stream.as_mut().ok_or_else(gone)?;
        let written = Pin::new(stream).poll_write_vectored(context, slices);
        this.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(S::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut().stream.as_mut().ok_or_else(gone)?;
        Pin::new(stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.traffic.is_flooding() {
            // A last word is still to be said.
            return Poll::Ready(Ok(()));
        }
        let stream = this.stream.as_mut().ok_or_else(gone)?;
        Pin::new(stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_was_read_before_comes_first_and_all_is_counted() {
        let (mut client, server) = duplex(16);
        let (traffic, returned) = (Rc::<Traffic>::default(), Returned::default());
        let mut watched = Watched::new(
            server,
            Bytes::from_static(b"GET "),
            Rc::clone(&traffic),
            Rc::clone(&returned),
        );
        client.write_all(b"/ HTTP").await.expect("fits");
        let mut bytes = [0; 10];
        watched.read_exact(&mut bytes).await.expect("reads");
        assert_eq!((&bytes, traffic.read()), (b"GET / HTTP", 10));

        let write = watched.write_all(&[b'x'; 40]);
        assert!(
            futures::future::poll_immediate(write).await.is_none(),
            "there is room for 16 bytes"
        );
        assert!(traffic.is_blocked());
        client.read_exact(&mut [0; 16]).await.expect("reads");
        watched.write_all(b"more").await.expect("fits");
        assert!(!traffic.is_blocked());
        assert_eq!(traffic.written(), 20);
        assert!(!traffic.is_http2());
        drop(watched);
        assert!(returned.borrow().is_some());
    }
}
