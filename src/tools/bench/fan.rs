//! Watchers of one prefix: each must get every event once, in order, and soon.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::frame;
use etcd_warden_proto::etcdserverpb::watch_request::RequestUnion;
use etcd_warden_proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use etcd_warden_proto::mvccpb::{Event, event::EventType};
use h2::SendStream;
use prost::Message as _;
use tokio::sync::watch::Receiver;
use tokio::time::timeout;

use super::book::Book;
use super::connection::{Answer, Connection, Failure};
use super::keys::Keys;
use super::watch::{self, Seen};

/// A stream with one watch on it.
pub struct Watcher {
    answer: Answer,
    /// Dropped, it would end the stream.
    _send: SendStream<Bytes>,
    id: i64,
    seen: Seen,
}

impl Watcher {
    /// Opens the stream, and waits until etcd watches.
    ///
    /// # Errors
    /// It is refused, or does not come.
    pub async fn open(
        connection: &Connection,
        range: &[Vec<u8>; 2],
        patience: Duration,
    ) -> Result<Self, Failure> {
        timeout(patience, Self::create(connection, range.clone()))
            .await
            .unwrap_or(Err(Failure::Timeout))
    }

    async fn create(
        connection: &Connection,
        [key, range_end]: [Vec<u8>; 2],
    ) -> Result<Self, Failure> {
        let (mut send, response) = connection.begin(Method::Watch).await?;
        let create = WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        send.send_data(frame::encode(&request.encode_to_vec()), false)
            .map_err(|error| Failure::Lost(error.to_string()))?;
        let mut answer = connection.answer(response).await?;
        let created = watch::next(&mut answer).await?;
        if let Some(failure) = watch::ended(&created) {
            return Err(failure);
        }
        if !created.created {
            return Err(Failure::Wrong(
                "a watch stream that does not begin with the answer to its create".to_owned(),
            ));
        }
        let seen = Seen::after(created.header.map_or(0, |header| header.revision));
        Ok(Self { answer, _send: send, id: created.watch_id, seen })
    }

    /// Notes each event, until the one of the revision that is told to be the last.
    pub async fn run(
        mut self,
        book: Rc<Book>,
        keys: &Keys,
        mut until: Receiver<Option<i64>>,
        patience: Duration,
    ) {
        let mut deadline: Option<Instant> = None;
        loop {
            let last = *until.borrow_and_update();
            if last.is_some_and(|last| self.seen.last() >= last) {
                return;
            }
            if last.is_some() {
                deadline.get_or_insert_with(|| Instant::now() + patience);
            }
            let heard = tokio::select! {
                heard = watch::next(&mut self.answer) => heard,
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
            let heard =
                heard.and_then(|response| watch::ended(&response).map_or(Ok(response), Err));
            match heard {
                Ok(response) if response.watch_id == self.id => {
                    for event in response.events {
                        let (due, checked) = self.check(&event, keys);
                        book.observe("watch-event", due, &checked);
                    }
                }
                Ok(response) => {
                    if let Some(failure) = watch::stray(&response) {
                        book.observe("watch-event", book.now(), &Err(failure));
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
    fn check(&mut self, event: &Event, keys: &Keys) -> (Duration, Result<(), Failure>) {
        let checked = self.seen.check(event);
        let put = event.r#type == i32::from(EventType::Put);
        let Some(pair) = event.kv.as_ref().filter(|_| put) else {
            return (Duration::ZERO, Err(Failure::Wrong("an event that is no Put".into())));
        };
        match Keys::stream(&pair.key).and_then(|number| keys.stamp(number, &pair.value)) {
            Some(stamp) => (Duration::from_micros(stamp), checked),
            None => {
                let what = format!(
                    "an event with another value than was written to {}",
                    Escaped(&pair.key)
                );
                (Duration::ZERO, Err(Failure::Wrong(what)))
            }
        }
    }
}
