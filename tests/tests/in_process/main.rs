//! The tier without a cluster: the product's programs on addresses of their own, fed from files. One module per
//! concern; this file lists them.

mod backend_tls;
mod broken;
mod capture;
mod changes;
mod clients;
mod connections;
mod drain;
mod edge;
mod edge_routes;
mod explain;
mod global_limit;
mod hops;
mod house;
mod identities;
mod manifests;
mod many_routes;
mod moves;
mod operator_away;
mod place;
mod probes;
mod protocol;
mod real_clients;
mod reasons;
mod sidecar_too_old;
mod store_away;
mod supervise;
mod times;
