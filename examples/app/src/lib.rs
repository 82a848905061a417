//! The sample application of the quickstart and of the tests: an HTTP server that answers with what it
//! was asked. It knows nothing of Sluice and must enforce nothing: what a policy did shows in what it
//! was, or was not, asked.

mod answer;
mod args;
mod greet;
mod health;
mod serve;
mod wish;

pub use args::Args;
pub use serve::run;
