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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        identity::{
            ca::{CA_LIFETIME_S, SERVER_LIFETIME_S},
            files::CaFiles,
        },
        state_dir::StateDir,
    };

    const NOW: i64 = 1_790_000_000;

    struct World {
        authority: Authority,
        files: CaFiles,
        state: Arc<StateDir>,
        _dir: tempfile::TempDir,
    }

    async fn world() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let state = Arc::new(StateDir::open(&dir.path().join("state")).expect("made"));
        let files = CaFiles::new(state.clone());
        assert!(
            load_or_make(&files, false, NOW)
                .await
                .expect("loads")
                .is_none(),
            "who may not write waits"
        );
        let material = load_or_make(&files, true, NOW).await.expect("made");
        let material = material.expect("there");
        World {
            authority: Authority::new(material, "operator", "x", NOW).expect("an authority"),
            files,
            state,
            _dir: dir,
        }
    }

    #[tokio::test]
    async fn material_is_made_once_and_kept() {
        let world = world().await;
        let again = load_or_make(&world.files, true, NOW).await.expect("loads");
        let (again, first) = (again.expect("there"), world.authority.material());
        assert!(again.same_as(&first));
        assert_eq!(again.hash_key.expose(), first.hash_key.expose());
        assert_eq!(*again.key_pem, *first.key_pem);
    }

    #[tokio::test]
    async fn a_rotation_on_request_keeps_the_former_root_and_the_hash_key() {
        let world = world().await;
        let before = world.authority.material();
        let mut roots = world.authority.roots();
        turn(&world.authority, &world.files, true, NOW)
            .await
            .expect("turned");
        assert!(!roots.has_changed().expect("open"), "nobody asked");

        world
            .state
            .write(Path::new("ca/rotate"), b"")
            .expect("asked");
        turn(&world.authority, &world.files, false, NOW)
            .await
            .expect("turned");
        assert!(
            !roots.has_changed().expect("open"),
            "not by one that may not write"
        );
        turn(&world.authority, &world.files, true, NOW)
            .await
            .expect("turned");
        let after = world.authority.material();
        let bundle = roots.borrow_and_update().clone();
        assert!(bundle.contains(before.certificate_pem.trim()));
        assert!(bundle.contains(after.certificate_pem.trim()));
        assert_eq!(after.hash_key.expose(), before.hash_key.expose());
        let file = world.state.read(Path::new("roots.pem")).expect("reads");
        assert_eq!(file.as_deref(), Some(bundle.as_bytes()));

        turn(&world.authority, &world.files, true, NOW)
            .await
            .expect("turned");
        assert!(!roots.has_changed().expect("open"), "once is enough");
    }

    #[tokio::test]
    async fn half_of_a_life_is_renewal_time_and_expired_roots_leave() {
        let world = world().await;
        let first = world.authority.material();
        let half = NOW + CA_LIFETIME_S / 2;
        turn(&world.authority, &world.files, true, half)
            .await
            .expect("turned");
        assert!(world.authority.material().same_as(&first), "not yet");
        turn(&world.authority, &world.files, true, half + 1)
            .await
            .expect("turned");
        let second = world.authority.material();
        assert!(second.roots_pem.contains(first.certificate_pem.trim()));
        let late = NOW + CA_LIFETIME_S + 60;
        turn(
            &world.authority,
            &world.files,
            true,
            late + CA_LIFETIME_S / 2,
        )
        .await
        .expect("turned");
        let third = world.authority.material();
        assert!(
            !third.roots_pem.contains(first.certificate_pem.trim()),
            "expired"
        );

        assert!(
            !world
                .authority
                .renew_server_certificate(late)
                .expect("checked")
        );
        let now_s = late + CA_LIFETIME_S / 2 + SERVER_LIFETIME_S / 2;
        assert!(
            world
                .authority
                .renew_server_certificate(now_s)
                .expect("renewed")
        );
    }

    #[tokio::test]
    async fn another_replicas_rotation_is_followed_and_lost_material_is_put_back() {
        let world = world().await;
        let next = world.authority.material().rotated(NOW).expect("rotated");
        world.files.save(&next).await.expect("saved");
        turn(&world.authority, &world.files, false, NOW)
            .await
            .expect("turned");
        assert!(world.authority.material().same_as(&next));

        world.state.remove(Path::new("ca/ca.key")).expect("removed");
        turn(&world.authority, &world.files, true, NOW)
            .await
            .expect("turned");
        let stored = world.files.load().await.expect("loads").expect("put back");
        assert!(stored.material.same_as(&next));
    }

    #[tokio::test]
    async fn material_of_two_cas_mixed_up_is_refused() {
        let world = world().await;
        let mut mixed = world.authority.material();
        mixed.certificate_pem = CaMaterial::generate(NOW).expect("a CA").certificate_pem;
        let error = world.authority.adopt(mixed, NOW).expect_err("refused");
        assert!(error.to_string().contains("another key"), "{error}");
    }
}
