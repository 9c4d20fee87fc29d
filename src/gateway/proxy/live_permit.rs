//! A permit that can be withdrawn. All code that writes to etcd holds one and checks it before each
//! write. So a request that waits (for a connection, its socket, a window, or its next message) is
//! never written under rights that were withdrawn. If there was no wait since the last check, there
//! is no other check: see [`crate::upstream::window`].

use etcd_warden_core::authorize::Permit;
use etcd_warden_core::policy::Mode;

use super::client::Client;
use super::reply::{self, Status};
use crate::metrics::reason::Termination;

/// A [`Permit`] and the client that it was made for. It is withdrawn when the policy changes, when
/// the client is no longer in shadow mode, and when the client's certificate is no longer accepted
/// (revoked, expired, its CA removed).
pub struct LivePermit<'c> {
    permit: Permit,
    client: &'c Client,
}

impl<'c> LivePermit<'c> {
    /// Wraps a permit that was just made for `client`.
    #[must_use]
    pub const fn new(permit: Permit, client: &'c Client) -> Self {
        Self { permit, client }
    }

    /// True if bytes may be written under this permit now. A permit given under enforcement holds
    /// for one generation of the policy: after a reload, the message must be judged again. A permit
    /// given in shadow mode holds while the client is in shadow mode.
    #[must_use]
    pub fn holds(&self) -> bool {
        if self.client.is_over() {
            return false;
        }
        self.permit.generation() == self.client.worker.shared.policy.generation()
            || (self.permit.mode() == Mode::Shadow
                && self.client.caller().principal.mode == Mode::Shadow)
    }

    /// Waits until the permit no longer holds.
    pub async fn withdrawn(&self) {
        let mut changes = self.client.worker.shared.policy.subscribe();
        while self.holds() {
            tokio::select! {
                () = self.client.over.cancelled() => {}
                // An error is impossible: the sender lives as long as the process.
                _ = changes.changed() => {}
            }
        }
    }

    /// The status for a passthrough call whose permit was withdrawn. With UNAVAILABLE the client
    /// retries, and the new request is judged first.
    #[must_use]
    pub fn withdrawn_status(&self) -> Status {
        if self.client.is_over() {
            return self.client.ended_with_connection();
        }
        self.client.worker.shared.metrics.terminated(Termination::Mode);
        Status::new(reply::code::UNAVAILABLE, "etcd-warden: the policy is enforced now")
    }
}
