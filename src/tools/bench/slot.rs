//! One stream at a time: what is sent for each kind of work, and what its answer must be.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::frame;
use etcd_warden_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd_warden_proto::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, SnapshotRequest, SnapshotResponse, TxnRequest, TxnResponse, request_op,
    response_op,
};
use prost::Message;
use sha2::{Digest as _, Sha256};

use super::book::Book;
use super::connection::{Connection, Failure};
use super::dice::Dice;
use super::figure;
use super::keys::Keys;
use super::mix::{Kind, Mix};
use super::zipf::Zipf;

/// Seconds that a lease lives when nobody revokes it.
const TTL: i64 = 60;

/// What all streams of one thread share in one slice.
pub struct Scene {
    /// The keys.
    pub keys: Arc<Keys>,
    /// Which of them are asked for.
    pub zipf: Arc<Zipf>,
    /// What is done with them.
    pub mix: Mix,
    /// Reads may come from any member's memory, and be old.
    pub serializable: bool,
    /// How long an answer may take.
    pub patience: Duration,
    /// Where it is noted.
    pub book: Rc<Book>,
    /// The highest revision that an answer has named so far.
    pub highest: Cell<i64>,
    /// The highest revision of a write that watchers are to see.
    pub told: Cell<i64>,
    /// The revision at which each data key was last written, as far as this thread knows.
    pub written: RefCell<Vec<i64>>,
}

/// One stream at a time, over one connection.
pub struct Slot {
    connection: Rc<Connection>,
    thread: usize,
    number: usize,
    dice: Dice,
    writes: u64,
    /// The revision of the key of its own; `None` when it is not known.
    own: Option<i64>,
    lease: Option<Lease>,
}

struct Lease {
    id: i64,
    kept: bool,
}

type Outcome = Result<(), Failure>;

fn framed(message: &impl Message) -> Bytes {
    frame::encode(&message.encode_to_vec())
}

fn wrong<T>(what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Wrong(what.into()))
}

fn read<M: Message + Default>(bytes: &Bytes) -> Result<M, Failure> {
    M::decode(bytes.clone()).or_else(|error| wrong(format!("the answer cannot be read: {error}")))
}

impl Scene {
    /// The revision of an answer, which must not lie before one that was known when it was asked
    /// for; after it, for a write.
    fn revision(
        &self,
        header: Option<&ResponseHeader>,
        known: i64,
        writes: bool,
    ) -> Result<i64, Failure> {
        let Some(header) = header else { return wrong("an answer without a header") };
        let revision = header.revision;
        if revision < known || (writes && revision == known) {
            return wrong(format!(
                "revision {revision}, when {known} was known before it was asked for"
            ));
        }
        self.highest.set(self.highest.get().max(revision));
        Ok(revision)
    }
}

impl Slot {
    /// Over this connection; `number` is its own within the thread.
    #[must_use]
    pub fn new(connection: Rc<Connection>, thread: usize, number: usize, dice: Dice) -> Self {
        Self { connection, thread, number, dice, writes: 0, own: None, lease: None }
    }

    /// Does one piece of work that was due then, and notes what came of it.
    pub async fn work(&mut self, scene: &Scene, due: Duration) {
        match scene.mix.pick(&mut self.dice) {
            Kind::Range => {
                let done = self.range(scene).await;
                scene.book.note("range", Method::Range, due, done);
            }
            Kind::Put => {
                let done = self.put(scene).await;
                scene.book.note("put", Method::Put, due, done);
            }
            Kind::Txn => {
                let done = self.update(scene).await;
                scene.book.note("txn", Method::Txn, due, done);
            }
            Kind::WatchFanout => {
                let done = self.tell(scene, due).await;
                scene.book.note("watch-put", Method::Put, due, done);
            }
            Kind::Lease => self.lease(scene, due).await,
            Kind::Snapshot => {
                let done = tokio::time::timeout(scene.patience, self.snapshot())
                    .await
                    .unwrap_or(Err(Failure::Timeout));
                scene.book.note("snapshot", Method::Snapshot, due, done);
            }
        }
    }

