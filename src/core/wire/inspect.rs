//! One message of a known method, read for what it would touch.
//!
//! # What is refused, and where
//!
//! | messages | an unknown field | why |
//! |---|---|---|
//! | all of KV, Watch, Lease, Lock and Election, with those inside them | refused | a newer etcd may read a key out of it |
//! | all of Cluster, Maintenance and Auth | passes | the method's capability decides, whatever the message says |
//! | `HealthCheckRequest`, `HealthListRequest` | not read at all | the proxy answers it itself |
//!
//! `AlarmRequest` is of the second kind though its `action` chooses the capability: `action` itself
//! may stand once, and its value has to be known, as that of every enum in every message
//! (`super::enums`). Everywhere, a known field must have its own wire type, a singular one may
//! stand once, and each message must be well-formed to its end. `docs/unknown-fields.md` has the
//! rule message by message, held to this code.
//!
//! Bools are true for any varint but 0 and integers are cut to their width, in Go's decoders and in
//! prost alike.
//!
//! # An empty `range_end` that is there
//!
//! No real encoder writes one: proto3 leaves empty bytes out. etcd 3.4 to 3.6 (gogo/protobuf) tell
//! it from an absent one: seen on 3.5.35 and 3.6.16, a Range of `a` with it answers **every key
//! from `a` on**, where etcd's own permission check looks at the single key `a`. etcd 3.7 takes
//! both for the single key. In Range, DeleteRange and Compare it is refused; a watch normalizes it
//! in every release (`v3rpc/watch.go`) and may have it.
//!
//! # A Txn of which etcd dies
//!
//! One that deletes all keys from one on and keeps the value or lease of one of them:
//! [`super::Fault::DeletedAndKept`].
//!
//! # Keys that are empty
//!
//! etcd answers "key is not provided" for them, except in a watch, where an empty key is the
//! smallest one. The access is listed as it stands, and judged as one to the smallest key
//! (`Rights::covers`). A missing `leader` in Proclaim and Resign, which etcd answers with an error,
//! counts as an empty key as well.

mod admin;
mod guard;
mod kept;
mod kv;
mod lease;
mod lock;
mod txn;

use super::Malformed;
use super::field::Part;
use crate::access::{Access, Accesses, Capability, LeaseUse, Verbs};
use crate::keyspace::KeyRange;
use crate::method::Method;

pub use txn::{MAX_OPERATIONS, MAX_WORK};

/// What `message` (a request of `method`, without its gRPC frame) would touch.
///
/// For the two methods whose client sends a stream, see [`super::watch::request`] and
/// [`super::lease::keep_alive`].
///
/// # Errors
/// The first thing that etcd's decoder and ours could read differently, or that cannot be judged.
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
                accesses.touch(Verbs::READ, range);
            }
        }
        Method::LeaseGrant => {
            accesses.lease(super::lease::grant(message)?.id, LeaseUse::Grant);
            accesses.capability = Some(Capability::Lease);
        }
        Method::LeaseRevoke => {
            accesses.lease(lease::LeaseRevokeRequest::read(whole)?.ID, LeaseUse::Revoke)
        }
        Method::LeaseKeepAlive => {
            accesses.lease(super::lease::keep_alive(message)?, LeaseUse::KeepAlive)
        }
        Method::LeaseTimeToLive => {
            accesses.lease(lease::LeaseTimeToLiveRequest::read(whole)?.ID, LeaseUse::Look)
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

/// Adds keys; what is done to the same keys as just before becomes one access, and so one search.
#[inline]
fn touch<'m>(accesses: &mut Accesses<'m>, verbs: Verbs, range: KeyRange<'m>) {
    match accesses.ranges.last_mut() {
        Some(last) if last.range == range => last.verbs = last.verbs.and(verbs),
        _ => accesses.ranges.push(Access { verbs, range }),
    }
}

/// Adds a lease, unless it is the one just before.
#[inline]
fn attach(accesses: &mut Accesses<'_>, id: i64) {
    if accesses.leases.last() != Some(&(id, LeaseUse::Attach)) {
        accesses.lease(id, LeaseUse::Attach);
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
