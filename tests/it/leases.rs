//! Ownership of leases: a lease belongs to the identity whose mark its id carries. Otherwise it
//! takes write rights on all attached keys.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_client::{Client, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions};
use etcd_warden_core::lease_id::{LeaseKey, MIN_KEY_BYTES, Ownership};
use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::Config;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use serde_json::json;

use crate::live::Live;
use crate::world::fake::{Fake, Visit, trailers};
use crate::world::{World, is_permission_denied};

const POLICY: &str = r#"
version: 1
mode: enforce
roles:
  of-a: {allow: [{keys: '$P/a/*', verbs: [rw]}, {keys: '$P/shared/*', verbs: [rw]}], capabilities: [lease]}
  of-b: {allow: [{keys: '$P/b/*', verbs: [rw]}, {keys: '$P/shared/*', verbs: [rw]}], capabilities: [lease]}
  reader: {allow: [{keys: '$P/*', verbs: [read]}], capabilities: [lease]}
  without: {allow: [{keys: '$P/*', verbs: [rw]}]}
  admin: {allow: [{keys: '$P/*', verbs: [rw]}], capabilities: [lease-admin]}
bindings:
  - {cn: alice, roles: [of-a]}
  - {cn: bob, roles: [of-b]}
  - {cn: reader, roles: [reader]}
  - {cn: without, roles: [without]}
  - {cn: admin, roles: [admin]}
"#;

/// Long enough not to expire during a test.
const TTL: i64 = 3600;

fn key(byte: u8) -> LeaseKey {
    LeaseKey::from_bytes(&[byte; MIN_KEY_BYTES]).unwrap()
}

/// A proxy with the key that [`key`] returns.
fn with_key(byte: u8) -> impl FnOnce(&mut Config) + Send + 'static {
    move |config: &mut Config| {
        let folder = config.policy.parent().unwrap();
        let file = folder.join("lease.key");
        std::fs::write(&file, [byte; MIN_KEY_BYTES]).unwrap();
        config.lease_key_file = Some(file);
    }
}

async fn grant(client: &mut Client) -> i64 {
    client.lease_grant(TTL, None).await.unwrap().id()
}

async fn attach(client: &mut Client, key: String, lease: i64) -> Result<(), etcd_client::Error> {
    client.put(key, "v", Some(PutOptions::new().with_lease(lease))).await.map(drop)
}

async fn time_to_live(client: &mut Client, id: i64, keys: bool) -> Result<i64, etcd_client::Error> {
    let options = LeaseTimeToLiveOptions::new();
    let options = if keys { options.with_keys() } else { options };
    client.lease_time_to_live(id, Some(options)).await.map(|answer| answer.ttl())
}

/// Sends a keepalive on an open stream and returns the TTL in the response.
async fn keep_alive(stream: &mut Live, id: i64) -> i64 {
    stream.send(&pb::LeaseKeepAliveRequest { id });
    let answer: pb::LeaseKeepAliveResponse = stream.next().await.unwrap();
    assert_eq!(answer.id, id);
    assert!(
        answer.header.is_some_and(|header| header.cluster_id != 0 && header.raft_term != 0),
        "{header:?}",
        header = answer.header
    );
    answer.ttl
}

async fn leases(client: &mut Client) -> BTreeSet<i64> {
    client.leases().await.unwrap().leases().iter().map(|lease| lease.id()).collect()
}

#[tokio::test]
async fn an_owner_may_use_its_lease_in_every_way() {
    let world = World::with(POLICY).config(with_key(1)).start().await;
    let mut alice = world.as_("alice").await;
    let id = grant(&mut alice).await;
    assert!(id > 0);
    assert_eq!(key(1).ownership(id, "default/cn:alice"), Ownership::Own);
    assert_eq!(key(1).ownership(id, "default/cn:bob"), Ownership::Sealed);

    attach(&mut alice, world.key("a/k"), id).await.unwrap();
    let (mut keeper, mut answers) = alice.lease_keep_alive(id).await.unwrap();
    for _ in 0..3 {
        keeper.keep_alive().await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().ttl(), TTL);
    }
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let answer = alice.lease_time_to_live(id, Some(options)).await.unwrap();
    assert_eq!((answer.granted_ttl(), answer.keys()), (TTL, &[world.key("a/k").into_bytes()][..]));
    alice.lease_revoke(id).await.unwrap();
    assert_eq!(world.direct().await.get(world.key("a/k"), None).await.unwrap().count(), 0);
}

