//! The two sides: a proxy in front of an etcd without auth, and an etcd with auth on.

use std::collections::BTreeMap;

use etcd_warden_core::method::Method;
use etcd_warden_proto::{authpb, etcdserverpb as pb};
use etcd_warden_testbed::etcd::{Etcd, Options, Programs};
use etcd_warden_testbed::pki::Leaf;
use prost::Message as _;
use tokio::net::TcpStream;

use super::answers::Reply;
use super::keys::Range;
use super::requests::{Known, Request};
use super::rules::{Rules, USERS};
use crate::world::raw::{Answer, Raw, Stream, grpc_headers, tls_over};
use crate::world::{World, authorities, start_etcd_of};

/// The policy of both sides before the first random one.
const NO_RIGHTS: &str = "version: 1\nmode: enforce\nroles:\n  none:\n    capabilities: [status]\nbindings:\n  - cn: none\n    roles: [none]\n";

/// A proxy with its etcd, and an etcd with auth on.
pub struct Sides {
    world: World,
    judge: Etcd,
    /// Connections through the proxy, by user.
    ours: BTreeMap<&'static str, Raw>,
    /// The same users at the judge.
    theirs: BTreeMap<&'static str, Raw>,
    /// A connection to etcd itself.
    our_root: Raw,
    their_root: Raw,
}

impl Sides {
    /// Starts both sides with etcds of these programs.
    pub async fn start(programs: fn() -> &'static Programs) -> Self {
        let world = World::with(NO_RIGHTS)
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

    /// Both sides use these rules from now on.
    pub async fn rule(&mut self, rules: &Rules) {
        self.world.replace_policy(&rules.policy());
        for (method, message) in rules.calls() {
            let answer = self.their_root.call(method.path(), &message).await;
            let first = method == Method::RoleDelete
                && answer.grpc_message() == "etcdserver: role name not found";
            assert!(answer.grpc_status() == Some(0) || first, "{method:?}: {answer:?}");
        }
    }

    /// Sends the same request of the same user to both sides.
    ///
    /// A lease whose id the server chooses gets the same id on both sides: the one that ours chose.
    pub async fn both(&mut self, user: &str, request: &Request, known: &Known) -> (Reply, Reply) {
        let (method, path) = (request.method, request.method.path());
        let (ours, theirs) = (self.ours.get_mut(user).unwrap(), self.theirs.get_mut(user).unwrap());
        if method == Method::LeaseGrant {
            let answer = ours.call(path, &request.message).await;
            let ours = Reply::of(method, &answer, known);
            let answer = theirs.call(path, &with_id(request, &ours)).await;
            return (ours, self.said(request, &answer, known));
        }
        let (ours, theirs) =
            tokio::join!(ours.call(path, &request.message), theirs.call(path, &request.message));
        (self.said(request, &ours, known), self.said(request, &theirs, known))
    }

    /// Sends a request that would crash the judge to ours only.
    pub async fn ours_alone(&mut self, user: &str, request: &Request, known: &Known) -> Reply {
        let answer =
            self.ours.get_mut(user).unwrap().call(request.method.path(), &request.message).await;
        self.said(request, &answer, known)
    }

    /// Reads the response to a request. Without one, the request may have crashed an etcd: the ends
    /// of both logs are printed.
    fn said(&self, request: &Request, answer: &Answer, known: &Known) -> Reply {
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
        Reply::of(request.method, answer, known)
    }

    /// A stream of the user's on each side, with the request still open.
    pub async fn streams(&mut self, user: &str, method: Method) -> (Stream, Stream) {
        let (ours, theirs) = (self.ours.get_mut(user).unwrap(), self.theirs.get_mut(user).unwrap());
        let headers = grpc_headers();
        (
            ours.open(method.path(), &headers).await.unwrap(),
            theirs.open(method.path(), &headers).await.unwrap(),
        )
    }

    /// Sends the same request as root to both sides, so both have executed the same.
    pub async fn both_as_root(&mut self, request: &Request, known: &Known) -> Reply {
        let theirs = self.repeat_at_judge(request, known).await;
        assert_eq!(self.repeat_here(request, &theirs, known).await, theirs, "{request}");
        theirs
    }

    /// True if the judge would allow this request of this user.
    pub async fn judge_allows(&mut self, user: &str, request: &Request, known: &Known) -> bool {
        let answer =
            self.theirs.get_mut(user).unwrap().call(request.method.path(), &request.message).await;
        self.said(request, &answer, known).is_ok()
    }

    /// Executes on our side, as root, a request that ours refused.
    pub async fn repeat_here(&mut self, request: &Request, theirs: &Reply, known: &Known) -> Reply {
        let message = if request.method == Method::LeaseGrant {
            with_id(request, theirs)
        } else {
            request.message.clone()
        };
        let answer = self.our_root.call(request.method.path(), &message).await;
        self.said(request, &answer, known)
    }

    /// The same at the judge.
    pub async fn repeat_at_judge(&mut self, request: &Request, known: &Known) -> Reply {
        let answer = self.their_root.call(request.method.path(), &request.message).await;
        self.said(request, &answer, known)
    }

    /// The keys of a lease, as our etcd reports them.
    pub async fn attached(&mut self, id: i64) -> Vec<Vec<u8>> {
        let message = pb::LeaseTimeToLiveRequest { id, keys: true }.encode_to_vec();
        let answer = self.our_root.call(Method::LeaseTimeToLive.path(), &message).await;
        pb::LeaseTimeToLiveResponse::decode(answer.messages()[0]).unwrap().keys
    }

    /// Removes older keys under the name of a call that would wait for them.
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

    /// Campaign checks its rights in two steps: if the second is refused, the judge has executed
    /// the first.
    pub async fn repeat_partial(&mut self, request: &Request, known: &Known) {
        if request.method != Method::Campaign {
            return;
        }
        let nothing =
            pb::RangeRequest { key: b"z".to_vec(), count_only: true, ..Default::default() };
        let nothing = Request::new(Method::Range, &nothing);
        let theirs = self.repeat_at_judge(&nothing, known).await;
        if self.repeat_here(&nothing, &theirs, known).await != theirs {
            self.repeat_here(request, &theirs, known).await;
        }
    }

    /// Revokes a lease on both sides.
    pub async fn revoke(&mut self, id: i64, known: &Known) {
        let request = Request {
            method: Method::LeaseRevoke,
            message: pb::LeaseRevokeRequest { id }.encode_to_vec(),
        };
        self.both_as_root(&request, known).await;
    }

    /// Asserts that both stores have the same content and history, by etcd's own hash.
    pub async fn same_store(&mut self, known: &Known) {
        let request = Request { method: Method::HashKV, message: Vec::new() };
        let said = self.both_as_root(&request, known).await;
        assert!(said.is_ok(), "{said:?}");
    }
}

/// A LeaseGrant that leaves the id open, changed to the id that the other side chose.
fn with_id(request: &Request, other: &Reply) -> Vec<u8> {
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
