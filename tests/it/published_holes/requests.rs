//! Requests that etcd did not check, or not completely.

use etcd_client::{
    AlarmAction, AlarmType, Client, Error, GetOptions, LeaseTimeToLiveOptions, PutOptions, Txn,
    TxnOp, TxnOpResponse, TxnResponse, WatchOptions, WatchStream,
};
use etcd_warden_testbed::etcd::Programs;

use super::fixture::Fixture;
use crate::world::{SOON, is_permission_denied, vulnerable};

/// The releases with the holes of 2026.
const OF_2026: [fn() -> &'static Programs; 2] = [vulnerable::v3_5, vulnerable::v3_6];

async fn run(client: &mut Client, op: TxnOp) -> Result<TxnResponse, Error> {
    client.txn(Txn::new().and_then([op])).await
}

/// Operations of a nested Txn were not checked.
#[tokio::test]
async fn cve_2026_33343_nested_txn() {
    for programs in OF_2026 {
        let fixture = Fixture::on(programs).await;
        fixture.holds().await;
        let secret = fixture.world.key("secret");
        let nested = |op: TxnOp, depth: usize| {
            (0..depth).fold(op, |op, _| TxnOp::txn(Txn::new().and_then([op])))
        };
        let read = || TxnOp::get(secret.clone(), None);
        let write = |value: &str| TxnOp::put(secret.clone(), value, None);

        let mut direct = fixture.direct().await;
        assert!(
            is_permission_denied(&run(&mut direct, read()).await),
            "without nesting it was checked"
        );
        let answer = run(&mut direct, nested(read(), 1)).await.unwrap();
        let [TxnOpResponse::Txn(inner)] = &answer.op_responses()[..] else { panic!("{answer:?}") };
        let [TxnOpResponse::Get(got)] = &inner.op_responses()[..] else { panic!("{answer:?}") };
        assert_eq!(got.kvs()[0].value(), b"s3cret", "the attack reads");
        run(&mut direct, nested(write("by the attack"), 2)).await.unwrap();
        assert_eq!(fixture.secret().await, b"by the attack", "the attack writes");

        let mut proxied = fixture.proxied().await;
        for depth in 0..4 {
            for op in [read(), write("through the proxy"), TxnOp::delete(secret.clone(), None)] {
                // Both branches are judged, whichever would run.
                for txn in [
                    Txn::new().and_then([nested(op.clone(), depth)]),
                    Txn::new().or_else([nested(op.clone(), depth)]),
                ] {
                    assert!(
                        is_permission_denied(&proxied.txn(txn).await),
                        "{op:?} at depth {depth}"
                    );
                }
            }
        }
        let own = TxnOp::put(
            fixture.world.key("own/k"),
            "nested",
            Some(PutOptions::new().with_prev_key()),
        );
        run(&mut proxied, nested(own, 2)).await.unwrap();
        assert_eq!(fixture.secret().await, b"by the attack");
    }
}

/// Operations without a key were open to every client, also with a certificate of no user:
/// compaction, alarms, members, leases.
#[tokio::test]
async fn cve_2026_33413_without_any_check() {
    for programs in OF_2026 {
        let fixture = Fixture::on(programs).await;
        fixture.holds().await;
        let mut root = fixture.root().await;
        let lease = root.lease_grant(3600, None).await.unwrap().id();
        let revision = root
            .put(fixture.world.key("secret"), "s3cret", None)
            .await
            .unwrap()
            .header()
            .unwrap()
            .revision();
        let space = |action| (action, AlarmType::Nospace);

        let mut unbound = fixture.direct_as("unbound").await;
        assert_eq!(unbound.member_list().await.unwrap().members().len(), 1);
        assert!(unbound.leases().await.unwrap().leases().iter().any(|known| known.id() == lease));
        unbound.compact(revision - 1, None).await.unwrap();
        let (action, kind) = space(AlarmAction::Activate);
        unbound.alarm(action, kind, None).await.unwrap();
        let full =
            root.put(fixture.world.key("secret"), "s3cret", None).await.unwrap_err().to_string();
        assert!(full.contains("database space exceeded"), "one message stopped all writes: {full}");
        let (action, kind) = space(AlarmAction::Deactivate);
        unbound.alarm(action, kind, None).await.unwrap();
        unbound.lease_revoke(lease).await.unwrap();

        let lease = root.lease_grant(3600, None).await.unwrap().id();
        for name in ["unbound", "attacker"] {
            let mut proxied = fixture.world.as_(name).await;
            assert!(is_permission_denied(&proxied.member_list().await), "{name}");
            assert!(is_permission_denied(&proxied.leases().await), "{name}");
            assert!(is_permission_denied(&proxied.compact(revision, None).await), "{name}");
            for action in [AlarmAction::Get, AlarmAction::Activate, AlarmAction::Deactivate] {
                assert!(
                    is_permission_denied(&proxied.alarm(action, AlarmType::Nospace, None).await),
                    "{name}"
                );
            }
            assert!(is_permission_denied(&proxied.lease_grant(60, None).await), "{name}");
            assert!(is_permission_denied(&proxied.lease_revoke(lease).await), "{name}");
            assert!(is_permission_denied(&proxied.lease_time_to_live(lease, None).await), "{name}");
        }
        assert!(
            root.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap().alarms().is_empty()
        );
        assert!(
            root.get(fixture.world.key("secret"), Some(GetOptions::new().with_revision(revision)))
                .await
                .is_ok(),
            "not compacted"
        );
        assert!(root.lease_time_to_live(lease, None).await.unwrap().ttl() > 0, "not revoked");
    }
}

/// In a Txn, a Put's `prev_kv` and `lease` were not checked.
#[tokio::test]
async fn cve_2026_44283_put_in_txn_with_prev_kv_and_lease() {
    for programs in OF_2026 {
        let fixture = Fixture::on(programs).await;
        fixture.holds().await;
        let mut root = fixture.root().await;
        let lease = root.lease_grant(3600, None).await.unwrap().id();
        root.put(fixture.world.key("secret"), "s3cret", Some(PutOptions::new().with_lease(lease)))
            .await
            .unwrap();
        let look = TxnOp::put(
            fixture.world.key("drop/box"),
            "again",
            Some(PutOptions::new().with_prev_key()),
        );
        let attach = TxnOp::put(
            fixture.world.key("own/k"),
            "attached",
            Some(PutOptions::new().with_lease(lease)),
        );

        let mut direct = fixture.direct().await;
        let plain = direct
            .put(fixture.world.key("drop/box"), "again", Some(PutOptions::new().with_prev_key()))
            .await;
        assert!(is_permission_denied(&plain), "outside a Txn it was checked");
        let answer = run(&mut direct, look.clone()).await.unwrap();
        let [TxnOpResponse::Put(put)] = &answer.op_responses()[..] else { panic!("{answer:?}") };
        assert_eq!(
            put.prev_key().unwrap().value(),
            b"dropped",
            "the attack reads a write-only key"
        );
        let plain = direct
            .put(fixture.world.key("own/k"), "attached", Some(PutOptions::new().with_lease(lease)))
            .await;
        assert!(is_permission_denied(&plain), "outside a Txn it was checked");
        run(&mut direct, attach.clone()).await.unwrap();

        let mut proxied = fixture.proxied().await;
        for op in [look, attach] {
            assert!(is_permission_denied(&run(&mut proxied, op.clone()).await), "{op:?}");
            assert!(
                is_permission_denied(
                    &run(&mut proxied, TxnOp::txn(Txn::new().or_else([op.clone()]))).await
                ),
                "{op:?}"
            );
        }
        run(&mut proxied, TxnOp::put(fixture.world.key("drop/box"), "again", None)).await.unwrap();
        run(
            &mut proxied,
            TxnOp::put(fixture.world.key("own/k"), "mine", Some(PutOptions::new().with_prev_key())),
        )
        .await
        .unwrap();
    }
}

/// A watch of one key "and all after it" needed the right on that key only.
#[tokio::test]
async fn ghsa_xg4h_6gfc_h4m8_watch_from_key() {
    for programs in OF_2026 {
        let fixture = Fixture::on(programs).await;
        fixture.holds().await;
        let (one, later) = (fixture.world.key("x"), fixture.world.key("y"));
        let mut root = fixture.root().await;

        let mut direct = fixture.direct().await;
        assert!(
            is_permission_denied(
                &direct.get(one.clone(), Some(GetOptions::new().with_from_key())).await
            ),
            "a Range was checked"
        );
        let mut seen =
            direct.watch(one.clone(), Some(WatchOptions::new().with_from_key())).await.unwrap();
        root.put(later.clone(), "seen", None).await.unwrap();
        assert_eq!(
            first_event(&mut seen).await.unwrap(),
            b"seen",
            "the attack reads a key without a right to it"
        );

        let mut proxied = fixture.proxied().await;
        for options in [
            WatchOptions::new().with_from_key(),
            WatchOptions::new().with_range(fixture.world.key("z")),
            WatchOptions::new().with_all_keys(),
        ] {
            let mut stream = proxied.watch(one.clone(), Some(options)).await.unwrap();
            let refused = first_event(&mut stream).await.unwrap_err();
            assert_eq!(
                refused,
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
            );
        }
        let mut allowed = proxied.watch(one.clone(), None).await.unwrap();
        root.put(later, "not seen", None).await.unwrap();
        root.put(one, "its own key", None).await.unwrap();
        assert_eq!(first_event(&mut allowed).await.unwrap(), b"its own key");
    }
}

/// The value of the first event, or the reason why the watch was cancelled.
async fn first_event(stream: &mut WatchStream) -> Result<Vec<u8>, String> {
    let first = async {
        loop {
            let answer = stream.message().await.unwrap().unwrap();
            if answer.canceled() {
                return Err(answer.cancel_reason().to_owned());
            }
            if let Some(event) = answer.events().first() {
                return Ok(event.kv().unwrap().value().to_vec());
            }
        }
    };
    tokio::time::timeout(SOON, first).await.expect("an event or the end of the watch")
}

/// A client that knew a lease could read the names of its keys.
#[tokio::test]
async fn cve_2023_32082_names_of_a_leases_keys() {
    let fixture = Fixture::on(vulnerable::v3_5).await;
    fixture.holds().await;
    let mut root = fixture.root().await;
    let lease = root.lease_grant(3600, None).await.unwrap().id();
    root.put(fixture.world.key("secret"), "s3cret", Some(PutOptions::new().with_lease(lease)))
        .await
        .unwrap();
    let with_keys = || Some(LeaseTimeToLiveOptions::new().with_keys());

    let told = fixture.direct().await.lease_time_to_live(lease, with_keys()).await.unwrap();
    assert_eq!(told.keys(), [fixture.world.key("secret").into_bytes()], "the attack learns a name");
    let mut proxied = fixture.proxied().await;
    assert!(is_permission_denied(&proxied.lease_time_to_live(lease, with_keys()).await));
    assert!(is_permission_denied(&proxied.lease_time_to_live(lease, None).await));
}
