//! Txns: compares, what they guard, and how far one may go.

use super::*;

#[test]
fn a_compare_that_says_two_things_is_refused() {
    for (fields, expected) in [
        (wire![num(2, 0), num(5, 0)], ("Compare.target_union", Fault::TargetMismatch)),
        (wire![num(6, 0)], ("Compare.target_union", Fault::TargetMismatch)),
        (wire![num(2, 3), num(4, 0)], ("Compare.target_union", Fault::TargetMismatch)),
        (wire![num(2, 2), len(7, "")], ("Compare.target_union", Fault::TargetMismatch)),
        (wire![num(2, 2), num(6, 0), num(5, 0)], ("Compare.target_union", Fault::Repeated)),
        (wire![num(2, 2), num(6, 0), num(6, 0)], ("Compare.mod_revision", Fault::Repeated)),
        (wire![num(1, 4)], ("Compare.result", Fault::UnknownValue)),
        (wire![num(1, 1 << 32)], ("Compare.result", Fault::UnknownValue)),
        (wire![num(2, 5)], ("Compare.target", Fault::UnknownValue)),
        (wire![num(2, -1)], ("Compare.target", Fault::UnknownValue)),
        (wire![num(2, 3), num(7, 1)], ("Compare.value", Fault::WrongWireType)),
        (wire![num(9, 1)], ("Compare", Fault::UnknownField)),
    ] {
        let (field, _, fault) = fault(Method::Txn, &len(1, wire![len(3, "k"), fields]));
        assert_eq!((field, fault), expected);
    }
}

#[test]
fn no_two_members_of_a_compare_are_accepted_in_any_order() {
    let member = |number: u32| if number == 7 { len(7, "") } else { num(number, 0) };
    for target in 0..5 {
        for (first, second) in (4..=8).flat_map(|first| (4..=8).map(move |second| (first, second)))
        {
            let message = len(1, wire![len(3, "k"), member(first), num(2, target), member(second)]);
            assert_eq!(
                fault(Method::Txn, &message).2,
                Fault::Repeated,
                "{target} {first} {second}"
            );
        }
    }
}

/// libcalico-go's create, update and delete, and kube-apiserver's (`MOD` compares; the other branch
/// reads the key back).
#[test]
fn the_txns_of_calico_and_kubernetes_need_no_more_than_they_do() {
    let get = len(1, "k");
    for (compare, operation, expected) in [
        (compare(0, 0, "k", 0), success(PUT_OP, wire![len(1, "k"), len(2, "v")]), READ.and(CREATE)),
        (compare(2, 0, "k", 0), success(PUT_OP, wire![len(1, "k"), len(2, "v")]), READ.and(CREATE)),
        (
            compare(2, 0, "k", 42),
            success(PUT_OP, wire![len(1, "k"), len(2, "v")]),
            READ.and(UPDATE),
        ),
        (
            compare(2, 0, "k", 42),
            success(PUT_OP, wire![len(1, "k"), num(3, 7)]),
            READ.and(UPDATE).and(DELETE),
        ),
        (compare(2, 0, "k", 42), success(DELETE_RANGE, len(1, "k")), READ.and(DELETE)),
    ] {
        let message = wire![compare, operation, failure(RANGE, get.clone())];
        let accesses = inspect(Method::Txn, &message).unwrap();
        assert_eq!(keys(&accesses), [(expected, &b"k"[..], &b""[..])]);
        assert!(!accesses.ranges.spilled());
    }
}

/// What a Put of `k` in the success and in the failure branch of `compares` may be.
fn branches(compares: Vec<u8>) -> (Verbs, Verbs) {
    let of = |branch: Vec<u8>| {
        let message = wire![compares.clone(), branch];
        let accesses = inspect(Method::Txn, &message).unwrap();
        let verbs = accesses
            .keys()
            .filter(|access| access.range.start == b"k")
            .fold(Verbs::NONE, |verbs, access| verbs.and(access.verbs));
        verbs.without(READ)
    };
    (of(success(PUT_OP, len(1, "k"))), of(failure(PUT_OP, len(1, "k"))))
}

