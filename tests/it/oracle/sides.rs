//! The two sides: a proxy in front of an etcd without auth, and an etcd that judges for itself.

use std::collections::BTreeMap;

use etcd_warden::etcd::{Etcd, Options};
use etcd_warden::method::Method;
use etcd_warden::pb::{authpb, etcdserverpb as pb};
use etcd_warden::pki::Leaf;
use prost::Message as _;
use tokio::net::TcpStream;

use super::requests::Request;
use super::rules::{Rules, USERS};
use crate::world::raw::{Answer, Raw, tls_over};
use crate::world::{World, authorities, start_etcd};

/// What both sides are before the first policy.
const NOBODY: &str = "version: 1\nmode: enforce\nroles:\n  none:\n    capabilities: [status]\nbindings:\n  - cn: none\n    roles: [none]\n";

/// A proxy with its etcd, and an etcd with auth on.
pub struct Sides {
    world: World,
    _judge: Etcd,
    /// Connections through the proxy, by user.
    ours: BTreeMap<&'static str, Raw>,
    /// The same users at the judge.
    theirs: BTreeMap<&'static str, Raw>,
    /// Around the proxy.
    our_root: Raw,
    their_root: Raw,
}

/// What one side said to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Not allowed, and why, where the side tells.
    Refused(String),
    /// Not a matter of rights: what etcd answered, comparable.
    Answered { status: u32, message: String, revision: i64, body: Vec<u8> },
}

impl Sides {
    pub async fn start() -> Self {
        let world = World::with(NOBODY).own_etcd().config(|config| config.reason_trailer = true).start().await;
        let judge = start_etcd(Options::default()).await;
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        for user in USERS {
            ours.insert(user, world.raw(user).await);
            theirs.insert(user, at(&judge, user).await);
        }
        let our_root = Raw::direct(world.etcd().addresses()[0]).await;
        let mut their_root = Raw::direct(judge.addresses()[0]).await;
        enable_auth(&mut their_root).await;
        Self { world, _judge: judge, ours, theirs, our_root, their_root }
    }

    /// Both sides judge by these rules from now on.
    pub async fn rule(&mut self, rules: &Rules) {
        self.world.replace_policy(&rules.policy());
        for (method, message) in rules.calls() {
            let answer = self.their_root.call(method.path(), &message).await;
            let first = method == Method::RoleDelete && answer.grpc_message() == "etcdserver: role name not found";
            assert!(answer.grpc_status() == Some(0) || first, "{method:?}: {answer:?}");
        }
    }

    /// The same request of the same user to both.
    pub async fn both(&mut self, user: &str, request: &Request) -> (Said, Said) {
        let (path, message) = (request.method.path(), &request.message);
        let (ours, theirs) = (self.ours.get_mut(user).unwrap(), self.theirs.get_mut(user).unwrap());
        let (ours, theirs) = tokio::join!(ours.call(path, message), theirs.call(path, message));
        (said(request.method, &ours), said(request.method, &theirs))
    }

    /// Whether the judge has nothing against this of this user.
    pub async fn judge_allows(&mut self, user: &str, request: &Request) -> bool {
        let answer = self.theirs.get_mut(user).unwrap().call(request.method.path(), &request.message).await;
        matches!(said(request.method, &answer), Said::Answered { status: 0, .. })
    }

    /// What the request would have done on the side that refused it: on ours.
    pub async fn make_up_here(&mut self, request: &Request) -> Said {
        said(request.method, &self.our_root.call(request.method.path(), &request.message).await)
    }

    /// And at the judge.
    pub async fn make_up_there(&mut self, request: &Request) -> Said {
        said(request.method, &self.their_root.call(request.method.path(), &request.message).await)
    }
}

async fn at(etcd: &Etcd, user: &str) -> Raw {
    let issued = authorities().upstream.issue(&Leaf::client(user)).unwrap();
    let address = etcd.addresses()[0];
    let stream = TcpStream::connect(address).await.unwrap();
    let tls = tls_over(stream, &authorities().upstream, address, Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await;
    Raw::over(tls.unwrap()).await
}

async fn enable_auth(root: &mut Raw) {
    let options = Some(authpb::UserAddOptions { no_password: true });
    let mut calls = Vec::new();
    for name in USERS.iter().chain(&["root"]) {
        let add = pb::AuthUserAddRequest { name: (*name).to_owned(), options, ..Default::default() };
        calls.push((Method::UserAdd, add.encode_to_vec()));
    }
    calls.push((Method::RoleAdd, pb::AuthRoleAddRequest { name: "root".to_owned() }.encode_to_vec()));
    let grant = pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    calls.push((Method::UserGrantRole, grant.encode_to_vec()));
    calls.push((Method::AuthEnable, Vec::new()));
    for (method, message) in calls {
        let answer = root.call(method.path(), &message).await;
        assert_eq!(answer.grpc_status(), Some(0), "{method:?}: {answer:?}");
    }
}

fn said(method: Method, answer: &Answer) -> Said {
    let status = answer.grpc_status().unwrap_or_else(|| panic!("{method:?}: no gRPC status: {answer:?}"));
    if let Some(reason) = answer.trailers.get("etcd-warden-reason").or_else(|| answer.headers.get("etcd-warden-reason")) {
        return Said::Refused(reason.to_str().unwrap().to_owned());
    }
    if status == 7 && answer.grpc_message() == "etcdserver: permission denied" {
        return Said::Refused(String::new());
    }
    let (revision, body) = answer.messages().first().map_or((0, Vec::new()), |message| comparable(method, message));
    Said::Answered { status, message: answer.grpc_message().to_owned(), revision, body }
}

/// The revision, and the rest without what no two etcds have in common: every answer begins with its header (field 1).
fn comparable(method: Method, message: &[u8]) -> (i64, Vec<u8>) {
    #[derive(prost::Message)]
    struct Headed {
        #[prost(message, tag = "1")]
        header: Option<pb::ResponseHeader>,
    }
    let header = Headed::decode(message).unwrap().header.unwrap_or_default();
    let rest = match message {
        [0x0a, length, rest @ ..] if *length < 0x80 => rest[usize::from(*length)..].to_vec(),
        other => other.to_vec(),
    };
    let rest = if method == Method::MemberList { Vec::new() } else { rest };
    (header.revision, rest)
}