    /// Gives back what it holds.
    pub async fn end(&mut self, scene: &Scene) {
        if let Some(lease) = self.lease.take() {
            let done =
                self.call(scene, Method::LeaseRevoke, &LeaseRevokeRequest { id: lease.id }).await;
            scene.book.sent(Method::LeaseRevoke, done.as_ref().err());
        }
    }

    async fn call(
        &self,
        scene: &Scene,
        method: Method,
        message: &impl Message,
    ) -> Result<Bytes, Failure> {
        self.connection.call(method, framed(message), scene.patience).await
    }

    async fn range(&mut self, scene: &Scene) -> Outcome {
        let picked = scene.zipf.pick(&mut self.dice);
        let index = usize::try_from(picked).unwrap_or_default();
        let (known, written) =
            (scene.highest.get(), scene.written.borrow().get(index).copied().unwrap_or_default());
        let answer =
            self.connection.call(Method::Range, scene.keys.range(index), scene.patience).await?;
        let answer: RangeResponse = read(&answer)?;
        let [pair] = answer.kvs.as_slice() else {
            return wrong(format!("{} keys where there is one", answer.kvs.len()));
        };
        if Some(&pair.key) != scene.keys.data.get(index) {
            return wrong(format!("key {} was asked for, not {}", picked, Escaped(&pair.key)));
        }
        if scene.keys.stamp(picked, &pair.value).is_none() {
            return wrong(format!("another value than was written to {}", Escaped(&pair.key)));
        }
        if !scene.serializable {
            scene.revision(answer.header.as_ref(), known, false)?;
            if pair.mod_revision < written {
                return wrong(format!(
                    "{} as of revision {}, when it was written at {written}",
                    Escaped(&pair.key),
                    pair.mod_revision
                ));
            }
        }
        Ok(())
    }

    async fn put(&mut self, scene: &Scene) -> Outcome {
        let picked = scene.zipf.pick(&mut self.dice);
        let index = usize::try_from(picked).unwrap_or_default();
        let Some(key) = scene.keys.data.get(index) else { return wrong("there is no such key") };
        self.writes += 1;
        let value = scene.keys.value(picked, self.writes);
        let revision = self.store(scene, key.clone(), value).await?;
        if let Some(written) = scene.written.borrow_mut().get_mut(index) {
            *written = revision.max(*written);
        }
        Ok(())
    }

    /// The stamp of the value is when it was due, so that watchers know how long it took.
    async fn tell(&mut self, scene: &Scene, due: Duration) -> Outcome {
        let key = scene.keys.watched(self.thread, self.number);
        let value = scene.keys.value(figure_of(self.number), figure::micros(due));
        let revision = self.store(scene, key, value).await?;
        scene.told.set(scene.told.get().max(revision));
        Ok(())
    }

    async fn store(&self, scene: &Scene, key: Vec<u8>, value: Vec<u8>) -> Result<i64, Failure> {
        let known = scene.highest.get();
        let answer = self
            .call(scene, Method::Put, &PutRequest { key, value, ..PutRequest::default() })
            .await?;
        let answer: PutResponse = read(&answer)?;
        scene.revision(answer.header.as_ref(), known, true)
    }

    async fn update(&mut self, scene: &Scene) -> Outcome {
        self.writes += 1;
        let key = scene.keys.own(self.thread, self.number);
        let value = scene.keys.value(figure_of(self.number), self.writes);
        let (believed, seen) = (self.own.take(), scene.highest.get());
        let revision = believed.unwrap_or(0);
        let answer = self.call(scene, Method::Txn, &guarded(&key, value, revision)).await?;
        let answer: TxnResponse = read(&answer)?;
        let now = scene.revision(answer.header.as_ref(), seen, answer.succeeded)?;
        let [response] = answer.responses.as_slice() else {
            return wrong("a Txn with another number of answers than one");
        };
        match (&response.response, answer.succeeded) {
            (Some(response_op::Response::ResponsePut(_)), true) => {
                self.own = Some(now);
                Ok(())
            }
            (Some(response_op::Response::ResponseRange(range)), false) => {
                self.own = Some(range.kvs.first().map_or(0, |pair| pair.mod_revision));
                match believed {
                    // The first of a run, or the one after an answer that was lost: it had to find
                    // out.
                    None => Ok(()),
                    Some(_) => wrong(format!(
                        "{} was not at revision {revision}, and nobody else may write it",
                        Escaped(&key)
                    )),
                }
            }
            _ => wrong("a Txn whose answer is of its other branch"),
        }
    }

