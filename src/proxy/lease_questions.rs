//! Questions to etcd about leases that do not carry their caller's mark: who may ask, how many at once, and who is charged.
//!
//! A LeaseTimeToLive of nine bytes makes etcd send every key of a lease. So each question takes a place of the identity that caused it, by
//! the rule of [`super::quota`], and what is held of its answer is taken from that identity's share of `max-held-bytes`. Requests for one lease
//! are answered by one question. A request never joins a question that was sent before it came: a key that was attached meanwhile
//! would be missing. It waits for the next one, which then is asked for all that wait.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::budget::{Hold, Share};
use super::client::Client;
use super::quota::{Place, Quota};
use crate::authorize::AttachedKeys;
use crate::upstream::members::MemberIndex;
use crate::upstream::pool::Pool;
use crate::upstream::question::{Listener, Unanswered, lease_keys};

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
    answer: oneshot::Sender<Result<AttachedKeys, NotKnown>>,
}

/// One question: those who wait for it, and what its first one is charged.
struct Round {
    waiters: Vec<Waiter>,
    hold: Hold,
    _place: Place,
}

impl Questions {
    /// None yet. No key has more bytes than a request, `longest_key`.
    #[must_use]
    pub fn new(pool: Rc<Pool>, longest_key: usize) -> Rc<Self> {
        Rc::new(Self { pool, longest_key, waiting: RefCell::default() })
    }

    /// Shows the keys that are attached to the lease `id` to `keys`, of a request of `client`. What etcd says is not older than this call.
    ///
    /// # Errors
    /// See [`NotKnown`].
    pub async fn ask(self: &Rc<Self>, client: &Client, member: MemberIndex, id: i64, keys: AttachedKeys) -> Result<AttachedKeys, NotKnown> {
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { keys, quota: client.quota.clone(), share: client.share.clone(), answer };
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
            let asked = lease_keys(&self.pool, subject.0, subject.1, self.longest_key, &mut round).await;
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

impl Round {
    /// One question for all of them, charged to the first that may ask one. `None`: none may, and all were told.
    fn of(mut waiters: Vec<Waiter>) -> Option<Self> {
        waiters.retain(|waiter| !waiter.answer.is_closed());
        let charged = waiters.iter().find_map(|waiter| Some((waiter.quota.questions.place()?, waiter.share.clone())));
        let Some((place, share)) = charged else {
            waiters.into_iter().for_each(|waiter| drop(waiter.answer.send(Err(NotKnown::Limit))));
            return None;
        };
        Some(Self { waiters, hold: Hold::none(&share), _place: place })
    }

    /// The answer has ended: to its end, or some wait in vain.
    fn end(self, asked: Result<(), Unanswered>) {
        if let Err(error) = &asked {
            tracing::warn!(%error, "cannot ask etcd for the keys of a lease");
        }
        for waiter in self.waiters {
            // A caller that has left needs no answer.
            let _ = waiter.answer.send(asked.as_ref().map(|()| waiter.keys).map_err(|_| NotKnown::Unanswered));
        }
    }
}

impl Listener for Round {
    fn see(&mut self, key: &[u8]) -> bool {
        let mut next = 0;
        while let Some(waiter) = self.waiters.get_mut(next) {
            if !waiter.answer.is_closed() && waiter.keys.see(key) {
                next = next.saturating_add(1);
            } else {
                let decided = self.waiters.swap_remove(next);
                let _ = decided.answer.send(Ok(decided.keys));
            }
        }
        !self.waiters.is_empty()
    }

    fn may_hold(&mut self, bytes: usize) -> bool {
        self.hold.set(bytes)
    }
}
