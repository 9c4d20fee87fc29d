//! The wish to end early, which all threads of a run see.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// A wish that comes once, and stays.
#[derive(Debug, Default)]
pub struct Stop {
    wanted: AtomicBool,
    bell: Notify,
}

impl Stop {
    /// From now on.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        self.bell.notify_waiters();
    }

    /// Whether it is there.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Waits for something, and no longer than until the wish is there. What is waited for is then
    /// dropped: no request may be among it.
    pub async fn or<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        // It hears the bell from here on, so that a wish between this line and the next is not
        // missed.
        let bell = self.bell.notified();
        if self.is_wanted() {
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
    async fn who_waits_hears_it_and_who_comes_later_does_not_wait() {
        let stop = Arc::new(Stop::default());
        assert_eq!(stop.or(ready(1)).await, Some(1));
        let waiting = {
            let stop = stop.clone();
            tokio::spawn(async move { stop.or(pending::<()>()).await })
        };
        tokio::task::yield_now().await;
        stop.want();
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!(stop.or(ready(1)).await, None);
    }
}
