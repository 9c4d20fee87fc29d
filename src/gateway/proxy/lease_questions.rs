//! Questions to etcd about leases that do not carry their caller's mark: who may ask, how many at
//! once, and who is charged.
//!
//! A LeaseTimeToLive of nine bytes makes etcd send every key of a lease. So each question takes a
//! place of the identity that caused it, by the rule of [`super::quota`], and what is held of its
//! answer is taken from that identity's share of `max-held-bytes`. Requests for one lease
//! are answered by one question. A request never joins a question that was sent before it came: a
//! key that was attached meanwhile would be missing. It waits for the next one, which then is asked
//! for all that wait, in a `Round`.

mod round;

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
use round::Round;

/// Questions under way at once, of all workers together.
pub const MAX_QUESTIONS: usize = 64;

/// Why it is not known what a caller may do with the keys of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKnown {
    /// Its identity has as many questions under way as it may have.
    Limit,
    /// etcd did not say.
    Unanswered,
}

/// The questions of one worker.
pub struct Questions {
    pool: Rc<Pool>,
    /// Bytes of a key at most.
    longest_key: usize,
    /// The leases that are being asked about, and who waits for the next question about each.
    waiting: RefCell<HashMap<Subject, Vec<Waiter>>>,
}

/// A lease, as one member has it.
type Subject = (MemberIndex, i64);

/// A request that waits.
struct Waiter {
    keys: AttachedKeys,
    quota: Arc<Quota>,
    share: Share,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<LeaseClaim, NotKnown>>;

impl Questions {
    /// None yet. No key has more bytes than a request, `longest_key`.
    #[must_use]
    pub fn new(pool: Rc<Pool>, longest_key: usize) -> Rc<Self> {
        Rc::new(Self { pool, longest_key, waiting: RefCell::default() })
    }

    /// Shows the keys that are attached to the lease `id` to `keys`, of a request of `client`. What
    /// etcd says is not older than this call.
    ///
    /// # Errors
    /// See [`NotKnown`].
    pub async fn ask(
        self: &Rc<Self>,
        client: &Client,
        member: MemberIndex,
        id: i64,
        keys: AttachedKeys,
    ) -> Result<LeaseClaim, NotKnown> {
        let (answer, answered) = oneshot::channel();
        let waiter =
            Waiter { keys, quota: client.quota.clone(), share: client.share.clone(), answer };
        let subject = (member, id);
        let others = {
            let mut waiting = self.waiting.borrow_mut();
            let others = waiting.contains_key(&subject);
            waiting.entry(subject).or_default().push(waiter);
            others
        };
        if !others {
            let questions = self.clone();
            // A task of its own: it answers others, too, and its first caller may leave.
            tokio::task::spawn_local(async move { questions.answer(subject).await });
        }
        answered.await.unwrap_or(Err(NotKnown::Unanswered))
    }

    /// Asks about a lease for as long as requests wait for it.
    async fn answer(&self, subject: Subject) {
        while let Some(waiters) = self.next(subject) {
            let Some(mut round) = Round::of(waiters) else { continue };
            let asked =
                lease_keys(&self.pool, subject.0, subject.1, self.longest_key, &mut round).await;
            round.end(asked);
        }
    }

    /// Those who wait now; with the last of them the lease is forgotten.
    fn next(&self, subject: Subject) -> Option<Vec<Waiter>> {
        let mut waiting = self.waiting.borrow_mut();
        let waiters = std::mem::take(waiting.get_mut(&subject)?);
        if waiters.is_empty() {
            waiting.remove(&subject);
            return None;
        }
        Some(waiters)
    }
}
