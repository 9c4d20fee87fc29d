//! Each listed difference, shown by one request.

use std::collections::BTreeSet;

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb::request_op;
use etcd_warden_proto::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};
use etcd_warden_testbed::etcd::Programs;

use super::Trial;
use crate::oracle::differences::Difference;
use crate::oracle::requests::Request;
use crate::oracle::rules::Rules;

/// `a...` and `c...` belong to one user each; the first also has an earlier right where etcd's
/// search for an empty range fails. Of the keys under `n/`, a third user may write those that begin
/// like a lease's number.
const ROLES: [&[(&str, &str, &str)]; 3] = [
    &[("A", "", "read"), ("a", "b", "rw")],
    &[("c", "d", "rw")],
    &[("n/", "n0", "read"), ("n/", "n/g", "rw"), ("x", "", "rw")],
];

impl Trial {
    /// Asserts that each difference shows where the document says so, and only that one.
    pub async fn shows_each_listed_difference(programs: fn() -> &'static Programs) {
        let mut trial = Self::start(programs, false).await;
        trial.rules = Rules::of(
            &ROLES,
            [(&[0], &["lease", "compact"]), (&[1], &["lease"]), (&[2], &["lease"])],
        );
        trial.sides.rule(&trial.rules).await;

        let mut shown = BTreeSet::new();
        for (user, request, difference) in trial.before_leases() {
            shown.extend(trial.shows(user, &request, difference).await);
        }
        let leases = trial.known.leases.clone();
        for (user, request, difference) in on_leases(leases[0].id, leases[1].id) {
            shown.extend(trial.shows(user, &request, difference).await);
        }
        assert_eq!(shown, Difference::ALL.into_iter().map(Difference::id).collect());
    }

    fn before_leases(&self) -> Vec<(&'static str, Request, Option<Difference>)> {
        let range = |key: &[u8], end: &[u8]| {
            Request::new(
                Method::Range,
                &pb::RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() },
            )
        };
        let put = |key: &[u8]| {
            Request::new(Method::Put, &pb::PutRequest { key: key.into(), ..Default::default() })
        };
        let grant =
            || Request::new(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: 9_000_000, id: 0 });
        let empty_range_end =
            Request { method: Method::Range, message: b"\x0a\x01a\x12\x00".to_vec() };
        let delete =
            pb::DeleteRangeRequest { key: b"a".into(), range_end: b"\0".into(), prev_kv: false };
        let keep = pb::PutRequest { key: b"b".into(), ignore_lease: true, ..Default::default() };
        let both = [
            request_op::Request::RequestDeleteRange(delete),
            request_op::Request::RequestPut(keep),
        ];
        let success =
            both.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect();
        let deadly = Request::new(Method::Txn, &pb::TxnRequest { success, ..Default::default() });
        vec![
            ("u0", put(b"a"), None),
            ("u0", deadly, Some(Difference::Deadly)),
            ("u0", range(b"b", b""), None),
            ("u0", range(b"a", b"@"), Some(Difference::EmptyRange)),
            ("u0", empty_range_end, Some(Difference::Form)),
            ("u0", put(b""), Some(Difference::Order)),
            (
                "u0",
                Request::new(
                    Method::Compact,
                    &pb::CompactionRequest { revision: 1, physical: false },
                ),
                Some(Difference::MoreCapability),
            ),
            (
                "u1",
                Request::new(Method::MemberList, &pb::MemberListRequest::default()),
                Some(Difference::Capability),
            ),
            ("u0", grant(), None),
            ("u2", grant(), None),
        ]
    }

    /// Sends a request to both sides: it must show this difference, or none.
    async fn shows(
        &mut self,
        user: &'static str,
        request: &Request,
        difference: Option<Difference>,
    ) -> Option<&'static str> {
        self.tally.listed.clear();
        self.judge(user, request)
            .await
            .unwrap_or_else(|what| panic!("{what}\nby {user}: {request}"));
        let shown: Vec<_> = self.tally.listed.keys().copied().collect();
        assert_eq!(
            shown,
            difference.map(Difference::id).into_iter().collect::<Vec<_>>(),
            "by {user}: {request}"
        );
        shown.first().copied()
    }
}

/// With a lease of the first user and one of the third.
fn on_leases(first: i64, third: i64) -> Vec<(&'static str, Request, Option<Difference>)> {
    let attached = pb::PutRequest { key: b"c".to_vec(), lease: first, ..Default::default() };
    let time = pb::LeaseTimeToLiveRequest { id: first, keys: false };
    let leader =
        election::LeaderKey { name: b"x".to_vec(), key: b"x".to_vec(), rev: 1, lease: first };
    vec![
        ("u1", Request::new(Method::Put, &attached), Some(Difference::LeaseWithoutKeys)),
        (
            "u0",
            Request::new(Method::LeaseKeepAlive, &pb::LeaseKeepAliveRequest { id: first }),
            Some(Difference::OwnLease),
        ),
        (
            "u0",
            Request::new(Method::LeaseLeases, &pb::LeaseLeasesRequest {}),
            Some(Difference::ListOfLeases),
        ),
        ("u2", Request::new(Method::LeaseTimeToLive, &time), Some(Difference::LeaseTime)),
        (
            "u2",
            Request::new(Method::Resign, &election::ResignRequest { leader: Some(leader) }),
            Some(Difference::RenewedByElection),
        ),
        (
            "u2",
            Request::new(Method::Lock, &lock::LockRequest { name: b"n".to_vec(), lease: third }),
            Some(Difference::LockName),
        ),
    ]
}
