//! A watcher gets the same events through the proxy and at the judge.
//!
//! Each user has one Watch stream on either side for as long as a policy is in effect, with many
//! watches on it. The response to a create is compared at once. Events are compared once both sides
//! have reported progress: the response to a progress request comes after all events up to its
//! revision. etcd sends it only when no watch of the stream waits for a future revision or for past
//! events.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, Bytes};
use etcd_warden_proto::{etcdserverpb as pb, mvccpb};
use h2::SendStream;
use h2::client::ResponseFuture;
use pb::watch_request::RequestUnion;
use prost::Message as _;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout_at};

use super::keys::{self, Range};
use super::requests::Known;
use super::rng::Rng;
use crate::world::SOON;
use crate::world::raw::{Stream, framed};

/// etcd handles watches of past revisions ten times a second and reports no progress before.
const ASK_AGAIN: Duration = Duration::from_millis(25);
/// The watch id of responses that concern no watch, or all of them.
const NO_WATCH: i64 = -1;

/// A random create request of a user.
pub fn create(rng: &mut Rng, known: &Known) -> pb::WatchCreateRequest {
    let Range { key, end: range_end } = keys::asked(rng);
    let start_revision = match rng.below(30) {
        0..=5 => rng.near(known.revision, 12),
        // An old revision, mostly compacted by then.
        6 => 1,
        7 => -1,
        _ => 0,
    };
    pb::WatchCreateRequest {
        key,
        range_end,
        start_revision,
        progress_notify: rng.once_in(4),
        filters: (0..2).filter(|_| rng.once_in(8)).collect(),
        prev_kv: rng.once_in(3),
        watch_id: 0,
        fragment: rng.once_in(4),
    }
}

/// The response to a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// Not allowed.
    Refused(String),
    /// Allowed, but impossible.
    Impossible(String),
    /// Created at this revision.
    Watching { revision: i64 },
}

/// One user's Watch streams.
pub struct Watcher {
    pub ours: Side,
    pub theirs: Side,
    watches: Vec<Watch>,
    /// The next id that the client chooses.
    next: i64,
}

/// A watch on both sides.
struct Watch {
    ours: i64,
    theirs: i64,
    /// The first revision that it reports.
    first: i64,
}

impl Watcher {
    /// New streams without any message.
    pub fn new((ours, theirs): (Stream, Stream)) -> Self {
        Self { ours: Side::new(ours), theirs: Side::new(theirs), watches: Vec::new(), next: 1000 }
    }

    /// True if both sides have a watch of this user.
    pub fn is_watching(&self) -> bool {
        !self.watches.is_empty()
    }

    /// The revision that every watch has reached.
    pub fn furthest(&self) -> i64 {
        self.watches.iter().map(|watch| watch.first).max().unwrap_or_default()
    }

    /// Creates a watch on both sides. The client chooses its id, leaves it to the server, or uses
    /// one that is taken.
    pub async fn create(
        &mut self,
        rng: &mut Rng,
        create: &pb::WatchCreateRequest,
    ) -> (Creation, Creation) {
        let mut create = (create.clone(), create.clone());
        match (rng.below(12), self.watches.last()) {
            (0, Some(used)) => (create.0.watch_id, create.1.watch_id) = (used.ours, used.theirs),
            (1..=5, _) => {
                (create.0.watch_id, create.1.watch_id) = (self.next, self.next);
                self.next += 1;
            }
            _ => {}
        }
        let (ours, theirs) = tokio::join!(self.ours.create(create.0), self.theirs.create(create.1));
        let made = (ours.made(), theirs.made());
        match &made {
            (Creation::Watching { revision }, Creation::Watching { .. }) => {
                let first = (*revision + 1).max(ours.start);
                self.watches.push(Watch { ours: ours.id, theirs: theirs.id, first });
            }
            // A watch on one side only could not be compared.
            (Creation::Watching { .. }, _) => self.ours.cancel(ours.id).await,
            (_, Creation::Watching { .. }) => self.theirs.cancel(theirs.id).await,
            _ => {}
        }
        made
    }

    /// Waits until both sides have sent everything up to this revision, which every watch has
    /// reached. Returns the number of events.
    pub async fn compare(&mut self, revision: i64) -> Result<usize, String> {
        if self.watches.is_empty() {
            return Ok(0);
        }
        tokio::join!(self.ours.told_all(revision), self.theirs.told_all(revision));
        let mut events = 0;
        let mut differing = None;
        self.watches.retain(|watch| {
            let (ours, theirs) = (self.ours.take(watch.ours), self.theirs.take(watch.theirs));
            events += theirs.len();
            let ended = theirs.iter().any(|told| matches!(told, Event::Ended { .. }));
            if ours != theirs {
                differing = Some(format!(
                    "the watches {}, {} differ:\n ours   {ours:?}\n theirs {theirs:?}",
                    watch.ours, watch.theirs
                ));
            }
            !ended
        });
        // No event may be outside every watch.
        let of_none =
            self.ours.told.iter().chain(&self.theirs.told).find(|(_, told)| !told.is_empty());
        match (differing, of_none) {
            (Some(differing), _) => Err(differing),
            (None, Some((id, told))) => Err(format!("the unknown watch {id} reports {told:?}")),
            (None, None) => Ok(events),
        }
    }

