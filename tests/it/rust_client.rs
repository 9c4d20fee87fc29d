//! The `etcd-client` crate as a second client beside etcdctl: one recorded session is the same
//! through the proxy and directly.

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions,
    KeyValue, LeaseGrantOptions, LeaseTimeToLiveOptions, LockOptions, ProclaimOptions, PutOptions,
    ResignOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse,
};
use sha2::{Digest, Sha256};

use crate::world::World;

/// A client that may do everything.
const POLICY: &str = r#"
version: 1
mode: enforce
roles:
  all:
    allow: [{keys: '$P/*', verbs: [rw]}]
    capabilities: [lease, compact, status, member-list, snapshot, hash, alarm, defragment]
bindings:
  - {cn: all, roles: [all]}
"#;

/// The record of one side, without its prefix and the numbers that etcd chooses.
struct Session {
    prefix: String,
    seen: Vec<String>,
}

impl Session {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn saw(&mut self, what: impl std::fmt::Debug) {
        let line = format!("{what:?}").replace(&self.prefix, "P/");
        self.seen.push(line);
    }

    /// A key, its version, its value, and whether a lease is attached.
    fn pair(&self, kv: &KeyValue) -> String {
        format!(
            "{}={} v{} lease:{}",
            kv.key_str().unwrap(),
            kv.value_str().unwrap(),
            kv.version(),
            kv.lease() != 0
        )
    }

    fn pairs(&self, kvs: &[KeyValue]) -> Vec<String> {
        kvs.iter().map(|kv| self.pair(kv)).collect()
    }
}

/// Runs the same session on both sides.
async fn same(run: impl AsyncFn(&mut Client, &mut Session)) {
    let world = World::with(POLICY).own_etcd().start().await;
    let mut both = Vec::new();
    for (side, mut client) in
        [("direct", world.direct().await), ("proxied", world.as_("all").await)]
    {
        let mut session = Session { prefix: world.key(&format!("{side}/")), seen: Vec::new() };
        run(&mut client, &mut session).await;
        assert!(!session.seen.is_empty());
        both.push(session.seen);
    }
    assert_eq!(both[1], both[0]);
    assert!(world.audit().iter().all(|line| line["decision"] == "allow"));
}

#[tokio::test]
async fn keys() {
    same(async |client, s| {
        for number in 0..5 {
            client
                .put(s.key(&format!("k{number}")), format!("{}", 9 - number), None)
                .await
                .unwrap();
        }
        let put =
            client.put(s.key("k0"), "new", Some(PutOptions::new().with_prev_key())).await.unwrap();
        s.saw(put.prev_key().map(|kv| s.pair(kv)));
        let kept =
            client.put(s.key("k0"), "", Some(PutOptions::new().with_ignore_value())).await.unwrap();
        s.saw(kept.prev_key().is_none());
        for options in [
            GetOptions::new().with_prefix(),
            GetOptions::new().with_prefix().with_limit(2),
            GetOptions::new().with_prefix().with_count_only(),
            GetOptions::new().with_prefix().with_keys_only(),
            GetOptions::new().with_prefix().with_serializable(),
            GetOptions::new().with_prefix().with_sort(SortTarget::Value, SortOrder::Descend),
            GetOptions::new().with_range(s.key("k9")),
        ] {
            let got = client.get(s.key(""), Some(options)).await.unwrap();
            s.saw((got.count(), got.more(), s.pairs(got.kvs())));
        }
        let past = client
            .get(s.key("k0"), Some(GetOptions::new().with_revision(1_000_000)))
            .await
            .unwrap_err();
        s.saw(past.to_string());
        let gone =
            client.delete(s.key("k1"), Some(DeleteOptions::new().with_prev_key())).await.unwrap();
        s.saw((gone.deleted(), s.pairs(gone.prev_kvs())));
        s.saw(
            client
                .delete(s.key(""), Some(DeleteOptions::new().with_prefix()))
                .await
                .unwrap()
                .deleted(),
        );
    })
    .await;
}

