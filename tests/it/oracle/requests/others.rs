//! Requests without keys of their own: leases, and what concerns the cluster as a whole.

use etcd_warden_core::method::Method;
use etcd_warden_proto::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};

use super::{Known, Request};
use crate::oracle::dice::Dice;
use crate::oracle::keys;

/// No lease ends by itself while a run is on.
const TTL: i64 = 9_000_000;

/// Leases that exist at the same time; beyond that each new one takes the place of the oldest.
pub const LEASES: usize = 8;

/// Something about a lease.
pub fn lease(dice: &mut Dice, known: &Known) -> Request {
    match dice.below(8) {
        // Mostly ids that the server chooses, else those that a client may.
        0 | 1 => {
            let id = if dice.once_in(3) { 1 + i64::from(dice.number(1 << 30)) } else { 0 };
            Request::new(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: TTL, id })
        }
        2 | 3 => Request::new(
            Method::LeaseTimeToLive,
            &pb::LeaseTimeToLiveRequest { id: id(dice, known), keys: dice.once_in(2) },
        ),
        4 | 5 => {
            Request::new(Method::LeaseKeepAlive, &pb::LeaseKeepAliveRequest { id: id(dice, known) })
        }
        6 => Request::new(Method::LeaseRevoke, &pb::LeaseRevokeRequest { id: id(dice, known) }),
        _ => Request::new(Method::LeaseLeases, &pb::LeaseLeasesRequest {}),
    }
}

/// A lease that is there; now and then one that is not.
pub fn id(dice: &mut Dice, known: &Known) -> i64 {
    if known.leases.is_empty() || dice.once_in(12) {
        77
    } else {
        known.leases[dice.below(known.leases.len())].id
    }
}

/// Locks and elections.
pub fn election(dice: &mut Dice, known: &Known) -> Request {
    let (name, key) = (keys::key(dice), keys::key(dice));
    // Without a lease etcd would make one, and no two etcds choose the same id.
    let leader = Some(election::LeaderKey {
        name: name.clone(),
        key: key.clone(),
        rev: dice.around(known.revision, 8),
        lease: id(dice, known),
    });
    match dice.below(6) {
        0 => Request::new(Method::Lock, &lock::LockRequest { name, lease: id(dice, known) }),
        1 => Request::new(
            Method::Campaign,
            &election::CampaignRequest { name, lease: id(dice, known), value: b"1".to_vec() },
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

/// What concerns the cluster. No user may do what would harm it, on either side.
pub fn cluster(dice: &mut Dice, known: &Known) -> Request {
    let name = || "u1".to_owned();
    let role = || "r1".to_owned();
    match dice.below(20) {
        0..=2 => {
            let revision = (known.revision - 20 - i64::from(dice.number(60))).max(0);
            Request::new(
                Method::Compact,
                &pb::CompactionRequest { revision, physical: dice.once_in(2) },
            )
        }
        3 | 4 => Request::new(
            Method::MemberList,
            &pb::MemberListRequest { linearizable: dice.once_in(2) },
        ),
        5 => Request::new(Method::Status, &pb::StatusRequest {}),
        6 => Request::new(Method::AuthStatus, &pb::AuthStatusRequest {}),
        // An alarm of no kind: where it is raised, nothing follows from it.
        7 => Request::new(
            Method::Alarm,
            &pb::AlarmRequest { action: dice.number(3), member_id: 1, alarm: 0 },
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