#[tokio::test]
async fn a_neighbour_cannot_use_it_and_keeps_its_own_alive() {
    let world = World::start(POLICY).await;
    let (mut alice, mut bob) = (world.as_("alice").await, world.as_("bob").await);
    let (hers, his) = (grant(&mut alice).await, grant(&mut bob).await);
    let mut stream = Live::open(&mut world.raw("bob").await, Method::LeaseKeepAlive).await;

    // Without keys, and then with keys that he may not write.
    for attached in [false, true] {
        if attached {
            attach(&mut alice, world.key("a/k"), hers).await.unwrap();
        }
        assert!(is_permission_denied(&bob.lease_revoke(hers).await));
        assert!(is_permission_denied(&time_to_live(&mut bob, hers, false).await));
        assert!(is_permission_denied(&time_to_live(&mut bob, hers, true).await));
        assert!(is_permission_denied(&attach(&mut bob, world.key("b/k"), hers).await));
        assert_eq!(keep_alive(&mut stream, hers).await, 0);
        assert_eq!(keep_alive(&mut stream, his).await, TTL);
    }
    let denials =
        world.audit().into_iter().filter(|line| line["decision"] == "deny").collect::<Vec<_>>();
    assert!(denials.iter().all(|line| line["reason"] == "lease_not_owned"
        && line["missing"] == json!({"lease": format!("{hers:016x}")})));
    assert!(time_to_live(&mut alice, hers, false).await.unwrap() > 0);
    assert_eq!(world.direct().await.get(world.key("b/k"), None).await.unwrap().count(), 0);
}

#[tokio::test]
async fn a_right_to_all_attached_keys_allows_revoke_as_in_etcd() {
    let world = World::start(POLICY).await;
    let (mut alice, mut bob, mut reader) =
        (world.as_("alice").await, world.as_("bob").await, world.as_("reader").await);
    let id = grant(&mut alice).await;
    attach(&mut alice, world.key("shared/k"), id).await.unwrap();
    // A look takes read on the keys, everything else write.
    assert!(time_to_live(&mut reader, id, true).await.unwrap() > 0);
    assert!(is_permission_denied(&reader.lease_revoke(id).await));
    bob.lease_revoke(id).await.unwrap();
}

#[tokio::test]
async fn a_lease_of_another_origin_follows_etcds_rule() {
    let world = World::start(POLICY).await;
    let (mut direct, mut alice, mut bob) =
        (world.direct().await, world.as_("alice").await, world.as_("bob").await);
    // Ids that no client would choose by accident and that the proxy never creates: their salt is
    // 0.
    let foreign = |number: i64| 0x0123_4000 + number + i64::from(std::process::id()) * 0x100;
    let mut chosen = Vec::new();
    for number in 0..3 {
        let options = LeaseGrantOptions::new().with_id(foreign(number));
        chosen.push(direct.lease_grant(TTL, Some(options)).await.unwrap().id());
    }
    let [bare, of_bob, mixed] = chosen[..] else { unreachable!() };
    attach(&mut direct, world.key("b/x"), of_bob).await.unwrap();
    attach(&mut direct, world.key("b/y"), mixed).await.unwrap();
    attach(&mut direct, world.key("a/y"), mixed).await.unwrap();
    let mut stream = Live::open(&mut world.raw("bob").await, Method::LeaseKeepAlive).await;

    // Without keys the lease has no owner.
    assert_eq!(keep_alive(&mut stream, bare).await, TTL);
    assert!(time_to_live(&mut alice, bare, true).await.unwrap() > 0);
    attach(&mut bob, world.key("b/z"), bare).await.unwrap();
    assert!(is_permission_denied(&alice.lease_revoke(bare).await));
    bob.lease_revoke(bare).await.unwrap();
    // He may write all of the keys, or not all.
    assert_eq!(keep_alive(&mut stream, of_bob).await, TTL);
    assert!(is_permission_denied(&alice.lease_revoke(of_bob).await));
    bob.lease_revoke(of_bob).await.unwrap();
    for client in [&mut alice, &mut bob] {
        assert!(is_permission_denied(&client.lease_revoke(mixed).await));
        assert!(is_permission_denied(&time_to_live(client, mixed, true).await));
    }
    assert_eq!(keep_alive(&mut stream, mixed).await, 0);
    // Whether a lease still exists is reported by etcd.
    assert_eq!(time_to_live(&mut bob, of_bob, false).await.unwrap(), -1);
    let gone = bob.lease_revoke(of_bob).await.unwrap_err();
    assert!(gone.to_string().contains("requested lease not found"), "{gone}");
    assert_eq!(keep_alive(&mut stream, of_bob).await, 0);
    direct.lease_revoke(mixed).await.unwrap();
}

