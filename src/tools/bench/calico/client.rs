//! A client as in libcalico-go: a connection with reads, lists, guarded writes, and one stream for
//! all its watches.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_warden_core::keyspace::{Escaped, prefix_end};
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::frame;
use etcd_warden_gateway::config::Endpoint;
use etcd_warden_proto::etcdserverpb::watch_request::RequestUnion;
use etcd_warden_proto::etcdserverpb::{
    DeleteRangeRequest, RangeRequest, RangeResponse, RequestOp, TxnResponse, WatchCreateRequest,
    WatchRequest, request_op, response_op,
};
use etcd_warden_proto::mvccpb::KeyValue;
use futures_util::future::join_all;
use prost::Message;

use super::cluster::value;
use super::created_keys::{CreateOutcome, CreatedKeys};
use super::watches::Watches;
use crate::bench::connection::{Connection, Destination, Failure};
use crate::bench::convert;
use crate::bench::identity::Identity;
use crate::bench::recorder::Recorder;
use crate::bench::request_stream::guarded;
use crate::bench::stop::Stop;

/// Bytes of one response: libcalico-go lists all resources of a kind at once.
const LIST: usize = 1 << 30;

/// State that all clients of one thread share.
pub struct ClientContext {
    /// The server.
    pub endpoint: Endpoint,
    /// Timeout of a request.
    pub request_timeout: Duration,
    /// Bytes of each value.
    pub size: usize,
    /// Ends the run early.
    pub stop: Arc<Stop>,
    /// Records the measurements.
    pub recorder: Rc<Recorder>,
    /// KeySpan that were created and not deleted, of all threads.
    pub created: Arc<CreatedKeys>,
    /// The highest revision at which an endpoint was written or deleted.
    pub endpoint_revision: Cell<i64>,
}

impl ClientContext {
    /// Checked before each request and never during one, because etcd counts unfinished requests.
    ///
    /// # Errors
    /// The run is stopping.
    pub fn check_stop(&self) -> Result<(), Failure> {
        if self.stop.is_requested() { Err(Failure::Stopped) } else { Ok(()) }
    }
}

/// OperationNames of a program's operations in reports.
#[derive(Clone, Copy)]
pub struct OperationNames {
    /// Reading one key.
    pub read: &'static str,
    /// Listing a prefix.
    pub list: &'static str,
    /// Guarded writes.
    pub write: &'static str,
    /// Creating a watch.
    pub watch: &'static str,
}

/// A client with its connection.
pub struct Client {
    context: Rc<ClientContext>,
    connection: Connection,
    names: OperationNames,
}

/// A single key, or all keys below a prefix.
#[derive(Clone, Debug)]
pub struct KeySpan {
    key: Vec<u8>,
    end: Vec<u8>,
}

impl KeySpan {
    /// A single key.
    #[must_use]
    pub fn one(key: Vec<u8>) -> Self {
        Self { key, end: Vec::new() }
    }

    /// All keys below a prefix.
    #[must_use]
    pub fn below(prefix: Vec<u8>) -> Self {
        let end = prefix_end(&prefix).unwrap_or_default().into_vec();
        Self { key: prefix, end }
    }
}

fn framed(message: &impl Message) -> Bytes {
    frame::encode(&message.encode_to_vec())
}

fn wrong<T>(what: String) -> Result<T, Failure> {
    Err(Failure::Wrong(what))
}

impl Client {
    /// Does not connect yet.
    #[must_use]
    pub fn new(context: &Rc<ClientContext>, identity: &Identity, names: OperationNames) -> Self {
        let destination =
            Destination { endpoint: context.endpoint.clone(), tls: identity.tls.clone() };
        Self {
            context: context.clone(),
            connection: Connection::new(destination).with_max_message(LIST),
            names,
        }
    }

    async fn request<M: Message + Default>(
        &self,
        name: &'static str,
        method: Method,
        message: &impl Message,
    ) -> Result<M, Failure> {
        self.context.check_stop()?;
        let due = self.context.recorder.now();
        let response =
            self.connection.call(method, framed(message), self.context.request_timeout).await;
        let response = response.and_then(|response| {
            M::decode(response)
                .or_else(|error| wrong(format!("the response cannot be decoded: {error}")))
        });
        self.context.recorder.record_request(
            name,
            method,
            due,
            response.as_ref().map(drop).map_err(Clone::clone),
        );
        response
    }

    /// libcalico-go's Get. Linearizable, like all of its reads.
    ///
    /// # Errors
    /// The request fails.
    pub async fn get(&self, key: Vec<u8>) -> Result<Option<KeyValue>, Failure> {
        let range = RangeRequest { key, ..RangeRequest::default() };
        let response: RangeResponse = self.request(self.names.read, Method::Range, &range).await?;
        Ok(response.kvs.into_iter().next())
    }

    /// libcalico-go's List: reads all keys at once, and returns the revision.
    ///
    /// # Errors
    /// The request fails.
    pub async fn list(&self, keys: &KeySpan) -> Result<i64, Failure> {
        let range = RangeRequest {
            key: keys.key.clone(),
            range_end: keys.end.clone(),
            ..RangeRequest::default()
        };
        let response: RangeResponse = self.request(self.names.list, Method::Range, &range).await?;
        Ok(response.header.map_or(0, |header| header.revision))
    }