#[test]
fn a_compare_guards_its_key_and_its_opposite_the_other_branch() {
    const EQUAL: i64 = 0;
    const GREATER: i64 = 1;
    const LESS: i64 = 2;
    const NOT_EQUAL: i64 = 3;
    for target in [0, 1, 2] {
        for (result, number, expected) in [
            (EQUAL, 0, (CREATE, UPDATE)),
            (EQUAL, 1, (UPDATE, PUT)),
            (EQUAL, i64::MAX, (UPDATE, PUT)),
            (EQUAL, -1, (PUT, PUT)),
            (GREATER, 0, (UPDATE, CREATE)),
            (GREATER, 5, (UPDATE, PUT)),
            (GREATER, -1, (PUT, PUT)),
            (LESS, 1, (CREATE, UPDATE)),
            (LESS, 2, (PUT, UPDATE)),
            (LESS, 0, (PUT, PUT)),
            (NOT_EQUAL, 0, (UPDATE, CREATE)),
            (NOT_EQUAL, 3, (PUT, UPDATE)),
        ] {
            assert_eq!(
                branches(compare(target, result, "k", number)),
                expected,
                "target {target} result {result} {number}"
            );
        }
    }
    // The lease of a key that has none is 0, as that of a missing key.
    for (result, number, expected) in [
        (EQUAL, 0, (PUT, UPDATE)),
        (EQUAL, 7, (UPDATE, PUT)),
        (EQUAL, -7, (UPDATE, PUT)),
        (GREATER, 0, (UPDATE, PUT)),
        (LESS, 0, (UPDATE, PUT)),
        (NOT_EQUAL, 0, (UPDATE, PUT)),
        (NOT_EQUAL, 7, (PUT, UPDATE)),
    ] {
        assert_eq!(branches(compare(4, result, "k", number)), expected, "lease {result} {number}");
    }
    // The value of a missing key compares as nothing at all.
    for result in [EQUAL, GREATER, LESS, NOT_EQUAL] {
        assert_eq!(branches(compare(3, result, "k", 1)), (UPDATE, PUT), "value {result}");
    }
}

#[test]
fn only_what_must_hold_for_the_branch_narrows_it() {
    let create = compare(0, 0, "k", 0);
    assert_eq!(branches(compare(0, 0, "other", 0)), (PUT, PUT));
    assert_eq!(branches(vec![]), (PUT, PUT));
    // Of two compares, the failure branch does not know which one failed.
    assert_eq!(branches(wire![create.clone(), compare(2, 0, "other", 1)]), (CREATE, PUT));
    assert_eq!(branches(wire![create.clone(), create.clone()]), (CREATE, PUT));
    // A range compare is true of no key at all.
    assert_eq!(branches(len(1, wire![len(3, "k"), num(4, 0), len(64, "l")])), (PUT, PUT));
    // No member of the oneof: etcd compares with 0.
    assert_eq!(branches(len(1, len(3, "k"))), (CREATE, UPDATE));
}

/// The verbs of the last Put of `k`, by its value's presence in the list: each Put here is of
/// another access.
fn last_put(message: &[u8]) -> Verbs {
    let accesses = inspect(Method::Txn, message).unwrap();
    accesses.keys().filter(|access| access.range.start == b"k").last().unwrap().verbs
}

#[test]
fn a_guard_ends_when_its_key_may_have_been_written() {
    let exists = compare(2, 0, "k", 5);
    let put = || success(PUT_OP, len(1, "k"));
    let apart = || success(PUT_OP, len(1, "apart"));
    for (before, expected) in [
        (apart(), UPDATE),
        (success(DELETE_RANGE, len(1, "apart")), UPDATE),
        (success(DELETE_RANGE, wire![len(1, "l"), len(2, "\0")]), UPDATE),
        (wire![put(), apart()], PUT),
        (wire![success(DELETE_RANGE, len(1, "k")), apart()], PUT),
        // etcd's own check of overlaps does not see this one.
        (success(DELETE_RANGE, wire![len(1, "a"), len(2, "\0")]), PUT),
        (success(DELETE_RANGE, wire![len(1, "a"), len(2, "l")]), PUT),
        (wire![success(TXN, failure(DELETE_RANGE, len(1, "k"))), apart()], PUT),
    ] {
        assert_eq!(last_put(&wire![exists.clone(), before, put()]), expected);
    }
}

