//! The tier over real servers: etcd, kube-apiserver, kube-controller-manager, redis-server. One module per concern;
//! this file lists them.

mod smoke;
mod webhooks;
