//! The tier without a cluster: the product's programs on addresses of their own, fed from files. One module per
//! concern; this file lists them.

mod broken;
mod capture;
mod changes;
mod clients;
mod drain;
mod global_limit;
mod house;
mod identities;
mod manifests;
mod moves;
mod operator_away;
mod place;
mod probes;
mod protocol;
mod reasons;
mod real_clients;
mod sidecar_too_old;
mod store_away;
mod supervise;
mod times;
