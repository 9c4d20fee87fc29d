//! One client as libcalico-go has it: a connection, and on it reads, lists, guarded writes, and one
//! stream with all its watches.

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
use super::made::{Ended, Made};
use super::watches::Watches;
use crate::bench::book::Book;
use crate::bench::connection::{Connection, Door, Failure};
use crate::bench::figure;
use crate::bench::identity::Identity;
use crate::bench::slot::guarded;
use crate::bench::stop::Stop;

/// Bytes of one answer: libcalico-go lists all of a kind at once.
const LIST: usize = 1 << 30;

/// What all clients of one thread share.
pub struct Stage {
    /// Where they call.
    pub endpoint: Endpoint,
    /// How long an answer may take.
    pub patience: Duration,
    /// Bytes of each value.
    pub size: usize,
    /// Set when everybody is to end.
    pub stop: Arc<Stop>,
    /// Where it is noted.
    pub book: Rc<Book>,
    /// Keys that were made and are still there, of all threads.
    pub made: Arc<Made>,
    /// The highest revision at which an endpoint was written or removed.
    pub endpoints_at: Cell<i64>,
}

impl Stage {
    /// Looked at before each request, and never while one is on its way: etcd counts those too.
    ///
    /// # Errors
    /// Everybody is to end.
    pub fn goes_on(&self) -> Result<(), Failure> {
        if self.stop.is_wanted() { Err(Failure::Stopped) } else { Ok(()) }
    }
}

/// What a program's calls are named in reports.
#[derive(Clone, Copy)]
pub struct Names {
    /// Of one key.
    pub read: &'static str,
    /// Of all below a prefix.
    pub list: &'static str,
    /// Guarded.
    pub write: &'static str,
    /// Until it is there.
    pub watch: &'static str,
}

/// A client.
pub struct Client {
    stage: Rc<Stage>,
    connection: Connection,
    names: Names,
}

/// One key, or all below a prefix, as a request has it.
#[derive(Clone, Debug)]
pub struct Keys {
    key: Vec<u8>,
    end: Vec<u8>,
}

impl Keys {
    /// One.
    #[must_use]
    pub fn one(key: Vec<u8>) -> Self {
        Self { key, end: Vec::new() }
    }

    /// All below a prefix.
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
    /// Not connected yet.
    #[must_use]
    pub fn new(stage: &Rc<Stage>, identity: &Identity, names: Names) -> Self {
        let door = Door { endpoint: stage.endpoint.clone(), tls: identity.tls.clone() };
        Self {
            stage: stage.clone(),
            connection: Connection::new(door).with_answers_up_to(LIST),
            names,
        }
    }

    async fn ask<M: Message + Default>(
        &self,
        name: &'static str,
        method: Method,
        message: &impl Message,
    ) -> Result<M, Failure> {
        self.stage.goes_on()?;
        let due = self.stage.book.now();
        let answer = self.connection.call(method, framed(message), self.stage.patience).await;
        let answer = answer.and_then(|answer| {
            M::decode(answer).or_else(|error| wrong(format!("the answer cannot be read: {error}")))
        });
        self.stage.book.note(name, method, due, answer.as_ref().map(drop).map_err(Clone::clone));
        answer
    }

    /// libcalico-go's Get: linearizable, like all that it reads.
    ///
    /// # Errors
    /// It fails.
    pub async fn get(&self, key: Vec<u8>) -> Result<Option<KeyValue>, Failure> {
        let asked = RangeRequest { key, ..RangeRequest::default() };
        let answer: RangeResponse = self.ask(self.names.read, Method::Range, &asked).await?;
        Ok(answer.kvs.into_iter().next())
    }

