use std::cell::Cell;
use std::time::Duration;

use super::fair_share::{Pool, Rule};
use super::token_bucket::{SECOND, TokenBucket};

fn take_all(pool: &Pool<Cell<usize>>, mine: &Cell<usize>, first: usize) -> usize {
    std::iter::from_fn(|| pool.try_take(mine, 1, first).then_some(())).count()
}

#[test]
fn an_owner_gets_its_part_of_what_it_leaves() {
    for (divisor, expected) in [(1, [450, 225]), (8, [100, 88])] {
        let pool = Pool::new(Rule { capacity: 900, divisor, per_owner: usize::MAX });
        let owners = [Cell::new(0), Cell::new(0)];
        assert_eq!([0, 1].map(|owner| take_all(&pool, &owners[owner], 1)), expected);
        assert_eq!(pool.held(), expected[0] + expected[1]);
    }
}

#[test]
fn a_first_amount_needs_only_room() {
    let pool = Pool::new(Rule { capacity: 10, divisor: 8, per_owner: usize::MAX });
    let owners = [Cell::new(0), Cell::new(0), Cell::new(0)];
    assert_eq!([0, 1, 2].map(|owner| take_all(&pool, &owners[owner], 4)), [4, 4, 2]);
    assert!(pool.is_full());
}

#[test]
fn an_amount_above_the_capacity_changes_nothing() {
    let pool = Pool::new(Rule { capacity: 10, divisor: 1, per_owner: usize::MAX });
    let mine = Cell::new(0);
    for amount in [11, usize::MAX] {
        assert!(!pool.try_take(&mine, amount, usize::MAX));
        assert_eq!((pool.held(), mine.get()), (0, 0));
    }
}

#[test]
fn a_bucket_gives_one_burst_and_then_one_token_per_interval() {
    for burst in [10, 50] {
        let bucket = TokenBucket::new(10, burst);
        let at_once = (0..100).filter(|_| bucket.try_take(5 * SECOND).is_ok()).count();
        assert_eq!(at_once, burst as usize);
        assert_eq!(bucket.try_take(5 * SECOND), Err(Duration::from_millis(100)));
        assert_eq!(bucket.try_take(5 * SECOND + SECOND / 10), Ok(()));
        assert!(bucket.try_take(5 * SECOND + SECOND / 10).is_err());
        // Even after a long time without use, it holds no more than a burst.
        let later = (0..100).filter(|_| bucket.try_take(500 * SECOND).is_ok()).count();
        assert_eq!(later, burst as usize);
    }
}
