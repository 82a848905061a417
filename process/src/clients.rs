//! How many connections each client has, where one must not have them all. A client is an address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The clients of one listener. There are never more than there are connections.
#[derive(Debug, Clone)]
pub struct Clients {
    most: usize,
    connections: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub struct Place {
    clients: Clients,
    client: IpAddr,
}

impl Clients {
    /// Clients with at most so many connections each.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            connections: Arc::default(),
        }
    }

    /// A place for one more connection of `client`, where it may have one more. An IPv4 address is the same client
    /// however a socket writes it.
    pub fn admit(&self, client: IpAddr) -> Option<Place> {
        let client = client.to_canonical();
        let mut connections = self.lock();
        let count = connections.get(&client).copied().unwrap_or(0);
        if count >= self.most {
            return None;
        }
        connections.insert(client, count + 1);
        drop(connections);
        Some(Place {
            clients: self.clone(),
            client,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.clients.lock();
        match connections.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(connections.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_places_and_none_is_remembered() {
        let clients = Clients::new(2);
        let [a, b] = ["10.0.0.1", "fd00::1"].map(|text| text.parse().expect("an address"));
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("an address");
        let first = clients.admit(a).expect("a place");
        let second = clients.admit(mapped).expect("a place");
        assert!(clients.admit(a).is_none() && clients.admit(mapped).is_none());
        let other = clients.admit(b).expect("a place");
        drop(first);
        let third = clients.admit(a).expect("it came back");
        drop((second, third, other));
        assert!(clients.lock().is_empty());
    }
}
