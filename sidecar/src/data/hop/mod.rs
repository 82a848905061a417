//! Hops: requests that edges and sidecars of the own trust domain forward to this sidecar, and those that this one forwards
//! to another. What is asserted and who is believed is the pipeline's; here is how it travels.
//!
//! | file | what |
//! |---|---|
//! | [`credentials`] | the certificate, key and roots of the stream, as TLS wants them |
//! | [`server`] | connections to the port of hops |
//! | [`client`] | pooled connections to others' |
//! | [`way`] | a request's part: what arrives is read, what leaves is written |

pub mod client;
pub mod credentials;
pub mod server;
pub mod way;
