//! What the data plane asks of a store (Redis or another), and how the answer comes back. It holds no client: the store
//! task on the control thread takes [`StoreCall`]s from a channel and answers each [`Reply`].
//!
//! A data thread never waits here unless the user asked for it by name (`Strict`, `Shared`, a key's first slice), and
//! then with a deadline of its own. A call that nobody answers is answered by its own drop, as a failure.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use sluice_pipeline::ratelimit::{StoreKey, slice};
use sluice_snapshot::UnitName;
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait for the store task; one more is answered [`StoreError::Overloaded`].
pub const MAX_PENDING_CALLS: usize = 4096;

/// One question to a store.
#[derive(Debug)]
pub enum StoreCall {
    /// Tokens of a global bucket.
    Lease(Lease),
    /// Whether a nonce is new.
    Nonce(Nonce),
}

/// Runs the lease script (`slice::LEASE_SCRIPT`) on a bucket.
#[derive(Debug)]
pub struct Lease {
    /// The store unit.
    pub store: UnitName,
    /// The bucket.
    pub key: StoreKey,
    /// The script's arguments.
    pub request: slice::Request,
    /// Where the answer goes.
    pub reply: Reply<slice::Reply>,
}

/// Remembers a nonce for a while.
#[derive(Debug)]
pub struct Nonce {
    /// The store unit.
    pub store: UnitName,
    /// Hash of provider, key id and nonce.
    pub key: [u8; 32],
    /// How long it must be remembered.
    pub ttl_ms: u64,
    /// True: it was not known before.
    pub reply: Reply<bool>,
}

/// Why a store gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Its breaker is open: it did not answer several times in a row.
    #[error(
        "the store is marked as down after repeated failures; is its address in SluiceConfig right?"
    )]
    Open,
    /// No answer in time.
    #[error("the store did not answer in time")]
    TimedOut,
    /// It answered with an error, or cannot be reached.
    #[error("the store cannot be used: unreachable, or it refused the command or the credentials")]
    Failed,
    /// The unit is not part of the snapshot.
    #[error("the store is not part of this sidecar's configuration")]
    Unknown,
    /// Too many calls are waiting, or the store task is restarting.
    #[error("too many calls to the store are waiting")]
    Overloaded,
}

/// Takes one answer. Dropped unanswered it answers [`StoreError::Overloaded`], so that nobody waits for ever.
pub struct Reply<T>(Option<Take<T>>);

type Take<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

impl<T> Reply<T> {
    /// A reply that is handed to `take`, on the store task's thread: it must be short and must not block.
    pub fn new(take: impl FnOnce(Result<T, StoreError>) + Send + 'static) -> Self {
        Self(Some(Box::new(take)))
    }

    /// Answers.
    pub fn answer(mut self, result: Result<T, StoreError>) {
        if let Some(take) = self.0.take() {
            take(result);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(take) = self.0.take() {
            take(Err(StoreError::Overloaded));
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// The data plane's side: cheap to clone, shared by all data threads.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    calls: mpsc::Sender<StoreCall>,
    open: Arc<RwLock<HashSet<UnitName>>>,
}

impl StoreHandle {
    /// A handle and the queue that the store task takes from.
    pub fn new() -> (Self, mpsc::Receiver<StoreCall>) {
        let (calls, queue) = mpsc::channel(MAX_PENDING_CALLS);
        (
            Self {
                calls,
                open: Arc::default(),
            },
            queue,
        )
    }

    /// Puts a call in the queue, or answers it at once where the queue is full.
    pub fn call(&self, call: StoreCall) {
        // A refused call is dropped here, and its Reply answers.
        drop(self.calls.try_send(call));
    }

    /// Whether the breaker of `store` is open: asking it would only cost time.
    pub fn is_open(&self, store: &UnitName) -> bool {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(store)
    }

    /// Said by the store task whenever a breaker opens or closes.
    pub fn set_open(&self, store: &UnitName, open: bool) {
        let mut set = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open {
            set.insert(store.clone());
        } else {
            set.remove(store);
        }
    }

    /// Leases tokens and waits for them. The caller brings the deadline.
    pub async fn lease(
        &self,
        store: &UnitName,
        key: StoreKey,
        request: slice::Request,
    ) -> Result<slice::Reply, StoreError> {
        let store = store.clone();
        self.ask(|reply| {
            StoreCall::Lease(Lease {
                store,
                key,
                request,
                reply,
            })
        })
        .await
    }

    /// Whether a nonce is new; from now on it is not. The caller brings the deadline.
    pub async fn nonce(
        &self,
        store: &UnitName,
        key: [u8; 32],
        ttl_ms: u64,
    ) -> Result<bool, StoreError> {
        let store = store.clone();
        self.ask(|reply| {
            StoreCall::Nonce(Nonce {
                store,
                key,
                ttl_ms,
                reply,
            })
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(Reply<T>) -> StoreCall,
    ) -> Result<T, StoreError> {
        let (send, receive) = oneshot::channel();
        self.call(call(Reply::new(move |result| drop(send.send(result)))));
        receive.await.unwrap_or(Err(StoreError::Overloaded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_nobody_answers_is_a_failure_and_not_a_wait() {
        let (handle, queue) = StoreHandle::new();
        drop(queue);
        assert_eq!(
            handle.nonce(&UnitName::store("default"), [0; 32], 1).await,
            Err(StoreError::Overloaded)
        );
    }

    #[tokio::test]
    async fn an_answer_comes_back() {
        let (handle, mut queue) = StoreHandle::new();
        let store = UnitName::store("default");
        let (answer, ()) = tokio::join!(handle.nonce(&store, [7; 32], 1), async {
            let Some(StoreCall::Nonce(call)) = queue.recv().await else {
                panic!("a nonce call")
            };
            assert_eq!(call.key, [7; 32]);
            call.reply.answer(Ok(true));
        });
        assert_eq!(answer, Ok(true));
        handle.set_open(&store, true);
        assert!(handle.is_open(&store));
        handle.set_open(&store, false);
        assert!(!handle.is_open(&store));
    }
}