    /// The client cancels one of its watches, after all its events were compared.
    pub async fn cancel(&mut self, rng: &mut Rng) {
        if self.watches.is_empty() {
            return;
        }
        let watch = self.watches.swap_remove(rng.below(self.watches.len()));
        tokio::join!(self.ours.cancel(watch.ours), self.theirs.cancel(watch.theirs));
    }
}

/// An event of a watch, without the response that carries it: how events are grouped is random.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Event(mvccpb::Event),
    /// etcd cancelled it.
    Ended {
        compact_revision: i64,
        reason: String,
    },
}

/// The response to a create.
struct Created {
    id: i64,
    start: i64,
    answer: pb::WatchResponse,
}

impl Created {
    fn made(&self) -> Creation {
        let pb::WatchResponse { canceled, cancel_reason, header, .. } = &self.answer;
        match canceled {
            true if cancel_reason.ends_with(": permission denied") => {
                Creation::Refused(cancel_reason.clone())
            }
            true => Creation::Impossible(cancel_reason.clone()),
            false => Creation::Watching { revision: header.unwrap_or_default().revision },
        }
    }
}

/// A Watch stream on one side.
pub struct Side {
    request: SendStream<Bytes>,
    answers: UnboundedReceiver<pb::WatchResponse>,
    reading: JoinHandle<()>,
    told: BTreeMap<i64, Vec<Event>>,
    /// Its watches. Without any, etcd reports no progress.
    live: BTreeSet<i64>,
    /// The revision of the last progress response.
    progress: i64,
}

impl Drop for Side {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Side {
    fn new(Stream { request, response }: Stream) -> Self {
        let (found, answers) = mpsc::unbounded_channel();
        let reading = tokio::spawn(read(response, found));
        Self {
            request,
            answers,
            reading,
            told: BTreeMap::new(),
            live: BTreeSet::new(),
            progress: 0,
        }
    }

    fn send(&mut self, union: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(union) };
        self.request.send_data(framed(&request.encode_to_vec()).into(), false).unwrap();
    }

    /// Reads the next response and records the events of its watch.
    async fn next(&mut self) -> pb::WatchResponse {
        let answer = self.answers.recv().await.expect("a Watch stream does not end");
        let told = answer.events.iter().cloned().map(Event::Event);
        self.told.entry(answer.watch_id).or_default().extend(told);
        if answer.watch_id == NO_WATCH && !answer.created {
            self.progress = self.progress.max(answer.header.unwrap_or_default().revision);
        }
        if answer.canceled && !answer.created && answer.compact_revision != 0 {
            let ended = Event::Ended {
                compact_revision: answer.compact_revision,
                reason: answer.cancel_reason.clone(),
            };
            self.told.entry(answer.watch_id).or_default().push(ended);
            self.live.remove(&answer.watch_id);
            // As clientv3 does. Until then etcd takes it for a watch that has not sent everything.
            self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest {
                watch_id: answer.watch_id,
            }));
        }
        answer
    }

    async fn until(
        &mut self,
        what: &str,
        fits: impl Fn(&pb::WatchResponse) -> bool,
    ) -> pb::WatchResponse {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = timeout_at(deadline, self.next())
                .await
                .unwrap_or_else(|_| panic!("no response to {what}"));
            if fits(&answer) {
                return answer;
            }
        }
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> Created {
        let start = create.start_revision;
        self.send(RequestUnion::CreateRequest(create));
        let answer = self.until("a create", |answer| answer.created).await;
        if !answer.canceled {
            self.live.insert(answer.watch_id);
        }
        Created { id: answer.watch_id, start, answer }
    }

    async fn cancel(&mut self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
        self.until("a cancel", |answer| answer.canceled && answer.watch_id == watch_id).await;
        self.told.remove(&watch_id);
        self.live.remove(&watch_id);
    }

    async fn told_all(&mut self, revision: i64) {
        let deadline = Instant::now() + SOON;
        while self.progress < revision && !self.live.is_empty() {
            assert!(
                Instant::now() < deadline,
                "no progress to revision {revision}, only to {}",
                self.progress
            );
            self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            let asked_again = Instant::now() + ASK_AGAIN;
            while self.progress < revision
                && !self.live.is_empty()
                && timeout_at(asked_again, self.next()).await.is_ok()
            {}
        }
    }

    fn take(&mut self, id: i64) -> Vec<Event> {
        self.told.remove(&id).unwrap_or_default()
    }
}

/// Reads a stream to its end, message by message.
async fn read(response: ResponseFuture, found: UnboundedSender<pb::WatchResponse>) {
    let Ok(response) = response.await else { return };
    let mut body = response.into_body();
    let mut unread = bytes::BytesMut::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        unread.extend_from_slice(&data);
        while let [0, a, b, c, d, rest @ ..] = &unread[..] {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if rest.len() < length {
                break;
            }
            unread.advance(5);
            let message = pb::WatchResponse::decode(unread.split_to(length)).unwrap();
            if found.send(message).is_err() {
                return;
            }
        }
    }
}
