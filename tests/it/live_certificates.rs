//! Certificates that are replaced while the proxy serves: the new ones take effect at once, an
//! error changes nothing, and unaffected clients notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::pki::{Authority, Issued, Leaf};
use prost::Message as _;

use crate::live::Live;
use crate::reload::create;
use crate::world::files::replace;
use crate::world::raw::tls;
use crate::world::relay::Relay;
use crate::world::{World, authorities, root, shared_etcd, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: $P/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

/// The certificate that the proxy presents to a new connection.
async fn shown(world: &World) -> Vec<u8> {
    let stream = world.tls(&Leaf::client("alice")).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(issued: &Issued) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(issued.certificate.as_bytes())
        .unwrap()
        .to_vec()
}

async fn failed_reloads(world: &World, what: &str) -> f64 {
    world
        .metric("etcd_warden_reloads_total", &[&format!("what=\"{what}\""), "result=\"failed\""])
        .await
}

#[tokio::test]
async fn new_handshakes_show_the_new_certificate_never_half_a_pair() {
    let world = World::start(POLICY).await;
    let mut before = world.as_("alice").await;
    let first = shown(&world).await;
    let renewed = world.new_server_certificate();
    replace(&world.config.downstream.cert_file, &renewed.certificate);
    let error = world.reload().await.unwrap_err().to_string();
    assert!(error.contains("server.key: is not the key of the certificate in"), "{error}");
    assert_eq!(shown(&world).await, first);
    let page = world.admin("/policy").await.1;
    assert!(page.contains("\"server\": ") && page.contains("is not the key of"), "{page}");
    assert_eq!(failed_reloads(&world, "server").await, 1.0);

    world.write_server(&renewed);
    world.reload().await.unwrap();
    assert_eq!(shown(&world).await, der(&renewed));
    assert!(world.admin("/policy").await.1.contains("\"certificate_errors\": {}"));
    before.put(world.key("x"), "1", None).await.unwrap();
    for what in ["clients", "upstream", "policy"] {
        assert_eq!(failed_reloads(&world, what).await, 0.0, "{what}");
        assert_eq!(
            world
                .metric(
                    "etcd_warden_reloads_total",
                    &[&format!("what=\"{what}\""), "result=\"ok\""]
                )
                .await,
            2.0,
            "{what}"
        );
    }
}

#[tokio::test]
async fn adding_and_removing_a_client_ca_takes_effect() {
    let world = World::start(POLICY).await;
    let (ours, other) = (&authorities().clients, Authority::new("new clients CA").unwrap());
    let (old, new) = (ours.client("alice").unwrap(), other.client("alice").unwrap());
    let comes_in = async |issued: &Issued| {
        let stream = tls(world.address(), Some(issued), &[b"h2"], rustls::ALL_VERSIONS).await;
        let Ok(stream) = stream else { return false };
        // With TLS 1.3 the refusal arrives after the handshake.
        let mut raw = crate::world::raw::Raw::over(stream).await;
        raw.call(Method::Range.path(), b"").await.grpc_status().is_some()
    };
    for (cas, expected) in [
        (vec![ours], [true, false]),
        (vec![ours, &other], [true, true]),
        (vec![&other], [false, true]),
    ] {
        world.write_client_cas(&cas);
        world.reload().await.unwrap();
        assert_eq!(
            [comes_in(&old).await, comes_in(&new).await],
            expected,
            "with {} CAs",
            cas.len()
        );
    }
    assert_eq!(
        world.metric("etcd_warden_handshake_failures_total", &["reason=\"unknown_ca\""]).await,
        2.0
    );
}

/// One client's calls, one after the other, until it is stopped. None may fail.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    async fn on(world: &World) -> Self {
        let (mut client, key) = (world.as_("alice").await, world.key("load"));
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), calls.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                client.put(key.clone(), "1", None).await.unwrap();
                client.get(key.clone(), None).await.unwrap();
                counted.fetch_add(2, Ordering::SeqCst);
            }
        });
        let load = Self { stop, calls, task };
        load.goes_on().await;
        load
    }

    async fn goes_on(&self) {
        let before = self.calls.load(Ordering::SeqCst);
        soon("more calls", || async {
            assert!(!self.task.is_finished(), "a call failed");
            (self.calls.load(Ordering::SeqCst) > before + 4).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn connections_to_etcd_are_renewed_under_load_and_no_call_fails() {
    let relay = Relay::to(shared_etcd().await.addresses()[0]).await;
    let world = World::with(POLICY).config(relay.before_etcd()).start().await;
    let mut stream = Live::open(&mut world.raw("alice").await, Method::Watch).await;
    stream.send(&create(&world.key("watched/"), 1));
    assert!(stream.next::<pb::WatchResponse>().await.unwrap().created);
    let load = Load::on(&world).await;
    for _ in 0..5 {
        let before = relay.opened();
        world.write_upstream(&authorities().upstream.client("root").unwrap());
        world.reload().await.unwrap();
        // One for the proxy's own requests, and one for each class of calls.
        soon("new connections", || async { (relay.opened() >= before + 4).then_some(()) }).await;
        // The proxy's own, one for each class of calls, and the one that carries the watch.
        soon("the end of the old ones", || async { (relay.open() <= 5).then_some(()) }).await;
        load.goes_on().await;
    }
    load.end().await;
    // The watch has stayed on its connection.
    world.direct().await.put(world.key("watched/x"), "1", None).await.unwrap();
    assert_eq!(stream.next::<pb::WatchResponse>().await.unwrap().events.len(), 1);
    assert_eq!(world.metric("etcd_warden_upstream_failures_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_certificate_that_etcd_refuses_ends_no_connection() {
    let world = World::start(POLICY).await;
    let load = Load::on(&world).await;
    world.write_upstream(&Authority::new("unknown to etcd").unwrap().client("root").unwrap());
    world.reload().await.unwrap();
    let failures = async || world.metric("etcd_warden_upstream_failures_total", &[]).await;
    soon("failed renewals", || async { (failures().await >= 2.0).then_some(()) }).await;
    load.goes_on().await;
    assert_eq!(world.admin("/readyz").await.0, 200);

    world.write_upstream(&authorities().upstream.client("root").unwrap());
    world.reload().await.unwrap();
    world.as_("alice").await.put(world.key("x"), "1", None).await.unwrap();
    load.goes_on().await;
    load.end().await;
}

#[tokio::test]
async fn leaves_an_etcd_that_is_no_longer_trusted_at_once() {
    let world = World::start(POLICY).await;
    let mut raw = world.raw("alice").await;
    let mut stream = Live::open(&mut raw, Method::Watch).await;
    stream.send(&create(&world.key("watched/"), 1));
    assert!(stream.next::<pb::WatchResponse>().await.unwrap().created);
    world.as_("alice").await.put(world.key("x"), "1", None).await.unwrap();
    world.write_cacert(&Authority::new("another etcd CA").unwrap());
    world.reload().await.unwrap();
    assert_eq!(stream.next::<pb::WatchResponse>().await.unwrap_err().0, 14);
    soon("an etcd that is down", || async {
        (world.admin("/readyz").await.0 == 503).then_some(())
    })
    .await;
    let range = pb::RangeRequest { key: world.key("x").into(), ..Default::default() };
    let answer = raw.call(Method::Range.path(), &range.encode_to_vec()).await;
    assert_eq!(
        (answer.grpc_status(), answer.grpc_message()),
        (Some(14), "there is no connection available")
    );
    world.write_cacert(&authorities().upstream);
    world.reload().await.unwrap();
    soon("an etcd that is back", || async {
        (world.admin("/readyz").await.0 == 200).then_some(())
    })
    .await;
    world.as_("alice").await.put(world.key("x"), "2", None).await.unwrap();
}

/// The proxy's identity at etcd, over connections that were opened before.
#[tokio::test]
async fn calls_continue_with_the_new_certificate() {
    let world = World::with(POLICY).own_etcd().start().await;
    let mut direct = world.direct().await;
    direct.user_add("root", "pw", None).await.unwrap();
    direct.user_grant_role("root", "root").await.unwrap();
    direct.auth_enable().await.unwrap();
    let mut alice = world.as_("alice").await;
    alice.put(world.key("x"), "1", None).await.unwrap();
    world.write_upstream(&authorities().upstream.client("unknown-to-etcd").unwrap());
    world.reload().await.unwrap();
    let answer = || async { alice.clone().get(world.key("x"), None).await };
    soon("etcd's refusal of the new certificate", || async {
        answer().await.is_err().then_some(())
    })
    .await;
    world.write_upstream(root());
    world.reload().await.unwrap();
    soon("the old rights", || async { answer().await.ok() }).await;
}

/// The list that names a client is replaced by an older list that is still in date and does not
/// name it: a delayed copy, or a deliberate one.
#[tokio::test]
async fn an_older_revocation_list_readmits_no_client() {
    let clients = &authorities().clients;
    let list = |serials: &[u64], number| clients.numbered_crl(serials, number).unwrap();
    let first = list(&[], 1);
    let world = World::with(POLICY)
        .config(move |config| {
            let path = config.policy.with_file_name("clients.crl");
            std::fs::write(&path, first).unwrap();
            config.downstream.crl_files = vec![path];
        })
        .start()
        .await;
    let alice = clients.issue(&Leaf::client("alice").serial(8001)).unwrap();
    let comes_in = async || {
        let Ok(stream) = tls(world.address(), Some(&alice), &[b"h2"], rustls::ALL_VERSIONS).await
        else {
            return false;
        };
        crate::world::raw::Raw::over(stream)
            .await
            .call(Method::Range.path(), b"")
            .await
            .grpc_status()
            .is_some()
    };
    let file = &world.config.downstream.crl_files[0];
    assert!(comes_in().await);
    replace(file, &list(&[8001], 3));
    world.reload().await.unwrap();
    assert!(!comes_in().await);
    replace(file, &list(&[], 2));
    for failed in [1.0, 2.0] {
        let error = world.reload().await.unwrap_err().to_string();
        assert!(
            error.contains("(number 0x02, of ")
                && error.contains("is older than the one in effect (number 0x03, of "),
            "{error}"
        );
        assert!(!comes_in().await, "the revoked certificate is refused");
        assert_eq!(failed_reloads(&world, "clients").await, failed);
    }
    assert!(world.admin("/policy").await.1.contains("is older than the one in effect"));
    replace(file, &list(&[], 4));
    world.reload().await.unwrap();
    assert!(comes_in().await);
}
