//! The tier on a real cluster: kubelet, kube-proxy, injected pods, captured traffic. One module and one YAML per concern;
//! this file lists them. `make e2e` runs it; KUBECONFIG chooses another cluster.

mod cpu_limit;
mod gateway;
mod gitops;
mod hpa;
mod latency;
mod lifecycle;
mod outage;
mod quickstart;
mod rollout;
mod uninstall;
