use super::*;

fn quotas(capacity: usize, per_identity: Option<usize>, per_second: Option<u32>) -> Quotas {
    Quotas::new(&Limits {
        max_requests: capacity,
        max_requests_per_identity: per_identity,
        requests_per_second_per_identity: per_second,
        ..Limits::default()
    })
}

fn acquire_all(quota: &Quota) -> Vec<Slot> {
    std::iter::from_fn(|| quota.requests.try_acquire()).collect()
}

#[test]
fn a_flood_gets_half_and_leaves_a_half_to_the_others() {
    let quotas = quotas(100, None, None);
    let (flooder, other) = (quotas.of(&"flood".into()), quotas.of(&"other".into()));
    let held = acquire_all(&flooder);
    assert_eq!(held.len(), 50);
    assert_eq!(acquire_all(&other).len(), 25);
    drop(held);
    assert_eq!(acquire_all(&other).len(), 50, "dropped slots are given back");
}

#[test]
fn a_newcomer_gets_a_slot_while_there_is_one() {
    let quotas = quotas(20, None, None);
    let held: Vec<Slot> = (0..30)
        .filter_map(|n| quotas.of(&format!("flood-{n}").into()).requests.try_acquire())
        .collect();
    assert_eq!(held.len(), 20);
}

#[test]
fn a_limit_per_identity_holds_over_all_its_connections() {
    let quotas = quotas(100, Some(3), None);
    let held = [
        acquire_all(&quotas.of(&"a".into())),
        acquire_all(&quotas.of(&"a".into())),
        acquire_all(&quotas.of(&"b".into())),
    ];
    assert_eq!(held.map(|slots| slots.len()), [3, 0, 3]);
}

#[test]
fn a_number_of_slots_that_changes_is_all_given_back() {
    let quotas = Quotas::new(&Limits { max_watches: 10, ..Limits::default() });
    let quota = quotas.of(&"a".into());
    let slots = Slots::none(&quota.watches);
    assert_eq!(std::iter::from_fn(|| slots.try_acquire(1).then_some(())).count(), 5);
    slots.shrink_to(7);
    slots.shrink_to(2);
    assert_eq!(quota.watches.held(), 2);
    drop(slots);
    assert_eq!((quota.watches.held(), quotas.watches.held()), (0, 0));
}

#[test]
fn reconnecting_does_not_reset_the_rate() {
    let quotas = quotas(100, None, Some(1));
    assert!(quotas.of(&"a".into()).try_request().is_ok());
    for n in 0..10_000 {
        drop(quotas.of(&format!("owner-{n}").into()));
    }
    assert!(quotas.of(&"a".into()).try_request().is_err());
    assert!(quotas.owners.lock().unwrap().len() <= 2 * MIN_SWEEP);
}

#[test]
fn a_flood_of_logins_leaves_logins_to_the_others() {
    let quotas = Quotas::new(&Limits { authenticate_per_second: 20, ..Limits::default() });
    let logins =
        |owner: &str| (0..100).filter(|_| quotas.try_login(&quotas.of(&owner.into()))).count();
    assert_eq!((logins("flood"), logins("other"), logins("third")), (10, 5, 2));
    // An identity with recent logins is not forgotten.
    for n in 0..10_000 {
        drop(quotas.of(&format!("owner-{n}").into()));
    }
    assert_eq!(logins("flood"), 0);
    // All slots are free again when the window has passed.
    let later = std::mem::take(&mut *quotas.recent_logins.lock().unwrap());
    drop(later);
    assert_eq!(logins("flood"), 10);
}
