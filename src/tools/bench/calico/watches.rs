//! All watches of one client, on one stream.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use etcd_warden_proto::etcdserverpb::WatchResponse;
use h2::SendStream;

use super::client::ClientContext;
use super::cluster::{resource, written};
use crate::bench::connection::{Failure, ResponseStream};
use crate::bench::watch::{self, SeenEvents};

/// A Watch stream with several watches.
pub struct Watches {
    context: Rc<ClientContext>,
    stream: ResponseStream,
    /// Kept because dropping it would end the stream.
    send: Option<SendStream<Bytes>>,
    open: HashMap<i64, SeenEvents>,
    /// The id of the watch for endpoints, if there is one.
    endpoints: Option<i64>,
}

impl Watches {
    /// A stream without watches.
    pub(super) fn new(context: Rc<ClientContext>, stream: ResponseStream) -> Self {
        Self { context, stream, send: None, open: HashMap::new(), endpoints: None }
    }

    /// Takes the sending half, so that the stream stays open.
    pub(super) fn hold(&mut self, send: SendStream<Bytes>) {
        self.send = Some(send);
    }

    /// Waits for the response to the last create, for a watch that starts after this revision.
    /// Events of earlier watches may arrive before it.
    pub(super) async fn created(&mut self, key: &[u8], revision: i64) -> Result<(), Failure> {
        loop {
            let response = watch::next(&mut self.stream).await?;
            if !response.created {
                self.take(response);
                continue;
            }
            if let Some(failure) = watch::ended(&response) {
                return Err(failure);
            }
            self.open.insert(response.watch_id, SeenEvents::after(revision));
            if key == resource("workloadendpoints", "").as_slice() {
                self.endpoints = Some(response.watch_id);
            }
            return Ok(());
        }
    }

    /// Reads events until the stream fails, which is recorded, or this is dropped. `seen` is set to
    /// the last revision of the endpoints.
    pub async fn run(mut self, seen: Rc<Cell<i64>>) {
        loop {
            match watch::next(&mut self.stream).await {
                Ok(response) => self.take(response),
                Err(failure) => return self.fails(failure),
            }
            if let Some(endpoints) = self.endpoints.and_then(|id| self.open.get(&id)) {
                seen.set(endpoints.last());
            }
        }
    }

    /// True if one of the watches is for endpoints.
    #[must_use]
    pub const fn has_endpoints(&self) -> bool {
        self.endpoints.is_some()
    }

    fn fails(&self, failure: Failure) {
        self.context.recorder.record_event(
            "watch event",
            self.context.recorder.now(),
            &Err(failure),
        );
    }

    fn take(&mut self, response: WatchResponse) {
        if let Some(failure) = watch::ended(&response) {
            self.open.remove(&response.watch_id);
            return self.fails(failure);
        }
        let (context, Some(seen)) = (&self.context, self.open.get_mut(&response.watch_id)) else {
            return watch::stray(&response).map_or((), |failure| self.fails(failure));
        };
        for event in response.events {
            let due =
                event.kv.as_ref().and_then(|pair| written(&pair.value)).map(Duration::from_micros);
            let checked = seen.check(&event);
            match (&checked, due) {
                // A deletion does not contain its time.
                (Ok(()), None) => {}
                _ => context.recorder.record_event(
                    "watch event",
                    due.unwrap_or_else(|| context.recorder.now()),
                    &checked,
                ),
            }
        }
    }
}
