//! The reference model of the scan: prost decodes the whole message, and a walk over the decoded
//! tree derives the accesses. It was written from the rules in the docs of `inspect.rs` and
//! `guard.rs`, not from their code.

use std::collections::BTreeSet;

use etcd_warden_proto::etcdserverpb::{self as pb, compare, request_op, watch_request};
use etcd_warden_proto::{v3electionpb, v3lockpb};
use prost::Message;

use crate::access::{Accesses, Capability, LeaseUse, Verb, Verbs};
use crate::method::Method;

/// The accesses of a message as sets, without order or repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AccessSet {
    /// Key, `range_end` as in a request, and verb.
    pub(crate) keys: BTreeSet<(Vec<u8>, Vec<u8>, Verb)>,
    pub(crate) capability: Option<Capability>,
    pub(crate) leases: BTreeSet<(i64, u8)>,
    /// True if prost decodes the message but the scan must refuse it.
    pub(crate) invalid: bool,
}

impl AccessSet {
    fn keys(&mut self, verbs: Verbs, key: &[u8], range_end: &[u8]) {
        self.keys.extend(verbs.iter().map(|verb| (key.to_vec(), range_end.to_vec(), verb)));
    }

    fn lease(&mut self, id: i64, lease_use: LeaseUse) {
        if id != 0 {
            self.leases.insert((id, lease_use as u8));
        }
    }

    fn below(&mut self, verbs: Verbs, name: &[u8]) {
        self.keys(verbs, &[name, b"/"].concat(), &[name, b"0"].concat());
    }
}

impl From<&Accesses<'_>> for AccessSet {
    fn from(accesses: &Accesses<'_>) -> Self {
        let mut set = AccessSet { capability: accesses.capability, ..AccessSet::default() };
        for access in accesses.keys() {
            set.keys(access.verbs, access.range.start, access.range.range_end());
        }
        set.leases = accesses.leases.iter().map(|&(id, lease_use)| (id, lease_use as u8)).collect();
        set
    }
}

