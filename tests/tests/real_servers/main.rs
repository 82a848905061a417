//! The tier over real servers: etcd, kube-apiserver, kube-controller-manager, redis-server. One module per concern;
//! this file lists them.

mod hpa;
mod install;
mod leader;
mod smoke;
mod sources;
mod status;
mod webhooks;
