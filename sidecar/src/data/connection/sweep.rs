//! The look at all connections of a data thread, a few times a second while there are any. What it finds is acted on by the
//! connections' own tasks.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    time::Duration,
};

use sluice_process::Clock;
use tokio::sync::Notify;

use super::{Connection, ConnectionLimits};

/// Control frames of HTTP/2 that a second explains: keep-alives, and clients that change their mind.
const FRAMES_PER_SECOND: u64 = 100;

/// The connections of one data thread.
#[derive(Debug, Default)]
pub struct Sweep {
    connections: RefCell<Vec<Weak<Connection>>>,
    arrived: Notify,
}

impl Sweep {
    /// A connection that is looked at for as long as it lives.
    pub fn add(&self, connection: &Rc<Connection>) {
        let mut connections = self.connections.borrow_mut();
        connections.push(Rc::downgrade(connection));
        if connections.len() == 1 {
            self.arrived.notify_one();
        }
    }

    /// Looks for as long as the thread lives.
    pub async fn run(&self, clock: Clock, limits: &ConnectionLimits) {
        let every_ms = limits.look_every_ms();
        let explained = (FRAMES_PER_SECOND * every_ms).div_ceil(1000);
        loop {
            if self.connections.borrow().is_empty() {
                self.arrived.notified().await;
            }
            tokio::time::sleep(Duration::from_millis(every_ms)).await;
            let now_ms = clock.now_ms();
            self.connections.borrow_mut().retain(|connection| {
                let connection = connection.upgrade();
                if let Some(connection) = &connection {
                    connection.traffic.explain(explained);
                    connection.look(now_ms, limits);
                }
                connection.is_some()
            });
        }
    }
}
