//! Derives the accesses of one request message of a known method.
//!
//! # Unknown fields
//!
//! | messages | an unknown field | reason |
//! |---|---|---|
//! | KV, Watch, Lease, Lock and Election, with the messages inside them | refused | a newer etcd may derive a key from it |
//! | Cluster, Maintenance and Auth | ignored | the method's capability decides, whatever the message contains |
//! | `HealthCheckRequest`, `HealthListRequest` | not read at all | the gateway answers these calls itself |
//!
//! In all messages, a known field must have its own wire type, a singular field may occur only
//! once, and the message must be well-formed to its end. `docs/unknown-fields.md` has the rule for
//! each message; a test compares it with this code.
//!
//! Unknown fields of `AlarmRequest` are ignored too, although its field `action` selects the
//! capability. `action` cannot be misread: it may occur only once, and its value must be a known
//! one (`super::enums`).
//!
//! Two encodings are accepted although they are not canonical, because Go and prost decode them
//! alike: a bool is true for every varint except 0, and an integer is truncated to its width.
//!
//! # An empty `range_end` that is present
//!
//! No real encoder writes an empty `range_end`, because proto3 omits empty bytes. etcd 3.4 to 3.6
//! (gogo/protobuf) distinguish it from an absent one. Reproduced on 3.5.35 and 3.6.16: a Range with
//! key `a` and an empty `range_end` returns **every key from `a` on**, while etcd's own permission
//! check looks at the single key `a`. etcd 3.7 reads both as the single key. Range, DeleteRange and
//! Compare with an empty `range_end` are refused. A watch with one is allowed, because every
//! release normalizes it (`v3rpc/watch.go`).
//!
//! # A Txn that crashes etcd
//!
//! A Txn crashes etcd if it deletes every key from some key on and also puts one of these keys with
//! `ignore_value` or `ignore_lease`. It is refused: [`super::Fault::DeletedAndKept`].
//!
//! # Empty keys
//!
//! etcd refuses an empty key ("key is not provided"), except in a watch, where it means the
//! smallest key. `inspect` reports an access to the empty key, and `Rights::covers` decides it as
//! an access to the smallest key. A missing `leader` in Proclaim or Resign, which etcd refuses too,
//! is read as an empty key.

mod admin;
mod guard;
mod ignore_flags;
mod kv;
mod lease;
mod lock;
mod txn;

use super::Malformed;
use super::field::Part;
use crate::access::{Access, Accesses, Capability, LeaseUse, Verbs};
use crate::keyspace::KeyRange;
use crate::method::Method;

#[cfg(test)]
use txn::{MAX_OPERATIONS, MAX_WORK};

/// Derives the accesses of `message`, a request of `method` without its gRPC frame.
///
/// For the two methods whose client sends a stream, see also [`super::watch::request`] and
/// [`super::lease::keep_alive`].
///
/// # Errors
/// The first fault of a message that is not well-formed, that two decoders could read differently,
/// or on which no decision is possible.
pub fn inspect(method: Method, message: &[u8]) -> Result<Accesses<'_>, Malformed> {
    let mut accesses = Accesses::default();
    let whole = Part::whole(message);
    match method {
        Method::Range | Method::RangeStream => kv::range(&mut accesses, whole)?,
        Method::Put => kv::put(&mut accesses, whole)?,
        Method::DeleteRange => kv::delete_range(&mut accesses, whole)?,
        Method::Txn => txn::txn(&mut accesses, whole)?,
        Method::Compact => {
            kv::CompactionRequest::read(whole)?;
            accesses.capability = Some(Capability::Compact);
        }
        Method::Watch => {
            if let super::watch::WatchRequest::Create(range) = super::watch::request(message)? {
                accesses.add_keys(Verbs::READ, range);
            }
        }
        Method::LeaseGrant => {
            accesses.add_lease(super::lease::grant(message)?.id, LeaseUse::Grant);
            accesses.capability = Some(Capability::Lease);
        }
        Method::LeaseRevoke => {
            accesses.add_lease(lease::LeaseRevokeRequest::read(whole)?.ID, LeaseUse::Revoke);
        }
        Method::LeaseKeepAlive => {
            accesses.add_lease(super::lease::keep_alive(message)?, LeaseUse::KeepAlive);
        }
        Method::LeaseTimeToLive => {
            accesses.add_lease(lease::LeaseTimeToLiveRequest::read(whole)?.ID, LeaseUse::Inspect);
        }
        Method::LeaseLeases => {
            lease::LeaseLeasesRequest::read(whole)?;
            accesses.capability = Some(Capability::Lease);
        }
        Method::Lock => lock::lock(&mut accesses, whole)?,
        Method::Unlock => lock::unlock(&mut accesses, whole)?,
        Method::Campaign => lock::campaign(&mut accesses, whole)?,
        Method::Proclaim => lock::proclaim(&mut accesses, whole)?,
        Method::Leader | Method::Observe => lock::leader(&mut accesses, whole)?,
        Method::Resign => lock::resign(&mut accesses, whole)?,
        Method::HealthCheck | Method::HealthList | Method::HealthWatch => {}
        Method::MemberAdd
        | Method::MemberRemove
        | Method::MemberUpdate
        | Method::MemberList
        | Method::MemberPromote
        | Method::Alarm
        | Method::Status
        | Method::Defragment
        | Method::Hash
        | Method::HashKV
        | Method::Snapshot
        | Method::MoveLeader
        | Method::Downgrade
        | Method::AuthEnable
        | Method::AuthDisable
        | Method::AuthStatus
        | Method::Authenticate
        | Method::UserAdd
        | Method::UserGet
        | Method::UserList
        | Method::UserDelete
        | Method::UserChangePassword
        | Method::UserGrantRole
        | Method::UserRevokeRole
        | Method::RoleAdd
        | Method::RoleGet
        | Method::RoleList
        | Method::RoleDelete
        | Method::RoleGrantPermission
        | Method::RoleRevokePermission => accesses.capability = admin::capability(method, whole)?,
    }
    Ok(accesses)
}

/// Adds an access. If the previous access has the same range, its verbs are extended instead, which
/// saves a lookup.
#[inline]
fn add_keys<'m>(accesses: &mut Accesses<'m>, verbs: Verbs, range: KeyRange<'m>) {
    match accesses.ranges.last_mut() {
        Some(last) if last.range == range => last.verbs = last.verbs.union(verbs),
        _ => accesses.ranges.push(Access { verbs, range }),
    }
}

/// Records that a key is attached to the lease `id`, unless the previous entry is the same.
#[inline]
fn add_attached_lease(accesses: &mut Accesses<'_>, id: i64) {
    if accesses.leases.last() != Some(&(id, LeaseUse::Attach)) {
        accesses.add_lease(id, LeaseUse::Attach);
    }
}

#[cfg(test)]
mod enum_values;
#[cfg(test)]
mod properties;
#[cfg(any(test, feature = "model"))]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unknown_fields;
