use super::*;
use crate::access::Verb;
use crate::wire::Fault;
use crate::wire::spell::{len, num, overlong, tag, wire};

/// Verbs, key and range end of each access.
type Keys<'a> = Vec<(Verbs, &'a [u8], &'a [u8])>;

fn keys<'a>(accesses: &'a Accesses<'_>) -> Keys<'a> {
    accesses.keys().map(|access| (access.verbs, access.range.start, access.range.range_end())).collect()
}

fn fault(method: Method, message: &[u8]) -> (&'static str, usize, Fault) {
    let malformed = inspect(method, message).unwrap_err();
    (malformed.field, malformed.offset, malformed.fault)
}

const READ: Verbs = Verbs::READ;
const CREATE: Verbs = Verbs::CREATE;
const UPDATE: Verbs = Verbs::UPDATE;
const DELETE: Verbs = Verbs::DELETE;
const PUT: Verbs = Verbs::PUT;

/// The members of `RequestOp`.
const RANGE: u32 = 1;
const PUT_OP: u32 = 2;
const DELETE_RANGE: u32 = 3;
const TXN: u32 = 4;

/// A `Compare` of one key with one number: target, result, key, number.
fn compare(target: i64, result: i64, key: &str, number: i64) -> Vec<u8> {
    let member = [4, 5, 6, 7, 8][usize::try_from(target).unwrap()];
    let value = if target == 3 { len(member, number.to_string()) } else { num(member, number) };
    len(1, wire![num(1, result), num(2, target), len(3, key), value])
}

fn success(member: u32, request: impl AsRef<[u8]>) -> Vec<u8> {
    len(2, len(member, request))
}

fn failure(member: u32, request: impl AsRef<[u8]>) -> Vec<u8> {
    len(3, len(member, request))
}

#[test]
fn each_keyed_request_lists_its_keys() {
    let rows: Vec<(Method, Vec<u8>, Keys)> = vec![
        (Method::Range, len(1, "k"), vec![(READ, b"k", b"")]),
        (Method::RangeStream, wire![len(1, "k"), len(2, "z"), num(3, 5), num(7, 1)], vec![(READ, b"k", b"z")]),
        (Method::Range, wire![len(2, "\0"), len(1, "k")], vec![(READ, b"k", b"\0")]),
        (Method::Range, wire![len(1, "\0"), len(2, "\0")], vec![(READ, b"\0", b"\0")]),
        (Method::Range, wire![len(1, "z"), len(2, "a")], vec![(READ, b"z", b"a")]),
        (Method::Range, vec![], vec![(READ, b"", b"")]),
        (Method::Put, wire![len(1, "k"), len(2, "v")], vec![(PUT, b"k", b"")]),
        (Method::Put, wire![len(1, "k"), num(4, 1)], vec![(PUT.and(READ), b"k", b"")]),
        (Method::Put, wire![len(1, "k"), num(4, 0), num(5, 1), num(6, 1)], vec![(PUT, b"k", b"")]),
        (Method::Put, wire![len(1, "k"), num(3, 7)], vec![(PUT.and(DELETE), b"k", b"")]),
        (Method::DeleteRange, len(1, "k"), vec![(DELETE, b"k", b"")]),
        (Method::DeleteRange, wire![len(1, "k"), len(2, "l"), num(3, 1)], vec![(DELETE.and(READ), b"k", b"l")]),
        (Method::Watch, len(1, len(2, "\0")), vec![(READ, b"\0", b"\0")]),
        (Method::Lock, len(1, "n"), vec![(Verbs::ALL.without(UPDATE), b"n/", b"n0")]),
        (Method::Unlock, len(1, "n/7ab"), vec![(DELETE, b"n/7ab", b"")]),
        (Method::Campaign, wire![len(1, ""), len(3, "v")], vec![(Verbs::ALL, b"/", b"0")]),
        (Method::Proclaim, len(1, wire![len(1, "n"), len(2, "elsewhere"), num(3, 9)]), vec![(Verbs::ALL, b"elsewhere", b"")]),
        (Method::Proclaim, vec![], vec![(Verbs::ALL, b"", b"")]),
        (Method::Leader, len(1, "n"), vec![(READ, b"n/", b"n0")]),
        (Method::Observe, len(1, "n"), vec![(READ, b"n/", b"n0")]),
        (Method::Resign, len(1, len(2, "n/7")), vec![(READ.and(DELETE), b"n/7", b"")]),
    ];
    for (method, message, expected) in rows {
        let accesses = inspect(method, &message).unwrap();
        assert_eq!(keys(&accesses), expected, "{method:?} {message:02x?}");
        assert_eq!(accesses.capability, None);
    }
}

