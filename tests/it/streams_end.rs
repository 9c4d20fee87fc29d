//! Every kind of long-lived call ends for both reasons that concern all of them: its client is
//! enforced, or its certificate is no longer accepted. `reload` covers calls that end because the
//! policy takes a right away.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_proto::{v3electionpb, v3lockpb};
use etcd_warden_testbed::pki::{Issued, Leaf};
use prost::Message as _;

use crate::live::Live;
use crate::reload::create;
use crate::world::files::replace;
use crate::world::raw::{Raw, tls};
use crate::world::{World, authorities, programs};

const POLICY: &str = "version: 1\nmode: $MODE\nroles:\n  r: {allow: [{keys: $P/*, verbs: [rw]}], capabilities: [lease, snapshot]}\n\
                      bindings: [{cn: alice, roles: [r]}]\n";
const ALICE: u64 = 0xa11ce;

async fn connection(world: &World, issued: &Issued) -> Raw {
    Raw::over(tls(world.address(), Some(issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap())
        .await
}

/// One long-lived call of each kind, each on its own connection and known to etcd: calls with a
/// response have received the first one, and waiting ones are in the queue.
async fn one_of_each(world: &World, issued: &Issued) -> Vec<(Method, Live)> {
    let mut direct = world.direct().await;
    for n in 0..12 {
        direct.put(world.key(&format!("large/{n:02}")), vec![b'x'; 1_000_000], None).await.unwrap();
    }
    let (holder, waiter) = (
        direct.lease_grant(600, None).await.unwrap().id(),
        direct.lease_grant(600, None).await.unwrap().id(),
    );
    let hold = |lease| etcd_client::PutOptions::new().with_lease(lease);
    // Another client holds the lock and is the leader, so every later one waits.
    for name in ["lock", "led"] {
        direct
            .put(world.key(&format!("{name}/{holder:x}")), "first", Some(hold(holder)))
            .await
            .unwrap();
        // The lease of a waiter belongs to no other identity: its key is one that the client may
        // write.
        direct.put(world.key(&format!("{name}-lease")), "", Some(hold(waiter))).await.unwrap();
    }
    let name = |name: &str| world.key(name).into_bytes();
    let mut open = Vec::new();
    let mut ask = async |method: Method, message: Vec<u8>| {
        open.push((
            method,
            Live::ask(&mut connection(world, issued).await, method, &message).await,
        ));
    };
    ask(Method::Lock, v3lockpb::LockRequest { name: name("lock"), lease: waiter }.encode_to_vec())
        .await;
    let campaign =
        v3electionpb::CampaignRequest { name: name("led"), lease: waiter, value: b"v".to_vec() };
    ask(Method::Campaign, campaign.encode_to_vec()).await;
    ask(Method::Observe, v3electionpb::LeaderRequest { name: name("led") }.encode_to_vec()).await;
    ask(Method::Observe, v3electionpb::LeaderRequest { name: name("no-leader") }.encode_to_vec())
        .await;
    ask(Method::Snapshot, vec![]).await;
    let version = programs().version;
    if (version.major, version.minor) >= (3, 7) {
        let range = pb::RangeRequest {
            key: name("large/"),
            range_end: name("large0"),
            ..Default::default()
        };
        ask(Method::RangeStream, range.encode_to_vec()).await;
    }
    for method in [Method::Watch, Method::LeaseKeepAlive] {
        let mut stream = Live::open(&mut connection(world, issued).await, method).await;
        match method {
            Method::Watch => stream.send(&create(&world.key("w"), 1)),
            _ => stream.send(&pb::LeaseKeepAliveRequest { id: waiter }),
        }
        open.push((method, stream));
    }
    let answers_at_once =
        |method: &Method, at: usize| !matches!(method, Method::Lock | Method::Campaign) && at != 3;
    for (at, (method, call)) in open.iter_mut().enumerate() {
        if answers_at_once(method, at) {
            call.next_bytes().await.unwrap();
        }
    }
    for queue in ["lock/", "led/"] {
        let options = || Some(etcd_client::GetOptions::new().with_prefix().with_count_only());
        while direct.get(world.key(queue), options()).await.unwrap().count() < 2 {
            tokio::task::yield_now().await;
        }
    }
    open
}

/// The status that each call ends with.
async fn ends(calls: Vec<(Method, Live)>) -> Vec<(Method, u32)> {
    let mut ends = Vec::new();
    for (method, mut call) in calls {
        let (code, _) = loop {
            if let Err(status) = call.next_bytes().await {
                break status;
            }
        };
        ends.push((method, code));
    }
    ends
}

/// A call with a single message is judged again in place. A bidirectional stream ends so that its
/// client reopens it and is judged from the start.
#[tokio::test]
async fn open_calls_are_judged_when_their_client_is_enforced() {
    let world = World::with(&POLICY.replace("$MODE", "shadow")).own_etcd().start().await;
    let bob = authorities().clients.client("bob").unwrap();
    let calls = one_of_each(&world, &bob).await;
    world.replace_policy(&POLICY.replace("$MODE", "enforce"));
    let ends = ends(calls).await;
    for (method, code) in &ends {
        let comes_back = matches!(method, Method::Watch | Method::LeaseKeepAlive);
        assert_eq!(*code, if comes_back { 14 } else { 7 }, "{method:?}");
    }
    let terminated = async |reason: &str| {
        world
            .metric("etcd_warden_streams_terminated_total", &[&format!("reason=\"{reason}\"")])
            .await
    };
    assert_eq!(
        (terminated("mode").await, terminated("policy").await),
        (2.0, (ends.len() - 2) as f64)
    );
}

#[tokio::test]
async fn a_revoked_client_loses_every_kind_of_call() {
    let world = World::with(&POLICY.replace("$MODE", "enforce"))
        .config(|config| {
            let path = config.policy.with_file_name("clients.crl");
            std::fs::write(&path, authorities().clients.crl(&[]).unwrap()).unwrap();
            config.downstream.crl_files = vec![path];
        })
        .own_etcd()
        .start()
        .await;
    let alice = authorities().clients.issue(&Leaf::client("alice").serial(ALICE)).unwrap();
    let calls = one_of_each(&world, &alice).await;
    replace(&world.config.downstream.crl_files[0], &authorities().clients.crl(&[ALICE]).unwrap());
    world.reload().await.unwrap();
    let ends = ends(calls).await;
    for (method, code) in &ends {
        assert_eq!(*code, 14, "{method:?}");
    }
    assert_eq!(
        world.metric("etcd_warden_streams_terminated_total", &["reason=\"identity\""]).await,
        ends.len() as f64
    );
}
