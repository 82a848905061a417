//! The fixture: starts real servers for one test, in a network namespace of its own, and stops them.
//!
//! A test is `#[test] fn name() { isolated!(async |world| { ... Ok(()) }) }`. Everything it starts takes the [`World`],
//! logs into it, and is stopped when its handle is dropped. No mock of a server that can be started lives here, and
//! nothing that knows what the product should answer: that is for the tests.
//!
//! | module | holds |
//! |---|---|
//! | [`isolate`] | the test binary started again inside fresh namespaces, bounded in time |
//! | [`world`] | the addresses and the folder of one test |
//! | [`process`] | a started program: signals, logs, death on drop |
//! | [`wait`] | `eventually`: polling in place of sleeping |
//! | [`cluster`] | etcd, kube-apiserver, kube-controller-manager, kubectl, stand-in pods |
//! | [`redis`] | redis-server |
//! | [`product`] | operator, sidecar, sample app, and where cargo put them |
//! | [`http`], [`load`] | requests one by one, and at a constant rate |
//! | [`signature`], [`jwt`] | what a client presents: RFC 9421 signatures, tokens |
//! | [`pki`] | certificate authorities and certificates |

pub mod cluster;
pub mod http;
pub mod isolate;
pub mod jwt;
pub mod load;
pub mod pki;
pub mod process;
pub mod product;
pub mod redis;
pub mod signature;
pub mod tls;
pub mod wait;
pub mod world;

pub use self::http::{Answer, Client, With, get, post, request};
pub use self::redis::Redis;
pub use cluster::{Cluster, StandInPod};
pub use load::Load;
pub use process::Running;
pub use product::{App, Operator, Sidecar};
pub use wait::{eventually, seconds};
pub use world::World;
