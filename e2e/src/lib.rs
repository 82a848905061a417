//! The fixture of the tests on a real cluster: a namespace per test, the installed product, and a client pod that sends
//! requests from inside. What the product should answer is the tests'.
//!
//! | module | holds |
//! |---|---|
//! | [`place`] | one test: its namespace, kubectl in it, what is printed when it fails |
//! | [`product`] | the charts, installed once per run with helm |
//! | [`client`] | the client pod as seen by a test |
//! | [`wire`] | what a test and its client pod say to each other |
//! | [`calls`] | the client's side: what runs inside the pod |
//! | [`processes`] | the client's side: other processes of its pod |
//! | [`latency`] | the client's side: from a patch of the API server to the last pod's answer |

pub mod calls;
pub mod client;
pub mod latency;
pub mod place;
pub mod processes;
pub mod product;
pub mod wire;

pub use client::ClientPod;
pub use place::Place;
pub use sluice_tests::{eventually, seconds};
