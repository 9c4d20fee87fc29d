//! The two sides: a proxy in front of an etcd without auth, and an etcd that judges for itself.

use std::collections::BTreeMap;

use etcd_warden_core::method::Method;
use etcd_warden_proto::{authpb, etcdserverpb as pb};
use etcd_warden_testbed::etcd::{Etcd, Options, Programs};
use etcd_warden_testbed::pki::Leaf;
use prost::Message as _;
use tokio::net::TcpStream;

use super::answers::Said;
use super::keys::Range;
use super::requests::{Known, Request};
use super::rules::{Rules, USERS};
use crate::world::raw::{Answer, Raw, Stream, grpc_headers, tls_over};
use crate::world::{World, authorities, start_etcd_of};

/// What both sides are before the first policy.
const NOBODY: &str = "version: 1\nmode: enforce\nroles:\n  none:\n    capabilities: [status]\nbindings:\n  - cn: none\n    roles: [none]\n";

/// A proxy with its etcd, and an etcd with auth on.
pub struct Sides {
    world: World,
    judge: Etcd,
    /// Connections through the proxy, by user.
    ours: BTreeMap<&'static str, Raw>,
    /// The same users at the judge.
    theirs: BTreeMap<&'static str, Raw>,
    /// Around the proxy.
    our_root: Raw,
    their_root: Raw,
}

impl Sides {
    /// Both with an etcd of these programs.
    pub async fn start(programs: fn() -> &'static Programs) -> Self {
        let world = World::with(NOBODY)
            .etcd_programs(programs)
            .config(|config| config.reason_trailer = true)
            .start()
            .await;
        let judge = start_etcd_of(programs, Options::default()).await;
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        for user in USERS {
            ours.insert(user, world.raw(user).await);
            theirs.insert(user, at(&judge, user).await);
        }
        let our_root = Raw::direct(world.etcd().addresses()[0]).await;
        let mut their_root = Raw::direct(judge.addresses()[0]).await;
        enable_auth(&mut their_root).await;
        Self { world, judge, ours, theirs, our_root, their_root }
    }

    /// Both sides judge by these rules from now on.
    pub async fn rule(&mut self, rules: &Rules) {
        self.world.replace_policy(&rules.policy());
        for (method, message) in rules.calls() {
            let answer = self.their_root.call(method.path(), &message).await;
            let first = method == Method::RoleDelete
                && answer.grpc_message() == "etcdserver: role name not found";
            assert!(answer.grpc_status() == Some(0) || first, "{method:?}: {answer:?}");
        }
    }

    /// The same request of the same user to both.
    ///
    /// A lease whose id is left to the server gets the same id on both sides: the one that ours
    /// chose.
    pub async fn both(&mut self, user: &str, request: &Request, known: &Known) -> (Said, Said) {
        let (method, path) = (request.method, request.method.path());
        let (ours, theirs) = (self.ours.get_mut(user).unwrap(), self.theirs.get_mut(user).unwrap());
        if method == Method::LeaseGrant {
            let answer = ours.call(path, &request.message).await;
            let ours = Said::of(method, &answer, known);
            let answer = theirs.call(path, &with_id(request, &ours)).await;
            return (ours, self.said(request, &answer, known));
        }
        let (ours, theirs) =
            tokio::join!(ours.call(path, &request.message), theirs.call(path, &request.message));
        (self.said(request, &ours, known), self.said(request, &theirs, known))
    }

    /// A request that the judge would not survive.
    pub async fn ours_alone(&mut self, user: &str, request: &Request, known: &Known) -> Said {
        let answer =
            self.ours.get_mut(user).unwrap().call(request.method.path(), &request.message).await;
        self.said(request, &answer, known)
    }

