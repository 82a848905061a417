//! Wiring of what scaling is told: the custom metrics API with its registration, and KEDA's external scaler. Every replica
//! serves both.

use kube::Client;
use tokio::sync::watch;

use super::{Core, bind};
use crate::{
    cli::Args,
    leader::Leadership,
    load::Loads,
    scaling::{
        MetricsApi, MetricsApiWatch, api_service, external,
        metrics_api::{self, MetricsServer, access::Reviews, front_proxy, listener},
        pods::Pods,
    },
};

/// Starts what the flags ask for. The answer is who serves the metrics API; unknown for ever where no flag asks for it.
pub(super) async fn start(
    args: &Args,
    client: &Client,
    core: &Core,
    leadership: &Leadership,
) -> anyhow::Result<MetricsApiWatch> {
    let (state, known) = watch::channel(MetricsApi::default());
    let pods = Pods::new(core.engine.clone(), Loads::new(core.table.clone()));
    let shutdown = core.tasks.shutdown().clone();
    if let Some(address) = args.external_scaler {
        let bound = bind(address, "--external-scaler").await?;
        let serving = external::serve(bound, pods.clone(), shutdown.clone());
        core.tasks.spawn_critical("external scaler", serving);
    }
    match args.metrics_api {
        Some(address) => {
            let bound = bind(address, "--metrics-api").await?;
            let (learned, proxy) = watch::channel(None);
            let follow = front_proxy::follow(client.clone(), learned, shutdown.clone());
            core.tasks.spawn_critical("front proxy", follow);
            let server = MetricsServer::new(
                pods,
                Reviews::new(client.clone()),
                metrics_api::Metrics::register(&core.registry)?,
            );
            let routes = metrics_api::routes(server);
            let listens = bound.local_addr()?;
            let serving = listener::serve(
                bound,
                core.authority.clone(),
                proxy,
                routes,
                shutdown.clone(),
            );
            core.tasks.spawn_critical("metrics API", serving);
            let wiring = api_service::Wiring {
                client: client.clone(),
                engine: core.engine.clone(),
                leadership: leadership.clone(),
                roots: core.authority.roots(),
                server_name: args.operator_name.clone(),
                namespace: args.namespace.clone(),
                listens,
                mode: args.metrics_api_service,
                state,
                metrics: api_service::Metrics::register(&core.registry)?,
            };
            let keep = api_service::keep(wiring, shutdown);
            core.tasks.spawn_critical("APIService", keep);
        }
        // Somebody must hold the sender, or the receiver takes its end for news.
        None => core.tasks.spawn_critical("APIService", async move {
            shutdown.begun().await;
            drop(state);
            Ok(())
        }),
    }
    Ok(known)
}
