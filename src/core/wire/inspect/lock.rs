//! The Lock and Election services, which etcd builds on Txn, Watch and leases
//! (`client/v3/concurrency`, `v3lock/lock.go`, `v3election/election.go`).
//!
//! * Their keys are `name/LEASE` with the lease's id in hexadecimal, so a name stands for the
//!   prefix `name/`.
//! * The key of Proclaim, Resign and Unlock is whatever the client says, under no name at all.
//! * Every call with a lease renews it (`NewSession` sends a keep-alive); Lock, Campaign and
//!   Proclaim also attach the key to it, or, with lease 0, to one that etcd makes for 60 seconds.
//!   So Proclaim is a Put with a lease in any case and needs `delete`: else it would be the way to
//!   have a key deleted that one may only update.
//! * Proclaim and Resign compare the key's create revision first, and tell whether it was equal:
//!   that is a read.

use super::touch;
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
    touch_below(accesses, Verbs::CREATE.and(Verbs::READ).and(Verbs::DELETE), request.name);
    accesses.lease(request.lease, LeaseUse::Attach);
    Ok(())
}

pub(super) fn unlock<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    touch(accesses, Verbs::DELETE, KeyRange::key(UnlockRequest::read(whole)?.key));
    Ok(())
}

/// On a key that is there, Campaign proclaims: hence `update` too.
pub(super) fn campaign<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let request = CampaignRequest::read(whole)?;
    touch_below(accesses, Verbs::ALL, request.name);
    accesses.lease(request.lease, LeaseUse::Attach);
    Ok(())
}

/// With `rev` 0 it creates the key.
pub(super) fn proclaim<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let (key, lease) = leader_key(ProclaimRequest::read(whole)?.leader)?;
    touch(accesses, Verbs::ALL, KeyRange::key(key));
    accesses.lease(lease, LeaseUse::Attach);
    Ok(())
}

pub(super) fn leader<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    touch_below(accesses, Verbs::READ, LeaderRequest::read(whole)?.name);
    Ok(())
}

pub(super) fn resign<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let (key, lease) = leader_key(ResignRequest::read(whole)?.leader)?;
    touch(accesses, Verbs::READ.and(Verbs::DELETE), KeyRange::key(key));
    accesses.lease(lease, LeaseUse::KeepAlive);
    Ok(())
}

/// The key and the lease; of a leader that is missing, which etcd refuses, an empty key and no
/// lease.
fn leader_key(leader: Option<Part<'_>>) -> Result<(&[u8], i64), Malformed> {
    let Some(leader) = leader else { return Ok((b"", 0)) };
    let leader = LeaderKey::read(leader)?;
    Ok((leader.key, leader.lease))
}

/// Every key with the prefix `name/`: it ends before `name0`, since `0` follows `/`.
fn touch_below(accesses: &mut Accesses<'_>, verbs: Verbs, name: &[u8]) {
    let range = OwnedRange {
        start: [name, b"/"].concat().into(),
        end: OwnedEnd::Before([name, b"0"].concat().into()),
    };
    accesses.made = Some(Box::new((verbs, range)));
}
