//! A stream of requests, one at a time: sends each kind of operation and checks its response.

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

use super::connection::{Connection, Failure};
use super::convert;
use super::keys::Keys;
use super::mix::{Kind, Mix};
use super::recorder::Recorder;
use super::rng::Rng;
use super::zipf::Zipf;

/// TTL of a lease in seconds, in case it is not revoked.
const TTL: i64 = 60;

/// State that all streams of one thread share in one slice.
pub struct SliceContext {
    /// The keys.
    pub keys: Arc<Keys>,
    /// The distribution of keys.
    pub zipf: Arc<Zipf>,
    /// The operations and their weights.
    pub mix: Mix,
    /// Reads are serializable, so they may be stale.
    pub serializable: bool,
    /// Timeout of a request.
    pub request_timeout: Duration,
    /// Records the measurements.
    pub recorder: Rc<Recorder>,
    /// The highest revision in any response so far.
    pub highest: Cell<i64>,
    /// The highest revision of a write that watchers must see.
    pub last_watched: Cell<i64>,
    /// The revision at which this thread last wrote each data key.
    pub written: RefCell<Vec<i64>>,
}

/// A stream of requests over one connection, one at a time.
pub struct RequestStream {
    connection: Rc<Connection>,
    thread: usize,
    number: usize,
    rng: Rng,
    writes: u64,
    /// The revision of this stream's own key; `None` if unknown.
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
    M::decode(bytes.clone())
        .or_else(|error| wrong(format!("the response cannot be decoded: {error}")))
}

impl SliceContext {
    /// The revision of a response. It must not be lower than a revision known when the request was
    /// sent; for a write it must be higher.
    fn revision(
        &self,
        header: Option<&ResponseHeader>,
        known: i64,
        writes: bool,
    ) -> Result<i64, Failure> {
        let Some(header) = header else { return wrong("a response without a header") };
        let revision = header.revision;
        if revision < known || (writes && revision == known) {
            return wrong(format!(
                "revision {revision}, although {known} was known before the request"
            ));
        }
        self.highest.set(self.highest.get().max(revision));
        Ok(revision)
    }
}

impl RequestStream {
    /// A stream over this connection; `number` is unique within the thread.
    #[must_use]
    pub fn new(connection: Rc<Connection>, thread: usize, number: usize, rng: Rng) -> Self {
        Self { connection, thread, number, rng, writes: 0, own: None, lease: None }
    }

    /// Sends one request that was due at this time, and records the result.
    pub async fn work(&mut self, context: &SliceContext, due: Duration) {
        match context.mix.pick(&mut self.rng) {
            Kind::Range => {
                let done = self.range(context).await;
                context.recorder.record_request("range", Method::Range, due, done);
            }
            Kind::Put => {
                let done = self.put(context).await;
                context.recorder.record_request("put", Method::Put, due, done);
            }
            Kind::Txn => {
                let done = self.update(context).await;
                context.recorder.record_request("txn", Method::Txn, due, done);
            }
            Kind::WatchFanout => {
                let done = self.put_watched(context, due).await;
                context.recorder.record_request("watch-put", Method::Put, due, done);
            }
            Kind::Lease => self.lease(context, due).await,
            Kind::Snapshot => {
                let done = tokio::time::timeout(context.request_timeout, self.snapshot())
                    .await
                    .unwrap_or(Err(Failure::Timeout));
                context.recorder.record_request("snapshot", Method::Snapshot, due, done);
            }
        }
    }

    /// Revokes its lease, if it has one.
    pub async fn end(&mut self, context: &SliceContext) {
        if let Some(lease) = self.lease.take() {
            let done =
                self.call(context, Method::LeaseRevoke, &LeaseRevokeRequest { id: lease.id }).await;
            context.recorder.count_sent(Method::LeaseRevoke, done.as_ref().err());
        }
    }

    async fn call(
        &self,
        context: &SliceContext,
        method: Method,
        message: &impl Message,
    ) -> Result<Bytes, Failure> {
        self.connection.call(method, framed(message), context.request_timeout).await
    }

    async fn range(&mut self, context: &SliceContext) -> Outcome {
        let picked = context.zipf.pick(&mut self.rng);
        let index = usize::try_from(picked).unwrap_or_default();
        let (known, written) = (
            context.highest.get(),
            context.written.borrow().get(index).copied().unwrap_or_default(),
        );
        let response = self
            .connection
            .call(Method::Range, context.keys.range(index), context.request_timeout)
            .await?;
        let response: RangeResponse = read(&response)?;
        let [pair] = response.kvs.as_slice() else {
            return wrong(format!("{} keys instead of one", response.kvs.len()));
        };
        if Some(&pair.key) != context.keys.data.get(index) {
            return wrong(format!("key {} was requested, not {}", picked, Escaped(&pair.key)));
        }
        if context.keys.stamp(picked, &pair.value).is_none() {
            return wrong(format!("a value that was not written to {}", Escaped(&pair.key)));
        }
        if !context.serializable {
            context.revision(response.header.as_ref(), known, false)?;
            if pair.mod_revision < written {
                return wrong(format!(
                    "{} at revision {}, although it was written at {written}",
                    Escaped(&pair.key),
                    pair.mod_revision
                ));
            }
        }
        Ok(())
    }