#[test]
fn each_lease_is_named_with_what_is_done_to_it() {
    for (method, message, expected) in [
        (Method::Put, wire![len(1, "k"), num(3, -7)], Some((-7, LeaseUse::Attach))),
        (Method::Put, wire![len(1, "k"), num(3, 0)], None),
        (Method::LeaseRevoke, num(1, 5), Some((5, LeaseUse::Revoke))),
        (Method::LeaseKeepAlive, num(1, 5), Some((5, LeaseUse::KeepAlive))),
        (Method::LeaseTimeToLive, wire![num(1, 5), num(2, 1)], Some((5, LeaseUse::Look))),
        (Method::Lock, wire![len(1, "n"), num(2, 5)], Some((5, LeaseUse::Attach))),
        (Method::Lock, len(1, "n"), None),
        (Method::Campaign, wire![len(1, "n"), num(2, 5)], Some((5, LeaseUse::Attach))),
        (Method::Proclaim, len(1, wire![len(2, "k"), num(4, 5)]), Some((5, LeaseUse::Attach))),
        (Method::Resign, len(1, wire![len(2, "k"), num(4, 5)]), Some((5, LeaseUse::KeepAlive))),
        (
            Method::Txn,
            wire![success(PUT_OP, wire![len(1, "a"), num(3, 5)]), failure(PUT_OP, wire![len(1, "b"), num(3, 5)])],
            Some((5, LeaseUse::Attach)),
        ),
    ] {
        assert_eq!(inspect(method, &message).unwrap().leases.to_vec(), Vec::from_iter(expected), "{method:?}");
    }
}

#[test]
fn what_has_no_key_needs_its_capability() {
    use Capability as C;
    for &method in Method::ALL {
        let expected = match method {
            Method::Compact => Some(C::Compact),
            Method::LeaseGrant | Method::LeaseLeases => Some(C::Lease),
            Method::MemberList => Some(C::MemberList),
            Method::MemberAdd | Method::MemberRemove | Method::MemberUpdate | Method::MemberPromote => Some(C::MemberAdmin),
            Method::Alarm | Method::Status | Method::AuthStatus => Some(C::Status),
            Method::Defragment => Some(C::Defragment),
            Method::Hash | Method::HashKV => Some(C::Hash),
            Method::Snapshot => Some(C::Snapshot),
            Method::MoveLeader => Some(C::MoveLeader),
            Method::Downgrade => Some(C::Downgrade),
            Method::Authenticate => None,
            _ if method.path().starts_with("/etcdserverpb.Auth/") => Some(C::AuthAdmin),
            _ => None,
        };
        assert_eq!(inspect(method, b"").unwrap().capability, expected, "{method:?}");
    }
    for (action, expected) in [(0, C::Status), (1, C::Alarm), (2, C::Alarm)] {
        assert_eq!(inspect(Method::Alarm, &num(1, action)).unwrap().capability, Some(expected));
    }
    for action in [3, -1, 1 << 32] {
        assert_eq!(fault(Method::Alarm, &num(1, action)), ("AlarmRequest.action", 0, Fault::UnknownValue));
    }
    assert_eq!(fault(Method::Alarm, &wire![num(1, 0), num(1, 1)]), ("AlarmRequest.action", 2, Fault::Repeated));
}

/// Of a message that only a capability guards, too, each is read as itself: what is wrong in it is named after it.
#[test]
fn each_message_of_the_auth_service_is_read_as_itself() {
    // What stands first in it, twice; nothing, where it has no fields.
    for (method, name, twice) in [
        (Method::UserAdd, "AuthUserAddRequest", len(1, "a")),
        (Method::UserGet, "AuthUserGetRequest", len(1, "a")),
        (Method::UserDelete, "AuthUserDeleteRequest", len(1, "a")),
        (Method::UserChangePassword, "AuthUserChangePasswordRequest", len(1, "a")),
        (Method::UserGrantRole, "AuthUserGrantRoleRequest", len(1, "a")),
        (Method::UserRevokeRole, "AuthUserRevokeRoleRequest", len(1, "a")),
        (Method::UserList, "AuthUserListRequest", vec![]),
        (Method::RoleAdd, "AuthRoleAddRequest", len(1, "a")),
        (Method::RoleGet, "AuthRoleGetRequest", len(1, "a")),
        (Method::RoleDelete, "AuthRoleDeleteRequest", len(1, "a")),
        (Method::RoleGrantPermission, "AuthRoleGrantPermissionRequest", len(1, "a")),
        (Method::RoleRevokePermission, "AuthRoleRevokePermissionRequest", len(1, "a")),
        (Method::RoleList, "AuthRoleListRequest", vec![]),
        (Method::AuthEnable, "AuthEnableRequest", vec![]),
        (Method::AuthDisable, "AuthDisableRequest", vec![]),
    ] {
        let (named, _, cut) = fault(method, &tag(1, 2));
        assert!(named.starts_with(name), "{method:?}: {named} {cut:?}");
        if !twice.is_empty() {
            let (named, offset, found) = fault(method, &wire![twice.clone(), twice.clone()]);
            assert_eq!((offset, found), (twice.len(), Fault::Repeated), "{method:?}");
            assert!(named.starts_with(&format!("{name}.")), "{method:?}: {named}");
        }
    }
}

