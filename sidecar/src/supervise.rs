//! Tasks of the control thread that must not end: one that panics is started again, with backoff, and counted. Requests
//! go on being served meanwhile.

use std::time::Duration;

use prometheus::IntCounter;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_local},
};

/// Messages that wait between the queue and the task.
const IN_BETWEEN: usize = 1024;
/// The first wait before a restart; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Runs the task that `start` makes of a queue, and makes another one each time it panics. What it has not taken from its
/// queue then is dropped, and whoever sent it sees that. Ends when the task ends by itself.
pub async fn keep<T, F>(
    name: &str,
    restarts: IntCounter,
    mut queue: mpsc::Receiver<T>,
    start: impl Fn(mpsc::Receiver<T>) -> F,
) -> F::Output
where
    F: Future + 'static,
    F::Output: 'static,
{
    let mut wait = FIRST_WAIT;
    loop {
        let (forward, inner) = mpsc::channel(IN_BETWEEN);
        let mut task: JoinHandle<F::Output> = spawn_local(start(inner));
        let ended = loop {
            tokio::select! {
                ended = &mut task => break ended,
                // A message that finds no room is dropped, which its sender sees; the queue never stands.
                Some(message) = queue.recv() => drop(forward.try_send(message)),
            }
        };
        match ended {
            Ok(output) => return output,
            Err(error) => {
                restarts.inc();
                tracing::error!(task = name, %error, restart_in_ms = wait.as_millis(), "a control task panicked");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_and_gets_the_next_message() {
        let restarts = IntCounter::new("restarts", "restarts").expect("a name");
        let (send, queue) = mpsc::channel(8);
        let sum = Rc::new(Cell::new(0));
        let local = tokio::task::LocalSet::new();
        let kept = local.run_until(async {
            let total = Rc::clone(&sum);
            let kept = keep(
                "test",
                restarts.clone(),
                queue,
                move |mut queue: mpsc::Receiver<u32>| {
                    let total = Rc::clone(&total);
                    async move {
                        while let Some(number) = queue.recv().await {
                            assert_ne!(number, 13, "on purpose");
                            if number == 0 {
                                break;
                            }
                            total.set(total.get() + number);
                        }
                        "ended"
                    }
                },
            );
            let feed = async {
                for (number, panics) in [(1, 0), (13, 1), (2, 1), (13, 2), (4, 2), (0, 2)] {
                    send.send(number).await.expect("taken");
                    while restarts.get() < panics {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            };
            tokio::join!(kept, feed).0
        });
        assert_eq!(kept.await, "ended");
        assert_eq!((sum.get(), restarts.get()), (7, 2));
    }
}
