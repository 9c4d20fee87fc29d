//! Renewal of connections to etcd, after the certificates towards etcd have changed.
//!
//! A replacement is opened before the old connection is taken out of use, so that a client
//! certificate that etcd rejects breaks no working connection. There is one exception: if `cacert`
//! no longer trusts the member's certificate, its old connections are closed at once.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::tls::LiveTls;

/// Delay before a failed renewal is retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Connections to one member that are replaced together.
pub(super) trait Renewable {
    /// A connection that etcd has accepted.
    type Connection;

    /// True if new requests may still use a connection with certificates older than `generation`.
    fn has_older(&self, generation: u64) -> bool;

    /// Opens a connection with the current certificates. It returns once etcd has accepted them.
    ///
    /// # Errors
    /// The implementation has logged why.
    fn open(&self) -> impl Future<Output = Result<Self::Connection, RenewalError>>;

    /// Puts `new` into use. Connections older than `generation` get no new requests and end with
    /// the last one that they carry.
    fn replace_older(&self, generation: u64, new: Self::Connection);

    /// Closes connections older than `generation`, with the requests that they carry.
    fn close_older(&self, generation: u64);
}

/// Why a connection could not be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RenewalError {
    /// The member's certificate is not trusted.
    Untrusted,
    /// Any other failure: the old connections stay in use.
    Failed,
}

/// Renews `connections` after each of `changes`, and when `opened_late` says that a connection was
/// opened with certificates that had been replaced by then. It returns when `tls` is dropped.
pub(super) async fn keep_renewed<R: Renewable>(
    connections: &[R],
    tls: &LiveTls,
    mut changes: watch::Receiver<()>,
    opened_late: &Notify,
) {
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = opened_late.notified() => {}
        }
        while !renew_all(connections, tls).await {
            // The next change may be what lets the renewal succeed: it ends the delay.
            let _ = timeout(RETRY_AFTER, changes.changed()).await;
        }
    }
}

/// True if no connection has to be retried.
async fn renew_all<R: Renewable>(connections: &[R], tls: &LiveTls) -> bool {
    let generation = tls.current().upstream_generation;
    let renewals = connections.iter().map(|connection| renew(connection, generation));
    join_all(renewals).await.into_iter().all(|renewed| renewed)
}

async fn renew<R: Renewable>(connections: &R, generation: u64) -> bool {
    if !connections.has_older(generation) {
        return true;
    }
    match connections.open().await {
        Ok(new) => {
            connections.replace_older(generation, new);
            true
        }
        Err(error) => {
            if error == RenewalError::Untrusted {
                connections.close_older(generation);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// One connection, and what was done with it.
    struct Fake {
        generation: u64,
        outcome: Result<(), RenewalError>,
        calls: RefCell<Vec<&'static str>>,
    }

    impl Renewable for Fake {
        type Connection = ();

        fn has_older(&self, generation: u64) -> bool {
            self.generation < generation
        }

        async fn open(&self) -> Result<(), RenewalError> {
            self.calls.borrow_mut().push("open");
            self.outcome
        }

        fn replace_older(&self, _: u64, (): ()) {
            self.calls.borrow_mut().push("replace");
        }

        fn close_older(&self, _: u64) {
            self.calls.borrow_mut().push("close");
        }
    }

    #[tokio::test]
    async fn an_old_connection_is_kept_until_it_can_be_replaced() {
        for (generation, outcome, renewed, calls) in [
            (2, Err(RenewalError::Failed), true, &[][..]),
            (1, Ok(()), true, &["open", "replace"]),
            (1, Err(RenewalError::Failed), false, &["open"]),
            (1, Err(RenewalError::Untrusted), false, &["open", "close"]),
        ] {
            let fake = Fake { generation, outcome, calls: RefCell::default() };
            assert_eq!(renew(&fake, 2).await, renewed, "{generation} {outcome:?}");
            assert_eq!(fake.calls.into_inner(), calls, "{generation} {outcome:?}");
        }
    }
}