#[test]
fn an_empty_range_end_is_not_an_absent_one() {
    let range = wire![len(1, "a"), len(2, "")];
    assert_eq!(fault(Method::Range, &range), ("RangeRequest.range_end", 3, Fault::EmptyRangeEnd));
    assert_eq!(fault(Method::DeleteRange, &range), ("DeleteRangeRequest.range_end", 3, Fault::EmptyRangeEnd));
    assert_eq!(fault(Method::Txn, &success(RANGE, range)).2, Fault::EmptyRangeEnd);
    assert_eq!(fault(Method::Txn, &len(1, wire![len(3, "a"), len(64, "")])), ("Compare.range_end", 5, Fault::EmptyRangeEnd));
}

#[test]
fn faults_name_the_field_and_its_place() {
    for (method, message, expected) in [
        (Method::Put, wire![len(1, "k"), num(3, 1), num(3, 2)], ("PutRequest.lease", 5, Fault::Repeated)),
        (Method::Put, wire![len(1, "k"), len(3, "x")], ("PutRequest.lease", 3, Fault::WrongWireType)),
        (Method::Put, wire![len(1, "k"), tag(3, 0), overlong(5, 1)], ("PutRequest", 3, Fault::OverlongVarint)),
        (Method::Put, wire![num(1, 1)], ("PutRequest.key", 0, Fault::WrongWireType)),
        (Method::Range, wire![len(1, "k"), num(14, 1)], ("RangeRequest", 3, Fault::UnknownField)),
        (Method::Txn, wire![success(PUT_OP, wire![len(1, "k"), len(1, "l")])], ("PutRequest.key", 7, Fault::Repeated)),
        (Method::Txn, num(2, 1), ("TxnRequest.success", 0, Fault::WrongWireType)),
        (Method::Txn, len(4, ""), ("TxnRequest", 0, Fault::UnknownField)),
        (Method::Txn, wire![success(RANGE, len(1, "a")), len(3, "")], ("RequestOp", 9, Fault::EmptyOperation)),
        (Method::Txn, len(2, wire![len(1, len(1, "a")), len(2, len(1, "a"))]), ("RequestOp", 7, Fault::Repeated)),
        (Method::Txn, len(2, wire![len(1, len(1, "a")), len(9, "")]), ("RequestOp", 7, Fault::UnknownField)),
        (Method::Txn, len(2, len(5, "")), ("RequestOp", 2, Fault::UnknownField)),
        (Method::Txn, len(2, num(1, 1)), ("RequestOp.request_range", 2, Fault::WrongWireType)),
        (Method::Txn, wire![[0x0a, 0x05], len(3, "k")], ("TxnRequest", 0, Fault::LengthBeyondMessage)),
        (Method::Proclaim, wire![len(1, len(2, "a")), len(1, len(2, "b"))], ("ProclaimRequest.leader", 5, Fault::Repeated)),
        (Method::UserAdd, len(1, [0xff]), ("AuthUserAddRequest.name", 0, Fault::NotUtf8)),
        (Method::MemberAdd, wire![len(1, "a"), len(1, [0xff])], ("MemberAddRequest.peerURLs", 3, Fault::NotUtf8)),
    ] {
        assert_eq!(fault(method, &message), expected, "{method:?} {message:02x?}");
    }
}

#[test]
fn a_key_that_is_deleted_from_a_start_on_is_not_kept_in_the_same_txn() {
    let put = |key: &str, ignore: u32| len(2, wire![len(1, key), num(ignore, 1)]);
    let from = |key: &str| len(3, wire![len(1, key), len(2, "\0")]);
    let until = |key: &str, end: &str| len(3, wire![len(1, key), len(2, end)]);
    let nested = |operation: Vec<u8>| len(4, len(3, operation));
    for (deadly, operations) in [
        (true, wire![len(2, from("b")), len(2, put("b", 5))]),
        (true, wire![len(2, from("b")), len(2, put("c", 6))]),
        (true, wire![len(2, put("c", 6)), len(2, from("b"))]),
        (true, wire![len(2, from("z")), len(2, from("b")), len(2, put("c", 5))]),
        (true, wire![len(2, from("\0")), len(3, nested(put("c", 5)))]),
        (true, wire![len(2, nested(from("b"))), len(2, nested(put("c", 5)))]),
        (false, wire![len(2, from("b")), len(2, put("a", 5))]),
        (false, wire![len(2, from("b")), len(2, put("c", 4))]),
        // etcd refuses this one itself.
        (false, wire![len(2, until("b", "d")), len(2, put("c", 5))]),
        (false, wire![len(2, put("c", 5)), len(2, put("d", 6))]),
    ] {
        let found = inspect(Method::Txn, &operations).err().map(|malformed| malformed.fault);
        assert_eq!(found, deadly.then_some(Fault::DeletedAndKept), "{operations:02x?}");
    }
    let one = wire![len(2, from("b")), len(2, put("c", 5))];
    assert_eq!(fault(Method::Txn, &one), ("PutRequest", 17, Fault::DeletedAndKept));
}

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
        for (first, second) in (4..=8).flat_map(|first| (4..=8).map(move |second| (first, second))) {
            let message = len(1, wire![len(3, "k"), member(first), num(2, target), member(second)]);
            assert_eq!(fault(Method::Txn, &message).2, Fault::Repeated, "{target} {first} {second}");
        }
    }
}