#[tokio::test]
async fn lease_leases_lists_own_leases_and_all_for_an_admin() {
    let world = World::start(POLICY).await;
    let (mut direct, mut alice, mut bob, mut admin) = (
        world.direct().await,
        world.as_("alice").await,
        world.as_("bob").await,
        world.as_("admin").await,
    );
    let hers = BTreeSet::from([grant(&mut alice).await, grant(&mut alice).await]);
    let his = BTreeSet::from([grant(&mut bob).await]);
    let third = grant(&mut direct).await;
    assert_eq!(leases(&mut alice).await, hers);
    assert_eq!(leases(&mut bob).await, his);
    assert_eq!(leases(&mut world.as_("reader").await).await, BTreeSet::new());
    let all = leases(&mut admin).await;
    assert!(all.contains(&third) && all.is_superset(&hers) && all.is_superset(&his));
    // The admin may also use and revoke them.
    attach(&mut admin, world.key("a/k"), third).await.unwrap();
    for id in hers.iter().chain(&his) {
        assert!(time_to_live(&mut admin, *id, true).await.unwrap() > 0);
        admin.lease_revoke(*id).await.unwrap();
    }
    assert_eq!(leases(&mut alice).await, BTreeSet::new());
}

#[tokio::test]
async fn replicas_with_one_key_agree_and_one_with_another_does_not() {
    let first = World::with(POLICY).config(with_key(1)).start().await;
    let second = World::with(POLICY).config(with_key(1)).start().await;
    let other = World::with(POLICY).config(with_key(2)).start().await;
    let mut alice = first.as_("alice").await;
    // One id in 4096 looks sealed under another key. That case is not tested here.
    let id = loop {
        let id = grant(&mut alice).await;
        if key(2).ownership(id, "default/cn:alice") == Ownership::Foreign {
            break id;
        }
    };
    let (mut alice, mut bob) = (second.as_("alice").await, second.as_("bob").await);
    assert!(leases(&mut alice).await.contains(&id));
    assert!(time_to_live(&mut alice, id, true).await.unwrap() > 0);
    assert!(is_permission_denied(&bob.lease_revoke(id).await));

    let (mut alice, mut bob) = (other.as_("alice").await, other.as_("bob").await);
    assert!(!leases(&mut alice).await.contains(&id));
    // It has no owner as long as it has no keys.
    bob.lease_revoke(id).await.unwrap();
}

#[tokio::test]
async fn an_id_that_the_client_chooses_is_kept() {
    let world = World::start(POLICY).await;
    let (mut alice, mut bob) = (world.as_("alice").await, world.as_("bob").await);
    let id = 0x0ABC_0000_0000 + i64::from(std::process::id());
    let granted = alice.lease_grant(TTL, Some(LeaseGrantOptions::new().with_id(id))).await.unwrap();
    assert_eq!(granted.id(), id);
    attach(&mut alice, world.key("a/k"), id).await.unwrap();
    assert!(is_permission_denied(&bob.lease_revoke(id).await));
    alice.lease_revoke(id).await.unwrap();
}

