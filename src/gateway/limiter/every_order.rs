//! Loom tests of [`super::slots`] and [`super::token_bucket`]: the same files, compiled with loom's
//! atomics. Each test runs with every interleaving of its threads, and with every value that a
//! relaxed load may return.

mod atomic {
    pub use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}
#[allow(clippy::duplicate_mod, reason = "compiled twice on purpose: here with loom's atomics")]
#[path = "fair_share.rs"]
#[expect(dead_code, reason = "not all of it is tested here")]
mod fair_share;
#[allow(clippy::duplicate_mod, reason = "compiled twice on purpose: here with loom's atomics")]
#[path = "slots.rs"]
#[expect(dead_code, reason = "not all of it is tested here")]
mod slots;
#[allow(clippy::duplicate_mod, reason = "compiled twice on purpose: here with loom's atomics")]
#[path = "token_bucket.rs"]
#[expect(dead_code, reason = "not all of it is tested here")]
mod token_bucket;

use std::sync::Arc;

use loom::thread;

use slots::{Limiter, Slot, pool};
use token_bucket::{SECOND, TokenBucket};

/// Takes one slot from each limiter, each in a separate thread.
fn acquire_in_threads(limiters: &[&Arc<Limiter>]) -> Vec<Option<Slot>> {
    let threads: Vec<_> = limiters
        .iter()
        .map(|&limiter| {
            thread::spawn({
                let limiter = limiter.clone();
                move || limiter.try_acquire()
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn count(slots: &[Option<Slot>]) -> usize {
    slots.iter().flatten().count()
}

#[test]
fn the_last_slot_is_never_given_twice() {
    loom::model(|| {
        let pool = pool(1, None);
        let (one, two) = (Limiter::new(&pool), Limiter::new(&pool));
        let slots = acquire_in_threads(&[&one, &two]);
        assert!(count(&slots) <= 1);
        drop(slots);
        assert_eq!((pool.held(), one.held(), two.held()), (0, 0, 0));
    });
}

#[test]
fn two_threads_of_one_owner_never_exceed_its_share() {
    for (capacity, per_owner) in [(9, Some(1)), (3, None)] {
        loom::model(move || {
            let pool = pool(capacity, per_owner);
            let one = Limiter::new(&pool);
            let slots = acquire_in_threads(&[&one, &one]);
            assert!(count(&slots) <= 1, "{capacity} {per_owner:?}");
            assert_eq!(one.held(), count(&slots));
        });
    }
}

#[test]
fn a_slot_is_given_while_another_is_given_back() {
    loom::model(|| {
        let pool = pool(4, None);
        let (one, two) = (Limiter::new(&pool), Limiter::new(&pool));
        let slot = one.try_acquire().unwrap();
        let giving_back = thread::spawn(move || drop(slot));
        let slots = acquire_in_threads(&[&two]);
        giving_back.join().unwrap();
        assert_eq!(count(&slots), 1);
        assert_eq!((pool.held(), one.held(), two.held()), (1, 0, 1));
    });
}

#[test]
fn a_token_is_taken_once() {
    for per_second in [1, 2] {
        loom::model(move || {
            let bucket = Arc::new(TokenBucket::new(per_second, per_second));
            let other = thread::spawn({
                let bucket = bucket.clone();
                move || bucket.try_take(SECOND).is_ok()
            });
            let taken =
                u32::from(bucket.try_take(SECOND).is_ok()) + u32::from(other.join().unwrap());
            assert_eq!(taken, per_second);
            assert!(bucket.try_take(SECOND).is_err());
        });
    }
}
