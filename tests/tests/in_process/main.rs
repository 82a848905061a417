//! The tier without a cluster: the product's programs on addresses of their own, fed from files. One module per
//! concern; this file lists them.

mod broken;
mod changes;
mod clients;
mod global_limit;
mod house;
mod identities;
mod manifests;
mod moves;
mod operator_away;
mod place;
mod reasons;
mod store_away;
