//! Watchers of one range. Each must receive every event once and in order.

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

use super::connection::{Connection, Failure, ResponseStream};
use super::keys::Keys;
use super::recorder::Recorder;
use super::watch::{self, SeenEvents};

/// A Watch stream with one watch.
pub struct Watcher {
    stream: ResponseStream,
    /// Kept because dropping it would end the stream.
    _send: SendStream<Bytes>,
    id: i64,
    seen: SeenEvents,
}

impl Watcher {
    /// Opens the stream, and waits until the watch is created.
    ///
    /// # Errors
    /// The watch is refused, or not created in time.
    pub async fn open(
        connection: &Connection,
        range: &[Vec<u8>; 2],
        request_timeout: Duration,
    ) -> Result<Self, Failure> {
        timeout(request_timeout, Self::create(connection, range.clone()))
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
        let mut stream = connection.response(response).await?;
        let created = watch::next(&mut stream).await?;
        if let Some(failure) = watch::ended(&created) {
            return Err(failure);
        }
        if !created.created {
            return Err(Failure::Wrong(
                "a watch stream whose first response is not that to its create".to_owned(),
            ));
        }
        let seen = SeenEvents::after(created.header.map_or(0, |header| header.revision));
        Ok(Self { stream, _send: send, id: created.watch_id, seen })
    }

    /// Records each event, until the revision that `until` announces as the last one.
    pub async fn run(
        mut self,
        recorder: Rc<Recorder>,
        keys: &Keys,
        mut until: Receiver<Option<i64>>,
        request_timeout: Duration,
    ) {
        let mut deadline: Option<Instant> = None;
        loop {
            let last = *until.borrow_and_update();
            if last.is_some_and(|last| self.seen.last() >= last) {
                return;
            }
            if last.is_some() {
                deadline.get_or_insert_with(|| Instant::now() + request_timeout);
            }
            let response = tokio::select! {
                response = watch::next(&mut self.stream) => response,
                changed = until.changed(), if last.is_none() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                    let why = format!("events up to revision {} did not arrive", last.unwrap_or_default());
                    recorder.record_event("watch-event", recorder.now(), &Err(Failure::Wrong(why)));
                    return;
                }
            };
            let response =
                response.and_then(|response| watch::ended(&response).map_or(Ok(response), Err));
            match response {
                Ok(response) if response.watch_id == self.id => {
                    for event in response.events {
                        let (due, checked) = self.check(&event, keys);
                        recorder.record_event("watch-event", due, &checked);
                    }
                }
                Ok(response) => {
                    if let Some(failure) = watch::stray(&response) {
                        recorder.record_event("watch-event", recorder.now(), &Err(failure));
                    }
                }
                Err(failure) => {
                    recorder.record_event("watch-event", recorder.now(), &Err(failure));
                    return;
                }
            }
        }
    }

    /// When the write of this event was due, and whether the event is the expected next one.
    fn check(&mut self, event: &Event, keys: &Keys) -> (Duration, Result<(), Failure>) {
        let checked = self.seen.check(event);
        let put = event.r#type == i32::from(EventType::Put);
        let Some(pair) = event.kv.as_ref().filter(|_| put) else {
            return (Duration::ZERO, Err(Failure::Wrong("an event that is not a Put".into())));
        };
        match Keys::stream(&pair.key).and_then(|number| keys.stamp(number, &pair.value)) {
            Some(stamp) => (Duration::from_micros(stamp), checked),
            None => {
                let what =
                    format!("an event with a value that was not written to {}", Escaped(&pair.key));
                (Duration::ZERO, Err(Failure::Wrong(what)))
            }
        }
    }
}