/// libcalico-go's create, update and delete, and kube-apiserver's (`MOD` compares; the other branch reads the key back).
#[test]
fn the_txns_of_calico_and_kubernetes_need_no_more_than_they_do() {
    let get = len(1, "k");
    for (compare, operation, expected) in [
        (compare(0, 0, "k", 0), success(PUT_OP, wire![len(1, "k"), len(2, "v")]), READ.and(CREATE)),
        (compare(2, 0, "k", 0), success(PUT_OP, wire![len(1, "k"), len(2, "v")]), READ.and(CREATE)),
        (compare(2, 0, "k", 42), success(PUT_OP, wire![len(1, "k"), len(2, "v")]), READ.and(UPDATE)),
        (compare(2, 0, "k", 42), success(PUT_OP, wire![len(1, "k"), num(3, 7)]), READ.and(UPDATE).and(DELETE)),
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
        let verbs = accesses.keys().filter(|access| access.range.start == b"k").fold(Verbs::NONE, |verbs, access| verbs.and(access.verbs));
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
            assert_eq!(branches(compare(target, result, "k", number)), expected, "target {target} result {result} {number}");
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

/// The verbs of the last Put of `k`, by its value's presence in the list: each Put here is of another access.
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
    // What stands in front of it may have changed what its compare saw; what stands behind it, or in the other branch, has not.
    assert_eq!(last_put(&wire![wide.clone(), success(TXN, &guarded)]), READ.and(PUT));
    assert_eq!(last_put(&wire![success(TXN, &guarded), wide.clone()]), READ.and(CREATE));
    assert_eq!(last_put(&wire![wide, failure(TXN, &guarded)]), READ.and(CREATE));
    // What one of its branches writes may have changed what the next one's compare saw, whichever branch it is.
    let wide_in = |branch: fn(u32, Vec<u8>) -> Vec<u8>| success(TXN, branch(DELETE_RANGE, wire![len(1, "a"), len(2, "\0")]));
    assert_eq!(last_put(&wire![wide_in(success), success(TXN, &guarded)]), READ.and(PUT));
    assert_eq!(last_put(&wire![wide_in(failure), success(TXN, &guarded)]), READ.and(PUT));
    // A guard of the Txn around it holds inside, and behind it.
    let exists = compare(2, 0, "k", 5);
    let nested = success(TXN, wire![compare(0, 0, "l", 0), success(RANGE, len(1, "l"))]);
    assert_eq!(last_put(&wire![exists, nested, success(PUT_OP, len(1, "k"))]), UPDATE);
    assert_eq!(last_put(&wire![compare(2, 0, "k", 5), success(TXN, success(PUT_OP, len(1, "k")))]), READ.and(UPDATE));
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
    let expected: Keys =
        vec![(READ, b"k", b""), (READ, b"l", b""), (CREATE, b"k", b""), (CREATE, b"l", b""), (READ, b"f", b""), (DELETE, b"g", b"")];
    assert_eq!(keys(&accesses), expected);
}

#[test]
fn a_txn_has_a_greatest_depth_and_a_greatest_number_of_operations() {
    let nested = |depth: usize| (1..depth).fold(success(PUT_OP, len(1, "deep")), |inner, _| success(TXN, inner));
    assert_eq!(keys(&inspect(Method::Txn, &nested(MAX_DEPTH)).unwrap()), [(PUT, &b"deep"[..], &b""[..])]);
    assert_eq!(fault(Method::Txn, &nested(MAX_DEPTH + 1)).2, Fault::TooDeep);
    assert_eq!(fault(Method::Txn, &nested(2_000)).2, Fault::TooDeep);

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
    assert_eq!(created(MAX_OPERATIONS / 2), (guard::BUDGET / (MAX_OPERATIONS / 2), MAX_OPERATIONS / 2));
}
