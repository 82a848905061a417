//! Sources: what fills the engine's world. Each has an [`Inlet`], delivers a first list, says that it is complete, and
//! then delivers changes. A source that cannot read publishes nothing: what is missing is only what was seen to be gone.

pub mod directory;
mod files;
mod generations;
pub mod kubernetes;
mod scanner;

pub use crate::engine::Inlet;
pub use directory::Directory;
pub use kubernetes::Kubernetes;
