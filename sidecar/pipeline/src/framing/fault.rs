//! What a message on the wire can have wrong: the closed list, with the text of the access log and the refusal it means.

use crate::{Reject, RejectReason};

/// What is wrong with a message. Numbers are sections of RFC 9112 where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // told by `Fault::what`, one line each
pub enum Fault {
    BareLineFeed,
    BareCarriageReturn,
    ControlByte,
    RequestLine,
    Method,
    Connect,
    Version,
    TargetForm,
    TargetByte,
    AsteriskForm,
    FieldName,
    SpaceBeforeColon,
    NoColon,
    Folded,
    NoHost,
    ManyHosts,
    Host,
    HostDiffers,
    ManyLengths,
    Length,
    LengthAndCoding,
    Coding,
    CodingOfHttp10,
    ChunkSize,
    ChunkExtension,
    ChunkEnd,
    Trailer,
    LineTooLong,
    RequestLineTooLong,
    TooManyFields,
    HeadTooLong,
    TrailersTooLong,
    StatusLine,
    BodyForbidden,
    Unasked,
}

impl Fault {
    /// What is wrong, for the access log.
    pub const fn what(self) -> &'static str {
        match self {
            Self::BareLineFeed => "a line ends in LF without CR (2.2)",
            Self::BareCarriageReturn => "a CR without LF (2.2)",
            Self::ControlByte => "a control byte (RFC 9110 5.5)",
            Self::RequestLine => "the request line is malformed (3)",
            Self::Method => "the method is not a token of bounded size (3.1)",
            Self::Connect => "CONNECT and the authority form are for proxies (3.2.3)",
            Self::Version => "the version is not HTTP/1.0 or HTTP/1.1 (2.3)",
            Self::TargetForm => "the target has no form of 3.2",
            Self::TargetByte => "the target holds a byte that no URI has (3.2)",
            Self::AsteriskForm => "the asterisk form is for OPTIONS (3.2.4)",
            Self::FieldName => "a field name is not a token (5.1)",
            Self::SpaceBeforeColon => "a space between a field name and its colon (5.1)",
            Self::NoColon => "a field line without a colon (5)",
            Self::Folded => "a field line begins with a space: obs-fold (5.2)",
            Self::NoHost => "no Host (3.2)",
            Self::ManyHosts => "more than one Host (3.2)",
            Self::Host => "the authority is malformed (3.2)",
            Self::HostDiffers => "Host and the target's authority differ (3.2.2)",
            Self::ManyLengths => "more than one Content-Length (6.3)",
            Self::Length => "Content-Length is not a number (RFC 9110 8.6)",
            Self::LengthAndCoding => "Content-Length and Transfer-Encoding (6.1)",
            Self::Coding => "a Transfer-Encoding that is not exactly one chunked (6.1)",
            Self::CodingOfHttp10 => "a Transfer-Encoding in HTTP/1.0 (6.1)",
            Self::ChunkSize => "a chunk size is malformed (7.1)",
            Self::ChunkExtension => "a chunk extension (7.1.1)",
            Self::ChunkEnd => "a chunk does not end where its size says (7.1)",
            Self::Trailer => "a field that must not be a trailer (RFC 9110 6.5.1)",
            Self::LineTooLong => "a field line is too long",
            Self::RequestLineTooLong => "the request line is too long",
            Self::TooManyFields => "too many field lines",
            Self::HeadTooLong => "the head is too long",
            Self::TrailersTooLong => "the trailer section is too long",
            Self::StatusLine => "the status line is malformed (4)",
            Self::BodyForbidden => "a status that has no body announces one (6.3)",
            Self::Unasked => "bytes after the answer (9.2)",
        }
    }

    /// The refusal of a request that has it.
    pub fn reject(self) -> Reject {
        let reason = match self {
            Self::RequestLineTooLong => RejectReason::TargetTooLong,
            Self::LineTooLong | Self::TooManyFields | Self::HeadTooLong => {
                RejectReason::HeadersTooLarge
            }
            Self::TargetForm | Self::TargetByte | Self::AsteriskForm => RejectReason::BadTarget,
            _ => RejectReason::BadRequest,
        };
        Reject::new(reason).detail(self.what())
    }
}