    async fn lease(&mut self, scene: &Scene, due: Duration) {
        match self.lease.take() {
            None => {
                let done = self.grant(scene).await;
                scene.book.note("lease-grant", Method::LeaseGrant, due, done);
            }
            Some(lease) if !lease.kept => {
                let done = self.keep(scene, lease.id).await;
                self.lease = Some(Lease { kept: true, ..lease });
                scene.book.note("lease-keepalive", Method::LeaseKeepAlive, due, done);
            }
            Some(lease) => {
                let done = self
                    .call(scene, Method::LeaseRevoke, &LeaseRevokeRequest { id: lease.id })
                    .await
                    .map(drop);
                scene.book.note("lease-revoke", Method::LeaseRevoke, due, done);
            }
        }
    }

    async fn grant(&mut self, scene: &Scene) -> Outcome {
        let answer =
            self.call(scene, Method::LeaseGrant, &LeaseGrantRequest { ttl: TTL, id: 0 }).await?;
        let answer: LeaseGrantResponse = read(&answer)?;
        if answer.id <= 0 || answer.ttl < TTL {
            return wrong(format!(
                "lease {} with {} s, when {TTL} s were asked for",
                answer.id, answer.ttl
            ));
        }
        self.lease = Some(Lease { id: answer.id, kept: false });
        Ok(())
    }

    /// As clientv3's `KeepAliveOnce`: a stream with one message each way.
    async fn keep(&self, scene: &Scene, id: i64) -> Outcome {
        let answer =
            self.call(scene, Method::LeaseKeepAlive, &LeaseKeepAliveRequest { id }).await?;
        let answer: LeaseKeepAliveResponse = read(&answer)?;
        if answer.id == id && answer.ttl > 0 {
            Ok(())
        } else {
            wrong(format!("lease {id} was to be kept, and {} has {} s", answer.id, answer.ttl))
        }
    }

    /// etcd ends the stream with the SHA-256 of all that came before
    /// (`server/etcdserver/api/v3rpc/maintenance.go`, Snapshot).
    async fn snapshot(&self) -> Outcome {
        let (mut send, response) = self.connection.begin(Method::Snapshot).await?;
        send.send_data(framed(&SnapshotRequest::default()), true)
            .map_err(|error| Failure::Lost(error.to_string()))?;
        let mut answer = self.connection.answer(response).await?;
        let (mut hash, mut held) = (Sha256::new(), Vec::new());
        while let Some(message) = answer.message().await? {
            held.extend_from_slice(&read::<SnapshotResponse>(&message)?.blob);
            let sure = held.len().saturating_sub(32);
            hash.update(held.get(..sure).unwrap_or_default());
            held.drain(..sure);
        }
        if hash.finalize().as_slice() == held {
            Ok(())
        } else {
            wrong("a snapshot that does not have the hash at its end")
        }
    }
}

fn figure_of(number: usize) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// As libcalico-go's etcdv3 backend writes (`Create` for a revision of 0, `Update` for others): one
/// compare, one Put, else a Range.
#[must_use]
pub fn guarded(key: &[u8], value: Vec<u8>, revision: i64) -> TxnRequest {
    let (target, union) = match revision {
        0 => (CompareTarget::Version, TargetUnion::Version(0)),
        _ => (CompareTarget::Mod, TargetUnion::ModRevision(revision)),
    };
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.to_vec(),
        target_union: Some(union),
        ..Compare::default()
    };
    let put = PutRequest { key: key.to_vec(), value, ..PutRequest::default() };
    let range = RangeRequest { key: key.to_vec(), ..RangeRequest::default() };
    TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
        failure: vec![RequestOp { request: Some(request_op::Request::RequestRange(range)) }],
    }
}
