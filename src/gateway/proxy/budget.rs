//! The budget of bytes that one worker may hold, for requests that are not complete yet or for
//! responses that clients do not read. Identities share it (`crate::limiter::fair_share`). While
//! the budget has room, each identity may hold at least one whole request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::limiter::fair_share::{Pool, Rule};
use crate::limiter::owners::Owners;

/// From this number of identities on, those without a connection are removed from the table.
const MIN_SWEEP: usize = 64;

/// The budget of one worker.
pub struct Budget {
    pool: Rc<Pool<Cell<usize>>>,
    request: usize,
    owners: RefCell<Owners<Rc<Cell<usize>>>>,
}

/// The share of one identity.
#[derive(Clone)]
pub struct Share {
    pool: Rc<Pool<Cell<usize>>>,
    request: usize,
    mine: Rc<Cell<usize>>,
}

impl Budget {
    /// A budget of `bytes`. `request` is the maximum size of one request.
    pub fn new(bytes: usize, request: usize) -> Self {
        let rule = Rule { capacity: bytes, divisor: 1, per_owner: usize::MAX };
        Self {
            pool: Rc::new(Pool::new(rule)),
            request,
            owners: RefCell::new(Owners::new(MIN_SWEEP)),
        }
    }

    /// The share of `owner` (its principal's name). All its connections use the same one.
    pub fn share(&self, owner: &Arc<str>) -> Share {
        // Only this table refers to the share, so the identity has no connection.
        let is_gone = |mine: &Rc<Cell<usize>>| Rc::strong_count(mine) == 1;
        let mine = self.owners.borrow_mut().get_or_insert(owner, is_gone, Rc::default);
        Share { pool: self.pool.clone(), request: self.request, mine }
    }
}

impl Share {
    /// Takes bytes if the rule allows them.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        self.pool.try_take(&self.mine, bytes, self.request)
    }

    /// Gives bytes back that were taken.
    pub fn give_back(&self, bytes: usize) {
        self.pool.give_back(&self.mine, bytes);
    }
}

/// Bytes of a share. Dropping it gives all of them back.
pub struct Reservation {
    share: Share,
    bytes: usize,
}

impl Reservation {
    /// A reservation of no bytes.
    pub fn empty(share: &Share) -> Self {
        Self { share: share.clone(), bytes: 0 }
    }

    /// Changes the reservation to this many bytes. Returns false and changes nothing if the rule
    /// does not allow them.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        let allowed = match bytes.checked_sub(self.bytes) {
            Some(0) => true,
            Some(more) => self.share.take(more),
            None => {
                self.share.give_back(self.bytes.saturating_sub(bytes));
                true
            }
        };
        if allowed {
            self.bytes = bytes;
        }
        allowed
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.share.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(share: &Share) -> usize {
        (0..).take_while(|_| share.take(1)).count()
    }

    #[test]
    fn connections_of_one_identity_share_its_half() {
        let budget = Budget::new(1000, 1);
        let (first, second) = (budget.share(&"flood".into()), budget.share(&"flood".into()));
        assert_eq!(take_all(&first) + take_all(&second), 500);
        assert!(budget.share(&"other".into()).take(200));
    }

    #[test]
    fn one_whole_request_is_always_held_where_there_is_room() {
        let budget = Budget::new(1000, 800);
        let (first, other) = (budget.share(&"first".into()), budget.share(&"other".into()));
        assert!(first.take(800));
        assert!(!first.take(1));
        assert!(other.take(200));
        assert!(!other.take(1), "nothing is left");
    }

    #[test]
    fn a_newcomer_gets_the_last_bytes_and_no_more() {
        let budget = Budget::new(100, 1);
        let shares: Vec<Share> =
            (0..20).map(|n| budget.share(&format!("flood-{n}").into())).collect();
        assert_eq!(shares.iter().map(take_all).sum::<usize>(), 100);
    }

    #[test]
    fn a_reservation_gives_back_what_it_no_longer_needs() {
        let budget = Budget::new(100, 1);
        let mut reservation = Reservation::empty(&budget.share(&"a".into()));
        assert!(reservation.resize(40));
        assert!(reservation.resize(50));
        assert!(!reservation.resize(51));
        assert!(reservation.resize(20));
        assert_eq!(budget.pool.held(), 20);
        drop(reservation);
        assert_eq!(budget.pool.held(), 0);
    }

    #[test]
    fn identities_that_are_gone_are_forgotten() {
        let budget = Budget::new(100, 1);
        for n in 0..1000 {
            let share = budget.share(&format!("owner-{n}").into());
            assert!(share.take(50));
            share.give_back(50);
        }
        assert_eq!(budget.pool.held(), 0);
        assert!(budget.owners.borrow().len() <= MIN_SWEEP);
    }
}
