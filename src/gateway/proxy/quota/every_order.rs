//! [`super::places`] and [`super::rate`], compiled once more with loom's atomics: it runs each test
//! in every order in which the threads can meet, and with every value that a relaxed load may show.

mod atomic {
    pub use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}
#[allow(clippy::duplicate_mod, reason = "that it is compiled twice is the point")]
#[path = "places.rs"]
#[expect(dead_code, reason = "what shadow mode and conversations use of it is not asked here")]
mod places;
#[allow(clippy::duplicate_mod, reason = "that it is compiled twice is the point")]
#[path = "rate.rs"]
#[expect(dead_code, reason = "when an identity is forgotten is not asked here")]
mod rate;

use std::sync::Arc;

use loom::thread;

use places::{Meter, Place, Total};
use rate::{Bucket, SECOND};

/// Each of the meters is asked for one place, by a thread of its own: the places that were given.
fn at_once(meters: &[&Arc<Meter>]) -> Vec<Option<Place>> {
    let threads: Vec<_> = meters
        .iter()
        .map(|&meter| {
            thread::spawn({
                let meter = meter.clone();
                move || meter.place()
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn given(places: &[Option<Place>]) -> usize {
    places.iter().flatten().count()
}

#[test]
fn the_last_place_is_never_given_twice() {
    loom::model(|| {
        let all = Total::new(1, None);
        let (one, two) = (Meter::new(&all), Meter::new(&all));
        let places = at_once(&[&one, &two]);
        assert!(given(&places) <= 1);
        drop(places);
        assert_eq!((all.taken(), one.mine(), two.mine()), (0, 0, 0));
    });
}

#[test]
fn nobody_gets_more_than_each_may_have_nor_than_is_left_to_the_others() {
    for (cap, each) in [(9, Some(1)), (3, None)] {
        loom::model(move || {
            let all = Total::new(cap, each);
            let one = Meter::new(&all);
            let places = at_once(&[&one, &one]);
            assert!(given(&places) <= 1, "{cap} {each:?}");
            assert_eq!(one.mine(), given(&places));
        });
    }
}

#[test]
fn where_there_is_room_for_both_each_gets_a_place_and_what_ends_meanwhile_is_given_back() {
    loom::model(|| {
        let all = Total::new(4, None);
        let (one, two) = (Meter::new(&all), Meter::new(&all));
        let ends = one.place().unwrap();
        let ending = thread::spawn(move || drop(ends));
        let places = at_once(&[&two]);
        ending.join().unwrap();
        assert_eq!(given(&places), 1);
        assert_eq!((all.taken(), one.mine(), two.mine()), (1, 0, 1));
    });
}

#[test]
fn a_token_is_taken_once() {
    for per_second in [1, 2] {
        loom::model(move || {
            let bucket = Arc::new(Bucket::new(per_second));
            let other = thread::spawn({
                let bucket = bucket.clone();
                move || bucket.take(SECOND).is_ok()
            });
            let taken = u32::from(bucket.take(SECOND).is_ok()) + u32::from(other.join().unwrap());
            assert_eq!(taken, per_second);
            assert!(bucket.take(SECOND).is_err());
        });
    }
}
