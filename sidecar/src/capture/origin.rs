//! For which application a redirected connection was meant. The kernel is asked for the port only: the application is
//! always dialled at the pod's own address, so that no address a socket names is ever connected to, and a port bound to
//! loopback stays out of reach.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::OWN_PORTS;
use crate::cli::Inbound;

/// Why a connection to the capture port is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told by `name`
pub enum Refused {
    /// It was meant for a port of the sidecar: somebody dialled the capture port itself. Passing it on would loop.
    OwnPort,
    /// The kernel knows no destination: nothing redirected it.
    NotRedirected,
    /// The pod has no address of the connection's family.
    NoPodAddress,
}

impl Refused {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::OwnPort, Self::NotRedirected, Self::NoPodAddress];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OwnPort => "own-port",
            Self::NotRedirected => "not-redirected",
            Self::NoPodAddress => "no-pod-address",
        }
    }
}

/// Where the applications of this pod are.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    addresses: Vec<IpAddr>,
    ours: BTreeSet<u16>,
}

impl Origins {
    /// Of the pod's addresses, of which the first of a family counts, and the ports the sidecar listens on besides
    /// [`OWN_PORTS`].
    pub fn new(addresses: Vec<IpAddr>, listening: impl IntoIterator<Item = u16>) -> Self {
        Self {
            addresses,
            ours: OWN_PORTS.into_iter().chain(listening).collect(),
        }
    }

    /// The application that an accepted connection was meant for.
    pub fn of(&self, stream: &TcpStream, peer: IpAddr) -> Result<Inbound, Refused> {
        let socket = SockRef::from(stream);
        // An IPv4 connection to a socket of both families is asked about as one of IPv4.
        let destination = match peer.to_canonical() {
            IpAddr::V4(_) => socket.original_dst_v4(),
            IpAddr::V6(_) => socket.original_dst_v6(),
        };
        let destination = destination.ok().and_then(|address| address.as_socket());
        self.application(destination.ok_or(Refused::NotRedirected)?)
    }

    /// The application at a destination.
    fn application(&self, destination: SocketAddr) -> Result<Inbound, Refused> {
        if self.ours.contains(&destination.port()) {
            return Err(Refused::OwnPort);
        }
        let family = destination.ip().to_canonical().is_ipv4();
        let address = self
            .addresses
            .iter()
            .find(|address| address.is_ipv4() == family)
            .ok_or(Refused::NoPodAddress)?;
        let app = SocketAddr::new(*address, destination.port());
        Ok(Inbound { listen: app, app })
    }

    /// The application, where an endpoint of a Service is a captured port of this pod.
    pub fn own(&self, endpoint: SocketAddr) -> Option<Inbound> {
        let ours = self.ours.contains(&endpoint.port());
        (!ours && self.addresses.contains(&endpoint.ip())).then_some(Inbound {
            listen: endpoint,
            app: endpoint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> Origins {
        let addresses =
            ["10.1.2.3", "10.9.9.9", "fd00::3"].map(|ip| ip.parse().expect("an address"));
        Origins::new(addresses.into(), [15_100])
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_pods_own_address_is_dialled_whatever_the_socket_names() {
        for (destination, app) in [
            ("10.1.2.3:8080", "10.1.2.3:8080"),
            ("10.9.9.9:8080", "10.1.2.3:8080"),
            ("127.0.0.1:6379", "10.1.2.3:6379"),
            ("[::ffff:169.254.169.254]:80", "10.1.2.3:80"),
            ("[fd00::3]:8080", "[fd00::3]:8080"),
            ("[::1]:8080", "[fd00::3]:8080"),
        ] {
            let app = Inbound {
                listen: at(app),
                app: at(app),
            };
            assert_eq!(
                origins().application(at(destination)),
                Ok(app),
                "{destination}"
            );
        }
    }

    #[test]
    fn no_port_of_the_sidecar_is_an_application() {
        for port in OWN_PORTS.into_iter().chain([15_100]) {
            let endpoint = SocketAddr::from(([10, 1, 2, 3], port));
            assert_eq!(
                origins().application(endpoint),
                Err(Refused::OwnPort),
                "{port}"
            );
            assert_eq!(origins().own(endpoint), None, "{port}");
        }
    }

    #[test]
    fn a_family_the_pod_has_not_is_refused() {
        let only_v4 = Origins::new(vec![[10, 1, 2, 3].into()], []);
        assert_eq!(
            only_v4.application(at("[fd00::3]:80")),
            Err(Refused::NoPodAddress)
        );
    }

    #[test]
    fn an_endpoint_at_any_address_of_the_pod_is_its_own() {
        for own in ["10.1.2.3:80", "10.9.9.9:80", "[fd00::3]:80"] {
            assert_eq!(
                origins().own(at(own)).map(|inbound| inbound.app),
                Some(at(own))
            );
        }
        assert_eq!(origins().own(at("10.1.2.4:80")), None);
    }

    #[test]
    fn reasons_are_numbered_as_listed() {
        for (number, refused) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(refused as usize, number, "{}", refused.name());
        }
    }
}
