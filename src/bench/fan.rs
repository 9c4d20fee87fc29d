//! Watchers of one prefix: each must get every event once, in order, and soon.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use prost::Message as _;
use tokio::sync::watch::Receiver;
use tokio::time::timeout;

use super::book::Book;
use super::connection::{Answer, Connection, Failure};
use super::keys::Keys;
use crate::keyspace::{Escaped, prefix_end};
use crate::method::Method;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::pb::mvccpb::{Event, event::EventType};
use crate::wire::frame;

/// A stream with one watch on it.
pub struct Watcher {
    answer: Answer,
    /// Dropped, it would end the stream.
    _send: SendStream<Bytes>,
    /// The version that each key had last: etcd counts the writes of a key, so that a gap shows.
    versions: HashMap<Vec<u8>, i64>,
    last: i64,
}

impl Watcher {
    /// Opens the stream, and waits until etcd watches.
    ///
    /// # Errors
    /// It is refused, or does not come.
    pub async fn open(connection: &Connection, keys: &Keys, patience: Duration) -> Result<Self, Failure> {
        timeout(patience, Self::create(connection, keys.watched_prefix())).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn create(connection: &Connection, prefix: Vec<u8>) -> Result<Self, Failure> {
        let (mut send, response) = connection.begin(Method::Watch).await?;
        let range_end = prefix_end(&prefix).unwrap_or_default().into_vec();
        let create = WatchCreateRequest { key: prefix, range_end, ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        send.send_data(frame::encode(&request.encode_to_vec()), false).map_err(|error| Failure::Lost(error.to_string()))?;
        let mut answer = Answer::of(response).await?;
        let created = next(&mut answer).await?;
        if !created.created || created.canceled {
            return Err(Failure::Grpc(7, created.cancel_reason));
        }
        let last = created.header.map_or(0, |header| header.revision);
        Ok(Self { answer, _send: send, versions: HashMap::new(), last })
    }

    /// Notes each event, until the one of the revision that is told to be the last.
    pub async fn run(mut self, book: Rc<Book>, keys: &Keys, mut until: Receiver<Option<i64>>, patience: Duration) {
        let mut deadline: Option<Instant> = None;
        loop {
            let last = *until.borrow_and_update();
            if last.is_some_and(|last| self.last >= last) {
                return;
            }
            if last.is_some() {
                deadline.get_or_insert_with(|| Instant::now() + patience);
            }
            let heard = tokio::select! {
                heard = next(&mut self.answer) => heard,
                changed = until.changed(), if last.is_none() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                    let why = format!("the events up to revision {} did not come", last.unwrap_or_default());
                    book.observe("watch-event", book.now(), &Err(Failure::Wrong(why)));
                    return;
                }
            };
            match heard {
                Ok(answer) => {
                    for event in answer.events {
                        let (due, checked) = self.check(event, keys);
                        book.observe("watch-event", due, &checked);
                    }
                }
                Err(failure) => {
                    book.observe("watch-event", book.now(), &Err(failure));
                    return;
                }
            }
        }
    }

    /// When the write of this event was due, and whether the event follows on those before.
    fn check(&mut self, event: Event, keys: &Keys) -> (Duration, Result<(), Failure>) {
        let put = event.r#type == i32::from(EventType::Put);
        let Some(pair) = event.kv.filter(|_| put) else {
            return (Duration::ZERO, Err(Failure::Wrong("an event that is no Put".into())));
        };
        let key = || Escaped(&pair.key).to_string();
        let Some(stamp) = Keys::stream(&pair.key).and_then(|number| keys.stamp(number, &pair.value)) else {
            return (Duration::ZERO, Err(Failure::Wrong(format!("an event with another value than was written to {}", key()))));
        };
        let due = Duration::from_micros(stamp);
        if pair.mod_revision <= self.last {
            return (due, Err(Failure::Wrong(format!("revision {} after {}", pair.mod_revision, self.last))));
        }
        self.last = pair.mod_revision;
        match self.versions.insert(pair.key.clone(), pair.version) {
            Some(before) if before + 1 != pair.version => {
                (due, Err(Failure::Wrong(format!("version {} of {} after {before}: there is a gap", pair.version, key()))))
            }
            _ => (due, Ok(())),
        }
    }
}

async fn next(answer: &mut Answer) -> Result<WatchResponse, Failure> {
    let message = answer.message().await?.ok_or_else(|| Failure::Lost("the watch stream ended".into()))?;
    let response = WatchResponse::decode(message).map_err(|error| Failure::Wrong(format!("a watch answer cannot be read: {error}")))?;
    if response.canceled && !response.created {
        return Err(Failure::Lost(format!("the watch was cancelled: {}", response.cancel_reason)));
    }
    Ok(response)
}
