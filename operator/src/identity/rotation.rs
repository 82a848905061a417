//! Keeping the authority fresh: loads or makes its material, follows the store (another replica may have rotated),
//! rotates the CA at half of its life or on request, renews the server certificate.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use sluice_process::{Clock, Shutdown};

use super::ca::{Authority, CaMaterial};

/// How often the store is looked at.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// What a store holds.
#[derive(Debug)]
pub struct Stored {
    /// The material.
    pub material: CaMaterial,
    /// Whether somebody asked for a rotation since it was saved.
    pub rotation_requested: bool,
}

/// Where CA material is kept: the Secret `sluice-ca`, or the state directory.
pub trait CaStore: Send + Sync + 'static {
    /// What it holds; `None` where nothing was made yet.
    fn load(&self) -> BoxFuture<'_, anyhow::Result<Option<Stored>>>;

    /// Replaces what it holds, and clears a request for rotation. Two writers must not both succeed in creating it: the
    /// loser gets an error and loads again.
    fn save<'a>(&'a self, material: &'a CaMaterial) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// The material of `store`, made first where there is none and `may_write` says that this replica makes it. `None`:
/// another replica has to make it first.
pub async fn load_or_make(
    store: &dyn CaStore,
    may_write: bool,
    now_s: i64,
) -> anyhow::Result<Option<CaMaterial>> {
    if let Some(stored) = store.load().await? {
        return Ok(Some(stored.material));
    }
    if !may_write {
        return Ok(None);
    }
    store.save(&CaMaterial::generate(now_s)?).await?;
    // Read back: what counts is what the store holds.
    Ok(store.load().await?.map(|stored| stored.material))
}

/// Tends `authority` until shutdown. `may_write` says whether this replica leads at that moment. Errors are logged and
/// tried again: what is in force stays in force.
pub async fn tend(
    authority: Arc<Authority>,
    store: Arc<dyn CaStore>,
    may_write: impl Fn() -> bool + Send + 'static,
    clock: Clock,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = ticks.tick() => {}
        }
        if let Err(error) = turn(&authority, store.as_ref(), may_write(), clock.wall_s()).await {
            tracing::error!(error = format!("{error:#}"), "certificate authority");
        }
    }
}

/// One look: follows, rotates, renews.
pub async fn turn(
    authority: &Authority,
    store: &dyn CaStore,
    may_write: bool,
    now_s: i64,
) -> anyhow::Result<()> {
    if authority.renew_server_certificate(now_s)? {
        tracing::info!("server certificate renewed");
    }
    let Some(stored) = store.load().await? else {
        // Somebody removed it. What is in force goes on; it is put back, or every sidecar would lose its root.
        if may_write {
            store.save(&authority.material()).await?;
            tracing::warn!("CA material was gone from its store; put back");
        }
        return Ok(());
    };
    if !stored.material.same_as(&authority.material()) {
        authority.adopt(stored.material.clone(), now_s)?;
        tracing::info!("CA of the store adopted");
    }
    if may_write && (stored.rotation_requested || stored.material.is_due(now_s)?) {
        let next = stored.material.rotated(now_s)?;
        store.save(&next).await?;
        authority.adopt(next, now_s)?;
        tracing::info!(
            requested = stored.rotation_requested,
            "CA rotated; the former root stays trusted until it expires"
        );
    }
    Ok(())
}