#[tokio::test]
async fn an_id_that_carries_anothers_seal_is_not_granted() {
    let world = World::with(POLICY).config(with_key(1)).start().await;
    let (mut alice, mut bob) = (world.as_("alice").await, world.as_("bob").await);
    let hers = grant(&mut alice).await;
    let named = |id| Some(LeaseGrantOptions::new().with_id(id));
    // While it exists, after it has ended, and one of hers that never existed.
    for id in [hers, hers, key(1).mint("default/cn:alice", 77)] {
        assert!(is_permission_denied(&bob.lease_grant(TTL, named(id)).await));
        let line =
            world.audited(|line| line["missing"] == json!({"lease": format!("{id:016x}")})).await;
        assert_eq!(
            (&line["reason"], &line["leases"][0]["use"]),
            (&json!("lease_not_owned"), &json!("grant"))
        );
        let _ = alice.lease_revoke(hers).await;
    }
    assert_eq!(
        keep_alive(
            &mut Live::open(&mut world.raw("alice").await, Method::LeaseKeepAlive).await,
            hers
        )
        .await,
        0
    );
    // She may recreate her own, and so may an admin of leases.
    for client in [&mut alice, &mut world.as_("admin").await] {
        assert_eq!(client.lease_grant(TTL, named(hers)).await.unwrap().id(), hers);
        client.lease_revoke(hers).await.unwrap();
    }
    // An id below 2^43 never carries a seal.
    let plain = 0x0ABE_0000_0000 + i64::from(std::process::id());
    assert_eq!(bob.lease_grant(TTL, named(plain)).await.unwrap().id(), plain);
    bob.lease_revoke(plain).await.unwrap();
}

#[tokio::test]
async fn shadow_mode_records_and_passes_a_grant_of_anothers_id() {
    let world = World::with(&POLICY.replace("enforce", "shadow")).config(with_key(1)).start().await;
    let id = key(1).mint("default/cn:alice", 1 + std::process::id());
    let mut bob = world.as_("bob").await;
    assert_eq!(
        bob.lease_grant(TTL, Some(LeaseGrantOptions::new().with_id(id))).await.unwrap().id(),
        id
    );
    let line = world.audited(|line| line["decision"] == "would_deny").await;
    assert_eq!(
        (&line["reason"], &line["method"]),
        (&json!("lease_not_owned"), &json!(Method::LeaseGrant.path()))
    );
    bob.lease_revoke(id).await.unwrap();
}

#[tokio::test]
async fn losing_the_capability_stops_renewing_and_attaching() {
    let world = World::start(POLICY).await;
    let mut alice = world.as_("alice").await;
    let (bare, keyed) = (grant(&mut alice).await, grant(&mut alice).await);
    attach(&mut alice, world.key("a/k"), keyed).await.unwrap();
    let mut stream = Live::open(&mut world.raw("alice").await, Method::LeaseKeepAlive).await;
    assert_eq!(keep_alive(&mut stream, keyed).await, TTL);

    let (with, without) = (POLICY, POLICY.replacen(", capabilities: [lease]", "", 1));
    world.replace_policy(&without);
    for id in [bare, keyed] {
        assert_eq!(keep_alive(&mut stream, id).await, 0);
        assert!(is_permission_denied(&attach(&mut alice, world.key("a/l"), id).await));
        // Reading its TTL and revoking it are still allowed.
        assert!(time_to_live(&mut alice, id, true).await.unwrap() > 0);
    }
    let line = world.audited(|line| line["decision"] == "deny").await;
    assert_eq!(
        (&line["reason"], &line["missing"]),
        (&json!("capability_not_granted"), &json!({"capability": "lease"}))
    );
    alice.lease_revoke(bare).await.unwrap();

    world.replace_policy(with);
    assert_eq!(keep_alive(&mut stream, keyed).await, TTL);
}

#[tokio::test]
async fn without_the_capability_there_is_no_lease() {
    let world = World::start(POLICY).await;
    let mut without = world.as_("without").await;
    assert!(is_permission_denied(&without.lease_grant(TTL, None).await));
    let line = world.audited(|line| line["decision"] == "deny").await;
    assert_eq!(
        (&line["reason"], &line["missing"]),
        (&json!("capability_not_granted"), &json!({"capability": "lease"}))
    );

    // Nor a lease without an owner: its id carries no mark, and no attached key gives the client a
    // right.
    let mut direct = world.direct().await;
    let bare = grant(&mut direct).await;
    assert!(is_permission_denied(&without.lease_revoke(bare).await));
    assert!(is_permission_denied(&time_to_live(&mut without, bare, true).await));
    assert!(is_permission_denied(&attach(&mut without, world.key("k"), bare).await));
    assert_eq!(
        keep_alive(
            &mut Live::open(&mut world.raw("without").await, Method::LeaseKeepAlive).await,
            bare
        )
        .await,
        0
    );
    // With an attached key that the client may write, etcd's rule applies.
    attach(&mut direct, world.key("k"), bare).await.unwrap();
    without.lease_revoke(bare).await.unwrap();
}

