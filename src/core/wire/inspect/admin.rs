//! Cluster, Maintenance and Auth. Their methods access no keys; each needs a capability.

use crate::access::Capability;
use crate::method::Method;
use crate::wire::enums::AlarmAction;
use crate::wire::field::Part;
use crate::wire::message::messages;
use crate::wire::{Fault, Malformed};

messages! {
    StatusRequest (Pass) {}
    DefragmentRequest (Pass) {}
    HashRequest (Pass) {}
    SnapshotRequest (Pass) {}
    AuthEnableRequest (Pass) {}
    AuthDisableRequest (Pass) {}
    AuthStatusRequest (Pass) {}
    AuthUserListRequest (Pass) {}
    AuthRoleListRequest (Pass) {}
    MemberAddRequest (Pass) { 1 peerURLs: strings; 2 isLearner: bool; }
    MemberRemoveRequest (Pass) { 1 ID: uint64; }
    MemberUpdateRequest (Pass) { 1 ID: uint64; 2 peerURLs: peer_urls; }
    MemberListRequest (Pass) { 1 linearizable: bool; }
    MemberPromoteRequest (Pass) { 1 ID: uint64; }
    AlarmRequest (Pass) { 1 action: AlarmAction; 2 memberID: uint64; 3 alarm: AlarmType; }
    HashKVRequest (Pass) { 1 revision: int64; }
    MoveLeaderRequest (Pass) { 1 targetID: uint64; }
    DowngradeRequest (Pass) { 1 action: DowngradeAction; 2 version: string; }
    AuthenticateRequest (Pass) { 1 name: string; 2 password: string; }
    AuthUserAddRequest (Pass) { 1 name: account; 2 password: string; 3 options: message; 4 hashedPassword: string; }
    AuthUserGetRequest (Pass) { 1 name: account; }
    AuthUserDeleteRequest (Pass) { 1 name: account; }
    AuthUserChangePasswordRequest (Pass) { 1 name: account; 2 password: string; 3 hashedPassword: string; }
    AuthUserGrantRoleRequest (Pass) { 1 user: account; 2 role: account; }
    AuthUserRevokeRoleRequest (Pass) { 1 name: account; 2 role: account; }
    AuthRoleAddRequest (Pass) { 1 name: account; }
    AuthRoleGetRequest (Pass) { 1 role: account; }
    AuthRoleDeleteRequest (Pass) { 1 role: account; }
    AuthRoleGrantPermissionRequest (Pass) { 1 name: account; 2 perm: message; }
    AuthRoleRevokePermissionRequest (Pass) { 1 role: account; 2 key: bytes; 3 range_end: bytes; }
    UserAddOptions (Pass) { 1 no_password: bool; }
    Permission (Pass) { 1 permType: PermissionType; 2 key: bytes; 3 range_end: bytes; }
}

/// The capability that a message of these services needs. `None` for Authenticate, which any
/// identity with a binding may call.
pub(super) fn capability(method: Method, whole: Part<'_>) -> Result<Option<Capability>, Malformed> {
    let capability = match method {
        Method::MemberList => MemberListRequest::read(whole).map(|_| Capability::MemberList),
        Method::MemberAdd => MemberAddRequest::read(whole).map(|_| Capability::MemberAdmin),
        Method::MemberRemove => MemberRemoveRequest::read(whole).map(|_| Capability::MemberAdmin),
        Method::MemberUpdate => member_update(whole).map(|()| Capability::MemberAdmin),
        Method::MemberPromote => MemberPromoteRequest::read(whole).map(|_| Capability::MemberAdmin),
        Method::Status => StatusRequest::read(whole).map(|_| Capability::Status),
        Method::AuthStatus => AuthStatusRequest::read(whole).map(|_| Capability::Status),
        Method::Alarm => alarm(whole),
        Method::Defragment => DefragmentRequest::read(whole).map(|_| Capability::Defragment),
        Method::Hash => HashRequest::read(whole).map(|_| Capability::Hash),
        Method::HashKV => HashKVRequest::read(whole).map(|_| Capability::Hash),
        Method::Snapshot => SnapshotRequest::read(whole).map(|_| Capability::Snapshot),
        Method::MoveLeader => MoveLeaderRequest::read(whole).map(|_| Capability::MoveLeader),
        Method::Downgrade => DowngradeRequest::read(whole).map(|_| Capability::Downgrade),
        Method::Authenticate => return AuthenticateRequest::read(whole).map(|_| None),
        _ => auth(method, whole).map(|()| Capability::AuthAdmin),
    };
    capability.map(Some)
}

/// An update without any URL crashes etcd like an invalid one ([`Fault::PeerUrl`]).
fn member_update(whole: Part<'_>) -> Result<(), Malformed> {
    let absent = Malformed {
        field: "MemberUpdateRequest.peerURLs",
        offset: whole.offset,
        fault: Fault::PeerUrl,
    };
    MemberUpdateRequest::read(whole)?.peerURLs.ok_or(absent)
}

fn alarm(whole: Part<'_>) -> Result<Capability, Malformed> {
    Ok(match AlarmRequest::read(whole)?.action {
        AlarmAction::Get => Capability::Status,
        AlarmAction::Activate | AlarmAction::Deactivate => Capability::Alarm,
    })
}

fn auth(method: Method, whole: Part<'_>) -> Result<(), Malformed> {
    match method {
        Method::UserAdd => match AuthUserAddRequest::read(whole)?.options {
            Some(options) => UserAddOptions::read(options).map(drop),
            None => Ok(()),
        },
        Method::UserGet => AuthUserGetRequest::read(whole).map(drop),
        Method::UserDelete => AuthUserDeleteRequest::read(whole).map(drop),
        Method::UserChangePassword => AuthUserChangePasswordRequest::read(whole).map(drop),
        Method::UserGrantRole => AuthUserGrantRoleRequest::read(whole).map(drop),
        Method::UserRevokeRole => AuthUserRevokeRoleRequest::read(whole).map(drop),
        Method::RoleAdd => AuthRoleAddRequest::read(whole).map(drop),
        Method::RoleGet => AuthRoleGetRequest::read(whole).map(drop),
        Method::RoleDelete => AuthRoleDeleteRequest::read(whole).map(drop),
        Method::RoleGrantPermission => match AuthRoleGrantPermissionRequest::read(whole)?.perm {
            Some(permission) => Permission::read(permission).map(drop),
            None => Ok(()),
        },
        Method::RoleRevokePermission => AuthRoleRevokePermissionRequest::read(whole).map(drop),
        Method::AuthEnable => AuthEnableRequest::read(whole).map(drop),
        Method::AuthDisable => AuthDisableRequest::read(whole).map(drop),
        Method::UserList => AuthUserListRequest::read(whole).map(drop),
        _ => AuthRoleListRequest::read(whole).map(drop),
    }
}
