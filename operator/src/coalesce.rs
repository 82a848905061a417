//! Leading-edge coalescing: an idle consumer gets the first item at once; what arrives while it works is collected, a
//! little longer when changes are many. No item waits longer than [`WINDOW`] ([`BUSY_WINDOW`] above [`BUSY`] changes in
//! the last second) after the consumer is free again.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// How much longer items are collected once some came while the consumer worked.
pub const WINDOW: Duration = Duration::from_millis(20);
/// The same when changes are many.
pub const BUSY_WINDOW: Duration = Duration::from_millis(100);
/// Changes a second above which they are many.
pub const BUSY: usize = 50;
/// Items of one batch at most.
const MAX_BATCH: usize = 4096;

/// A channel's receiving end that hands out batches.
pub struct Coalescer<T> {
    inbox: mpsc::Receiver<T>,
    /// Survives a cancelled [`Coalescer::next`].
    batch: Vec<T>,
    /// When the batch is to go out.
    due: Option<Instant>,
    /// A batch was handed out and not asked for the next one since.
    working: bool,
    /// Arrivals of the last second, at most one more than [`BUSY`].
    recent: VecDeque<Instant>,
}

impl<T> Coalescer<T> {
    /// Batches of what `inbox` receives.
    pub fn new(inbox: mpsc::Receiver<T>) -> Self {
        Self {
            inbox,
            batch: Vec::new(),
            due: None,
            working: false,
            recent: VecDeque::new(),
        }
    }

    /// The next batch, never empty; `None` when every sender is gone. Asking for it says that the former batch is done
    /// with: what has arrived by then came while the consumer worked. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<T>> {
        if std::mem::take(&mut self.working) {
            self.drain();
        }
        if self.batch.is_empty() {
            // Idle: the first change goes out at once, with what came along with it.
            let first = self.inbox.recv().await?;
            self.take(first);
            self.drain();
        } else {
            self.collect().await;
        }
        self.due = None;
        self.working = true;
        Some(std::mem::take(&mut self.batch))
    }

    /// Waits until the window is over, or the batch is full.
    async fn collect(&mut self) {
        let window = if self.recent.len() > BUSY {
            BUSY_WINDOW
        } else {
            WINDOW
        };
        let due = *self.due.get_or_insert_with(|| Instant::now() + window);
        while self.batch.len() < MAX_BATCH {
            match timeout_at(due, self.inbox.recv()).await {
                Ok(Some(item)) => self.take(item),
                Ok(None) | Err(_) => break,
            }
        }
    }

    fn drain(&mut self) {
        while self.batch.len() < MAX_BATCH
            && let Ok(item) = self.inbox.try_recv()
        {
            self.take(item);
        }
    }

    fn take(&mut self, item: T) {
        let now = Instant::now();
        self.recent.push_back(now);
        while self.recent.len() > BUSY + 1
            || self
                .recent
                .front()
                .is_some_and(|first| now.duration_since(*first) >= Duration::from_secs(1))
        {
            self.recent.pop_front();
        }
        self.batch.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> (mpsc::Sender<u32>, Coalescer<u32>) {
        let (sender, receiver) = mpsc::channel(1024);
        (sender, Coalescer::new(receiver))
    }

    /// The consumer asks, and nothing comes.
    async fn idle(coalescer: &mut Coalescer<u32>) {
        let nothing = tokio::time::timeout(Duration::from_millis(1), coalescer.next()).await;
        assert!(nothing.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_consumer_gets_the_first_change_at_once() {
        let (sender, mut coalescer) = channel();
        for n in 0..3 {
            idle(&mut coalescer).await;
            let start = Instant::now();
            sender.send(n).await.expect("open");
            assert_eq!(coalescer.next().await, Some(vec![n]));
            assert_eq!(start.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_one_runs_is_collected_for_20_ms_more() {
        let (sender, mut coalescer) = channel();
        sender.send(0).await.expect("open");
        assert_eq!(coalescer.next().await, Some(vec![0]));
        // The consumer works; two changes come; one more comes within the window, one after it.
        sender.send(1).await.expect("open");
        sender.send(2).await.expect("open");
        let later = sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            later.send(3).await.expect("open");
            tokio::time::sleep(Duration::from_millis(15)).await;
            later.send(4).await.expect("open");
        });
        let start = Instant::now();
        assert_eq!(coalescer.next().await, Some(vec![1, 2, 3]));
        assert_eq!(start.elapsed(), WINDOW);
        assert_eq!(coalescer.next().await, Some(vec![4]));
    }

    #[tokio::test(start_paused = true)]
    async fn above_50_changes_a_second_the_window_is_100_ms() {
        let (sender, mut coalescer) = channel();
        sender.send(0).await.expect("open");
        assert!(coalescer.next().await.is_some());
        for n in 1..=60 {
            sender.send(n).await.expect("open");
        }
        let start = Instant::now();
        assert_eq!(coalescer.next().await.map(|batch| batch.len()), Some(60));
        assert_eq!(start.elapsed(), BUSY_WINDOW);
        // A second later it is calm again.
        tokio::time::advance(Duration::from_secs(1)).await;
        idle(&mut coalescer).await;
        sender.send(61).await.expect("open");
        let start = Instant::now();
        assert_eq!(coalescer.next().await, Some(vec![61]));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_loses_nothing() {
        let (sender, mut coalescer) = channel();
        sender.send(0).await.expect("open");
        assert!(coalescer.next().await.is_some());
        sender.send(1).await.expect("open");
        let cancelled = tokio::time::timeout(Duration::from_millis(5), coalescer.next()).await;
        assert!(cancelled.is_err());
        assert_eq!(coalescer.next().await, Some(vec![1]));
        drop(sender);
        assert_eq!(coalescer.next().await, None);
    }
}
