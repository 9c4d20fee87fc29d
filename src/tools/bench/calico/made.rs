//! The keys that a cluster has made and are still there, also those of which nobody knows whether
//! they are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cluster;
use crate::bench::connection::Failure;
use crate::bench::ground::{self, GroundError, Operator};

/// Shared by all threads, so that no error of one of them loses what it has made.
#[derive(Debug, Default)]
pub struct Made(Mutex<BTreeMap<Vec<u8>, State>>);

#[derive(Debug, Default)]
struct State {
    /// Creates without an answer: on the way, or lost. Each may have made the key.
    open: u32,
    /// One of ours made it.
    ours: bool,
}

/// What is known of a create that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It made the key.
    Done,
    /// It surely did not.
    NotDone,
    /// It may have.
    Unknown,
}

impl Ended {
    /// What a create's failure says about it.
    #[must_use]
    pub fn of(failure: &Failure) -> Self {
        // A wrong answer is one with OK that nobody could read.
        if failure.is_uncertain() || matches!(failure, Failure::Wrong(_)) {
            Self::Unknown
        } else {
            Self::NotDone
        }
    }
}

impl Made {
    fn keys(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a create is sent.
    pub fn asks(&self, key: &[u8]) {
        self.keys().entry(key.to_vec()).or_default().open += 1;
    }

    /// When it has ended. One that is dropped on its way never does, and stays as
    /// [`Ended::Unknown`].
    pub fn ended(&self, key: &[u8], how: Ended) {
        let mut keys = self.keys();
        let Some(state) = keys.get_mut(key) else { return };
        if how != Ended::Unknown {
            state.open = state.open.saturating_sub(1);
            state.ours |= how == Ended::Done;
        }
        if state.open == 0 && !state.ours {
            keys.remove(key);
        }
    }

    /// It was deleted.
    pub fn removed(&self, key: &[u8]) {
        self.keys().remove(key);
    }

    /// The keys that were made here, and those that may have been.
    #[must_use]
    pub fn left(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let keys = self.keys();
        let (ours, open): (Vec<_>, Vec<_>) = keys.iter().partition(|(_, state)| state.ours);
        let names =
            |some: Vec<(&Vec<u8>, &State)>| some.into_iter().map(|(key, _)| key.clone()).collect();
        (names(ours), names(open))
    }

    /// Removes them. A key that may be ours is, when its value is.
    ///
    /// # Errors
    /// A request fails: the keys are left.
    pub async fn clean(&self, operator: &Operator) -> Result<(), GroundError> {
        let (mut keys, open) = self.left();
        for key in open {
            if ground::value(operator, &key)
                .await?
                .is_some_and(|value| cluster::written(&value).is_some())
            {
                keys.push(key);
            }
        }
        ground::delete(operator, &keys).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(made: &Made) -> (usize, usize) {
        let (ours, open) = made.left();
        (ours.len(), open.len())
    }

    #[test]
    fn a_create_without_an_answer_may_have_made_its_key_and_one_that_was_refused_has_not() {
        let made = Made::default();
        made.asks(b"k");
        assert_eq!(left(&made), (0, 1), "on its way, or dropped there");
        made.ended(b"k", Ended::of(&Failure::Timeout));
        assert_eq!(left(&made), (0, 1), "lost");
        made.asks(b"k");
        made.ended(b"k", Ended::NotDone);
        assert_eq!(
            left(&made),
            (0, 1),
            "a later one that finds a key there says nothing of the one that was lost"
        );
        made.removed(b"k");
        for refused in [Failure::Grpc(7, String::new()), Failure::NoConnection(String::new())] {
            made.asks(b"k");
            made.ended(b"k", Ended::of(&refused));
            assert_eq!(left(&made), (0, 0), "{refused}");
        }
        assert_eq!(Ended::of(&Failure::Wrong(String::new())), Ended::Unknown);
    }

    #[test]
    fn of_two_creates_at_once_one_makes_the_key_whichever_is_answered_first() {
        for order in [[Ended::Done, Ended::NotDone], [Ended::NotDone, Ended::Done]] {
            let made = Made::default();
            made.asks(b"k");
            made.asks(b"k");
            for how in order {
                made.ended(b"k", how);
            }
            assert_eq!(left(&made), (1, 0), "{order:?}");
        }
    }
}
