//! The rows, in the order of `Method::ALL`. Calls are made from top to bottom, on one etcd for each
//! service.

use etcd_warden_core::access::Capability as C;
use etcd_warden_core::access::Verb::{self, Create, Delete, Read, Update};
use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use etcd_warden_proto::{authpb, v3electionpb, v3lockpb};
use prost::Message;

use super::{Answer, Right};
use crate::world::programs;

pub struct Row {
    /// Part of the clients' names.
    pub name: &'static str,
    pub method: Method,
    pub right: Right,
    message: Box<dyn Fn(i64) -> Vec<u8> + Send + Sync>,
    answer: Answer,
}

impl Row {
    /// The request; `lease` is the client's own.
    pub fn message(&self, lease: i64) -> Vec<u8> {
        (self.message)(lease)
    }

    pub fn answer(&self) -> Answer {
        if self.is_unknown_to_etcd() {
            Answer::Etcd(12, "unknown method")
        } else {
            self.answer.clone()
        }
    }

    /// RangeStream is new in 3.7.
    pub fn is_unknown_to_etcd(&self) -> bool {
        let version = programs().version;
        self.method == Method::RangeStream && (version.major, version.minor) < (3, 7)
    }

    fn answered(mut self, code: u32, text: &'static str) -> Self {
        self.answer = Answer::Etcd(code, text);
        self
    }

    fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }
}

fn row(method: Method, right: Right, message: impl Message + 'static) -> Row {
    let bytes = message.encode_to_vec();
    Row {
        name: method.rpc(),
        method,
        right,
        message: Box::new(move |_| bytes.clone()),
        answer: Answer::Ok,
    }
}

fn on_lease(method: Method, message: impl Fn(i64) -> Vec<u8> + Send + Sync + 'static) -> Row {
    Row {
        name: method.rpc(),
        method,
        right: Right::OwnLease,
        message: Box::new(message),
        answer: Answer::Ok,
    }
}

fn keys(verbs: &'static [Verb], keys: String) -> Right {
    Right::Keys(verbs, keys)
}

const fn capability(capability: C) -> Right {
    Right::Capability(capability)
}

pub const ALL: &[fn(&str) -> Vec<Row>] =
    &[kv, watch, lease, cluster, maintenance, auth, lock_and_election, health];

pub fn kv(p: &str) -> Vec<Row> {
    let range = pb::RangeRequest { key: format!("{p}/k").into(), ..Default::default() };
    let put =
        pb::PutRequest { key: format!("{p}/k").into(), value: b"2".into(), ..Default::default() };
    let delete = pb::DeleteRangeRequest {
        key: format!("{p}/d/").into(),
        range_end: format!("{p}/d0").into(),
        prev_kv: true,
    };
    let created = pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: format!("{p}/t").into(),
            ..Default::default()
        })),
    };
    let is_missing = pb::Compare {
        key: format!("{p}/t").into(),
        target: CompareTarget::Mod.into(),
        target_union: Some(TargetUnion::ModRevision(0)),
        ..Default::default()
    };
    vec![
        row(Method::Range, keys(&[Read], format!("{p}/k")), range.clone()),
        row(Method::RangeStream, keys(&[Read], format!("{p}/k")), range),
        row(Method::Put, keys(&[Create, Update], format!("{p}/k")), put),
        row(Method::DeleteRange, keys(&[Read, Delete], format!("{p}/d/*")), delete),
        row(
            Method::Txn,
            keys(&[Read, Create], format!("{p}/t")),
            pb::TxnRequest { compare: vec![is_missing], success: vec![created], failure: vec![] },
        ),
        row(
            Method::Compact,
            capability(C::Compact),
            pb::CompactionRequest { revision: 2, physical: false },
        ),
    ]
}

pub fn watch(p: &str) -> Vec<Row> {
    let create = pb::WatchCreateRequest {
        key: format!("{p}/w/").into(),
        range_end: format!("{p}/w0").into(),
        ..Default::default()
    };
    let request = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    vec![row(Method::Watch, keys(&[Read], format!("{p}/w/*")), request)]
}

