//! A future that is held beside one that is polled often, and polled itself only where it was woken itself: a connection
//! waits for its end with every look at its bytes, and asking each time would cost each request.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// A future that is polled only when it was woken.
pub struct Aside<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// The bell, as the future knows it.
    waker: Waker,
}

/// What the future's wakers ring.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
    held: AtomicBool,
    /// It was rung while it was held.
    missed: AtomicBool,
}

/// A bell that rings for nobody.
pub struct Held<'b>(&'b Bell);

impl Bell {
    /// Holds the bell, for work in which only what may not matter can ring it.
    pub fn hold(&self) -> Held<'_> {
        self.held.store(true, Ordering::Relaxed);
        Held(self)
    }

    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Held<'_> {
    /// What was rung in the meantime did not matter.
    pub fn forget(self) {
        self.0.missed.store(false, Ordering::Relaxed);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::Relaxed);
        if self.0.missed.swap(false, Ordering::Relaxed) {
            self.0.ring();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.held.load(Ordering::Relaxed) {
            self.missed.store(true, Ordering::Relaxed);
        } else {
            self.ring();
        }
    }
}

impl<F: Future> Aside<F> {
    /// Holds a future.
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(true),
            ..Bell::default()
        });
        Self {
            future: Box::pin(future),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        }
    }

    /// What wakes it.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }
}

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        // Registered first: who rings after this look wakes the task.
        this.bell.task.register(context.waker());
        if !this.bell.rung.load(Ordering::Relaxed) || !this.bell.rung.swap(false, Ordering::Acquire)
        {
            return Poll::Pending;
        }
        this.future
            .as_mut()
            .poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use futures::FutureExt as _;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_asked_once_and_then_when_it_has_something_to_say() {
        let (notify, asked) = (Notify::new(), Cell::new(0));
        let mut held = {
            let mut notified = Box::pin(notify.notified());
            let asked = &asked;
            Aside::new(poll_fn(move |context| {
                asked.set(asked.get() + 1);
                notified.as_mut().poll(context)
            }))
        };
        for _ in 0..3 {
            assert!((&mut held).now_or_never().is_none());
        }
        assert_eq!(asked.get(), 1);
        let told = async {
            tokio::task::yield_now().await;
            notify.notify_one();
        };
        futures::join!(&mut held, told);
        assert_eq!(asked.get(), 2);
    }

    #[test]
    fn a_held_bell_rings_late_or_not_at_all() {
        let asked = Cell::new(0);
        let mut aside = Aside::new(poll_fn(|_| {
            asked.set(asked.get() + 1);
            Poll::<()>::Pending
        }));
        let bell = aside.bell();
        let mut look = || {
            assert!((&mut aside).now_or_never().is_none());
            asked.get()
        };
        assert_eq!(look(), 1);
        let held = bell.hold();
        bell.wake_by_ref();
        held.forget();
        assert_eq!(look(), 1, "it was forgotten");
        // What was rung before is not.
        bell.wake_by_ref();
        bell.hold().forget();
        assert_eq!(look(), 2);
        let held = bell.hold();
        bell.wake_by_ref();
        drop(held);
        assert_eq!(look(), 3, "it was only late");
    }
}