    /// Its List: all at once, and the revision that it is of.
    ///
    /// # Errors
    /// It fails.
    pub async fn list(&self, keys: &Keys) -> Result<i64, Failure> {
        let asked = RangeRequest {
            key: keys.key.clone(),
            range_end: keys.end.clone(),
            ..RangeRequest::default()
        };
        let answer: RangeResponse = self.ask(self.names.list, Method::Range, &asked).await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Its Create (revision 0) or Update: gives the revision at which the key is now, by us or as
    /// somebody else left it.
    ///
    /// # Errors
    /// It fails.
    pub async fn write(&self, key: &[u8], revision: i64) -> Result<Written, Failure> {
        let content = value(self.stage.size, figure::micros(self.stage.book.now()));
        // What was there before is not ours to remove.
        let creates = revision == 0;
        if creates {
            self.stage.made.asks(key);
        }
        let answer: Result<TxnResponse, Failure> =
            self.ask(self.names.write, Method::Txn, &guarded(key, content, revision)).await;
        if creates {
            let done =
                |answer: &TxnResponse| if answer.succeeded { Ended::Done } else { Ended::NotDone };
            self.stage.made.ended(key, answer.as_ref().map_or_else(Ended::of, done));
        }
        let answer = answer?;
        let now = answer.header.as_ref().map_or(0, |header| header.revision);
        if answer.succeeded {
            self.note_endpoint(key, now);
            return Ok(Written::At(now));
        }
        match answer.responses.into_iter().next().and_then(|response| response.response) {
            Some(response_op::Response::ResponseRange(range)) => {
                Ok(Written::Not(range.kvs.first().map_or(0, |pair| pair.mod_revision)))
            }
            _ => {
                let what =
                    format!("the Txn on {} has not the answer of its else branch", Escaped(key));
                self.stage.book.observe(
                    self.names.write,
                    self.stage.book.now(),
                    &wrong(what.clone()),
                );
                wrong(what)
            }
        }
    }

    /// Writes at whatever revision the key is, as libcalico-go's retries do.
    ///
    /// # Errors
    /// It fails.
    pub async fn write_anyhow(&self, key: &[u8], mut revision: i64) -> Result<i64, Failure> {
        // As often as IPAM tries (`lib/ipam/ipam.go`, datastoreRetries).
        for _ in 0..100 {
            match self.write(key, revision).await? {
                Written::At(now) => return Ok(now),
                Written::Not(other) => revision = other,
            }
        }
        wrong(format!("{} was written by somebody else a hundred times", Escaped(key)))
    }

    /// Its Delete of a revision: one compare, one DeleteRange with `prev_kv`, else a Range.
    ///
    /// # Errors
    /// It fails.
    pub async fn delete(&self, key: &[u8], revision: i64) -> Result<(), Failure> {
        let mut txn = guarded(key, Vec::new(), revision);
        let delete = DeleteRangeRequest {
            key: key.to_vec(),
            prev_kv: true,
            ..DeleteRangeRequest::default()
        };
        txn.success =
            vec![RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }];
        let answer: TxnResponse = self.ask(self.names.write, Method::Txn, &txn).await?;
        if answer.succeeded {
            self.stage.made.removed(key);
            self.note_endpoint(key, answer.header.map_or(0, |header| header.revision));
        }
        Ok(())
    }

    fn note_endpoint(&self, key: &[u8], revision: i64) {
        if key.starts_with(super::cluster::resource("workloadendpoints", "").as_slice()) {
            self.stage.endpoints_at.set(self.stage.endpoints_at.get().max(revision));
        }
    }

    /// A syncer: lists each, then watches each from there on, all on one stream. The lists go out
    /// together, as each kind has a cache of its own (`watchersyncer/watchercache.go`); creates
    /// go one after the other, as clientv3 sends them.
    ///
    /// # Errors
    /// It fails.
    pub async fn list_and_watch(&self, ranges: &[Keys]) -> Result<Watches, Failure> {
        // All are waited for, also when one fails: etcd counts those that nobody hears too.
        let revisions = join_all(ranges.iter().map(|keys| self.list(keys)))
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let begun =
            tokio::time::timeout(self.stage.patience, self.connection.begin(Method::Watch)).await;
        let (mut send, response) = begun.unwrap_or(Err(Failure::Timeout))?;
        let mut response = Some(response);
        let mut watches: Option<Watches> = None;
        for (keys, revision) in ranges.iter().zip(revisions) {
            self.stage.goes_on()?;
            let due = self.stage.book.now();
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
            let created = tokio::time::timeout(self.stage.patience, async {
                if let Some(response) = response.take() {
                    watches = Some(Watches::new(
                        self.stage.clone(),
                        self.connection.answer(response).await?,
                    ));
                }
                let watches =
                    watches.as_mut().ok_or_else(|| Failure::Lost("no stream".to_owned()))?;
                watches.created(&keys.key, revision).await
            });
            let created = created.await.unwrap_or(Err(Failure::Timeout));
            self.stage.book.observe(self.names.watch, due, &created);
            created?;
        }
        let mut watches = watches.ok_or_else(|| Failure::Lost("no stream".to_owned()))?;
        watches.hold(send);
        Ok(watches)
    }
}

/// What came of a guarded write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there, at this revision.
    At(i64),
    /// It was at this one instead; 0: nowhere.
    Not(i64),
}