pub fn lease(_: &str) -> Vec<Row> {
    vec![
        row(Method::LeaseGrant, capability(C::Lease), pb::LeaseGrantRequest { ttl: 600, id: 0 }),
        on_lease(Method::LeaseRevoke, |id| pb::LeaseRevokeRequest { id }.encode_to_vec()),
        on_lease(Method::LeaseKeepAlive, |id| pb::LeaseKeepAliveRequest { id }.encode_to_vec()),
        on_lease(Method::LeaseTimeToLive, |id| {
            pb::LeaseTimeToLiveRequest { id, keys: true }.encode_to_vec()
        }),
        row(Method::LeaseLeases, capability(C::Lease), pb::LeaseLeasesRequest {}),
    ]
}

pub fn cluster(_: &str) -> Vec<Row> {
    let urls = || vec!["http://127.0.0.1:1".to_owned()];
    let not_found = "etcdserver: member not found";
    vec![
        row(
            Method::MemberAdd,
            capability(C::MemberAdmin),
            pb::MemberAddRequest { peer_ur_ls: urls(), is_learner: true },
        ),
        row(Method::MemberRemove, capability(C::MemberAdmin), pb::MemberRemoveRequest { id: 1 })
            .answered(5, not_found),
        row(
            Method::MemberUpdate,
            capability(C::MemberAdmin),
            pb::MemberUpdateRequest { id: 1, peer_ur_ls: urls() },
        )
        .answered(5, not_found),
        row(
            Method::MemberList,
            capability(C::MemberList),
            pb::MemberListRequest { linearizable: true },
        ),
        row(Method::MemberPromote, capability(C::MemberAdmin), pb::MemberPromoteRequest { id: 1 })
            .answered(5, not_found),
    ]
}

pub fn maintenance(_: &str) -> Vec<Row> {
    let alarm = |action: i32| pb::AlarmRequest {
        action,
        member_id: 0,
        alarm: pb::AlarmType::Nospace.into(),
    };
    let downgrade = pb::DowngradeRequest {
        action: pb::downgrade_request::DowngradeAction::Validate.into(),
        version: "x".to_owned(),
    };
    vec![
        row(Method::Alarm, capability(C::Status), alarm(0)).named("Alarm-get"),
        row(Method::Alarm, capability(C::Alarm), alarm(1)).named("Alarm-activate"),
        row(Method::Alarm, capability(C::Alarm), alarm(2)).named("Alarm-deactivate"),
        row(Method::Status, capability(C::Status), pb::StatusRequest {}),
        row(Method::Defragment, capability(C::Defragment), pb::DefragmentRequest {}),
        row(Method::Hash, capability(C::Hash), pb::HashRequest {}),
        row(Method::HashKV, capability(C::Hash), pb::HashKvRequest { revision: 0 }),
        row(Method::Snapshot, capability(C::Snapshot), pb::SnapshotRequest {}),
        row(Method::MoveLeader, capability(C::MoveLeader), pb::MoveLeaderRequest { target_id: 1 })
            .answered(9, "etcdserver: bad leader transferee"),
        row(Method::Downgrade, capability(C::Downgrade), downgrade)
            .answered(3, "etcdserver: wrong downgrade target"),
    ]
}