#[test]
fn a_nested_txn_compares_before_anything_is_applied() {
    let guarded = wire![compare(0, 0, "k", 0), success(PUT_OP, len(1, "k"))];
    let wide = success(DELETE_RANGE, wire![len(1, "a"), len(2, "\0")]);
    assert_eq!(last_put(&success(TXN, &guarded)), READ.and(CREATE));
    assert_eq!(last_put(&failure(TXN, &guarded)), READ.and(CREATE));
    // What stands in front of it may have changed what its compare saw; what stands behind it, or
    // in the other branch, has not.
    assert_eq!(last_put(&wire![wide.clone(), success(TXN, &guarded)]), READ.and(PUT));
    assert_eq!(last_put(&wire![success(TXN, &guarded), wide.clone()]), READ.and(CREATE));
    assert_eq!(last_put(&wire![wide, failure(TXN, &guarded)]), READ.and(CREATE));
    // What one of its branches writes may have changed what the next one's compare saw, whichever
    // branch it is.
    let wide_in = |branch: fn(u32, Vec<u8>) -> Vec<u8>| {
        success(TXN, branch(DELETE_RANGE, wire![len(1, "a"), len(2, "\0")]))
    };
    assert_eq!(last_put(&wire![wide_in(success), success(TXN, &guarded)]), READ.and(PUT));
    assert_eq!(last_put(&wire![wide_in(failure), success(TXN, &guarded)]), READ.and(PUT));
    // A guard of the Txn around it holds inside, and behind it.
    let exists = compare(2, 0, "k", 5);
    let nested = success(TXN, wire![compare(0, 0, "l", 0), success(RANGE, len(1, "l"))]);
    assert_eq!(last_put(&wire![exists, nested, success(PUT_OP, len(1, "k"))]), UPDATE);
    assert_eq!(
        last_put(&wire![compare(2, 0, "k", 5), success(TXN, success(PUT_OP, len(1, "k")))]),
        READ.and(UPDATE)
    );
}

#[test]
fn the_three_lists_may_stand_mixed() {
    let message = wire![
        failure(RANGE, len(1, "f")),
        success(PUT_OP, len(1, "k")),
        compare(0, 0, "k", 0),
        success(PUT_OP, len(1, "l")),
        compare(0, 0, "l", 0),
        failure(DELETE_RANGE, len(1, "g")),
    ];
    let accesses = inspect(Method::Txn, &message).unwrap();
    let expected: Keys = vec![
        (READ, b"k", b""),
        (READ, b"l", b""),
        (CREATE, b"k", b""),
        (CREATE, b"l", b""),
        (READ, b"f", b""),
        (DELETE, b"g", b""),
    ];
    assert_eq!(keys(&accesses), expected);
}

#[test]
fn a_txn_is_limited_by_what_its_operations_cost() {
    let nested =
        |depth: usize, inner: Vec<u8>| (1..depth).fold(inner, |inner, _| success(TXN, inner));
    let put = || success(PUT_OP, len(1, "deep"));
    // 446 * 447 / 2 is below the limit, 447 * 448 / 2 above it.
    for depth in [10, 100, 446] {
        assert_eq!(
            keys(&inspect(Method::Txn, &nested(depth, put())).unwrap()),
            [(PUT, &b"deep"[..], &b""[..])],
            "{depth}"
        );
    }
    for depth in [447, 2_000, 20_000] {
        assert_eq!(
            fault(Method::Txn, &nested(depth, put())).2,
            Fault::TooManyOperations,
            "{depth}"
        );
    }
    // Many operations deep inside cost as many times more: 100 * 101 / 2 for what is around them,
    // and 99,000 at the bottom.
    let around = 100 * 101 / 2 - 100;
    let at_most = (MAX_WORK - around) / 100;
    let bottom = |count: usize| nested(100, success(RANGE, len(1, "k")).repeat(count));
    assert!(inspect(Method::Txn, &bottom(at_most)).is_ok());
    assert_eq!(fault(Method::Txn, &bottom(at_most + 1)).2, Fault::TooManyOperations);

    let many = |count: usize| success(RANGE, len(1, "k")).repeat(count);
    assert_eq!(inspect(Method::Txn, &many(MAX_OPERATIONS)).unwrap().ranges.len(), 1);
    assert_eq!(fault(Method::Txn, &many(MAX_OPERATIONS + 1)).2, Fault::TooManyOperations);
    let halves = wire![many(MAX_OPERATIONS / 2), success(TXN, many(MAX_OPERATIONS / 2))];
    assert_eq!(fault(Method::Txn, &halves).2, Fault::TooManyOperations);
}

#[test]
fn guards_that_take_too_long_to_look_up_narrow_nothing_more() {
    let guarded = |count: usize| {
        let keys = || (0..count).map(|n| format!("{n:05}"));
        let compares: Vec<u8> = keys().flat_map(|key| compare(0, 0, &key, 0)).collect();
        wire![compares, keys().flat_map(|key| success(PUT_OP, len(1, key))).collect::<Vec<u8>>()]
    };
    let created = |count| {
        let message = guarded(count);
        let accesses = inspect(Method::Txn, &message).unwrap();
        let narrowed = accesses.keys().filter(|access| access.verbs == CREATE).count();
        let all = accesses.keys().filter(|access| access.verbs.has(Verb::Create)).count();
        (narrowed, all)
    };
    assert_eq!(created(128), (128, 128));
    assert_eq!(created(256), (guard::BUDGET / 256, 256));
    assert_eq!(
        created(MAX_OPERATIONS / 2),
        (guard::BUDGET / (MAX_OPERATIONS / 2), MAX_OPERATIONS / 2)
    );
}
