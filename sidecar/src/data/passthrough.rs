//! Ports without a route: bytes pass as they are, never looked at. Once the port has a route, such a connection is ended:
//! nothing goes on around a policy.

use std::{net::SocketAddr, rc::Rc};

use tokio::{io::copy_bidirectional, net::TcpStream};

use super::{knock::Knock, serve::Connection, thread::Thread};

/// Passes bytes between the client and the application until both have ended, or the port has a route.
pub async fn pass(thread: Rc<Thread>, connection: Rc<Connection>, mut client: TcpStream) {
    let mut changes = thread.shared.live.subscribe();
    let port = connection.inbound.listen.port();
    let routed = async {
        while thread.shared.live.peek().program.table(port).is_none() {
            if changes.changed().await.is_err() {
                // Nothing can change any more: the process is ending.
                std::future::pending::<()>().await;
            }
        }
    };
    let copy = async {
        let Some(mut app) = connect(&thread, connection.inbound.app).await else {
            return;
        };
        // How either side ends is the other's to see; an end of one direction is passed on and leaves the other open.
        let _ = copy_bidirectional(&mut client, &mut app).await;
    };
    let _passing = thread.tally.passing();
    tokio::select! {
        () = routed => {}
        () = copy => {}
    }
}

/// The application, for which a client waits that sends nothing before the application does.
async fn connect(thread: &Thread, app: SocketAddr) -> Option<TcpStream> {
    let mut knock = Knock::until(u64::MAX);
    loop {
        match TcpStream::connect(app).await {
            Ok(stream) => {
                thread.reached(app);
                return stream.set_nodelay(true).ok().map(|()| stream);
            }
            Err(error) => {
                if !knock.again(thread, &error).await {
                    tracing::debug!(%app, %error, "the application cannot be reached");
                    return None;
                }
            }
        }
    }
}
