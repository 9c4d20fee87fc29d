//! The Lock and Election services, which etcd builds on Txn, Watch and leases
//! (`client/v3/concurrency`, `v3lock/lock.go`, `v3election/election.go`).
//!
//! * Lock and Campaign create the key `name/LEASE`, with the lease id in hexadecimal. So a request
//!   with a name accesses the prefix `name/`.
//! * Proclaim, Resign and Unlock use the key that the client sends. It need not be below a name.
//! * Every call with a lease renews it (`NewSession` sends a keep-alive). Lock, Campaign and
//!   Proclaim also attach the key to the lease. With lease 0, etcd creates a lease of 60 seconds.
//!   So Proclaim always puts the key with a lease, and etcd deletes the key when the lease ends.
//!   Proclaim therefore needs `delete`; `update` alone is not enough.
//! * Proclaim and Resign compare the key's create revision and report whether it was equal. That
//!   reveals something about the key, so both need `read`.

use super::add_keys;
use crate::access::{Accesses, LeaseUse, Verbs};
use crate::keyspace::{KeyRange, OwnedEnd, OwnedRange};
use crate::wire::Malformed;
use crate::wire::field::Part;
use crate::wire::message::messages;

messages! {
    LockRequest (Refuse) {
        1 name: bytes;
        2 lease: int64;
    }
    UnlockRequest (Refuse) {
        1 key: bytes;
    }
    CampaignRequest (Refuse) {
        1 name: bytes;
        2 lease: int64;
        3 value: bytes;
    }
    ProclaimRequest (Refuse) {
        1 leader: message;
        2 value: bytes;
    }
    ResignRequest (Refuse) {
        1 leader: message;
    }
    LeaderRequest (Refuse) {
        1 name: bytes;
    }
    LeaderKey (Refuse) {
        1 name: bytes;
        2 key: bytes;
        3 rev: int64;
        4 lease: int64;
    }
}

pub(super) fn lock<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let request = LockRequest::read(whole)?;
    add_prefix(accesses, Verbs::CREATE.union(Verbs::READ).union(Verbs::DELETE), request.name);
    accesses.add_lease(request.lease, LeaseUse::Attach);
    Ok(())
}

pub(super) fn unlock<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    add_keys(accesses, Verbs::DELETE, KeyRange::key(UnlockRequest::read(whole)?.key));
    Ok(())
}

/// Campaign needs `update`, because it overwrites the value of a key that exists.
pub(super) fn campaign<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let request = CampaignRequest::read(whole)?;
    add_prefix(accesses, Verbs::ALL, request.name);
    accesses.add_lease(request.lease, LeaseUse::Attach);
    Ok(())
}

/// Proclaim needs `create`, because with `rev` 0 it creates the key.
pub(super) fn proclaim<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let (key, lease) = leader_key(ProclaimRequest::read(whole)?.leader)?;
    add_keys(accesses, Verbs::ALL, KeyRange::key(key));
    accesses.add_lease(lease, LeaseUse::Attach);
    Ok(())
}

pub(super) fn leader<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    add_prefix(accesses, Verbs::READ, LeaderRequest::read(whole)?.name);
    Ok(())
}

pub(super) fn resign<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let (key, lease) = leader_key(ResignRequest::read(whole)?.leader)?;
    add_keys(accesses, Verbs::READ.union(Verbs::DELETE), KeyRange::key(key));
    accesses.add_lease(lease, LeaseUse::KeepAlive);
    Ok(())
}

/// Returns the key and the lease of `leader`. etcd refuses a request without a leader; for such a
/// request, the key is empty and the lease is 0.
fn leader_key(leader: Option<Part<'_>>) -> Result<(&[u8], i64), Malformed> {
    let Some(leader) = leader else { return Ok((b"", 0)) };
    let leader = LeaderKey::read(leader)?;
    Ok((leader.key, leader.lease))
}

/// Adds an access to the prefix `name/`. The range ends before `name0`, because `0` follows `/` in
/// ASCII.
fn add_prefix(accesses: &mut Accesses<'_>, verbs: Verbs, name: &[u8]) {
    let range = OwnedRange {
        start: [name, b"/"].concat().into(),
        end: OwnedEnd::Before([name, b"0"].concat().into()),
    };
    accesses.derived = Some(Box::new((verbs, range)));
}
