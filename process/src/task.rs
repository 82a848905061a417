//! Background tasks of which none may end: in the operator one that ends ends the process, so that no half-dead process
//! goes on looking alive.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::task::TaskTracker;

use crate::Shutdown;

/// The background tasks of a process.
#[derive(Debug, Clone)]
pub struct Tasks {
    shutdown: Shutdown,
    tracker: TaskTracker,
    /// Why shutdown began, where it was a task that ended.
    failure: Arc<OnceLock<String>>,
}

impl Tasks {
    /// No task yet; all of them end with `shutdown`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            tracker: TaskTracker::new(),
            failure: Arc::default(),
        }
    }

    /// The signal on which every task must end.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Runs `task`. Should it end, fail or panic before shutdown has begun, shutdown begins and [`Tasks::finish`]
    /// returns the reason.
    pub fn spawn_critical(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let this = self.clone();
        let running = tokio::spawn(task);
        self.tracker.spawn(async move {
            let ended = running.await;
            if this.shutdown.has_begun() {
                return;
            }
            let why = match ended {
                Ok(Ok(())) => "ended".to_owned(),
                Ok(Err(error)) => format!("failed: {error:#}"),
                Err(panic) => format!("panicked: {panic}"),
            };
            let why = format!("background task {name} {why}");
            tracing::error!(task = name, "{why}");
            // The first failure is the cause; later ones are its consequences.
            let _ = this.failure.set(why.clone());
            this.shutdown.begin(&why);
        });
    }

    /// Waits for shutdown, then until every task has ended, at most `grace`. The error is the task that ended first.
    pub async fn finish(&self, grace: Duration) -> anyhow::Result<()> {
        self.shutdown.begun().await;
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                grace_ms = grace.as_millis() as u64,
                tasks = self.tracker.len(),
                "tasks were still running at the end of the grace period"
            );
        }
        match self.failure.get() {
            Some(why) => Err(anyhow::anyhow!(why.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_task_that_ends_ends_the_process() {
        for panics in [false, true] {
            let tasks = Tasks::new(Shutdown::default());
            let shutdown = tasks.shutdown().clone();
            tasks.spawn_critical("patient", async move {
                shutdown.begun().await;
                Ok(())
            });
            tasks.spawn_critical("brief", async move {
                assert!(!panics, "on purpose");
                Ok(())
            });
            let error = tasks.finish(GRACE).await.expect_err("a task ended");
            assert!(error.to_string().contains("brief"), "{error}");
        }
    }

    #[tokio::test]
    async fn shutdown_lets_every_task_end_and_is_no_failure() {
        let tasks = Tasks::new(Shutdown::default());
        let shutdown = tasks.shutdown().clone();
        let (done, mut ended) = tokio::sync::oneshot::channel();
        tasks.spawn_critical("patient", async move {
            shutdown.begun().await;
            let _ = done.send(());
            Ok(())
        });
        tasks.shutdown().begin("test");
        tasks.finish(GRACE).await.expect("no failure");
        ended.try_recv().expect("finish waited for the task");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_costs_the_grace_period_only() {
        let tasks = Tasks::new(Shutdown::default());
        tasks.spawn_critical("stuck", std::future::pending());
        tasks.shutdown().begin("test");
        tasks.finish(GRACE).await.expect("no failure");
    }
}
