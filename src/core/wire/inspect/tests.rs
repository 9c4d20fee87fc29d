mod txn;

use super::*;
use crate::access::Verb;
use crate::wire::Fault;
use crate::wire::spell::{len, num, overlong, tag, wire};

/// Verbs, key and range end of each access.
type Keys<'a> = Vec<(Verbs, &'a [u8], &'a [u8])>;

fn keys<'a>(accesses: &'a Accesses<'_>) -> Keys<'a> {
    accesses
        .keys()
        .map(|access| (access.verbs, access.range.start, access.range.range_end()))
        .collect()
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
fn lists_the_keys_of_each_request() {
    let rows: Vec<(Method, Vec<u8>, Keys)> = vec![
        (Method::Range, len(1, "k"), vec![(READ, b"k", b"")]),
        (
            Method::RangeStream,
            wire![len(1, "k"), len(2, "z"), num(3, 5), num(7, 1)],
            vec![(READ, b"k", b"z")],
        ),
        (Method::Range, wire![len(2, "\0"), len(1, "k")], vec![(READ, b"k", b"\0")]),
        (Method::Range, wire![len(1, "\0"), len(2, "\0")], vec![(READ, b"\0", b"\0")]),
        (Method::Range, wire![len(1, "z"), len(2, "a")], vec![(READ, b"z", b"a")]),
        (Method::Range, vec![], vec![(READ, b"", b"")]),
        (Method::Put, wire![len(1, "k"), len(2, "v")], vec![(PUT, b"k", b"")]),
        (Method::Put, wire![len(1, "k"), num(4, 1)], vec![(PUT.union(READ), b"k", b"")]),
        (Method::Put, wire![len(1, "k"), num(4, 0), num(5, 1), num(6, 1)], vec![(PUT, b"k", b"")]),
        (Method::Put, wire![len(1, "k"), num(3, 7)], vec![(PUT.union(DELETE), b"k", b"")]),
        (Method::DeleteRange, len(1, "k"), vec![(DELETE, b"k", b"")]),
        (
            Method::DeleteRange,
            wire![len(1, "k"), len(2, "l"), num(3, 1)],
            vec![(DELETE.union(READ), b"k", b"l")],
        ),
        (Method::Watch, len(1, len(2, "\0")), vec![(READ, b"\0", b"\0")]),
        (Method::Lock, len(1, "n"), vec![(Verbs::ALL.without(UPDATE), b"n/", b"n0")]),
        (Method::Unlock, len(1, "n/7ab"), vec![(DELETE, b"n/7ab", b"")]),
        (Method::Campaign, wire![len(1, ""), len(3, "v")], vec![(Verbs::ALL, b"/", b"0")]),
        (
            Method::Proclaim,
            len(1, wire![len(1, "n"), len(2, "elsewhere"), num(3, 9)]),
            vec![(Verbs::ALL, b"elsewhere", b"")],
        ),
        (Method::Proclaim, vec![], vec![(Verbs::ALL, b"", b"")]),
        (Method::Leader, len(1, "n"), vec![(READ, b"n/", b"n0")]),
        (Method::Observe, len(1, "n"), vec![(READ, b"n/", b"n0")]),
        (Method::Resign, len(1, len(2, "n/7")), vec![(READ.union(DELETE), b"n/7", b"")]),
    ];
    for (method, message, expected) in rows {
        let accesses = inspect(method, &message).unwrap();
        assert_eq!(keys(&accesses), expected, "{method:?} {message:02x?}");
        assert_eq!(accesses.capability, None);
    }
}

#[test]
fn lists_each_lease_with_its_use() {
    for (method, message, expected) in [
        (Method::Put, wire![len(1, "k"), num(3, -7)], Some((-7, LeaseUse::Attach))),
        (Method::Put, wire![len(1, "k"), num(3, 0)], None),
        (Method::LeaseGrant, wire![num(1, 60), num(2, 5)], Some((5, LeaseUse::Grant))),
        (Method::LeaseGrant, num(1, 60), None),
        (Method::LeaseRevoke, num(1, 5), Some((5, LeaseUse::Revoke))),
        (Method::LeaseKeepAlive, num(1, 5), Some((5, LeaseUse::KeepAlive))),
        (Method::LeaseTimeToLive, wire![num(1, 5), num(2, 1)], Some((5, LeaseUse::Inspect))),
        (Method::Lock, wire![len(1, "n"), num(2, 5)], Some((5, LeaseUse::Attach))),
        (Method::Lock, len(1, "n"), None),
        (Method::Campaign, wire![len(1, "n"), num(2, 5)], Some((5, LeaseUse::Attach))),
        (Method::Proclaim, len(1, wire![len(2, "k"), num(4, 5)]), Some((5, LeaseUse::Attach))),
        (Method::Resign, len(1, wire![len(2, "k"), num(4, 5)]), Some((5, LeaseUse::KeepAlive))),
        (
            Method::Txn,
            wire![
                success(PUT_OP, wire![len(1, "a"), num(3, 5)]),
                failure(PUT_OP, wire![len(1, "b"), num(3, 5)])
            ],
            Some((5, LeaseUse::Attach)),
        ),
    ] {
        assert_eq!(
            inspect(method, &message).unwrap().leases.to_vec(),
            Vec::from_iter(expected),
            "{method:?}"
        );
    }
}

#[test]
fn a_method_without_keys_needs_its_capability() {
    use Capability as C;
    for &method in Method::ALL {
        let expected = match method {
            Method::Compact => Some(C::Compact),
            Method::LeaseGrant | Method::LeaseLeases => Some(C::Lease),
            Method::MemberList => Some(C::MemberList),
            Method::MemberAdd
            | Method::MemberRemove
            | Method::MemberUpdate
            | Method::MemberPromote => Some(C::MemberAdmin),
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
        let message =
            if method == Method::MemberUpdate { len(2, "http://a:1") } else { Vec::new() };
        assert_eq!(inspect(method, &message).unwrap().capability, expected, "{method:?}");
    }
    for (action, expected) in [(0, C::Status), (1, C::Alarm), (2, C::Alarm)] {
        assert_eq!(inspect(Method::Alarm, &num(1, action)).unwrap().capability, Some(expected));
    }
    for action in [3, -1, 1 << 32] {
        assert_eq!(
            fault(Method::Alarm, &num(1, action)),
            ("AlarmRequest.action", 0, Fault::UnknownValue)
        );
    }
    assert_eq!(
        fault(Method::Alarm, &wire![num(1, 0), num(1, 1)]),
        ("AlarmRequest.action", 2, Fault::Repeated)
    );
}

/// Messages that need only a capability are read, too: a fault names the right message.
#[test]
fn each_message_of_the_auth_service_is_decoded() {
    // The first field of the message; empty if it has no fields.
    for (method, name, first_field) in [
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
        if !first_field.is_empty() {
            let (named, offset, found) =
                fault(method, &wire![first_field.clone(), first_field.clone()]);
            assert_eq!((offset, found), (first_field.len(), Fault::Repeated), "{method:?}");
            assert!(named.starts_with(&format!("{name}.")), "{method:?}: {named}");
        }
    }
}

#[test]
fn refuses_an_empty_range_end_that_is_present() {
    let range = wire![len(1, "a"), len(2, "")];
    assert_eq!(fault(Method::Range, &range), ("RangeRequest.range_end", 3, Fault::EmptyRangeEnd));
    assert_eq!(
        fault(Method::DeleteRange, &range),
        ("DeleteRangeRequest.range_end", 3, Fault::EmptyRangeEnd)
    );
    assert_eq!(fault(Method::Txn, &success(RANGE, range)).2, Fault::EmptyRangeEnd);
    assert_eq!(
        fault(Method::Txn, &len(1, wire![len(3, "a"), len(64, "")])),
        ("Compare.range_end", 5, Fault::EmptyRangeEnd)
    );
}

#[test]
fn a_fault_names_the_field_and_its_offset() {
    for (method, message, expected) in [
        (
            Method::Put,
            wire![len(1, "k"), num(3, 1), num(3, 2)],
            ("PutRequest.lease", 5, Fault::Repeated),
        ),
        (
            Method::Put,
            wire![len(1, "k"), len(3, "x")],
            ("PutRequest.lease", 3, Fault::WrongWireType),
        ),
        (
            Method::Put,
            wire![len(1, "k"), tag(3, 0), overlong(5, 1)],
            ("PutRequest", 3, Fault::OverlongVarint),
        ),
        (Method::Put, wire![num(1, 1)], ("PutRequest.key", 0, Fault::WrongWireType)),
        (Method::Range, wire![len(1, "k"), num(14, 1)], ("RangeRequest", 3, Fault::UnknownField)),
        (
            Method::Txn,
            wire![success(PUT_OP, wire![len(1, "k"), len(1, "l")])],
            ("PutRequest.key", 7, Fault::Repeated),
        ),
        (Method::Txn, num(2, 1), ("TxnRequest.success", 0, Fault::WrongWireType)),
        (Method::Txn, len(4, ""), ("TxnRequest", 0, Fault::UnknownField)),
        (
            Method::Txn,
            wire![success(RANGE, len(1, "a")), len(3, "")],
            ("RequestOp", 9, Fault::EmptyOperation),
        ),
        (
            Method::Txn,
            len(2, wire![len(1, len(1, "a")), len(2, len(1, "a"))]),
            ("RequestOp", 7, Fault::Repeated),
        ),
        (
            Method::Txn,
            len(2, wire![len(1, len(1, "a")), len(9, "")]),
            ("RequestOp", 7, Fault::UnknownField),
        ),
        (Method::Txn, len(2, len(5, "")), ("RequestOp", 2, Fault::UnknownField)),
        (Method::Txn, len(2, num(1, 1)), ("RequestOp.request_range", 2, Fault::WrongWireType)),
        (
            Method::Txn,
            wire![[0x0a, 0x05], len(3, "k")],
            ("TxnRequest", 0, Fault::LengthBeyondMessage),
        ),
        (
            Method::Proclaim,
            wire![len(1, len(2, "a")), len(1, len(2, "b"))],
            ("ProclaimRequest.leader", 5, Fault::Repeated),
        ),
        (Method::UserAdd, len(1, [0xff]), ("AuthUserAddRequest.name", 0, Fault::NotUtf8)),
        (
            Method::MemberAdd,
            wire![len(1, "a"), len(1, [0xff])],
            ("MemberAddRequest.peerURLs", 3, Fault::NotUtf8),
        ),
    ] {
        assert_eq!(fault(method, &message), expected, "{method:?} {message:02x?}");
    }
}

#[test]
fn refuses_values_that_etcd_cannot_store_or_parse() {
    let longest = "n".repeat(32_768);
    for (method, name) in
        [(Method::UserAdd, "AuthUserAddRequest.name"), (Method::RoleAdd, "AuthRoleAddRequest.name")]
    {
        assert!(inspect(method, &len(1, &longest)).is_ok());
        assert_eq!(fault(method, &len(1, longest.clone() + "n")), (name, 0, Fault::NameTooLong));
    }
    let urls = |urls: &[&str]| {
        wire![num(1, 7), urls.iter().flat_map(|url| len(2, url)).collect::<Vec<u8>>()]
    };
    assert!(inspect(Method::MemberUpdate, &urls(&["http://a:1", "https://[::1]:2380"])).is_ok());
    for (message, offset) in [
        (urls(&[]), 0),
        (urls(&[""]), 2),
        (urls(&["http://a:1", "x"]), 14),
        (urls(&["x", "http://a:1"]), 2),
    ] {
        assert_eq!(
            fault(Method::MemberUpdate, &message),
            ("MemberUpdateRequest.peerURLs", offset, Fault::PeerUrl)
        );
    }
}

#[test]
fn refuses_a_txn_that_deletes_and_keeps_a_key() {
    let put = |key: &str, ignore: u32| len(2, wire![len(1, key), num(ignore, 1)]);
    let from = |key: &str| len(3, wire![len(1, key), len(2, "\0")]);
    let until = |key: &str, end: &str| len(3, wire![len(1, key), len(2, end)]);
    let nested = |operation: Vec<u8>| len(4, len(3, operation));
    for (refused, operations) in [
        (true, wire![len(2, from("b")), len(2, put("b", 5))]),
        (true, wire![len(2, from("b")), len(2, put("c", 6))]),
        (true, wire![len(2, put("c", 6)), len(2, from("b"))]),
        (true, wire![len(2, from("z")), len(2, from("b")), len(2, put("c", 5))]),
        (true, wire![len(2, from("\0")), len(3, nested(put("c", 5)))]),
        (true, wire![len(2, nested(from("b"))), len(2, nested(put("c", 5)))]),
        (false, wire![len(2, from("b")), len(2, put("a", 5))]),
        (false, wire![len(2, from("b")), len(2, put("c", 4))]),
        // etcd itself refuses this one.
        (false, wire![len(2, until("b", "d")), len(2, put("c", 5))]),
        (false, wire![len(2, put("c", 5)), len(2, put("d", 6))]),
    ] {
        let found = inspect(Method::Txn, &operations).err().map(|malformed| malformed.fault);
        assert_eq!(found, refused.then_some(Fault::DeletedAndKept), "{operations:02x?}");
    }
    let message = wire![len(2, from("b")), len(2, put("c", 5))];
    assert_eq!(fault(Method::Txn, &message), ("PutRequest", 17, Fault::DeletedAndKept));
}
