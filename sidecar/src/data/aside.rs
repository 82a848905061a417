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
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future> Aside<F> {
    /// Holds a future.
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        Self {
            future: Box::pin(future),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        }
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
}
