//! The bytes that a worker holds for requests whose end has not come, or for answers that nobody
//! reads, and who holds them.
//!
//! The rule: nobody holds more than is left for all others (but everybody one whole request, while
//! there is room). So one identity that begins requests and never ends them gets half, a second one
//! half of the rest, and a newcomer still finds room.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// The budget of one worker.
pub struct Budget {
    left: Rc<Cell<usize>>,
    request: usize,
    owners: RefCell<Owners>,
}

#[derive(Default)]
struct Owners {
    held: HashMap<Arc<str>, Weak<Cell<usize>>>,
    /// Owners that are gone are forgotten when there are so many entries.
    sweep_at: usize,
}

/// What one identity may take of it.
#[derive(Clone)]
pub struct Share {
    left: Rc<Cell<usize>>,
    request: usize,
    mine: Rc<Cell<usize>>,
}

impl Budget {
    /// A budget of this many bytes, for requests of so many bytes each at most.
    #[must_use]
    pub fn new(bytes: usize, request: usize) -> Self {
        Self { left: Rc::new(Cell::new(bytes)), request, owners: RefCell::default() }
    }

    /// The share of `owner` (its principal's name): one for all its connections.
    #[must_use]
    pub fn share(&self, owner: &Arc<str>) -> Share {
        let mut owners = self.owners.borrow_mut();
        if owners.held.len() >= owners.sweep_at {
            owners.held.retain(|_, held| held.strong_count() > 0);
            owners.sweep_at = owners.held.len().saturating_mul(2).max(64);
        }
        let known = owners.held.get(owner).and_then(Weak::upgrade);
        let mine = known.unwrap_or_else(|| {
            let mine = Rc::default();
            owners.held.insert(owner.clone(), Rc::downgrade(&mine));
            mine
        });
        Share { left: self.left.clone(), request: self.request, mine }
    }
}

impl Share {
    /// Takes bytes, if the rule gives them.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let Some(left) = self.left.get().checked_sub(bytes) else { return false };
        let mine = self.mine.get().saturating_add(bytes);
        if mine > left.max(self.request) {
            return false;
        }
        self.left.set(left);
        self.mine.set(mine);
        true
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: usize) {
        self.left.set(self.left.get().saturating_add(bytes));
        self.mine.set(self.mine.get().saturating_sub(bytes));
    }
}

/// So many bytes of a share, all of them given back when this is dropped.
pub struct Hold {
    share: Share,
    bytes: usize,
}

impl Hold {
    /// None yet.
    #[must_use]
    pub fn none(share: &Share) -> Self {
        Self { share: share.clone(), bytes: 0 }
    }

    /// Holds this many bytes from now on, more or less than before. False: the rule does not give
    /// them, and nothing changes.
    #[must_use]
    pub fn set(&mut self, bytes: usize) -> bool {
        let given = match bytes.checked_sub(self.bytes) {
            Some(0) => true,
            Some(more) => self.share.take(more),
            None => {
                self.share.give_back(self.bytes.saturating_sub(bytes));
                true
            }
        };
        if given {
            self.bytes = bytes;
        }
        given
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.share.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flood(share: &Share) -> usize {
        (0..).take_while(|_| share.take(1)).count()
    }

    #[test]
    fn a_flood_gets_half_over_all_its_connections_and_leaves_the_rest() {
        let budget = Budget::new(1000, 1);
        let (first, second) = (budget.share(&"flood".into()), budget.share(&"flood".into()));
        assert_eq!(flood(&first) + flood(&second), 500);
        assert!(budget.share(&"other".into()).take(200));
    }

    #[test]
    fn one_whole_request_is_always_held_where_there_is_room() {
        let budget = Budget::new(1000, 800);
        let (first, other) = (budget.share(&"first".into()), budget.share(&"other".into()));
        assert!(first.take(800));
        assert!(!first.take(1));
        assert!(other.take(200));
        assert!(!other.take(1), "there is none");
    }

    #[test]
    fn a_newcomer_finds_room_while_there_is_any_and_never_more() {
        let budget = Budget::new(100, 1);
        let shares: Vec<Share> =
            (0..20).map(|n| budget.share(&format!("flood-{n}").into())).collect();
        assert_eq!(shares.iter().map(flood).sum::<usize>(), 100);
    }

    #[test]
    fn a_hold_grows_and_shrinks_and_leaves_nothing_behind() {
        let budget = Budget::new(100, 1);
        let mut hold = Hold::none(&budget.share(&"a".into()));
        assert!(hold.set(40));
        assert!(hold.set(50));
        assert!(!hold.set(51));
        assert!(hold.set(20));
        assert_eq!(budget.left.get(), 80);
        drop(hold);
        assert_eq!(budget.left.get(), 100);
    }

    #[test]
    fn what_is_given_back_leaves_no_trace() {
        let budget = Budget::new(100, 1);
        for n in 0..1000 {
            let share = budget.share(&format!("owner-{n}").into());
            assert!(share.take(50));
            share.give_back(50);
        }
        assert_eq!(budget.left.get(), 100);
        assert!(budget.owners.borrow().held.len() <= 64);
    }
}
