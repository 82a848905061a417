//! Connections to the port of hops: TLS 1.3 with a certificate of the own trust domain, or nothing. The server name says
//! which port of the pod a connection is for, so that all its requests meet that port's route.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::Bytes;
use sluice_pipeline::hop::Peer;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::credentials;
use crate::{
    data::{
        connection::{ConnectionPlace, last_words::ClientStream},
        edge::Door,
        serve,
        thread::Thread,
    },
    metrics::Closing,
};

/// How the server name of a hop ends; its beginning is the port.
const SUFFIX: &str = ".hop.sluice";

/// The server name of a hop to a port.
pub fn server_name(port: u16) -> String {
    format!("p{port}{SUFFIX}")
}

fn port(server_name: &str) -> Option<u16> {
    let digits = server_name.strip_suffix(SUFFIX)?.strip_prefix('p')?;
    digits.parse().ok()
}

/// Serves one connection, if it is one of ours.
pub async fn serve(
    thread: Rc<Thread>,
    stream: TcpStream,
    peer: SocketAddr,
    place: ConnectionPlace,
    door: Arc<Door>,
) {
    let deadline_ms = thread.clock().now_ms() + thread.limits.head_ms;
    let secured = Box::pin(secured(&thread, stream, &door));
    let (stream, port, from) = match thread.ticker.within(deadline_ms, secured).await {
        Ok(Ok(secured)) => secured,
        Ok(Err(reason)) => {
            tracing::debug!(%peer, reason, "a hop is refused");
            return;
        }
        Err(_) => return thread.tally.closings.count(Closing::HeadTimeout),
    };
    let local = stream.get_ref().0.local_addr().map(|local| local.ip());
    let inbound = local
        .ok()
        .and_then(|ip| thread.own(SocketAddr::new(ip.to_canonical(), port)));
    let Some(inbound) = inbound else {
        tracing::debug!(%peer, port, "a hop is for a port that is not served here");
        return;
    };
    let connection = thread.connect(peer, inbound, place);
    let _ = connection.hop.set(from);
    serve::serve_http(thread, connection, stream, Bytes::new()).await;
}

async fn secured(
    thread: &Thread,
    stream: TcpStream,
    door: &Door,
) -> Result<(TlsStream<TcpStream>, u16, Peer), String> {
    let _place = door.handshake().ok_or("too many handshakes")?;
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let credentials = thread.shared.credentials.load_full();
    let credentials = credentials.ok_or("this sidecar has no certificate yet")?;
    let acceptor = TlsAcceptor::from(Arc::clone(&credentials.server));
    let stream = acceptor.accept(stream).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let session = stream.get_ref().1;
    let from = session
        .peer_certificates()
        .and_then(|chain| credentials::peer(chain.first()?));
    let from = from.filter(|from| from.trust_domain == credentials.own.trust_domain);
    let from = from.ok_or("the certificate is of no pod of this trust domain")?;
    let port = session.server_name().and_then(port);
    let port = port.ok_or("the server name tells no port")?;
    Ok((stream, port, from))
}

impl ClientStream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_tells_its_port() {
        for number in [0, 80, 65_535] {
            assert_eq!(port(&server_name(number)), Some(number));
        }
        for bad in [
            "p65536.hop.sluice",
            "80.hop.sluice",
            "p80",
            "p80.hop.sluice.example",
        ] {
            assert_eq!(port(bad), None, "{bad}");
        }
    }
}