pub fn auth(p: &str) -> Vec<Row> {
    let admin = || capability(C::AuthAdmin);
    let (user, role, password) = (|| "u".to_owned(), || "r".to_owned(), || "secret".to_owned());
    let key = || format!("{p}/k").into_bytes();
    let permission = authpb::Permission { perm_type: 0, key: key(), range_end: vec![] };
    vec![
        row(Method::AuthEnable, admin(), pb::AuthEnableRequest {})
            .answered(9, "etcdserver: root user does not exist"),
        row(Method::AuthDisable, admin(), pb::AuthDisableRequest {}),
        row(Method::AuthStatus, capability(C::Status), pb::AuthStatusRequest {}),
        row(
            Method::Authenticate,
            Right::Binding,
            pb::AuthenticateRequest { name: user(), password: password() },
        )
        .answered(9, "etcdserver: authentication is not enabled"),
        row(Method::RoleAdd, admin(), pb::AuthRoleAddRequest { name: role() }),
        row(
            Method::RoleGrantPermission,
            admin(),
            pb::AuthRoleGrantPermissionRequest { name: role(), perm: Some(permission) },
        ),
        row(Method::RoleGet, admin(), pb::AuthRoleGetRequest { role: role() }),
        row(Method::RoleList, admin(), pb::AuthRoleListRequest {}),
        row(
            Method::UserAdd,
            admin(),
            pb::AuthUserAddRequest { name: user(), password: password(), ..Default::default() },
        ),
        row(Method::UserGet, admin(), pb::AuthUserGetRequest { name: user() }),
        row(Method::UserList, admin(), pb::AuthUserListRequest {}),
        row(
            Method::UserChangePassword,
            admin(),
            pb::AuthUserChangePasswordRequest {
                name: user(),
                password: password(),
                ..Default::default()
            },
        ),
        row(
            Method::UserGrantRole,
            admin(),
            pb::AuthUserGrantRoleRequest { user: user(), role: role() },
        ),
        row(
            Method::UserRevokeRole,
            admin(),
            pb::AuthUserRevokeRoleRequest { name: user(), role: role() },
        ),
        row(Method::UserDelete, admin(), pb::AuthUserDeleteRequest { name: user() }),
        row(
            Method::RoleRevokePermission,
            admin(),
            pb::AuthRoleRevokePermissionRequest { role: role(), key: key(), range_end: vec![] },
        ),
        row(Method::RoleDelete, admin(), pb::AuthRoleDeleteRequest { role: role() }),
    ]
}

/// With lease 0 etcd creates a lease itself.
pub fn lock_and_election(p: &str) -> Vec<Row> {
    let name = |name: &str| format!("{p}/{name}").into_bytes();
    let leader =
        |key: &str| v3electionpb::LeaderKey { name: name("el"), key: name(key), rev: 0, lease: 0 };
    vec![
        row(
            Method::Lock,
            keys(&[Read, Create, Delete], format!("{p}/lock/*")),
            v3lockpb::LockRequest { name: name("lock"), lease: 0 },
        ),
        row(
            Method::Unlock,
            keys(&[Delete], format!("{p}/lock/x")),
            v3lockpb::UnlockRequest { key: name("lock/x") },
        ),
        row(
            Method::Campaign,
            keys(&[Read, Create, Update, Delete], format!("{p}/el/*")),
            v3electionpb::CampaignRequest { name: name("el"), lease: 0, value: b"me".into() },
        ),
        row(
            Method::Proclaim,
            keys(&[Read, Create, Update, Delete], format!("{p}/el/x")),
            v3electionpb::ProclaimRequest { leader: Some(leader("el/x")), value: b"me".into() },
        ),
        row(
            Method::Leader,
            keys(&[Read], format!("{p}/led/*")),
            v3electionpb::LeaderRequest { name: name("led") },
        ),
        row(
            Method::Observe,
            keys(&[Read], format!("{p}/led/*")),
            v3electionpb::LeaderRequest { name: name("led") },
        ),
        row(
            Method::Resign,
            keys(&[Read, Delete], format!("{p}/el/x")),
            v3electionpb::ResignRequest { leader: Some(leader("el/x")) },
        ),
    ]
}

pub fn health(_: &str) -> Vec<Row> {
    vec![
        row(Method::HealthCheck, Right::Nothing, pb::StatusRequest {}),
        row(Method::HealthList, Right::Nothing, pb::StatusRequest {}),
        row(Method::HealthWatch, Right::Nothing, pb::StatusRequest {}).named("HealthWatch"),
    ]
}
