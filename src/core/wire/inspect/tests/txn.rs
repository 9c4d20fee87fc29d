//! Txns: compares, their guards, and the limits.

use super::*;

#[test]
fn refuses_an_ambiguous_compare() {
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
fn refuses_two_members_of_a_compare_in_any_order() {
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

/// Create, update and delete as libcalico-go and kube-apiserver write them (`MOD` compares; the
/// failure branch reads the key).
#[test]
fn txns_of_calico_and_kubernetes_need_minimal_verbs() {
    let get = len(1, "k");
    for (compare, operation, expected) in [
        (
            compare(0, 0, "k", 0),
            success(PUT_OP, wire![len(1, "k"), len(2, "v")]),
            READ.union(CREATE),
        ),
        (
            compare(2, 0, "k", 0),
            success(PUT_OP, wire![len(1, "k"), len(2, "v")]),
            READ.union(CREATE),
        ),
        (
            compare(2, 0, "k", 42),
            success(PUT_OP, wire![len(1, "k"), len(2, "v")]),
            READ.union(UPDATE),
        ),
        (
            compare(2, 0, "k", 42),
            success(PUT_OP, wire![len(1, "k"), num(3, 7)]),
            READ.union(UPDATE).union(DELETE),
        ),
        (compare(2, 0, "k", 42), success(DELETE_RANGE, len(1, "k")), READ.union(DELETE)),
    ] {
        let message = wire![compare, operation, failure(RANGE, get.clone())];
        let accesses = inspect(Method::Txn, &message).unwrap();
        assert_eq!(keys(&accesses), [(expected, &b"k"[..], &b""[..])]);
        assert!(!accesses.ranges.spilled());
    }
}

/// The verbs that a Put of `k` needs in the success branch and in the failure branch of `compares`.
fn branches(compares: Vec<u8>) -> (Verbs, Verbs) {
    let of = |branch: Vec<u8>| {
        let message = wire![compares.clone(), branch];
        let accesses = inspect(Method::Txn, &message).unwrap();
        let verbs = accesses
            .keys()
            .filter(|access| access.range.start == b"k")
            .fold(Verbs::NONE, |verbs, access| verbs.union(access.verbs));
        verbs.without(READ)
    };
    (of(success(PUT_OP, len(1, "k"))), of(failure(PUT_OP, len(1, "k"))))
}

#[test]
fn a_compare_guards_both_branches() {
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
    // The lease of a key without a lease compares as 0, like that of a missing key.
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
    // A compare of the value of a missing key is false.
    for result in [EQUAL, GREATER, LESS, NOT_EQUAL] {
        assert_eq!(branches(compare(3, result, "k", 1)), (UPDATE, PUT), "value {result}");
    }
}

#[test]
fn only_a_proven_guard_narrows_a_branch() {
    let create = compare(0, 0, "k", 0);
    assert_eq!(branches(compare(0, 0, "other", 0)), (PUT, PUT));
    assert_eq!(branches(vec![]), (PUT, PUT));
    // With two compares, it is unknown which one failed in the failure branch.
    assert_eq!(branches(wire![create.clone(), compare(2, 0, "other", 1)]), (CREATE, PUT));
    assert_eq!(branches(wire![create.clone(), create.clone()]), (CREATE, PUT));
    // A range compare is also true if the range holds no key.
    assert_eq!(branches(len(1, wire![len(3, "k"), num(4, 0), len(64, "l")])), (PUT, PUT));
    // Without a member of the oneof, etcd compares with 0.
    assert_eq!(branches(len(1, len(3, "k"))), (CREATE, UPDATE));
}

/// The verbs of the last access to `k`. In these messages each Put is an access of its own.
fn last_put(message: &[u8]) -> Verbs {
    let accesses = inspect(Method::Txn, message).unwrap();
    accesses.keys().filter(|access| access.range.start == b"k").last().unwrap().verbs
}

#[test]
fn a_guard_ends_when_its_key_may_be_written() {
    let exists = compare(2, 0, "k", 5);
    let put = || success(PUT_OP, len(1, "k"));
    let apart = || success(PUT_OP, len(1, "apart"));
    for (before, expected) in [
        (apart(), UPDATE),
        (success(DELETE_RANGE, len(1, "apart")), UPDATE),
        (success(DELETE_RANGE, wire![len(1, "l"), len(2, "\0")]), UPDATE),
        (wire![put(), apart()], PUT),
        (wire![success(DELETE_RANGE, len(1, "k")), apart()], PUT),
        // etcd's own check for overlaps does not notice this one.
        (success(DELETE_RANGE, wire![len(1, "a"), len(2, "\0")]), PUT),
        (success(DELETE_RANGE, wire![len(1, "a"), len(2, "l")]), PUT),
        (wire![success(TXN, failure(DELETE_RANGE, len(1, "k"))), apart()], PUT),
    ] {
        assert_eq!(last_put(&wire![exists.clone(), before, put()]), expected);
    }
}

#[test]
fn nested_compares_see_the_state_before_the_txn() {
    let guarded = wire![compare(0, 0, "k", 0), success(PUT_OP, len(1, "k"))];
    let wide = success(DELETE_RANGE, wire![len(1, "a"), len(2, "\0")]);
    assert_eq!(last_put(&success(TXN, &guarded)), READ.union(CREATE));
    assert_eq!(last_put(&failure(TXN, &guarded)), READ.union(CREATE));
    // An operation before the nested Txn may have changed what its compare saw. An operation after
    // it or in the other branch has not.
    assert_eq!(last_put(&wire![wide.clone(), success(TXN, &guarded)]), READ.union(PUT));
    assert_eq!(last_put(&wire![success(TXN, &guarded), wide.clone()]), READ.union(CREATE));
    assert_eq!(last_put(&wire![wide, failure(TXN, &guarded)]), READ.union(CREATE));
    // A write in either branch of a nested Txn may have changed what the compare of the next one
    // saw.
    let wide_in = |branch: fn(u32, Vec<u8>) -> Vec<u8>| {
        success(TXN, branch(DELETE_RANGE, wire![len(1, "a"), len(2, "\0")]))
    };
    assert_eq!(last_put(&wire![wide_in(success), success(TXN, &guarded)]), READ.union(PUT));
    assert_eq!(last_put(&wire![wide_in(failure), success(TXN, &guarded)]), READ.union(PUT));
    // A guard of the enclosing Txn holds inside the nested Txn and after it.
    let exists = compare(2, 0, "k", 5);
    let nested = success(TXN, wire![compare(0, 0, "l", 0), success(RANGE, len(1, "l"))]);
    assert_eq!(last_put(&wire![exists, nested, success(PUT_OP, len(1, "k"))]), UPDATE);
    assert_eq!(
        last_put(&wire![compare(2, 0, "k", 5), success(TXN, success(PUT_OP, len(1, "k")))]),
        READ.union(UPDATE)
    );
}

#[test]
fn accepts_interleaved_lists() {
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
fn limits_the_total_cost_of_a_txn() {
    let nested =
        |depth: usize, inner: Vec<u8>| (1..depth).fold(inner, |inner, _| success(TXN, inner));
    let put = || success(PUT_OP, len(1, "deep"));
    // 446 * 447 / 2 is below the limit, 447 * 448 / 2 is above it.
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
    // An operation costs its depth: 100 * 101 / 2 for the enclosing Txns, and 99,000 for the
    // operations at the bottom.
    let enclosing = 100 * 101 / 2 - 100;
    let at_most = (MAX_WORK - enclosing) / 100;
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
fn guards_are_ignored_beyond_the_comparison_limit() {
    let guarded = |count: usize| {
        let keys = || (0..count).map(|n| format!("{n:05}"));
        let compares: Vec<u8> = keys().flat_map(|key| compare(0, 0, &key, 0)).collect();
        wire![compares, keys().flat_map(|key| success(PUT_OP, len(1, key))).collect::<Vec<u8>>()]
    };
    let created = |count| {
        let message = guarded(count);
        let accesses = inspect(Method::Txn, &message).unwrap();
        let narrowed = accesses.keys().filter(|access| access.verbs == CREATE).count();
        let all = accesses.keys().filter(|access| access.verbs.contains(Verb::Create)).count();
        (narrowed, all)
    };
    assert_eq!(created(128), (128, 128));
    assert_eq!(created(256), (guard::MAX_COMPARISONS / 256, 256));
    assert_eq!(
        created(MAX_OPERATIONS / 2),
        (guard::MAX_COMPARISONS / (MAX_OPERATIONS / 2), MAX_OPERATIONS / 2)
    );
}
