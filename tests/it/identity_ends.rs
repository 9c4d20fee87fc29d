//! When a certificate is no longer accepted, everything opened with it ends in a way that makes
//! clientv3 reconnect. Other clients notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::{ClientCa, Config};
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::pki::{Authority, Issued, Leaf, Validity, write_private};
use prost::Message as _;

use crate::live::Live;
use crate::reload::{create, half, status_of_the_rest};
use crate::world::files::replace;
use crate::world::raw::{Raw, tls, tls_over};
use crate::world::{World, authorities, soon};

const POLICY: &str = "
version: 1
mode: enforce
roles:
  r: {allow: [{keys: $P/*, verbs: [rw]}], capabilities: [snapshot]}
bindings:
  - {cn: alice, roles: [r]}
  - {cn: bob, roles: [r]}
";

/// The serial number of alice's certificates in this file.
const ALICE: u64 = 7001;

/// Configures an empty revocation list.
fn with_list(config: &mut Config) {
    let path = config.policy.with_file_name("clients.crl");
    std::fs::write(&path, authorities().clients.crl(&[]).unwrap()).unwrap();
    config.downstream.crl_files = vec![path];
}

/// Revokes alice's certificate. The revocation is in effect on return.
async fn revoke_alice(world: &World) {
    replace(&world.config.downstream.crl_files[0], &authorities().clients.crl(&[ALICE]).unwrap());
    world.reload().await.unwrap();
}

fn alice() -> Issued {
    authorities().clients.issue(&Leaf::client("alice").serial(ALICE)).unwrap()
}

async fn raw(world: &World, issued: &Issued) -> Raw {
    Raw::over(tls(world.address(), Some(issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap())
        .await
}

async fn watch(raw: &mut Raw, world: &World) -> Live {
    let mut stream = Live::open(raw, Method::Watch).await;
    stream.send(&create(&world.key(""), 1));
    assert!(stream.next::<pb::WatchResponse>().await.unwrap().created);
    stream
}

/// Writes directly to etcd until it is stopped, and returns the count.
struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u64>,
}

impl Writer {
    async fn start(world: &World) -> Self {
        let (mut direct, key, stop) =
            (world.direct().await, world.key("written"), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut count = 0;
            while !stopped.load(Ordering::SeqCst) {
                direct.put(key.clone(), count.to_string(), None).await.unwrap();
                count += 1;
            }
            count
        });
        Self { stop, task }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

/// Reads a watch until it has received `count` writes: each once, in order.
async fn every_write(stream: &mut Live, count: u64) {
    let mut expected = 0;
    while expected < count {
        for event in stream.next::<pb::WatchResponse>().await.unwrap().events {
            assert_eq!(event.kv.unwrap().value, expected.to_string().into_bytes());
            expected += 1;
        }
    }
}

/// Reads until the stream ends and returns its status.
async fn end_of(stream: &mut Live) -> (u32, String) {
    loop {
        if let Err(status) = stream.next_bytes().await {
            return status;
        }
    }
}

fn put(world: &World, name: &str) -> Vec<u8> {
    pb::PutRequest { key: world.key(name).into(), value: b"1".into(), ..Default::default() }
        .encode_to_vec()
}

/// Asserts that this certificate has no right any more, over an open connection and over a new one.
async fn is_nobody(world: &World, raw: &mut Raw, issued: &Issued) {
    let answer = raw.call(Method::Put.path(), &put(world, "after")).await;
    assert!(answer.grpc_status().is_none() && answer.error.is_some(), "{answer:?}");
    if let Ok(stream) = tls(world.address(), Some(issued), &[b"h2"], rustls::ALL_VERSIONS).await {
        let answer = Raw::over(stream).await.call(Method::Put.path(), &put(world, "after")).await;
        assert!(answer.grpc_status().is_none() && answer.error.is_some(), "{answer:?}");
    }
    assert_eq!(world.direct().await.get(world.key("after"), None).await.unwrap().count(), 0);
}

#[tokio::test]
async fn revocation_ends_its_connections_and_others_miss_nothing() {
    let world = World::with(POLICY).config(with_list).start().await;
    let issued = alice();
    let mut hers = raw(&world, &issued).await;
    let mut her_watch = watch(&mut hers, &world).await;
    let mut his_watch = watch(&mut world.raw("bob").await, &world).await;
    let begun = half(&mut hers, Method::Put, &put(&world, "half")).await;
    let writer = Writer::start(&world).await;
    her_watch.next::<pb::WatchResponse>().await.unwrap();
    revoke_alice(&world).await;

    let (code, text) = end_of(&mut her_watch).await;
    assert_eq!((code, text.contains("certificate")), (14, true), "{text}");
    assert_eq!(status_of_the_rest(begun).await, "14");
    is_nobody(&world, &mut hers, &issued).await;
    assert_eq!(
        world.metric("etcd_warden_handshake_failures_total", &["reason=\"revoked\""]).await,
        1.0
    );
    assert_eq!(
        world.metric("etcd_warden_streams_terminated_total", &["reason=\"identity\""]).await,
        1.0
    );
    assert_eq!(world.direct().await.get(world.key("half"), None).await.unwrap().count(), 0);
    soon("the end of alice's connection", || async {
        (world.metric("etcd_warden_connections", &[]).await == 1.0).then_some(())
    })
    .await;
    every_write(&mut his_watch, writer.end().await).await;
}

#[tokio::test]
async fn removing_a_ca_from_the_bundle_disconnects_its_clients() {
    let world = World::start(POLICY).await;
    let other = Authority::new("leaves").unwrap();
    world.write_client_cas(&[&authorities().clients, &other]);
    world.reload().await.unwrap();
    let issued = other.client("alice").unwrap();
    let mut hers = raw(&world, &issued).await;
    let mut her_watch = watch(&mut hers, &world).await;
    let mut his_watch = watch(&mut world.raw("bob").await, &world).await;
    let writer = Writer::start(&world).await;
    her_watch.next::<pb::WatchResponse>().await.unwrap();
    world.write_client_cas(&[&authorities().clients]);
    world.reload().await.unwrap();

    assert_eq!(end_of(&mut her_watch).await.0, 14);
    is_nobody(&world, &mut hers, &issued).await;
    assert_eq!(
        world.metric("etcd_warden_handshake_failures_total", &["reason=\"unknown_ca\""]).await,
        1.0
    );
    every_write(&mut his_watch, writer.end().await).await;
}

/// A binding may name a CA, so a connection must not survive a change of that name.
#[tokio::test]
async fn the_same_name_from_another_ca_is_another_identity() {
    let other = Authority::new("the other CA").unwrap();
    let pem = other.pem();
    let policy = POLICY.replace("{cn: alice,", "{cn: alice, ca: calico,");
    let world = World::with(&policy)
        .config(move |config| {
            let ours = config.downstream.client_cas[0].file.clone();
            let file = write_private(ours.parent().unwrap(), "other.crt", &pem).unwrap();
            config.downstream.client_cas = vec![
                ClientCa { name: "calico".into(), file: ours },
                ClientCa { name: "other".into(), file },
            ];
        })
        .start()
        .await;
    let issued = authorities().clients.client("alice").unwrap();
    let mut hers = raw(&world, &issued).await;
    let mut her_watch = watch(&mut hers, &world).await;
    let [calico, named_other] =
        [0, 1].map(|at: usize| world.config.downstream.client_cas[at].file.clone());
    replace(&calico, &other.pem());
    replace(&named_other, &authorities().clients.pem());
    world.reload().await.unwrap();
    assert_eq!(end_of(&mut her_watch).await.0, 14);
    let mut again = raw(&world, &issued).await;
    assert_eq!(again.call(Method::Put.path(), &put(&world, "after")).await.grpc_status(), Some(7));
}

/// Lists may change between start and end of a handshake.
#[tokio::test]
async fn a_handshake_that_began_before_a_revocation_is_judged_by_it() {
    let world = World::with(POLICY).config(with_list).start().await;
    let begun = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    // The proxy is waiting for the first TLS byte by now, or will be soon. Both cases are covered.
    tokio::time::sleep(Duration::from_millis(50)).await;
    revoke_alice(&world).await;
    let issued = alice();
    let stream = tls_over(
        begun,
        &authorities().clients,
        world.address(),
        Some(&issued),
        &[b"h2"],
        rustls::ALL_VERSIONS,
    )
    .await;
    if let Ok(stream) = stream {
        let answer = Raw::over(stream).await.call(Method::Put.path(), &put(&world, "late")).await;
        assert!(answer.grpc_status().is_none(), "{answer:?}");
    }
    assert_eq!(world.direct().await.get(world.key("late"), None).await.unwrap().count(), 0);
}

/// A drain lets a transfer finish, but an identity that is no longer accepted gets no more data.
#[tokio::test]
async fn a_transfer_under_way_stops_when_its_identity_ends() {
    let world = World::with(POLICY).config(with_list).own_etcd().start().await;
    let mut direct = world.direct().await;
    for n in 0..12 {
        direct.put(world.key(&format!("{n:02}")), vec![b'x'; 1_000_000], None).await.unwrap();
    }
    let mut transfer = Live::ask(&mut raw(&world, &alice()).await, Method::Snapshot, b"").await;
    transfer.next_bytes().await.unwrap();
    revoke_alice(&world).await;
    assert_eq!(end_of(&mut transfer).await.0, 14);
}

#[tokio::test]
async fn a_reload_that_changes_no_right_ends_nothing() {
    let world = World::with(POLICY).config(with_list).start().await;
    let mut stream = watch(&mut raw(&world, &alice()).await, &world).await;
    for serials in [vec![1], vec![1, 2], vec![]] {
        replace(
            &world.config.downstream.crl_files[0],
            &authorities().clients.crl(&serials).unwrap(),
        );
        world.reload().await.unwrap();
    }
    world.as_("bob").await.put(world.key("x"), "1", None).await.unwrap();
    assert_eq!(stream.next::<pb::WatchResponse>().await.unwrap().events.len(), 1);
    assert_eq!(world.metric("etcd_warden_streams_terminated_total", &[]).await, 0.0);
}

#[tokio::test]
async fn sends_goaway_before_the_client_certificate_expires() {
    let world = World::start(POLICY).await;
    let issued = authorities()
        .clients
        .issue(&Leaf::client("alice").validity(Validity::For(Duration::from_secs(13))))
        .unwrap();
    let mut stream = watch(&mut raw(&world, &issued).await, &world).await;
    assert_eq!(end_of(&mut stream).await.0, 14);
    // The certificate is still valid: a client that has no new one keeps working.
    let answer = raw(&world, &issued).await.call(Method::Put.path(), &put(&world, "x")).await;
    assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    assert_eq!(
        world.metric("etcd_warden_streams_terminated_total", &["reason=\"identity\""]).await,
        1.0
    );
}

#[tokio::test]
async fn sends_goaway_at_max_connection_age() {
    let world = World::with(POLICY)
        .config(|config| config.limits.max_connection_age = Some(Duration::from_secs(1)))
        .start()
        .await;
    let mut hers = world.raw("alice").await;
    let mut stream = watch(&mut hers, &world).await;
    let (code, text) = end_of(&mut stream).await;
    assert_eq!((code, text.contains("open the stream again")), (14, true), "{text}");
    assert_eq!(
        world.metric("etcd_warden_streams_terminated_total", &["reason=\"age\""]).await,
        1.0
    );
    hers.closed_in_order().await;
}

const SHADOW: &str = "
version: 1
mode: shadow
roles:
  r: {allow: [{keys: $P/*, verbs: [rw]}]}
bindings:
  - {cn: alice, roles: [r]}
";

/// An expired certificate, and a connection that was opened before it expired.
async fn outlived(world: &World) -> (Issued, Raw) {
    let leaf = Leaf::client("alice").serial(ALICE).validity(Validity::For(Duration::from_secs(3)));
    let issued = authorities().clients.issue(&leaf).unwrap();
    let connection = raw(world, &issued).await;
    soon("the end of the certificate", || async {
        let again = tls(world.address(), Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await;
        let refused = match again {
            Ok(stream) => Raw::over(stream)
                .await
                .call(Method::Range.path(), b"")
                .await
                .grpc_status()
                .is_none(),
            Err(_) => true,
        };
        refused.then_some(())
    })
    .await;
    (issued, connection)
}

/// etcd checks a certificate's dates in the handshake only.
#[tokio::test]
async fn in_shadow_mode_a_connection_outlives_its_certificate() {
    let world = World::with(SHADOW).config(with_list).start().await;
    let (issued, mut hers) = outlived(&world).await;
    let mut her_watch = watch(&mut hers, &world).await;
    assert_eq!(hers.call(Method::Put.path(), &put(&world, "x")).await.grpc_status(), Some(0));
    // Nor when a list changes that does not name the certificate.
    replace(&world.config.downstream.crl_files[0], &authorities().clients.crl(&[1]).unwrap());
    world.reload().await.unwrap();
    assert_eq!(hers.call(Method::Put.path(), &put(&world, "x")).await.grpc_status(), Some(0));
    revoke_alice(&world).await;
    assert_eq!(end_of(&mut her_watch).await.0, 14);
    is_nobody(&world, &mut hers, &issued).await;
}

#[tokio::test]
async fn a_switch_to_enforce_ends_what_outlived_its_certificate() {
    let world = World::start(SHADOW).await;
    let (issued, mut hers) = outlived(&world).await;
    let mut her_watch = watch(&mut hers, &world).await;
    let (_, silent) = outlived(&world).await;
    world.replace_policy(&SHADOW.replace("mode: shadow", "mode: enforce"));
    assert_eq!(end_of(&mut her_watch).await.0, 14);
    is_nobody(&world, &mut hers, &issued).await;
    // Also where no open stream would notice.
    silent.closed_in_order().await;
    assert_eq!(world.direct().await.get(world.key("after"), None).await.unwrap().count(), 0);
}

#[tokio::test]
async fn two_workloads_of_one_o_are_two_identities() {
    let policy = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: $P/*, verbs: [rw]}], capabilities: [lease]}}\nbindings: [{o: team, roles: [r]}]\n";
    let world = World::start(policy).await;
    let of = async |name: &str| {
        world
            .with_certificate(
                &Leaf::client("x")
                    .without_common_name()
                    .organization("team")
                    .uri(&format!("spiffe://c/{name}")),
            )
            .await
    };
    let lease = of("a").await.lease_grant(600, None).await.unwrap().id();
    assert!(of("b").await.lease_revoke(lease).await.is_err());
    of("a").await.lease_revoke(lease).await.unwrap();
    // The identity's name also contains the O that the binding matches, as digits.
    let named = |name: &'static str| {
        world.audited(move |line| {
            let of = line["identity"]["name"].as_str().unwrap();
            of.starts_with("default/uri+") && of.ends_with(&format!(":spiffe://c/{name}"))
        })
    };
    named("a").await;
    named("b").await;
}