    /// What the answer to a request says. Where there is none, an etcd may have died of the
    /// request: the ends of both logs tell.
    fn said(&self, request: &Request, answer: &Answer, known: &Known) -> Said {
        if answer.grpc_status().is_none() {
            let end = |etcd: &Etcd| {
                etcd.log(0)
                    .lines()
                    .rev()
                    .take(12)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            panic!(
                "{request}: {answer:?}\nour etcd:\n{}\nthe judge:\n{}",
                end(self.world.etcd()),
                end(&self.judge)
            );
        }
        Said::of(request.method, answer, known)
    }

    /// A stream of the user's on either side, of which the request goes on.
    pub async fn streams(&mut self, user: &str, method: Method) -> (Stream, Stream) {
        let (ours, theirs) = (self.ours.get_mut(user).unwrap(), self.theirs.get_mut(user).unwrap());
        let headers = grpc_headers();
        (
            ours.open(method.path(), &headers).await.unwrap(),
            theirs.open(method.path(), &headers).await.unwrap(),
        )
    }

    /// The same request as root to both, who then have done the same.
    pub async fn both_as_root(&mut self, request: &Request, known: &Known) -> Said {
        let theirs = self.make_up_there(request, known).await;
        assert_eq!(self.make_up_here(request, &theirs, known).await, theirs, "{request}");
        theirs
    }

    /// Whether the judge has nothing against this of this user.
    pub async fn judge_allows(&mut self, user: &str, request: &Request, known: &Known) -> bool {
        let answer =
            self.theirs.get_mut(user).unwrap().call(request.method.path(), &request.message).await;
        self.said(request, &answer, known).is_ok()
    }

    /// Does on our side, as root, what was refused there.
    pub async fn make_up_here(&mut self, request: &Request, theirs: &Said, known: &Known) -> Said {
        let message = if request.method == Method::LeaseGrant {
            with_id(request, theirs)
        } else {
            request.message.clone()
        };
        let answer = self.our_root.call(request.method.path(), &message).await;
        self.said(request, &answer, known)
    }

    /// And at the judge.
    pub async fn make_up_there(&mut self, request: &Request, known: &Known) -> Said {
        let answer = self.their_root.call(request.method.path(), &request.message).await;
        self.said(request, &answer, known)
    }

    /// The keys of a lease, as our etcd says.
    pub async fn attached(&mut self, id: i64) -> Vec<Vec<u8>> {
        let message = pb::LeaseTimeToLiveRequest { id, keys: true }.encode_to_vec();
        let answer = self.our_root.call(Method::LeaseTimeToLive.path(), &message).await;
        pb::LeaseTimeToLiveResponse::decode(answer.messages()[0]).unwrap().keys
    }

    /// Lets a call that would wait behind an older key not wait: whatever is under its name goes.
    pub async fn clear_the_way(&mut self, request: &Request, known: &Known) {
        let Some((Range { key, end: range_end }, own)) = request.waits() else { return };
        let below = pb::RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            ..Default::default()
        }
        .encode_to_vec();
        let found = self.our_root.call(Method::Range.path(), &below).await;
        let found = pb::RangeResponse::decode(found.messages()[0]).unwrap().kvs;
        if found.iter().any(|kv| kv.key != own) {
            let all = pb::DeleteRangeRequest { key, range_end, prev_kv: false };
            self.both_as_root(&Request::new(Method::DeleteRange, &all), known).await;
        }
    }

    /// Campaign asks for its rights in two steps: where the second is refused, the judge has done
    /// the first.
    pub async fn level(&mut self, request: &Request, known: &Known) {
        if request.method != Method::Campaign {
            return;
        }
        let nothing =
            pb::RangeRequest { key: b"z".to_vec(), count_only: true, ..Default::default() };
        let nothing = Request::new(Method::Range, &nothing);
        let theirs = self.make_up_there(&nothing, known).await;
        if self.make_up_here(&nothing, &theirs, known).await != theirs {
            self.make_up_here(request, &theirs, known).await;
        }
    }

    /// Ends a lease on both sides.
    pub async fn revoke(&mut self, id: i64, known: &Known) {
        let request = Request {
            method: Method::LeaseRevoke,
            message: pb::LeaseRevokeRequest { id }.encode_to_vec(),
        };
        self.both_as_root(&request, known).await;
    }

    /// Asserts that both stores hold the same, with all of their history: etcd's own hash says so.
    pub async fn same_store(&mut self, known: &Known) {
        let request = Request { method: Method::HashKV, message: Vec::new() };
        let said = self.both_as_root(&request, known).await;
        assert!(said.is_ok(), "{said:?}");
    }
}

/// A LeaseGrant that leaves the id open, with the id that the other side chose.
fn with_id(request: &Request, other: &Said) -> Vec<u8> {
    let grant = pb::LeaseGrantRequest::decode(&request.message[..]).unwrap();
    match (grant.id, other.granted()) {
        (0, Some(id)) => pb::LeaseGrantRequest { id, ..grant }.encode_to_vec(),
        _ => request.message.clone(),
    }
}

async fn at(etcd: &Etcd, user: &str) -> Raw {
    let issued = authorities().upstream.issue(&Leaf::client(user)).unwrap();
    let address = etcd.addresses()[0];
    let stream = TcpStream::connect(address).await.unwrap();
    let tls = tls_over(
        stream,
        &authorities().upstream,
        address,
        Some(&issued),
        &[b"h2"],
        rustls::ALL_VERSIONS,
    )
    .await;
    Raw::over(tls.unwrap()).await
}

async fn enable_auth(root: &mut Raw) {
    let options = Some(authpb::UserAddOptions { no_password: true });
    let mut calls = Vec::new();
    for name in USERS.iter().chain(&["root"]) {
        let add =
            pb::AuthUserAddRequest { name: (*name).to_owned(), options, ..Default::default() };
        calls.push((Method::UserAdd, add.encode_to_vec()));
    }
    calls.push((
        Method::RoleAdd,
        pb::AuthRoleAddRequest { name: "root".to_owned() }.encode_to_vec(),
    ));
    let grant = pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    calls.push((Method::UserGrantRole, grant.encode_to_vec()));
    calls.push((Method::AuthEnable, Vec::new()));
    for (method, message) in calls {
        let answer = root.call(method.path(), &message).await;
        assert_eq!(answer.grpc_status(), Some(0), "{method:?}: {answer:?}");
    }
}
