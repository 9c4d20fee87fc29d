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
//! `AlarmRequest` is of the second kind, although its `action` selects the capability: like every
//! field it may occur only once, and like every enum it must have a known value (`super::enums`).
//! In all messages, a known field must have its own wire type, a singular field may occur once, and
//! the message must be well-formed to its end. `docs/unknown-fields.md` has the rule for each
//! message; a test compares it with this code.
//!
//! Decoders do not differ in two respects, in Go as in prost: bools are true for every varint
//! except 0, and integers are truncated to their width.
//!
//! # An empty `range_end` that is present
//!
//! No real encoder writes one, because proto3 omits empty bytes. etcd 3.4 to 3.6 (gogo/protobuf)
//! distinguish it from an absent one. Reproduced on 3.5.35 and 3.6.16: a Range of `a` with it
//! returns **every key from `a` on**, while etcd's own permission check looks at the single key
//! `a`. etcd 3.7 reads both as the single key. It is refused in Range, DeleteRange and Compare. In
//! a watch it is allowed, because every release normalizes it (`v3rpc/watch.go`).
//!
//! # A Txn that crashes etcd
//!
//! A Txn that deletes all keys from one on and keeps the value or lease of one of them:
//! [`super::Fault::DeletedAndKept`].
//!
//! # Empty keys
//!
//! etcd answers "key is not provided", except in a watch, where an empty key is the smallest one.
//! The access is listed with the empty key and decided as one to the smallest key
//! (`Rights::covers`). A missing `leader` in Proclaim and Resign, which etcd answers with an error,
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
/// The first thing in the message that two decoders could read differently, or that cannot be
/// decided on.
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

/// Adds verbs on a range. If the previous access has the same range, the verbs are merged into it,
/// which saves a lookup.
#[inline]
fn add_keys<'m>(accesses: &mut Accesses<'m>, verbs: Verbs, range: KeyRange<'m>) {
    match accesses.ranges.last_mut() {
        Some(last) if last.range == range => last.verbs = last.verbs.union(verbs),
        _ => accesses.ranges.push(Access { verbs, range }),
    }
}

/// Adds the attachment of a key to a lease, unless the previous entry is the same.
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
