//! The config stream: what each group must hold, the sessions that carry it to sidecars, and the table of who holds what.
//! It reads no resource and judges none: what is sent was decided by translation, to whom by identity.

pub mod balance;
pub mod listener;
pub mod metrics;
pub mod published;
pub mod server;
pub mod session;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod update;
mod whole;

pub use published::{Entry, Feed, Publication, Published, Snapshot};
pub use server::{Context, serve};
pub use table::{Live, Missing, Record, SessionTable, Why};
