//! Requests without keys: leases, and operations on the cluster.

use etcd_warden_core::method::Method;
use etcd_warden_proto::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};

use super::{Known, Request};
use crate::oracle::keys;
use crate::oracle::rng::Rng;

/// Longer than a run, so that no lease expires.
const TTL: i64 = 9_000_000;

/// Maximum number of leases. Beyond it each new one replaces the oldest.
pub const LEASES: usize = 8;

/// A request about a lease.
pub fn lease(rng: &mut Rng, known: &Known) -> Request {
    match rng.below(8) {
        // Mostly ids that the server chooses, otherwise ids that a client may choose.
        0 | 1 => {
            let id = if rng.once_in(3) { 1 + i64::from(rng.number(1 << 30)) } else { 0 };
            Request::new(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: TTL, id })
        }
        2 | 3 => Request::new(
            Method::LeaseTimeToLive,
            &pb::LeaseTimeToLiveRequest { id: id(rng, known), keys: rng.once_in(2) },
        ),
        4 | 5 => {
            Request::new(Method::LeaseKeepAlive, &pb::LeaseKeepAliveRequest { id: id(rng, known) })
        }
        6 => Request::new(Method::LeaseRevoke, &pb::LeaseRevokeRequest { id: id(rng, known) }),
        _ => Request::new(Method::LeaseLeases, &pb::LeaseLeasesRequest {}),
    }
}

/// The id of an existing lease, or rarely of one that does not exist.
pub fn id(rng: &mut Rng, known: &Known) -> i64 {
    if known.leases.is_empty() || rng.once_in(12) {
        77
    } else {
        known.leases[rng.below(known.leases.len())].id
    }
}

/// Locks and elections.
pub fn election(rng: &mut Rng, known: &Known) -> Request {
    let (name, key) = (keys::key(rng), keys::key(rng));
    // Without a lease etcd would create one, and no two etcds choose the same id.
    let leader = Some(election::LeaderKey {
        name: name.clone(),
        key: key.clone(),
        rev: rng.near(known.revision, 8),
        lease: id(rng, known),
    });
    match rng.below(6) {
        0 => Request::new(Method::Lock, &lock::LockRequest { name, lease: id(rng, known) }),
        1 => Request::new(
            Method::Campaign,
            &election::CampaignRequest { name, lease: id(rng, known), value: b"1".to_vec() },
        ),
        2 => Request::new(Method::Unlock, &lock::UnlockRequest { key }),
        3 => Request::new(Method::Leader, &election::LeaderRequest { name }),
        4 => Request::new(Method::Resign, &election::ResignRequest { leader }),
        _ => Request::new(
            Method::Proclaim,
            &election::ProclaimRequest { leader, value: b"1".to_vec() },
        ),
    }
}

/// Requests about the cluster. On neither side may a user do what would harm it.
pub fn cluster(rng: &mut Rng, known: &Known) -> Request {
    let name = || "u1".to_owned();
    let role = || "r1".to_owned();
    match rng.below(20) {
        0..=2 => {
            let revision = (known.revision - 20 - i64::from(rng.number(60))).max(0);
            Request::new(
                Method::Compact,
                &pb::CompactionRequest { revision, physical: rng.once_in(2) },
            )
        }
        3 | 4 => Request::new(
            Method::MemberList,
            &pb::MemberListRequest { linearizable: rng.once_in(2) },
        ),
        5 => Request::new(Method::Status, &pb::StatusRequest {}),
        6 => Request::new(Method::AuthStatus, &pb::AuthStatusRequest {}),
        // An alarm of type NONE: raising it has no effect.
        7 => Request::new(
            Method::Alarm,
            &pb::AlarmRequest { action: rng.number(3), member_id: 1, alarm: 0 },
        ),
        8 => Request::new(Method::HashKV, &pb::HashKvRequest { revision: 0 }),
        9 => Request::new(Method::UserGet, &pb::AuthUserGetRequest { name: name() }),
        10 => Request::new(Method::RoleGet, &pb::AuthRoleGetRequest { role: role() }),
        11 => Request::new(Method::UserList, &pb::AuthUserListRequest {}),
        12 => Request::new(Method::RoleList, &pb::AuthRoleListRequest {}),
        13 => Request::new(
            Method::UserGrantRole,
            &pb::AuthUserGrantRoleRequest { user: name(), role: "root".to_owned() },
        ),
        14 => Request::new(Method::RoleAdd, &pb::AuthRoleAddRequest { name: "mine".to_owned() }),
        15 => Request::new(Method::AuthDisable, &pb::AuthDisableRequest {}),
        16 => Request::new(
            Method::MemberAdd,
            &pb::MemberAddRequest {
                peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()],
                is_learner: true,
            },
        ),
        17 => Request::new(Method::MoveLeader, &pb::MoveLeaderRequest { target_id: 1 }),
        18 => Request::new(Method::Snapshot, &pb::SnapshotRequest {}),
        _ => Request::new(Method::Defragment, &pb::DefragmentRequest {}),
    }
}
