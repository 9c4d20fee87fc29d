//! The keys that this run has created and not deleted, including those for which the result of the
//! create is unknown.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cluster;
use crate::bench::connection::Failure;
use crate::bench::fixture::{self, FixtureError, Operator};

/// Shared by all threads, so that no key is lost when one of them fails.
#[derive(Debug, Default)]
pub struct CreatedKeys(Mutex<BTreeMap<Vec<u8>, State>>);

#[derive(Debug, Default)]
struct State {
    /// Creates without a response: unfinished or lost. Each may have created the key.
    open: u32,
    /// True if a create of this run succeeded.
    ours: bool,
}

/// The result of a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// It created the key.
    Created,
    /// It did not create the key.
    NotCreated,
    /// It may have created the key.
    Unknown,
}

impl CreateOutcome {
    /// Derived from a failure.
    #[must_use]
    pub fn of(failure: &Failure) -> Self {
        // A wrong response has the status OK.
        if failure.is_uncertain() || matches!(failure, Failure::Wrong(_)) {
            Self::Unknown
        } else {
            Self::NotCreated
        }
    }
}

impl CreatedKeys {
    fn keys(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call before a create is sent.
    pub fn create_sent(&self, key: &[u8]) {
        self.keys().entry(key.to_vec()).or_default().open += 1;
    }

    /// Call when it has ended. A create that is dropped before counts as
    /// [`CreateOutcome::Unknown`].
    pub fn create_ended(&self, key: &[u8], how: CreateOutcome) {
        let mut keys = self.keys();
        let Some(state) = keys.get_mut(key) else { return };
        if how != CreateOutcome::Unknown {
            state.open = state.open.saturating_sub(1);
            state.ours |= how == CreateOutcome::Created;
        }
        if state.open == 0 && !state.ours {
            keys.remove(key);
        }
    }

    /// Call when the key was deleted.
    pub fn deleted(&self, key: &[u8]) {
        self.keys().remove(key);
    }

    /// The keys that were created, and those that may have been.
    #[must_use]
    pub fn left(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let keys = self.keys();
        let (ours, open): (Vec<_>, Vec<_>) = keys.iter().partition(|(_, state)| state.ours);
        let names =
            |some: Vec<(&Vec<u8>, &State)>| some.into_iter().map(|(key, _)| key.clone()).collect();
        (names(ours), names(open))
    }

    /// Deletes all of them. A key that may have been created is deleted if its value is one of
    /// this program.
    ///
    /// # Errors
    /// A request fails. Keys are left.
    pub async fn clean(&self, operator: &Operator) -> Result<(), FixtureError> {
        let (mut keys, open) = self.left();
        for key in open {
            if fixture::value(operator, &key)
                .await?
                .is_some_and(|value| cluster::written(&value).is_some())
            {
                keys.push(key);
            }
        }
        fixture::delete(operator, &keys).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(created: &CreatedKeys) -> (usize, usize) {
        let (ours, open) = created.left();
        (ours.len(), open.len())
    }

    #[test]
    fn a_create_without_a_response_may_have_created_its_key() {
        let created = CreatedKeys::default();
        created.create_sent(b"k");
        assert_eq!(left(&created), (0, 1), "unfinished, or dropped");
        created.create_ended(b"k", CreateOutcome::of(&Failure::Timeout));
        assert_eq!(left(&created), (0, 1), "lost");
        created.create_sent(b"k");
        created.create_ended(b"k", CreateOutcome::NotCreated);
        assert_eq!(
            left(&created),
            (0, 1),
            "a later create that finds the key proves nothing about the lost one"
        );
        created.deleted(b"k");
        for refused in [Failure::Grpc(7, String::new()), Failure::NoConnection(String::new())] {
            created.create_sent(b"k");
            created.create_ended(b"k", CreateOutcome::of(&refused));
            assert_eq!(left(&created), (0, 0), "{refused}");
        }
        assert_eq!(CreateOutcome::of(&Failure::Wrong(String::new())), CreateOutcome::Unknown);
    }

    #[test]
    fn of_two_concurrent_creates_one_creates_the_key() {
        for order in [
            [CreateOutcome::Created, CreateOutcome::NotCreated],
            [CreateOutcome::NotCreated, CreateOutcome::Created],
        ] {
            let created = CreatedKeys::default();
            created.create_sent(b"k");
            created.create_sent(b"k");
            for how in order {
                created.create_ended(b"k", how);
            }
            assert_eq!(left(&created), (1, 0), "{order:?}");
        }
    }
}
