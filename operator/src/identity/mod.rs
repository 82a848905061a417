//! Who a sidecar is: the operator's own certificate authority, and the two proofs, token and certificate, that yield one
//! [`Principal`]. Nothing a client says about itself is used; what a Principal may see is decided by `stream`.

pub mod ca;
pub mod files;
pub mod join;
pub mod principal;
pub mod replica;
pub mod rotation;
pub mod tls;
pub mod token;

pub use ca::{Authority, CaError, CaMaterial};
pub use principal::Principal;
pub use token::{TokenError, Tokens};
