//! Reads the header of the PROXY protocol off a connection, where the platform expects one. What the bytes mean is
//! [`sluice_pipeline::proxy_protocol`]'s; where nothing is expected nothing is read.

use std::{io, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use sluice_pipeline::proxy_protocol::{self, MAX_BYTES, Malformed, Origin, Progress};
use sluice_snapshot::unit::settings::ProxyProtocol;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::metrics::Closing;

/// Whom a connection is from, and what was read of the client's own bytes on the way.
#[derive(Debug, PartialEq, Eq)]
pub struct Introduced {
    /// The client.
    pub peer: SocketAddr,
    /// The client's first bytes.
    pub rest: Bytes,
}

/// A connection that does not begin as it should.
#[derive(Debug, thiserror::Error)]
pub enum IntroductionError {
    /// No header where one is required.
    #[error("no header of the PROXY protocol; does the load balancer in front send one?")]
    Missing,
    /// A header that is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The connection ended before.
    #[error("the connection ended in its first bytes: {0}")]
    Ended(#[from] io::Error),
}

impl IntroductionError {
    /// As what the connection's end is counted; none: the client itself ended it.
    pub fn closing(&self) -> Option<Closing> {
        match self {
            Self::Missing => Some(Closing::ProxyHeaderMissing),
            Self::Malformed(_) => Some(Closing::ProxyHeaderMalformed),
            Self::Ended(_) => None,
        }
    }
}

/// Reads as much as it takes to know whom a connection that `peer` made is from. How long that may take is the caller's.
pub async fn introduce(
    expected: ProxyProtocol,
    peer: SocketAddr,
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Introduced, IntroductionError> {
    let mut bytes = BytesMut::new();
    let required = match expected {
        ProxyProtocol::Disabled => {
            let rest = Bytes::new();
            return Ok(Introduced { peer, rest });
        }
        ProxyProtocol::Optional => false,
        ProxyProtocol::Required => true,
    };
    loop {
        match proxy_protocol::parse(&bytes)? {
            Progress::More => {
                bytes.reserve(MAX_BYTES);
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Err(IntroductionError::Ended(
                        io::ErrorKind::UnexpectedEof.into(),
                    ));
                }
            }
            Progress::Absent if required => return Err(IntroductionError::Missing),
            Progress::Absent => {
                let rest = bytes.freeze();
                return Ok(Introduced { peer, rest });
            }
            Progress::Whole { from, length } => {
                let peer = match from {
                    Origin::Itself => peer,
                    Origin::Client(client) => client,
                };
                // What follows is usually nothing yet: not worth the whole buffer.
                let rest = Bytes::copy_from_slice(&bytes[length..]);
                return Ok(Introduced { peer, rest });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    const LINE: &str = "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";

    async fn of(
        expected: ProxyProtocol,
        pieces: &[&str],
    ) -> Result<(String, Bytes), IntroductionError> {
        let (mut client, mut server) = duplex(4096);
        let pieces: Vec<String> = pieces.iter().map(ToString::to_string).collect();
        let writing = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(piece.as_bytes()).await.expect("fits");
                tokio::task::yield_now().await;
            }
            // Kept open: what was not asked for is not waited for.
            client
        });
        let peer = "203.0.113.7:9".parse().expect("an address");
        let introduced = introduce(expected, peer, &mut server).await;
        writing.await.expect("no panic");
        introduced.map(|Introduced { peer, rest }| (peer.to_string(), rest))
    }

    #[tokio::test]
    async fn the_header_names_the_client_and_nothing_of_the_rest_is_lost() {
        for expected in [ProxyProtocol::Optional, ProxyProtocol::Required] {
            let pieces = [&LINE[..3], &LINE[3..20], &[&LINE[20..], "GET"].concat()];
            let (peer, rest) = of(expected, &pieces).await.expect("a header");
            assert_eq!((peer.as_str(), &rest[..]), ("192.0.2.1:56324", &b"GET"[..]));
        }
        let (peer, rest) = of(ProxyProtocol::Required, &["PROXY UNKNOWN\r\n"])
            .await
            .expect("a header");
        assert_eq!((peer.as_str(), rest.len()), ("203.0.113.7:9", 0));
    }

    #[tokio::test]
    async fn without_a_header_only_what_is_optional_goes_on() {
        let (peer, rest) = of(ProxyProtocol::Optional, &["P", "OST / H"])
            .await
            .expect("goes on");
        assert_eq!(
            (peer.as_str(), &rest[..]),
            ("203.0.113.7:9", &b"POST / H"[..])
        );
        let missing = of(ProxyProtocol::Required, &["GET / HTTP/1.1\r\n"]).await;
        assert!(matches!(missing, Err(IntroductionError::Missing)));
        for expected in [ProxyProtocol::Optional, ProxyProtocol::Required] {
            let bad = of(expected, &["PROXY TCP4 me you 1 2\r\n"]).await;
            assert!(matches!(bad, Err(IntroductionError::Malformed(_))));
        }
        let (_, rest) = of(ProxyProtocol::Disabled, &[LINE]).await.expect("unread");
        assert!(rest.is_empty());
    }
}