/// The retry below depends on these words. They must be real etcd's, not those of the fake.
#[tokio::test]
async fn etcd_reports_a_taken_id_with_the_expected_message() {
    let world = World::start(POLICY).await;
    let id = 0x0ABD_0000_0000 + i64::from(std::process::id());
    let mut raw = world.raw("alice").await;
    let grant = pb::LeaseGrantRequest { ttl: TTL, id }.encode_to_vec();
    assert_eq!(raw.call(Method::LeaseGrant.path(), &grant).await.grpc_status(), Some(0));
    let answer = raw.call(Method::LeaseGrant.path(), &grant).await;
    assert_eq!((answer.grpc_status(), answer.grpc_message()), (Some(9), TAKEN));
}

const TAKEN: &str = "etcdserver: lease already exists";

fn ids_that_reached(etcd: &Fake) -> Vec<i64> {
    let grants = etcd
        .arrivals("LeaseGrant")
        .into_iter()
        .map(|arrival| pb::LeaseGrantRequest::decode(&arrival.body[5..]).unwrap());
    grants.inspect(|grant| assert_eq!(grant.ttl, TTL)).map(|grant| grant.id).collect()
}

type Refusal = fn(&mut Visit);

/// The error in plain text, where grpc-go writes it: a single header block.
fn in_the_head(visit: &mut Visit) {
    visit.status(9, TAKEN);
}

/// The error over TLS, where Go's HTTP server writes it: headers and then trailers.
fn in_the_trailers(visit: &mut Visit) {
    visit.head().send_trailers(trailers(9, TAKEN)).unwrap();
}

/// A fake etcd that reports the first `taken` ids as taken.
async fn etcd_with(taken: usize, refusal: Refusal, policy: &str) -> (Fake, World) {
    let count = AtomicUsize::new(0);
    let etcd = Fake::serving(move |mut visit: Visit| {
        let is_taken =
            visit.path == Method::LeaseGrant.path() && count.fetch_add(1, Ordering::SeqCst) < taken;
        async move {
            let body = visit.body().await;
            if is_taken {
                return refusal(&mut visit);
            }
            let asked = pb::LeaseGrantRequest::decode(&body[5..]).unwrap();
            visit.answer(
                &pb::LeaseGrantResponse { id: asked.id, ttl: asked.ttl, ..Default::default() }
                    .encode_to_vec(),
            );
        }
    })
    .await;
    let world = World::with(policy).config(with_key(1)).config(etcd.replace_etcd()).start().await;
    (etcd, world)
}

#[tokio::test]
async fn a_taken_id_is_replaced_by_another_of_the_same_client() {
    for refusal in [in_the_head as Refusal, in_the_trailers] {
        let (etcd, world) = etcd_with(2, refusal, POLICY).await;
        let id = grant(&mut world.as_("alice").await).await;
        let ids = ids_that_reached(&etcd);
        assert_eq!((ids.len(), ids[2]), (3, id));
        assert!(ids.iter().all(|id| key(1).ownership(*id, "default/cn:alice") == Ownership::Own));
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3);
    }
}

#[tokio::test]
async fn after_five_taken_ids_the_client_gets_the_error() {
    let (etcd, world) = etcd_with(usize::MAX, in_the_trailers, POLICY).await;
    let error = world.as_("alice").await.lease_grant(TTL, None).await.unwrap_err();
    assert!(error.to_string().contains(TAKEN), "{error}");
    assert_eq!(ids_that_reached(&etcd).len(), 5);
    let line = world.audited(|line| line["method"] == Method::LeaseGrant.path()).await;
    assert_eq!((&line["decision"], &line["grpc_status"]), (&json!("allow"), &json!(9)));
}