/// The accesses of `bytes`, or prost's decoding error.
pub(crate) fn access_set(method: Method, bytes: &[u8]) -> Result<AccessSet, prost::DecodeError> {
    let mut set = AccessSet::default();
    let t = &mut set;
    match method {
        Method::Range | Method::RangeStream => range(t, &pb::RangeRequest::decode(bytes)?),
        Method::Put => put(t, &pb::PutRequest::decode(bytes)?, Verbs::PUT),
        Method::DeleteRange => delete_range(t, &pb::DeleteRangeRequest::decode(bytes)?),
        Method::Txn => txn(t, &pb::TxnRequest::decode(bytes)?, &mut Vec::new(), false),
        Method::Compact => {
            capability(t, Capability::Compact, pb::CompactionRequest::decode(bytes)?);
        }
        Method::Watch => watch(t, pb::WatchRequest::decode(bytes)?),
        Method::LeaseGrant => {
            let request = pb::LeaseGrantRequest::decode(bytes)?;
            t.lease(request.id, LeaseUse::Grant);
            capability(t, Capability::Lease, request);
        }
        Method::LeaseRevoke => t.lease(pb::LeaseRevokeRequest::decode(bytes)?.id, LeaseUse::Revoke),
        Method::LeaseKeepAlive => {
            t.lease(pb::LeaseKeepAliveRequest::decode(bytes)?.id, LeaseUse::KeepAlive);
        }
        Method::LeaseTimeToLive => {
            t.lease(pb::LeaseTimeToLiveRequest::decode(bytes)?.id, LeaseUse::Inspect);
        }
        Method::LeaseLeases => {
            capability(t, Capability::Lease, pb::LeaseLeasesRequest::decode(bytes)?);
        }
        Method::MemberAdd => {
            capability(t, Capability::MemberAdmin, pb::MemberAddRequest::decode(bytes)?);
        }
        Method::MemberRemove => {
            capability(t, Capability::MemberAdmin, pb::MemberRemoveRequest::decode(bytes)?);
        }
        Method::MemberUpdate => {
            let request = pb::MemberUpdateRequest::decode(bytes)?;
            t.invalid |= request.peer_ur_ls.is_empty()
                || request.peer_ur_ls.iter().any(|url| !url.contains("://"));
            capability(t, Capability::MemberAdmin, request);
        }
        Method::MemberPromote => {
            capability(t, Capability::MemberAdmin, pb::MemberPromoteRequest::decode(bytes)?);
        }
        Method::MemberList => {
            capability(t, Capability::MemberList, pb::MemberListRequest::decode(bytes)?);
        }
        Method::Alarm => {
            let request = pb::AlarmRequest::decode(bytes)?;
            let needed = if request.action == 0 { Capability::Status } else { Capability::Alarm };
            t.invalid |= !matches!((request.action, request.alarm), (0..=2, 0..=2));
            capability(t, needed, request);
        }
        Method::Status => capability(t, Capability::Status, pb::StatusRequest::decode(bytes)?),
        Method::Defragment => {
            capability(t, Capability::Defragment, pb::DefragmentRequest::decode(bytes)?);
        }
        Method::Hash => capability(t, Capability::Hash, pb::HashRequest::decode(bytes)?),
        Method::HashKV => capability(t, Capability::Hash, pb::HashKvRequest::decode(bytes)?),
        Method::Snapshot => {
            capability(t, Capability::Snapshot, pb::SnapshotRequest::decode(bytes)?);
        }
        Method::MoveLeader => {
            capability(t, Capability::MoveLeader, pb::MoveLeaderRequest::decode(bytes)?);
        }
        Method::Downgrade => {
            let request = pb::DowngradeRequest::decode(bytes)?;
            t.invalid |= !matches!(request.action, 0..=2);
            capability(t, Capability::Downgrade, request);
        }
        Method::AuthStatus => {
            capability(t, Capability::Status, pb::AuthStatusRequest::decode(bytes)?);
        }
        Method::Authenticate => drop(pb::AuthenticateRequest::decode(bytes)?),
        Method::AuthEnable => {
            capability(t, Capability::AuthAdmin, pb::AuthEnableRequest::decode(bytes)?);
        }
        Method::AuthDisable => {
            capability(t, Capability::AuthAdmin, pb::AuthDisableRequest::decode(bytes)?);
        }
        Method::UserAdd => {
            capability(t, Capability::AuthAdmin, pb::AuthUserAddRequest::decode(bytes)?);
        }
        Method::UserGet => {
            capability(t, Capability::AuthAdmin, pb::AuthUserGetRequest::decode(bytes)?);
        }
        Method::UserList => {
            capability(t, Capability::AuthAdmin, pb::AuthUserListRequest::decode(bytes)?);
        }
        Method::UserDelete => {
            capability(t, Capability::AuthAdmin, pb::AuthUserDeleteRequest::decode(bytes)?);
        }
        Method::UserChangePassword => {
            capability(t, Capability::AuthAdmin, pb::AuthUserChangePasswordRequest::decode(bytes)?);
        }
        Method::UserGrantRole => {
            capability(t, Capability::AuthAdmin, pb::AuthUserGrantRoleRequest::decode(bytes)?);
        }
        Method::UserRevokeRole => {
            capability(t, Capability::AuthAdmin, pb::AuthUserRevokeRoleRequest::decode(bytes)?);
        }
        Method::RoleAdd => {
            capability(t, Capability::AuthAdmin, pb::AuthRoleAddRequest::decode(bytes)?);
        }
        Method::RoleGet => {
            capability(t, Capability::AuthAdmin, pb::AuthRoleGetRequest::decode(bytes)?);
        }
        Method::RoleList => {
            capability(t, Capability::AuthAdmin, pb::AuthRoleListRequest::decode(bytes)?);
        }
        Method::RoleDelete => {
            capability(t, Capability::AuthAdmin, pb::AuthRoleDeleteRequest::decode(bytes)?);
        }
        Method::RoleGrantPermission => {
            let request = pb::AuthRoleGrantPermissionRequest::decode(bytes)?;
            t.invalid |= request
                .perm
                .as_ref()
                .is_some_and(|permission| !matches!(permission.perm_type, 0..=2));
            capability(t, Capability::AuthAdmin, request);
        }
        Method::RoleRevokePermission => capability(
            t,
            Capability::AuthAdmin,
            pb::AuthRoleRevokePermissionRequest::decode(bytes)?,
        ),
        Method::Lock => {
            let request = v3lockpb::LockRequest::decode(bytes)?;
            t.below(Verbs::ALL.without(Verbs::UPDATE), &request.name);
            t.lease(request.lease, LeaseUse::Attach);
        }
        Method::Unlock => t.keys(Verbs::DELETE, &v3lockpb::UnlockRequest::decode(bytes)?.key, b""),
        Method::Campaign => {
            let request = v3electionpb::CampaignRequest::decode(bytes)?;
            t.below(Verbs::ALL, &request.name);
            t.lease(request.lease, LeaseUse::Attach);
        }
        Method::Proclaim => {
            let leader = v3electionpb::ProclaimRequest::decode(bytes)?.leader.unwrap_or_default();
            t.keys(Verbs::ALL, &leader.key, b"");
            t.lease(leader.lease, LeaseUse::Attach);
        }
        Method::Leader | Method::Observe => {
            t.below(Verbs::READ, &v3electionpb::LeaderRequest::decode(bytes)?.name);
        }
        Method::Resign => {
            let leader = v3electionpb::ResignRequest::decode(bytes)?.leader.unwrap_or_default();
            t.keys(Verbs::READ.union(Verbs::DELETE), &leader.key, b"");
            t.lease(leader.lease, LeaseUse::KeepAlive);
        }
        Method::HealthCheck | Method::HealthList | Method::HealthWatch => {}
    }
    Ok(set)
}

