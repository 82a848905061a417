//! How many connections are open: in all data threads, and in one. Taking a place is one atomic addition a connection; no
//! request touches it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The open connections of all data threads.
#[derive(Debug, Default)]
pub struct OpenConnections(AtomicUsize);

impl OpenConnections {
    /// How many.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub struct ConnectionPlace {
    all: Arc<OpenConnections>,
    thread: Arc<OpenConnections>,
}

impl ConnectionPlace {
    /// A place, where one is left among `max` of all threads and `max_per_thread` of this one.
    pub fn take(
        all: &Arc<OpenConnections>,
        thread: &Arc<OpenConnections>,
        max: usize,
        max_per_thread: usize,
    ) -> Option<Self> {
        let place = Self {
            all: Arc::clone(all),
            thread: Arc::clone(thread),
        };
        // Taken first and looked at then: two threads that take the last place at once cannot both have it.
        let all = all.0.fetch_add(1, Ordering::Relaxed);
        let thread = thread.0.fetch_add(1, Ordering::Relaxed);
        (all < max && thread < max_per_thread).then_some(place)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.all.0.fetch_sub(1, Ordering::Relaxed);
        self.thread.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_of_all_threads_and_of_one_and_come_back() {
        let all = Arc::<OpenConnections>::default();
        let threads = [(); 2].map(|()| Arc::<OpenConnections>::default());
        let take = |thread: usize| ConnectionPlace::take(&all, &threads[thread], 3, 2);
        let held = [take(0), take(0), take(1)];
        assert!(held.iter().all(Option::is_some));
        assert!(take(1).is_none(), "three of all");
        assert_eq!(all.count(), 3, "a refusal takes nothing");
        drop(held);
        let held = [take(0), take(0)];
        assert!(held.iter().all(Option::is_some));
        assert!(take(0).is_none(), "two of one thread");
        assert!(take(1).is_some());
        drop(held);
        assert_eq!((all.count(), threads[0].count()), (0, 0));
    }
}
