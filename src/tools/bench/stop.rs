//! A flag that ends a run early, shared by all threads.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Set once; never reset.
#[derive(Debug, Default)]
pub struct Stop {
    requested: AtomicBool,
    bell: Notify,
}

impl Stop {
    /// Asks all threads to stop.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        self.bell.notify_waiters();
    }

    /// True after the stop was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Waits for `wait` to complete, or until the stop is requested; then `wait` is dropped. Must
    /// not be used for requests, which etcd counts even if they are dropped.
    pub async fn or<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        // Registered before the check, so that a request between the two lines is not missed.
        let bell = self.bell.notified();
        if self.is_requested() {
            return None;
        }
        tokio::select! {
            biased;
            done = wait => Some(done),
            () = bell => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_stop_wakes_waiters_and_later_calls_return_at_once() {
        let stop = Arc::new(Stop::default());
        assert_eq!(stop.or(ready(1)).await, Some(1));
        let waiting = {
            let stop = stop.clone();
            tokio::spawn(async move { stop.or(pending::<()>()).await })
        };
        tokio::task::yield_now().await;
        stop.request();
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!(stop.or(ready(1)).await, None);
    }
}