fn capability(set: &mut AccessSet, capability: Capability, _decoded: impl Message) {
    set.capability = Some(capability);
}

fn range(set: &mut AccessSet, request: &pb::RangeRequest) {
    set.keys(Verbs::READ, &request.key, &request.range_end);
    set.invalid |= !matches!((request.sort_order, request.sort_target), (0..=2, 0..=4));
}

fn put(set: &mut AccessSet, request: &pb::PutRequest, verbs: Verbs) {
    set.keys(verbs, &request.key, b"");
    if request.prev_kv {
        set.keys(Verbs::READ, &request.key, b"");
    }
    if request.lease != 0 {
        set.keys(Verbs::DELETE, &request.key, b"");
        set.lease(request.lease, LeaseUse::Attach);
    }
}

fn delete_range(set: &mut AccessSet, request: &pb::DeleteRangeRequest) {
    set.keys(Verbs::DELETE, &request.key, &request.range_end);
    if request.prev_kv {
        set.keys(Verbs::READ, &request.key, &request.range_end);
    }
}

fn watch(set: &mut AccessSet, request: pb::WatchRequest) {
    if let Some(watch_request::RequestUnion::CreateRequest(create)) = request.request_union {
        let key = if create.key.is_empty() { b"\0".to_vec() } else { create.key };
        set.keys(Verbs::READ, &key, &create.range_end);
        set.invalid |= create.filters.iter().any(|filter| !matches!(filter, 0 | 1));
    }
}

/// A branch that is being walked: the keys that are known to exist or to be missing at its start,
/// and the ranges written since.
struct Branch {
    known: Vec<(Vec<u8>, bool)>,
    written: Vec<(Vec<u8>, Vec<u8>)>,
}

fn txn(
    set: &mut AccessSet,
    request: &pb::TxnRequest,
    branches: &mut Vec<Branch>,
    written_before: bool,
) {
    for compare in &request.compare {
        set.keys(Verbs::READ, &compare.key, &compare.range_end);
        set.invalid |= !agrees(compare);
    }
    let knows = |compare: &pb::Compare, outcome| {
        known(compare, outcome).map(|exists| (compare.key.clone(), exists))
    };
    let success: Vec<_> =
        request.compare.iter().filter_map(|compare| knows(compare, true)).collect();
    let failure: Vec<_> = match &request.compare[..] {
        [only] => knows(only, false).into_iter().collect(),
        _ => Vec::new(),
    };
    for (operations, known) in [(&request.success, success), (&request.failure, failure)] {
        let known = if written_before { Vec::new() } else { known };
        branches.push(Branch { known, written: Vec::new() });
        for operation in operations {
            match operation.request.as_ref() {
                Some(request_op::Request::RequestRange(request)) => range(set, request),
                Some(request_op::Request::RequestPut(request)) => {
                    put(set, request, verbs(branches, &request.key));
                    branches
                        .iter_mut()
                        .for_each(|branch| branch.written.push((request.key.clone(), Vec::new())));
                }
                Some(request_op::Request::RequestDeleteRange(request)) => {
                    delete_range(set, request);
                    branches.iter_mut().for_each(|branch| {
                        branch.written.push((request.key.clone(), request.range_end.clone()));
                    });
                }
                Some(request_op::Request::RequestTxn(request)) => {
                    let written = written_before
                        || branches.last().is_some_and(|branch| !branch.written.is_empty());
                    txn(set, request, branches, written);
                }
                None => set.invalid = true,
            }
        }
        branches.pop();
    }
}

