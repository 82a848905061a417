//! The data plane over real sockets: raw clients, two data threads, a strict origin, on loopback. Nothing is mocked but
//! the operator: a test installs its snapshot itself.

mod cache;
mod client;
mod exchange;
mod extras;
mod forwarding;
mod grpc;
mod interim;
mod lifecycle;
mod origin;
mod own_app;
mod phases;
mod rig;
mod routing;
mod shards;
mod signed;
mod streams;
mod upgrade;
mod upstream;
