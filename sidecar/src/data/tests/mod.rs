//! The data plane over real sockets: clients, sidecar threads and a strict origin, on loopback.
