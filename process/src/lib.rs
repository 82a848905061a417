//! What every binary needs: log, clock, readiness, shutdown, critical tasks, build info and the small HTTP listener for
//! health, metrics and debug pages. It knows nothing of Kubernetes, of units or of requests.

pub mod build;
pub mod clients;
pub mod clock;
pub mod log;
pub mod pages;
pub mod readiness;
pub mod shutdown;
pub mod task;

pub use clock::Clock;
pub use pages::{Page, Pages};
pub use readiness::{Condition, Readiness};
pub use shutdown::Shutdown;
pub use task::Tasks;
