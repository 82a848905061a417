//! Deadlines without a timer per request: each data thread has one ticker, which sleeps until the earliest deadline it
//! knows and looks at all of them then. A deadline may be noticed up to one tick late, never early.

use std::{
    borrow::Borrow,
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use sluice_process::Clock;
use tokio::sync::Notify;

/// The least time between two looks: how late a deadline may be noticed.
const TICK: Duration = Duration::from_millis(10);

/// `ms` after `from_ms`; zero is no bound (GEP-1742).
pub fn after(from_ms: u64, ms: u64) -> u64 {
    match ms {
        0 => u64::MAX,
        ms => from_ms.saturating_add(ms),
    }
}

/// A deadline that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// The ticker of one data thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ticker(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    entries: RefCell<Entries>,
    /// When the ticker will look next, in monotonic milliseconds; `None`: not before it is told to.
    planned: Cell<Option<u64>>,
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    deadline_ms: u64,
    waker: Waker,
    /// Set by the ticker: whoever waits need not read the clock.
    passed: bool,
}

/// A deadline that may be registered; dropping it forgets the deadline.
#[derive(Debug)]
pub struct Registration<T: Borrow<Ticker>> {
    ticker: T,
    slot: Option<usize>,
}

impl Ticker {
    /// A ticker by `clock`, whose milliseconds all deadlines are in. Someone must [`Ticker::run`] it.
    pub fn new(clock: Clock) -> Self {
        Self(Rc::new(Inner {
            clock,
            entries: RefCell::default(),
            planned: Cell::new(None),
            earlier: Notify::new(),
        }))
    }

    /// Milliseconds of the clock that deadlines are by.
    pub fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    /// Runs `future` until `deadline_ms` on the monotonic clock at most.
    pub async fn within<F: Future>(
        &self,
        deadline_ms: u64,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut registration = Registration::new(self);
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            if registration.arm(deadline_ms, context.waker()) {
                Poll::Ready(Err(Elapsed))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Looks at the deadlines for as long as the thread lives.
    pub async fn run(self) {
        let inner = &self.0;
        loop {
            let Some(planned) = inner.planned.get() else {
                inner.earlier.notified().await;
                continue;
            };
            let wait =
                Duration::from_millis(planned.saturating_sub(inner.clock.now_ms())).max(TICK);
            // An earlier deadline may come while this sleeps: then the plan is made again.
            if tokio::time::timeout(wait, inner.earlier.notified())
                .await
                .is_err()
            {
                self.look(inner.clock.now_ms());
            }
        }
    }

    /// Wakes what is due and plans the next look.
    fn look(&self, now: u64) {
        let mut due = Vec::new();
        let mut next: Option<u64> = None;
        for entry in self
            .0
            .entries
            .borrow_mut()
            .slots
            .iter_mut()
            .flatten()
            .filter(|entry| !entry.passed)
        {
            if entry.deadline_ms <= now {
                entry.passed = true;
                due.push(entry.waker.clone());
            } else {
                next = Some(next.map_or(entry.deadline_ms, |next| next.min(entry.deadline_ms)));
            }
        }
        self.0.planned.set(next);
        for waker in due {
            waker.wake();
        }
    }
}

impl<T: Borrow<Ticker>> Registration<T> {
    /// None is registered yet.
    pub fn new(ticker: T) -> Self {
        Self { ticker, slot: None }
    }

    /// Makes the deadline known, at the first wait only; true: it has passed.
    pub fn arm(&mut self, deadline_ms: u64, waker: &Waker) -> bool {
        let inner = &self.ticker.borrow().0;
        let entries = &mut *inner.entries.borrow_mut();
        if let Some(entry) = self
            .slot
            .and_then(|slot| entries.slots.get_mut(slot))
            .and_then(Option::as_mut)
        {
            entry.waker.clone_from(waker);
            return entry.passed;
        }
        let slot = entries.free.pop().unwrap_or_else(|| {
            entries.slots.push(None);
            entries.slots.len() - 1
        });
        entries.slots[slot] = Some(Entry {
            deadline_ms,
            waker: waker.clone(),
            passed: false,
        });
        self.slot = Some(slot);
        if inner
            .planned
            .get()
            .is_none_or(|planned| deadline_ms < planned)
        {
            inner.planned.set(Some(deadline_ms));
            inner.earlier.notify_one();
        }
        false
    }
}

impl<T: Borrow<Ticker>> Registration<T> {
    /// Whether the deadline has passed.
    pub fn passed(&self) -> bool {
        let entries = self.ticker.borrow().0.entries.borrow();
        let entry = self.slot.and_then(|slot| entries.slots.get(slot)?.as_ref());
        entry.is_some_and(|entry| entry.passed)
    }

    /// Has another task woken.
    pub fn renew(&mut self, waker: &Waker) {
        let mut entries = self.ticker.borrow().0.entries.borrow_mut();
        let entry = self
            .slot
            .and_then(|slot| entries.slots.get_mut(slot)?.as_mut());
        if let Some(entry) = entry {
            entry.waker.clone_from(waker);
        }
    }

    /// Forgets the deadline.
    pub fn disarm(&mut self) {
        if let Some(slot) = self.slot.take() {
            let entries = &mut *self.ticker.borrow().0.entries.borrow_mut();
            entries.slots[slot] = None;
            entries.free.push(slot);
        }
    }
}

impl<T: Borrow<Ticker>> Drop for Registration<T> {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn a_deadline_ends_a_wait_and_an_earlier_one_is_not_kept_waiting() {
        let local = LocalSet::new();
        local
            .run_until(async {
                let clock = Clock::start();
                let ticker = Ticker::new(clock);
                tokio::task::spawn_local(ticker.clone().run());
                let begin = clock.now_ms();
                let (late, early, done) = tokio::join!(
                    ticker.within(begin + 150, pending::<()>()),
                    ticker.within(begin + 40, async {
                        pending::<()>().await;
                    }),
                    ticker.within(begin + 10_000, tokio::task::yield_now()),
                );
                assert_eq!((late, early, done), (Err(Elapsed), Err(Elapsed), Ok(())));
                let took = clock.now_ms() - begin;
                assert!((150..5_000).contains(&took), "{took}");
                assert!(
                    ticker.0.entries.borrow().slots.iter().all(Option::is_none),
                    "nothing is left behind"
                );
            })
            .await;
    }
}
