//! gRPC-Web towards applications that speak gRPC: its messages are the same, its trailers are a last frame of the body,
//! and its text format is all of that in base64 (the gRPC-Web protocol's "Protocol differences vs gRPC over HTTP2").

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Frame;

/// The flag of the frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// How a client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As bytes.
    Binary,
    /// In base64.
    Text,
}

impl Format {
    /// Its media type, without a suffix.
    pub const fn media(self) -> &'static str {
        match self {
            Self::Binary => "application/grpc-web",
            Self::Text => "application/grpc-web-text",
        }
    }
}

/// The format of a request, by its media type.
pub fn format(headers: &HeaderMap) -> Option<Format> {
    let media = headers.get(CONTENT_TYPE)?.as_bytes();
    // The longer name first: the other is its beginning.
    [Format::Text, Format::Binary].into_iter().find(|format| {
        let rest = media.strip_prefix(format.media().as_bytes());
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// Makes the head of a call of gRPC of it.
pub fn to_grpc(headers: &mut HeaderMap, format: Format) {
    change(headers, format.media(), "application/grpc");
    headers.remove(CONTENT_LENGTH);
}

/// Makes the head of an answer in the format of it; whether it was one of gRPC. Any other answer stays as it is.
pub fn from_grpc(headers: &mut HeaderMap, format: Format) -> bool {
    let changed = change(headers, "application/grpc", format.media());
    if changed {
        headers.remove(CONTENT_LENGTH);
    }
    changed
}

/// Replaces a media type and keeps its suffix (`+proto`).
fn change(headers: &mut HeaderMap, from: &str, to: &str) -> bool {
    let media = headers
        .get(CONTENT_TYPE)
        .and_then(|media| media.to_str().ok());
    let changed = media
        .and_then(|media| media.strip_prefix(from))
        .filter(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
        .and_then(|rest| HeaderValue::try_from(format!("{to}{rest}")).ok());
    match changed {
        Some(changed) => headers.insert(CONTENT_TYPE, changed).is_some(),
        None => false,
    }
}

/// A frame of an answer as the client wants it.
pub fn answer(frame: Frame<Bytes>, format: Format) -> Frame<Bytes> {
    let bytes = match frame.into_data() {
        Ok(data) => data,
        Err(frame) => match frame.into_trailers() {
            Ok(trailers) => last(&trailers),
            Err(frame) => return frame,
        },
    };
    match format {
        Format::Binary => Frame::data(bytes),
        // Each piece by itself: a client may have to decode it before the next is there.
        Format::Text => Frame::data(STANDARD.encode(&bytes).into()),
    }
}

/// The last frame: the trailers as lines.
fn last(trailers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers {
        lines.put_slice(name.as_str().as_bytes());
        lines.put_slice(b": ");
        lines.put_slice(value.as_bytes());
        lines.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + lines.len());
    frame.put_u8(TRAILERS);
    // The engine's bound on a header section is far below what 32 bits hold.
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&lines);
    frame.freeze()
}

/// A request's text, which comes in pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Up to three characters of a group that is not whole.
    left: Vec<u8>,
}

/// Text that is no base64.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the body is not in base64, as application/grpc-web-text has it")]
pub struct NotBase64;

impl Decoder {
    /// The bytes of another piece, as far as they are whole.
    pub fn push(&mut self, piece: &[u8]) -> Result<Bytes, NotBase64> {
        self.left.extend_from_slice(piece);
        let whole = self.left.len() / 4 * 4;
        let mut bytes = Vec::with_capacity(whole / 4 * 3);
        // Group by group: a client may have padded each of its pieces.
        for group in self.left[..whole].chunks_exact(4) {
            STANDARD
                .decode_vec(group, &mut bytes)
                .map_err(|_| NotBase64)?;
        }
        self.left.drain(..whole);
        Ok(bytes.into())
    }

    /// The text is over.
    pub fn end(&self) -> Result<(), NotBase64> {
        self.left.is_empty().then_some(()).ok_or(NotBase64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(media: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("8"));
        headers
    }

    #[test]
    fn heads_keep_the_suffix_and_lose_the_length() {
        let mut headers = typed("application/grpc-web-text+proto");
        assert_eq!(format(&headers), Some(Format::Text));
        to_grpc(&mut headers, Format::Text);
        assert_eq!(headers[CONTENT_TYPE], "application/grpc+proto");
        assert!(!headers.contains_key(CONTENT_LENGTH));
        assert!(from_grpc(&mut headers, Format::Binary));
        assert_eq!(headers[CONTENT_TYPE], "application/grpc-web+proto");
        // An answer that is none of gRPC is not touched.
        let mut other = typed("text/html");
        assert!(!from_grpc(&mut other, Format::Binary));
        assert_eq!(other, typed("text/html"));
    }

    #[test]
    fn trailers_are_the_last_frame_of_the_body() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frame = answer(Frame::trailers(trailers.clone()), Format::Binary);
        let bytes = frame.into_data().expect("data");
        assert_eq!(&bytes[..], b"\x80\0\0\0\x10grpc-status: 0\r\n");
        let frame = answer(Frame::trailers(trailers), Format::Text);
        let text = frame.into_data().expect("data");
        assert_eq!(STANDARD.decode(&text).as_deref(), Ok(&bytes[..]));
        let data = answer(Frame::data(Bytes::from_static(b"abcd")), Format::Binary);
        assert_eq!(data.into_data().expect("data"), "abcd");
    }

    #[test]
    fn text_is_decoded_in_pieces_of_any_size() {
        // Two texts, each padded, one behind the other.
        let text = format!("{}{}", STANDARD.encode("hello"), STANDARD.encode("wo"));
        for size in 1..=text.len() {
            let mut decoder = Decoder::default();
            let mut bytes = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                bytes.extend(decoder.push(piece).expect("base64"));
            }
            assert_eq!((bytes.as_slice(), decoder.end()), (&b"hellowo"[..], Ok(())));
        }
        let mut cut = Decoder::default();
        assert_eq!(cut.push(b"aGVsb").as_deref(), Ok(&b"hel"[..]));
        assert_eq!(cut.end(), Err(NotBase64));
        assert_eq!(Decoder::default().push(b"a*=="), Err(NotBase64));
    }
}
