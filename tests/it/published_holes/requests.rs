//! Requests that etcd forgot to check, or to check whole.

use etcd_client::{Client, Error, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use etcd_warden::etcd::Programs;

use super::stage::Stage;
use crate::world::{is_permission_denied, vulnerable};

/// The releases that have the holes of 2026.
const OF_2026: [fn() -> &'static Programs; 2] = [vulnerable::v3_5, vulnerable::v3_6];

async fn run(client: &mut Client, op: TxnOp) -> Result<TxnResponse, Error> {
    client.txn(Txn::new().and_then([op])).await
}

/// Operations inside a Txn inside a Txn were not looked at.
#[tokio::test]
async fn cve_2026_33343_nested_txn() {
    for programs in OF_2026 {
        let stage = Stage::on(programs).await;
        stage.holds().await;
        let secret = stage.world.key("secret");
        let nested = |op: TxnOp, depth: usize| (0..depth).fold(op, |op, _| TxnOp::txn(Txn::new().and_then([op])));
        let read = || TxnOp::get(secret.clone(), None);
        let write = |value: &str| TxnOp::put(secret.clone(), value, None);

        let mut direct = stage.direct().await;
        assert!(is_permission_denied(&run(&mut direct, read()).await), "not nested it was checked");
        let answer = run(&mut direct, nested(read(), 1)).await.unwrap();
        let [TxnOpResponse::Txn(inner)] = &answer.op_responses()[..] else { panic!("{answer:?}") };
        let [TxnOpResponse::Get(got)] = &inner.op_responses()[..] else { panic!("{answer:?}") };
        assert_eq!(got.kvs()[0].value(), b"s3cret", "the attack reads");
        run(&mut direct, nested(write("by the attack"), 2)).await.unwrap();
        assert_eq!(stage.secret().await, b"by the attack", "the attack writes");

        let mut proxied = stage.proxied().await;
        for depth in 0..4 {
            for op in [read(), write("through the proxy"), TxnOp::delete(secret.clone(), None)] {
                // Both branches count, whichever would run.
                for txn in [Txn::new().and_then([nested(op.clone(), depth)]), Txn::new().or_else([nested(op.clone(), depth)])] {
                    assert!(is_permission_denied(&proxied.txn(txn).await), "{op:?} at depth {depth}");
                }
            }
        }
        let own = TxnOp::put(stage.world.key("own/k"), "nested", Some(PutOptions::new().with_prev_key()));
        run(&mut proxied, nested(own, 2)).await.unwrap();
        assert_eq!(stage.secret().await, b"by the attack");
    }
}