#[tokio::test]
async fn transactions() {
    same(async |client, s| {
        let key = s.key("t");
        for _ in 0..2 {
            let inner = Txn::new()
                .when([Compare::value(s.key("other"), CompareOp::Equal, "x")])
                .or_else([TxnOp::get(key.clone(), None)]);
            let txn = Txn::new()
                .when([Compare::version(key.clone(), CompareOp::Equal, 0)])
                .and_then([TxnOp::put(key.clone(), "made", None)])
                .or_else([
                    TxnOp::get(key.clone(), None),
                    TxnOp::txn(inner),
                    TxnOp::delete(key.clone(), None),
                ]);
            let answer = client.txn(txn).await.unwrap();
            s.saw(answer.succeeded());
            for response in answer.op_responses() {
                match response {
                    TxnOpResponse::Put(put) => s.saw(put.prev_key().is_some()),
                    TxnOpResponse::Get(get) => s.saw(s.pairs(get.kvs())),
                    TxnOpResponse::Delete(delete) => s.saw(delete.deleted()),
                    TxnOpResponse::Txn(txn) => s.saw((txn.succeeded(), txn.op_responses().len())),
                }
            }
        }
        let twice =
            Txn::new().and_then([TxnOp::put(key.clone(), "1", None), TxnOp::put(key, "2", None)]);
        s.saw(client.txn(twice).await.unwrap_err().to_string());
    })
    .await;
}

fn watched(s: &Session, message: &WatchResponse) -> String {
    let event = |event: &etcd_client::Event| {
        let kind = if event.event_type() == EventType::Put { "put" } else { "delete" };
        format!(
            "{kind} {} before:{:?}",
            s.pair(event.kv().unwrap()),
            event.prev_kv().map(|kv| s.pair(kv))
        )
    };
    let events: Vec<String> = message.events().iter().map(event).collect();
    let (created, canceled) = (message.created(), message.canceled());
    format!(
        "id {} created:{created} canceled:{canceled} {:?} {events:?}",
        message.watch_id(),
        message.cancel_reason()
    )
}

#[tokio::test]
async fn watches() {
    same(async |client, s| {
        let options = WatchOptions::new().with_prefix().with_prev_key();
        let mut stream = client.watch(s.key("w/"), Some(options)).await.unwrap();
        let mut seen = vec![stream.message().await.unwrap().unwrap()];
        stream.watch(s.key("chosen"), Some(WatchOptions::new().with_watch_id(77))).await.unwrap();
        seen.push(stream.message().await.unwrap().unwrap());
        for value in ["1", "2"] {
            client.put(s.key("w/k"), value, None).await.unwrap();
            seen.push(stream.message().await.unwrap().unwrap());
        }
        client.delete(s.key("w/k"), None).await.unwrap();
        seen.push(stream.message().await.unwrap().unwrap());
        client.put(s.key("chosen"), "1", None).await.unwrap();
        seen.push(stream.message().await.unwrap().unwrap());

        stream.request_progress().await.unwrap();
        let progress = stream.message().await.unwrap().unwrap();
        s.saw((
            progress.watch_id(),
            progress.events().len(),
            progress.header().unwrap().revision() > 1,
        ));
        stream.cancel(77).await.unwrap();
        seen.push(stream.message().await.unwrap().unwrap());
        // The other watch continues.
        client.put(s.key("w/k"), "3", None).await.unwrap();
        seen.push(stream.message().await.unwrap().unwrap());
        for message in &seen {
            s.saw(watched(s, message));
        }
    })
    .await;
}

#[tokio::test]
async fn a_watch_from_a_revision_that_is_compacted_ends_the_same_way() {
    same(async |client, s| {
        let revision =
            client.put(s.key("k"), "1", None).await.unwrap().header().unwrap().revision();
        client.put(s.key("k"), "2", None).await.unwrap();
        client.compact(revision + 1, None).await.unwrap();
        let mut stream = client
            .watch(s.key("k"), Some(WatchOptions::new().with_start_revision(revision)))
            .await
            .unwrap();
        for _ in 0..2 {
            let message = stream.message().await.unwrap().unwrap();
            s.saw((watched(s, &message), message.compact_revision() > 0));
        }
        s.saw(client.compact(revision, None).await.unwrap_err().to_string());
    })
    .await;
}

