//! Capture: how a pod's inbound TCP connections come to the sidecar without the application or its clients knowing.
//!
//! | module | holds |
//! |---|---|
//! | [`step`] | the init step `sluice-sidecar capture`: writes the rules, reads them back, removes them |
//! | `ruleset` | the rules as nft syntax and as netlink messages |
//! | `netlink` | attributes, messages and the socket of nf_tables |
//! | [`origin`] | for which application a redirected connection was meant |
//!
//! What happens to a connection afterwards is the data threads' affair.

mod netlink;
pub mod origin;
mod ruleset;
pub mod step;

/// Ports of the sidecar: debug endpoint, captured connections, hops of other sidecars, pages and probes. They are never
/// redirected, and never taken for a port of the application.
pub const OWN_PORTS: [u16; 4] = [15_000, CAPTURE_PORT, 15_008, 15_020];

/// Where redirected connections arrive unless told otherwise.
pub const CAPTURE_PORT: u16 = 15_006;