    async fn put(&mut self, context: &SliceContext) -> Outcome {
        let picked = context.zipf.pick(&mut self.rng);
        let index = usize::try_from(picked).unwrap_or_default();
        let Some(key) = context.keys.data.get(index) else { return wrong("there is no such key") };
        self.writes += 1;
        let value = context.keys.value(picked, self.writes);
        let revision = self.store(context, key.clone(), value).await?;
        if let Some(written) = context.written.borrow_mut().get_mut(index) {
            *written = revision.max(*written);
        }
        Ok(())
    }

    /// The value contains its due time, so that watchers can compute their latency.
    async fn put_watched(&mut self, context: &SliceContext, due: Duration) -> Outcome {
        let key = context.keys.watched(self.thread, self.number);
        let value = context.keys.value(number_of(self.number), convert::micros(due));
        let revision = self.store(context, key, value).await?;
        context.last_watched.set(context.last_watched.get().max(revision));
        Ok(())
    }

    async fn store(
        &self,
        context: &SliceContext,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<i64, Failure> {
        let known = context.highest.get();
        let response = self
            .call(context, Method::Put, &PutRequest { key, value, ..PutRequest::default() })
            .await?;
        let response: PutResponse = read(&response)?;
        context.revision(response.header.as_ref(), known, true)
    }

    async fn update(&mut self, context: &SliceContext) -> Outcome {
        self.writes += 1;
        let key = context.keys.own(self.thread, self.number);
        let value = context.keys.value(number_of(self.number), self.writes);
        let (believed, seen) = (self.own.take(), context.highest.get());
        let revision = believed.unwrap_or(0);
        let txn = self.call(context, Method::Txn, &guarded(&key, value, revision)).await?;
        let txn: TxnResponse = read(&txn)?;
        let now = context.revision(txn.header.as_ref(), seen, txn.succeeded)?;
        let [response] = txn.responses.as_slice() else {
            return wrong("a Txn whose number of responses is not one");
        };
        match (&response.response, txn.succeeded) {
            (Some(response_op::Response::ResponsePut(_)), true) => {
                self.own = Some(now);
                Ok(())
            }
            (Some(response_op::Response::ResponseRange(range)), false) => {
                self.own = Some(range.kvs.first().map_or(0, |pair| pair.mod_revision));
                match believed {
                    // The first request of a run, or the one after a lost response: the revision
                    // was unknown.
                    None => Ok(()),
                    Some(_) => wrong(format!(
                        "{} was not at revision {revision}, although no other client writes it",
                        Escaped(&key)
                    )),
                }
            }
            _ => wrong("a Txn with the response of its other branch"),
        }
    }

    async fn lease(&mut self, context: &SliceContext, due: Duration) {
        match self.lease.take() {
            None => {
                let done = self.grant(context).await;
                context.recorder.record_request("lease-grant", Method::LeaseGrant, due, done);
            }
            Some(lease) if !lease.kept => {
                let done = self.keep(context, lease.id).await;
                self.lease = Some(Lease { kept: true, ..lease });
                context.recorder.record_request(
                    "lease-keepalive",
                    Method::LeaseKeepAlive,
                    due,
                    done,
                );
            }
            Some(lease) => {
                let done = self
                    .call(context, Method::LeaseRevoke, &LeaseRevokeRequest { id: lease.id })
                    .await
                    .map(drop);
                context.recorder.record_request("lease-revoke", Method::LeaseRevoke, due, done);
            }
        }
    }

    async fn grant(&mut self, context: &SliceContext) -> Outcome {
        let response =
            self.call(context, Method::LeaseGrant, &LeaseGrantRequest { ttl: TTL, id: 0 }).await?;
        let response: LeaseGrantResponse = read(&response)?;
        if response.id <= 0 || response.ttl < TTL {
            return wrong(format!(
                "lease {} with {} s, although {TTL} s were requested",
                response.id, response.ttl
            ));
        }
        self.lease = Some(Lease { id: response.id, kept: false });
        Ok(())
    }

    /// Like clientv3's `KeepAliveOnce`: a stream with one message in each direction.
    async fn keep(&self, context: &SliceContext, id: i64) -> Outcome {
        let response =
            self.call(context, Method::LeaseKeepAlive, &LeaseKeepAliveRequest { id }).await?;
        let response: LeaseKeepAliveResponse = read(&response)?;
        if response.id == id && response.ttl > 0 {
            Ok(())
        } else {
            wrong(format!("lease {id} was kept alive, but {} has {} s", response.id, response.ttl))
        }
    }

    /// etcd ends the stream with the SHA-256 of the preceding data
    /// (`server/etcdserver/api/v3rpc/maintenance.go`, Snapshot).
    async fn snapshot(&self) -> Outcome {
        let (mut send, response) = self.connection.begin(Method::Snapshot).await?;
        send.send_data(framed(&SnapshotRequest::default()), true)
            .map_err(|error| Failure::Lost(error.to_string()))?;
        let mut response = self.connection.response(response).await?;
        let (mut hash, mut held) = (Sha256::new(), Vec::new());
        while let Some(message) = response.message().await? {
            held.extend_from_slice(&read::<SnapshotResponse>(&message)?.blob);
            // All but the last 32 bytes, which may be the hash.
            let hashed = held.len().saturating_sub(32);
            hash.update(held.get(..hashed).unwrap_or_default());
            held.drain(..hashed);
        }
        if hash.finalize().as_slice() == held {
            Ok(())
        } else {
            wrong("a snapshot that does not match the hash at its end")
        }
    }
}

fn number_of(number: usize) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// A guarded write as in libcalico-go's etcdv3 backend (`Create` for revision 0, else `Update`):
/// one compare, then a Put or else a Range.
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