    /// libcalico-go's Create (revision 0) or Update.
    ///
    /// # Errors
    ///
    /// The request fails.
    pub async fn write(&self, key: &[u8], revision: i64) -> Result<WriteResult, Failure> {
        let content = value(self.context.size, convert::micros(self.context.recorder.now()));
        // Only keys that this program has created are deleted at the end.
        let creates = revision == 0;
        if creates {
            self.context.created.create_sent(key);
        }
        let response: Result<TxnResponse, Failure> =
            self.request(self.names.write, Method::Txn, &guarded(key, content, revision)).await;
        if creates {
            let done = |response: &TxnResponse| {
                if response.succeeded { CreateOutcome::Created } else { CreateOutcome::NotCreated }
            };
            self.context
                .created
                .create_ended(key, response.as_ref().map_or_else(CreateOutcome::of, done));
        }
        let response = response?;
        let now = response.header.as_ref().map_or(0, |header| header.revision);
        if response.succeeded {
            self.note_endpoint(key, now);
            return Ok(WriteResult::Written(now));
        }
        match response.responses.into_iter().next().and_then(|response| response.response) {
            Some(response_op::Response::ResponseRange(range)) => {
                Ok(WriteResult::Conflict(range.kvs.first().map_or(0, |pair| pair.mod_revision)))
            }
            _ => {
                let what =
                    format!("the Txn on {} lacks the response of its else branch", Escaped(key));
                self.context.recorder.record_event(
                    self.names.write,
                    self.context.recorder.now(),
                    &wrong(what.clone()),
                );
                wrong(what)
            }
        }
    }

    /// Writes whatever the present revision is, like the retries of libcalico-go.
    ///
    /// # Errors
    /// A request fails, or all attempts do.
    pub async fn write_with_retries(&self, key: &[u8], mut revision: i64) -> Result<i64, Failure> {
        // The number of attempts of IPAM (`lib/ipam/ipam.go`, datastoreRetries).
        for _ in 0..100 {
            match self.write(key, revision).await? {
                WriteResult::Written(now) => return Ok(now),
                WriteResult::Conflict(other) => revision = other,
            }
        }
        wrong(format!("other clients wrote {} during each of 100 attempts", Escaped(key)))
    }

    /// libcalico-go's Delete of a revision: a compare, then a DeleteRange with `prev_kv` or else a
    /// Range.
    ///
    /// # Errors
    /// The request fails.
    pub async fn delete(&self, key: &[u8], revision: i64) -> Result<(), Failure> {
        let mut txn = guarded(key, Vec::new(), revision);
        let delete = DeleteRangeRequest {
            key: key.to_vec(),
            prev_kv: true,
            ..DeleteRangeRequest::default()
        };
        txn.success =
            vec![RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }];
        let response: TxnResponse = self.request(self.names.write, Method::Txn, &txn).await?;
        if response.succeeded {
            self.context.created.deleted(key);
            self.note_endpoint(key, response.header.map_or(0, |header| header.revision));
        }
        Ok(())
    }

    fn note_endpoint(&self, key: &[u8], revision: i64) {
        if key.starts_with(super::cluster::resource("workloadendpoints", "").as_slice()) {
            self.context.endpoint_revision.set(self.context.endpoint_revision.get().max(revision));
        }
    }

    /// A syncer: lists each span, then watches each from that revision, all on one stream. The
    /// lists are sent concurrently, because each kind has its own cache
    /// (`watchersyncer/watchercache.go`). The creates are sent one after the other, as clientv3
    /// sends them.
    ///
    /// # Errors
    /// A request fails.
    pub async fn list_and_watch(&self, ranges: &[KeySpan]) -> Result<Watches, Failure> {
        // Waits for all of them even if one fails, because etcd counts each.
        let revisions = join_all(ranges.iter().map(|keys| self.list(keys)))
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let started = tokio::time::timeout(
            self.context.request_timeout,
            self.connection.begin(Method::Watch),
        )
        .await;
        let (mut send, response) = started.unwrap_or(Err(Failure::Timeout))?;
        let mut response = Some(response);
        let mut watches: Option<Watches> = None;
        for (keys, revision) in ranges.iter().zip(revisions) {
            self.context.check_stop()?;
            let due = self.context.recorder.now();
            let create = WatchCreateRequest {
                key: keys.key.clone(),
                range_end: keys.end.clone(),
                start_revision: revision + 1,
                prev_kv: true,
                ..WatchCreateRequest::default()
            };
            let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            send.send_data(framed(&request), false)
                .map_err(|error| Failure::Lost(error.to_string()))?;
            let created = tokio::time::timeout(self.context.request_timeout, async {
                if let Some(response) = response.take() {
                    watches = Some(Watches::new(
                        self.context.clone(),
                        self.connection.response(response).await?,
                    ));
                }
                let watches =
                    watches.as_mut().ok_or_else(|| Failure::Lost("no stream".to_owned()))?;
                watches.created(&keys.key, revision).await
            });
            let created = created.await.unwrap_or(Err(Failure::Timeout));
            self.context.recorder.record_event(self.names.watch, due, &created);
            created?;
        }
        let mut watches = watches.ok_or_else(|| Failure::Lost("no stream".to_owned()))?;
        watches.hold(send);
        Ok(watches)
    }
}

/// The result of a guarded write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteResult {
    /// WriteResult at this revision.
    Written(i64),
    /// Not written: the key is at this revision; 0 if it does not exist.
    Conflict(i64),
}
