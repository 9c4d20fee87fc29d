//! Renews the connections to etcd after the certificates towards etcd have changed.
//!
//! It opens the new connection first and then takes the old one out of use. So if etcd rejects the
//! new client certificate, the old connection stays in use. There is one exception: if `cacert` no
//! longer trusts the member's certificate, its old connections are closed at once.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::tls::LiveTls;

/// Delay before a failed renewal is retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The connections to one member that are replaced together.
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

    /// Puts `new` into use. Connections older than `generation` get no new requests, and each
    /// closes when its last request ends.
    fn replace_older(&self, generation: u64, new: Self::Connection);

    /// Closes connections older than `generation`. Their requests fail.
    fn close_older(&self, generation: u64);
}

/// Why a connection could not be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RenewalError {
    /// `cacert` does not trust the member's certificate. The old connections are closed.
    Untrusted,
    /// Any other failure. The old connections stay in use.
    Failed,
}

/// Renews `connections` after each of `changes`, and after each notification of `opened_late`: a
/// connection was opened while its certificates were replaced, so it is already outdated. Returns
/// when the sender of `changes` is dropped.
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
            // Another change may remove the cause of the failure, so it ends the delay.
            let _ = timeout(RETRY_AFTER, changes.changed()).await;
        }
    }
}

/// Returns true if every renewal succeeded.
async fn renew_all<R: Renewable>(connections: &[R], tls: &LiveTls) -> bool {
    let generation = tls.current().upstream_generation;
    let renewals = connections.iter().map(|connection| renew(connection, generation));
    join_all(renewals).await.into_iter().all(|renewed| renewed)
}

/// Renews the connections to one member. Returns false if this must be retried.
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

    /// A connection that records the calls.
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