fn verbs(branches: &[Branch], key: &[u8]) -> Verbs {
    for branch in branches {
        if branch.written.iter().any(|(from, end)| reaches(from, end, key)) {
            continue;
        }
        if let Some((_, exists)) = branch.known.iter().find(|(known, _)| known == key) {
            return if *exists { Verbs::UPDATE } else { Verbs::CREATE };
        }
    }
    Verbs::PUT
}

/// True if a request for `from` and `end` includes `key`.
pub(crate) fn reaches(from: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        b"" => key == from,
        b"\0" => key >= from,
        end => key >= from && key < end,
    }
}

/// Returns whether the key exists, if the outcome of the compare proves it. Tries every kind of
/// key.
fn known(compare: &pb::Compare, outcome: bool) -> Option<bool> {
    if !compare.range_end.is_empty() {
        return None;
    }
    let interesting = |number: i64| {
        [number.saturating_sub(1), number, number.saturating_add(1), 0, 1, i64::MIN, i64::MAX]
    };
    let number = number(compare);
    let missing = outcome == compares(compare, None);
    // If no key can give this outcome, the branch never runs, and either result is right.
    let unbounded =
        matches!(compare.target(), compare::CompareTarget::Lease | compare::CompareTarget::Value);
    let present = unbounded
        || interesting(number).into_iter().any(|counter| {
            let lease = counter;
            [b"".to_vec(), b"m".to_vec(), b"\xff\xff".to_vec()].into_iter().any(|value| {
                let counter = counter.max(1);
                outcome
                    == compares(
                        compare,
                        Some(&Stored {
                            version: counter,
                            create: counter,
                            modified: counter,
                            lease,
                            value,
                        }),
                    )
            })
        });
    match (missing, present) {
        (true, false) => Some(false),
        (false, true) => Some(true),
        _ => None,
    }
}

/// A stored key.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) version: i64,
    pub(crate) create: i64,
    pub(crate) modified: i64,
    pub(crate) lease: i64,
    pub(crate) value: Vec<u8>,
}

/// True if the enum values are known and the member of the oneof, if present, belongs to the
/// target.
fn agrees(compare: &pb::Compare) -> bool {
    let target = match compare.target_union {
        None => compare.target,
        Some(compare::TargetUnion::Version(_)) => 0,
        Some(compare::TargetUnion::CreateRevision(_)) => 1,
        Some(compare::TargetUnion::ModRevision(_)) => 2,
        Some(compare::TargetUnion::Value(_)) => 3,
        Some(compare::TargetUnion::Lease(_)) => 4,
    };
    matches!(compare.result, 0..=3) && matches!(compare.target, 0..=4) && target == compare.target
}

fn number(compare: &pb::Compare) -> i64 {
    match compare.target_union {
        Some(
            compare::TargetUnion::Version(number)
            | compare::TargetUnion::CreateRevision(number)
            | compare::TargetUnion::ModRevision(number)
            | compare::TargetUnion::Lease(number),
        ) => number,
        _ => 0,
    }
}

/// The result of a compare of one key in etcd (`applyCompare`, `compareKV`).
pub(crate) fn compares(compare: &pb::Compare, stored: Option<&Stored>) -> bool {
    let counter =
        |stored_counter: fn(&Stored) -> i64| stored.map_or(0, stored_counter).cmp(&number(compare));
    let ordering = match compare.target() {
        compare::CompareTarget::Value => {
            let Some(stored) = stored else { return false };
            let value: &[u8] =
                if let Some(compare::TargetUnion::Value(value)) = &compare.target_union {
                    value
                } else {
                    b""
                };
            stored.value[..].cmp(value)
        }
        compare::CompareTarget::Version => counter(|stored| stored.version),
        compare::CompareTarget::Create => counter(|stored| stored.create),
        compare::CompareTarget::Mod => counter(|stored| stored.modified),
        compare::CompareTarget::Lease => counter(|stored| stored.lease),
    };
    match compare.result() {
        compare::CompareResult::Equal => ordering.is_eq(),
        compare::CompareResult::NotEqual => ordering.is_ne(),
        compare::CompareResult::Greater => ordering.is_gt(),
        compare::CompareResult::Less => ordering.is_lt(),
    }
}
