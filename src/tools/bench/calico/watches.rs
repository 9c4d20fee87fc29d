//! All watches of one client, on one stream.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use etcd_warden_proto::etcdserverpb::WatchResponse;
use h2::SendStream;

use super::client::Stage;
use super::cluster::{resource, written};
use crate::bench::connection::{Answer, Failure};
use crate::bench::watch::{self, Seen};

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

impl Watches {
    /// None yet, on this stream.
    pub(super) fn new(stage: Rc<Stage>, answer: Answer) -> Self {
        Self { stage, answer, send: None, open: HashMap::new(), endpoints: None }
    }

    /// Keeps the stream open as long as the watches are here.
    pub(super) fn hold(&mut self, send: SendStream<Bytes>) {
        self.send = Some(send);
    }

    /// Waits for the answer to the create that was sent last, of all after this revision; events of
    /// earlier ones may come before it.
    pub(super) async fn created(&mut self, key: &[u8], revision: i64) -> Result<(), Failure> {
        loop {
            let response = watch::next(&mut self.answer).await?;
            if !response.created {
                self.take(response);
                continue;
            }
            if let Some(failure) = watch::ended(&response) {
                return Err(failure);
            }
            self.open.insert(response.watch_id, Seen::after(revision));
            if key == resource("workloadendpoints", "").as_slice() {
                self.endpoints = Some(response.watch_id);
            }
            return Ok(());
        }
    }

    /// Reads what comes, for ever: until it fails, which is noted, or this is dropped. `seen` is
    /// told how far the endpoints are.
    pub async fn run(mut self, seen: Rc<Cell<i64>>) {
        loop {
            match watch::next(&mut self.answer).await {
                Ok(response) => self.take(response),
                Err(failure) => return self.fails(failure),
            }
            if let Some(endpoints) = self.endpoints.and_then(|id| self.open.get(&id)) {
                seen.set(endpoints.last());
            }
        }
    }

    /// Whether the endpoints are among what is watched.
    #[must_use]
    pub const fn has_endpoints(&self) -> bool {
        self.endpoints.is_some()
    }

    fn fails(&self, failure: Failure) {
        self.stage.book.observe("watch event", self.stage.book.now(), &Err(failure));
    }

    fn take(&mut self, response: WatchResponse) {
        if let Some(failure) = watch::ended(&response) {
            self.open.remove(&response.watch_id);
            return self.fails(failure);
        }
        let (stage, Some(seen)) = (&self.stage, self.open.get_mut(&response.watch_id)) else {
            return watch::stray(&response).map_or((), |failure| self.fails(failure));
        };
        for event in response.events {
            let due =
                event.kv.as_ref().and_then(|pair| written(&pair.value)).map(Duration::from_micros);
            let checked = seen.check(&event);
            match (&checked, due) {
                // What was removed does not say when.
                (Ok(()), None) => {}
                _ => stage.book.observe(
                    "watch event",
                    due.unwrap_or_else(|| stage.book.now()),
                    &checked,
                ),
            }
        }
    }
}