#[tokio::test]
async fn leases() {
    same(async |client, s| {
        let id = client.lease_grant(600, None).await.unwrap().id();
        client.put(s.key("leased"), "1", Some(PutOptions::new().with_lease(id))).await.unwrap();
        let (mut keeper, mut answers) = client.lease_keep_alive(id).await.unwrap();
        for _ in 0..3 {
            keeper.keep_alive().await.unwrap();
            let answer = answers.message().await.unwrap().unwrap();
            s.saw((answer.id() == id, answer.ttl()));
        }
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let answer = client.lease_time_to_live(id, Some(options)).await.unwrap();
        let keys: Vec<String> =
            answer.keys().iter().map(|key| String::from_utf8(key.clone()).unwrap()).collect();
        s.saw((answer.granted_ttl(), answer.ttl() > 0, keys));
        s.saw(client.leases().await.unwrap().leases().iter().any(|lease| lease.id() == id));
        let taken =
            client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(id))).await.unwrap_err();
        s.saw(taken.to_string());
        client.lease_revoke(id).await.unwrap();
        s.saw(client.get(s.key("leased"), None).await.unwrap().count());
        s.saw(client.lease_revoke(id).await.unwrap_err().to_string());
        // A keepalive for a lease that does not exist: etcd reports it, and so does the client.
        keeper.keep_alive().await.unwrap();
        s.saw(answers.message().await.unwrap().unwrap().ttl());
    })
    .await;
}

#[tokio::test]
async fn locks_and_elections() {
    same(async |client, s| {
        let lease = client.lease_grant(600, None).await.unwrap().id();
        let suffix = format!("{lease:x}");
        let locked =
            client.lock(s.key("lock"), Some(LockOptions::new().with_lease(lease))).await.unwrap();
        s.saw(String::from_utf8(locked.key().to_vec()).unwrap().replace(&suffix, "LEASE"));
        // A second lock waits until the first is released.
        let (mut other, name) = (client.clone(), s.key("lock"));
        let waiting =
            tokio::spawn(async move { other.lock(name, None).await.unwrap().key().to_vec() });
        client.unlock(locked.key()).await.unwrap();
        let key = waiting.await.unwrap();
        s.saw(key != locked.key());
        client.unlock(key).await.unwrap();

        s.saw(client.leader(s.key("el")).await.unwrap_err().to_string());
        let campaign = client.campaign(s.key("el"), "one", lease).await.unwrap();
        let leader = campaign.leader().unwrap().clone();
        s.saw((
            leader.name_str().unwrap().to_owned(),
            leader.key_str().unwrap().replace(&suffix, "LEASE"),
            leader.lease() == lease,
        ));
        let mut observed = client.observe(s.key("el")).await.unwrap();
        let first = observed.message().await.unwrap().unwrap();
        client
            .proclaim("two", Some(ProclaimOptions::new().with_leader(leader.clone())))
            .await
            .unwrap();
        let second = observed.message().await.unwrap().unwrap();
        let now = client.leader(s.key("el")).await.unwrap();
        for answer in [first, second, now] {
            s.saw(s.pair(answer.kv().unwrap()).replace(&suffix, "LEASE"));
        }
        client.resign(Some(ResignOptions::new().with_leader(leader))).await.unwrap();
        s.saw(client.leader(s.key("el")).await.unwrap_err().to_string());
    })
    .await;
}

#[tokio::test]
async fn maintenance() {
    same(async |client, s| {
        client.put(s.key("big"), vec![b'x'; 1_000_000], None).await.unwrap();
        let status = client.status().await.unwrap();
        s.saw((
            status.version(),
            status.leader(),
            status.raft_term(),
            status.is_learner(),
            status.errors(),
            status.db_size() > 0,
        ));
        let members = client.member_list().await.unwrap();
        s.saw(members.members());
        s.saw(client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap().alarms().len());
        s.saw(client.hash().await.unwrap().hash() != 0);
        s.saw(client.hash_kv(0).await.unwrap().hash() != 0);

        let mut snapshot = client.snapshot().await.unwrap();
        let (mut bytes, mut remaining) = (Vec::new(), Vec::new());
        while let Some(part) = snapshot.message().await.unwrap() {
            bytes.extend_from_slice(part.blob());
            remaining.push(part.remaining_bytes());
        }
        // The last 32 bytes are a checksum of the rest.
        let (database, checksum) = bytes.split_at(bytes.len() - 32);
        s.saw((
            Sha256::digest(database)[..] == *checksum,
            database.len() > 1_000_000,
            remaining.last().copied(),
        ));
        s.saw(remaining.windows(2).all(|pair| pair[0] > pair[1] || pair[1] == 0));
        client.defragment().await.unwrap();
        s.saw("defragmented");
    })
    .await;
}
