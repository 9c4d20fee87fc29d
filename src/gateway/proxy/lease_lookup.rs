//! Looks up the keys of leases whose id does not carry the client's mark, and limits the cost of
//! these lookups.
//!
//! A lookup is cheap to cause and may be expensive: a LeaseTimeToLive request of nine bytes makes
//! etcd send every key of a lease. So each lookup takes a slot of the identity that caused it
//! ([`super::quota`]). Held bytes of the response are charged to that identity's share of
//! `max-held-bytes`.
//!
//! One lookup serves all requests that wait for the same lease (`batch`). A request never joins a
//! lookup that was sent before the request arrived, because a key attached in between could be
//! missing from its response. It waits for the next lookup.

mod batch;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use etcd_warden_core::authorize::{AttachedKeys, LeaseClaim};
use tokio::sync::oneshot;

use super::budget::Share;
use super::client::Client;
use super::quota::Quota;
use crate::upstream::lease_query::lease_keys;
use crate::upstream::members::MemberIndex;
use crate::upstream::pool::Pool;
use batch::Batch;

/// The number of lookups in progress at once, over all workers.
pub const MAX_LOOKUPS: usize = 64;

/// Why the keys of a lease are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The identity has reached its limit on lookups in progress.
    Limit,
    /// etcd did not respond.
    NoResponse,
}

/// The lookups of one worker.
pub struct LeaseLookups {
    pool: Rc<Pool>,
    /// The maximum length of a key in bytes.
    max_key_bytes: usize,
    /// The leases whose keys are being looked up, and the requests that wait for the next lookup of
    /// each.
    waiting: RefCell<HashMap<Lease, Vec<Waiter>>>,
}

/// A lease at one member.
type Lease = (MemberIndex, i64);

/// A request that waits.
struct Waiter {
    keys: AttachedKeys,
    quota: Arc<Quota>,
    share: Share,
    result: ResultSender,
}

type ResultSender = oneshot::Sender<Result<LeaseClaim, LookupError>>;

impl LeaseLookups {
    /// Looks keys up over `pool`. No key is longer than the largest request, `max_key_bytes`.
    pub fn new(pool: Rc<Pool>, max_key_bytes: usize) -> Rc<Self> {
        Rc::new(Self { pool, max_key_bytes, waiting: RefCell::default() })
    }

    /// Checks the keys of the lease `id` with `keys`, for a request of `client`. etcd receives the
    /// lookup after this call, so no key is missing that was attached before.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub async fn keys(
        self: &Rc<Self>,
        client: &Client,
        member: MemberIndex,
        id: i64,
        keys: AttachedKeys,
    ) -> Result<LeaseClaim, LookupError> {
        let (result, received) = oneshot::channel();
        let waiter =
            Waiter { keys, quota: client.quota.clone(), share: client.share.clone(), result };
        let lease = (member, id);
        let is_running = {
            let mut waiting = self.waiting.borrow_mut();
            let is_running = waiting.contains_key(&lease);
            waiting.entry(lease).or_default().push(waiter);
            is_running
        };
        if !is_running {
            let lookups = self.clone();
            // A separate task: it serves other requests too, and the request that starts it may be
            // cancelled.
            tokio::task::spawn_local(async move { lookups.run(lease).await });
        }
        received.await.unwrap_or(Err(LookupError::NoResponse))
    }

    /// Looks up the keys of a lease, again and again while requests wait for them.
    async fn run(&self, lease: Lease) {
        while let Some(waiters) = self.next(lease) {
            let Some(mut batch) = Batch::of(waiters) else { continue };
            let read =
                lease_keys(&self.pool, lease.0, lease.1, self.max_key_bytes, &mut batch).await;
            batch.end(read);
        }
    }

    /// Takes the requests that wait. Forgets the lease if there are none.
    fn next(&self, lease: Lease) -> Option<Vec<Waiter>> {
        let mut waiting = self.waiting.borrow_mut();
        let waiters = std::mem::take(waiting.get_mut(&lease)?);
        if waiters.is_empty() {
            waiting.remove(&lease);
            return None;
        }
        Some(waiters)
    }
}
