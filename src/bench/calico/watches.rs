//! All watches of one client, on one stream.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use prost::Message as _;

use super::client::Stage;
use super::cluster::{resource, written};
use crate::bench::connection::{Answer, Failure};
use crate::keyspace::Escaped;
use crate::pb::etcdserverpb::WatchResponse;
use crate::pb::mvccpb::{Event, event::EventType};

fn wrong<T>(what: String) -> Result<T, Failure> {
    Err(Failure::Wrong(what))
}

/// All watches of a client.
pub struct Watches {
    stage: Rc<Stage>,
    answer: Answer,
    /// Dropped, it would end the stream.
    send: Option<SendStream<Bytes>>,
    open: HashMap<i64, Seen>,
    /// The watch of the endpoints, if there is one.
    endpoints: Option<i64>,
}

#[derive(Default)]
struct Seen {
    last: i64,
    versions: HashMap<Vec<u8>, i64>,
}

impl Watches {
    /// None yet, on this stream.
    pub(super) fn new(stage: Rc<Stage>, answer: Answer) -> Self {
        Self { stage, answer, send: None, open: HashMap::new(), endpoints: None }
    }

    /// Keeps the stream open as long as the watches are here.
    pub(super) fn hold(&mut self, send: SendStream<Bytes>) {
        self.send = Some(send);
    }

    /// Waits for the answer to the create that was sent last; events of earlier ones may come before it.
    pub(super) async fn created(&mut self, key: &[u8]) -> Result<(), Failure> {
        loop {
            let response = self.next().await?;
            if !response.created {
                self.take(response);
                continue;
            }
            if response.canceled {
                return Err(Failure::Grpc(7, response.cancel_reason));
            }
            self.open.insert(response.watch_id, Seen::default());
            if key == resource("workloadendpoints", "").as_slice() {
                self.endpoints = Some(response.watch_id);
            }
            return Ok(());
        }
    }

    async fn next(&mut self) -> Result<WatchResponse, Failure> {
        let message = self.answer.message().await?.ok_or_else(|| Failure::Lost("the watch stream ended".into()))?;
        WatchResponse::decode(message).or_else(|error| wrong(format!("a watch answer cannot be read: {error}")))
    }

    /// Reads what comes, for ever: until it fails, which is noted, or this is dropped. `seen` is told how far the endpoints are.
    pub async fn run(mut self, seen: Rc<Cell<i64>>) {
        loop {
            match self.next().await {
                Ok(response) if response.canceled => {
                    let failure = Failure::Lost(format!("a watch was cancelled: {}", response.cancel_reason));
                    self.stage.book.observe("watch event", self.stage.book.now(), &Err(failure));
                }
                Ok(response) => self.take(response),
                Err(failure) => return self.stage.book.observe("watch event", self.stage.book.now(), &Err(failure)),
            }
            if let Some(endpoints) = self.endpoints.and_then(|id| self.open.get(&id)) {
                seen.set(endpoints.last);
            }
        }
    }

    /// Whether the endpoints are among what is watched.
    #[must_use]
    pub const fn has_endpoints(&self) -> bool {
        self.endpoints.is_some()
    }

    fn take(&mut self, response: WatchResponse) {
        let (stage, Some(seen)) = (&self.stage, self.open.get_mut(&response.watch_id)) else { return };
        for event in response.events {
            let due = event.kv.as_ref().and_then(|pair| written(&pair.value)).map(Duration::from_micros);
            let checked = seen.check(&event);
            match (&checked, due) {
                // What was removed does not say when.
                (Ok(()), None) => {}
                _ => stage.book.observe("watch event", due.unwrap_or_else(|| stage.book.now()), &checked),
            }
        }
    }
}

impl Seen {
    /// Revisions grow, and of each key every version comes (`version` counts a key's writes since it was made).
    fn check(&mut self, event: &Event) -> Result<(), Failure> {
        let Some(pair) = &event.kv else { return wrong("an event without a key".to_owned()) };
        if pair.mod_revision <= self.last {
            return wrong(format!("an event of revision {} after one of {}", pair.mod_revision, self.last));
        }
        self.last = pair.mod_revision;
        let before = if event.r#type == i32::from(EventType::Put) {
            self.versions.insert(pair.key.clone(), pair.version).filter(|before| before + 1 != pair.version)
        } else {
            // The next one begins with 1.
            self.versions.insert(pair.key.clone(), 0);
            None
        };
        before.map_or(Ok(()), |before| wrong(format!("version {} of {} after {before}: there is a gap", pair.version, Escaped(&pair.key))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::mvccpb::KeyValue;

    fn event(key: &str, revision: i64, version: i64) -> Event {
        let kind = if version == 0 { EventType::Delete } else { EventType::Put };
        let pair = KeyValue { key: key.into(), mod_revision: revision, version, ..KeyValue::default() };
        Event { r#type: kind.into(), kv: Some(pair), prev_kv: None }
    }

    #[test]
    fn a_gap_a_repetition_and_another_order_are_seen() {
        let mut seen = Seen::default();
        for (key, revision, version) in [("a", 5, 3), ("b", 6, 1), ("a", 7, 4), ("a", 8, 0), ("a", 9, 1)] {
            assert_eq!(seen.check(&event(key, revision, version)), Ok(()), "{key} {revision}");
        }
        assert!(seen.check(&event("b", 9, 2)).is_err(), "a revision again");
        assert!(seen.check(&event("a", 10, 3)).is_err(), "a version is missing");
        assert!(seen.check(&Event::default()).is_err());
    }
}
