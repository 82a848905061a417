//! Ports without a route: bytes pass as they are, never looked at. Once the port has a route, such a connection is ended:
//! nothing goes on around a policy.

use std::rc::Rc;

use tokio::{io::copy_bidirectional, net::TcpStream};

use super::{serve::Connection, thread::Thread};

/// Passes bytes between the client and the application until either ends, or the port has a route.
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
        let mut app = match TcpStream::connect(connection.inbound.app).await {
            Ok(app) => app,
            Err(error) => {
                tracing::debug!(app = %connection.inbound.app, %error, "the application cannot be reached");
                return;
            }
        };
        if app.set_nodelay(true).is_ok() {
            // How either side ends is the other's to see.
            let _ = copy_bidirectional(&mut client, &mut app).await;
        }
    };
    tokio::select! {
        () = routed => {}
        () = copy => {}
    }
}
