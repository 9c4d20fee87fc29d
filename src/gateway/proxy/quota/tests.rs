use super::rate::SECOND;
use super::*;

fn quotas(cap: usize, each: Option<usize>, per_second: Option<u32>) -> Quotas {
    Quotas::new(&Limits {
        max_requests: cap,
        max_requests_per_identity: each,
        requests_per_second_per_identity: per_second,
        ..Limits::default()
    })
}

fn flood(quota: &Quota) -> Vec<Place> {
    std::iter::from_fn(|| quota.requests.place()).collect()
}

#[test]
fn a_flood_gets_half_and_leaves_a_half_to_the_others() {
    let quotas = quotas(100, None, None);
    let (flooder, other) = (quotas.of(&"flood".into()), quotas.of(&"other".into()));
    let held = flood(&flooder);
    assert_eq!(held.len(), 50);
    assert_eq!(flood(&other).len(), 25);
    drop(held);
    assert_eq!(flood(&other).len(), 50, "what is dropped is given back");
}

#[test]
fn a_newcomer_has_one_while_there_is_any_and_nobody_has_more_than_there_are() {
    let quotas = quotas(20, None, None);
    let held: Vec<Place> =
        (0..30).filter_map(|n| quotas.of(&format!("flood-{n}").into()).requests.place()).collect();
    assert_eq!(held.len(), 20);
}

#[test]
fn a_setting_gives_each_less_over_all_its_connections() {
    let quotas = quotas(100, Some(3), None);
    let held = [
        flood(&quotas.of(&"a".into())),
        flood(&quotas.of(&"a".into())),
        flood(&quotas.of(&"b".into())),
    ];
    assert_eq!(held.map(|places| places.len()), [3, 0, 3]);
}

#[test]
fn places_that_change_are_all_given_back() {
    let quotas = Quotas::new(&Limits { max_watches: 10, ..Limits::default() });
    let quota = quotas.of(&"a".into());
    let places = Places::none(&quota.watches);
    assert_eq!(std::iter::from_fn(|| places.take(1).then_some(())).count(), 5);
    places.keep(7);
    places.keep(2);
    assert_eq!(quota.watches.mine(), 2);
    drop(places);
    assert_eq!((quota.watches.mine(), quotas.watches.taken()), (0, 0));
}

#[test]
fn the_rate_gives_one_second_at_once_and_then_one_for_each_interval() {
    let bucket = Bucket::new(10);
    let at_once = (0..100).filter(|_| bucket.take(5 * SECOND).is_ok()).count();
    assert_eq!(at_once, 10);
    assert_eq!(bucket.take(5 * SECOND), Err(Duration::from_millis(100)));
    assert_eq!(bucket.take(5 * SECOND + SECOND / 10), Ok(()));
    assert!(bucket.take(5 * SECOND + SECOND / 10).is_err());
    // However long it rests, it holds no more than it did.
    assert_eq!((0..100).filter(|_| bucket.take(500 * SECOND).is_ok()).count(), 10);
}

#[test]
fn coming_back_does_not_fill_the_bucket_and_who_rests_is_forgotten() {
    let quotas = quotas(100, None, Some(1));
    assert!(quotas.of(&"a".into()).ask().is_ok());
    for n in 0..10_000 {
        drop(quotas.of(&format!("owner-{n}").into()));
    }
    assert!(quotas.of(&"a".into()).ask().is_err());
    assert!(quotas.owners.lock().unwrap().by_name.len() <= 2 * SWEEP_AT);
}

#[test]
fn a_flood_of_logins_leaves_the_others_theirs() {
    let quotas = Quotas::new(&Limits { authenticate_per_second: 20, ..Limits::default() });
    let logins =
        |owner: &str| (0..100).filter(|_| quotas.may_log_in(&quotas.of(&owner.into()))).count();
    assert_eq!((logins("flood"), logins("other"), logins("third")), (10, 5, 2));
    // Whoever is forgotten and comes back still has what it took.
    for n in 0..10_000 {
        drop(quotas.of(&format!("owner-{n}").into()));
    }
    assert_eq!(logins("flood"), 0);
    // A second later all of it is free again.
    let later = std::mem::take(&mut *quotas.lately.lock().unwrap());
    drop(later);
    assert_eq!(logins("flood"), 10);
}