#[tokio::test]
async fn a_taken_id_that_the_client_chose_is_not_replaced() {
    let (etcd, world) = etcd_with(usize::MAX, in_the_trailers, POLICY).await;
    let options = LeaseGrantOptions::new().with_id(77);
    assert!(
        world
            .as_("alice")
            .await
            .lease_grant(TTL, Some(options))
            .await
            .unwrap_err()
            .to_string()
            .contains(TAKEN)
    );
    assert_eq!(ids_that_reached(&etcd), [77]);
}

#[tokio::test]
async fn shadow_mode_chooses_no_id_and_filters_no_list() {
    let (etcd, world) = etcd_with(0, in_the_trailers, &POLICY.replace("enforce", "shadow")).await;
    world.as_("alice").await.lease_grant(TTL, None).await.unwrap();
    assert_eq!(ids_that_reached(&etcd), [0]);

    let world = World::start(&POLICY.replace("enforce", "shadow")).await;
    let (mut direct, mut alice, mut bob) =
        (world.direct().await, world.as_("alice").await, world.as_("bob").await);
    let (foreign, hers) = (grant(&mut direct).await, grant(&mut alice).await);
    assert!(leases(&mut alice).await.is_superset(&BTreeSet::from([foreign, hers])));
    attach(&mut alice, world.key("a/k"), hers).await.unwrap();
    bob.lease_revoke(hers).await.unwrap();
    let line = world
        .audited(|line| {
            line["decision"] == "would_deny" && line["method"] == Method::LeaseRevoke.path()
        })
        .await;
    assert_eq!(line["reason"], "lease_not_owned");
}

/// An etcd that does not report which keys are attached to a lease.
async fn silent_about_leases() -> (Fake, World) {
    let etcd = Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        match visit.path == Method::LeaseTimeToLive.path() {
            true => visit.status(14, "etcdserver: request timed out"),
            false => visit.answer(b""),
        }
    })
    .await;
    let world = World::with(POLICY).config(with_key(1)).config(etcd.replace_etcd()).start().await;
    (etcd, world)
}

#[tokio::test]
async fn a_lease_whose_keys_etcd_does_not_report_is_refused() {
    let (etcd, world) = silent_about_leases().await;
    let mut raw = world.raw("alice").await;
    let revoke = pb::LeaseRevokeRequest { id: 77 }.encode_to_vec();
    let answer = raw.call(Method::LeaseRevoke.path(), &revoke).await;
    // UNAVAILABLE, with the message after which clientv3 retries even a write: nothing was sent.
    assert_eq!(
        (answer.grpc_status(), answer.grpc_message()),
        (Some(14), "there is no connection available")
    );
    let mut stream = Live::open(&mut raw, Method::LeaseKeepAlive).await;
    stream.send(&pb::LeaseKeepAliveRequest { id: 77 });
    assert_eq!(stream.next_bytes().await.unwrap_err().0, 14);
    // The same on a stream whose client has already ended its side.
    let mut stream = Live::ask(
        &mut raw,
        Method::LeaseKeepAlive,
        &pb::LeaseKeepAliveRequest { id: 77 }.encode_to_vec(),
    )
    .await;
    assert_eq!(stream.next_bytes().await.unwrap_err().0, 14);
    assert!(etcd.arrivals("LeaseRevoke").is_empty());
    for method in [Method::LeaseRevoke, Method::LeaseKeepAlive] {
        let line = world.audited(|line| line["method"] == method.path()).await;
        assert_eq!(
            (&line["decision"], &line["reason"]),
            (&json!("deny"), &json!("lease_unknown")),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_request_refused_anyway_causes_no_lease_lookup() {
    let (etcd, world) = silent_about_leases().await;
    let mut alice = world.as_("alice").await;
    for client in [&mut alice, &mut world.as_("unbound").await] {
        assert!(is_permission_denied(&attach(client, world.key("b/k"), 77).await));
    }
    // Nor about the client's own lease.
    attach(&mut alice, world.key("a/k"), key(1).mint("default/cn:alice", 5)).await.unwrap();
    assert!(etcd.arrivals("LeaseTimeToLive").is_empty());
}
