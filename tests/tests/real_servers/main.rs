//! The tier over real servers: etcd, kube-apiserver, kube-controller-manager, redis-server. One module per concern;
//! this file lists them.

mod broken;
mod changes;
mod charts;
mod cli;
mod edges;
mod explain;
mod gateways;
mod gitops;
mod hpa;
mod identity;
mod install;
mod keda;
mod leader;
mod many_routes;
mod metrics_api;
mod moves;
mod order;
mod quickstart;
mod replicas;
mod scaling;
mod shop;
mod smoke;
mod sources;
mod status;
mod webhooks;
