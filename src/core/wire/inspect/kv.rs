//! The KV service except Txn.

use super::{add_attached_lease, add_keys};
use crate::access::{Accesses, Verbs};
use crate::keyspace::KeyRange;
use crate::wire::Malformed;
use crate::wire::field::Part;
use crate::wire::message::messages;

messages! {
    RangeRequest (Refuse) {
        1 key: bytes;
        2 range_end: range_end;
        3 limit: int64;
        4 revision: int64;
        5 sort_order: SortOrder;
        6 sort_target: SortTarget;
        7 serializable: bool;
        8 keys_only: bool;
        9 count_only: bool;
        10 min_mod_revision: int64;
        11 max_mod_revision: int64;
        12 min_create_revision: int64;
        13 max_create_revision: int64;
    }
    PutRequest (Refuse) {
        1 key: bytes;
        2 value: bytes;
        3 lease: int64;
        4 prev_kv: bool;
        5 ignore_value: bool;
        6 ignore_lease: bool;
    }
    DeleteRangeRequest (Refuse) {
        1 key: bytes;
        2 range_end: range_end;
        3 prev_kv: bool;
    }
    CompactionRequest (Refuse) {
        1 revision: int64;
        2 physical: bool;
    }
}

pub(super) fn range<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let request = RangeRequest::read(whole)?;
    add_keys(accesses, Verbs::READ, KeyRange::from_request(request.key, request.range_end));
    Ok(())
}

/// A Put outside of a Txn: the key may exist or not, so it needs both `create` and `update`.
pub(super) fn put<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let request = PutRequest::read(whole)?;
    put_as(accesses, &request, Verbs::PUT);
    Ok(())
}

/// Adds the accesses of a Put. `verbs` is `create`, `update` or both, depending on the compares of
/// the Txn around it. With a lease, the Put also needs `delete`, because etcd deletes the key when
/// the lease ends. With `prev_kv`, it also needs `read`, because the response has the old value.
pub(super) fn put_as<'m>(accesses: &mut Accesses<'m>, request: &PutRequest<'m>, mut verbs: Verbs) {
    if request.lease != 0 {
        verbs = verbs.union(Verbs::DELETE);
        add_attached_lease(accesses, request.lease);
    }
    if request.prev_kv {
        verbs = verbs.union(Verbs::READ);
    }
    add_keys(accesses, verbs, KeyRange::key(request.key));
}

pub(super) fn delete_range<'m>(
    accesses: &mut Accesses<'m>,
    whole: Part<'m>,
) -> Result<(), Malformed> {
    let request = DeleteRangeRequest::read(whole)?;
    delete_range_as(accesses, &request);
    Ok(())
}

/// Adds the accesses of a DeleteRange and returns its range. With `prev_kv`, it also needs `read`,
/// because the response has the deleted values.
pub(super) fn delete_range_as<'m>(
    accesses: &mut Accesses<'m>,
    request: &DeleteRangeRequest<'m>,
) -> KeyRange<'m> {
    let range = KeyRange::from_request(request.key, request.range_end);
    let verbs = if request.prev_kv { Verbs::DELETE.union(Verbs::READ) } else { Verbs::DELETE };
    add_keys(accesses, verbs, range);
    range
}
