//! What a watcher is told: through the proxy and at the judge it is the same sequence of events.
//!
//! Each user has one Watch stream on either side for as long as a policy counts, and many watches
//! on it. The answer to a create is compared at once. Events are compared once both sides have said
//! that they told everything: an answer to a progress request comes after all events up to its
//! revision. etcd gives it only when no watch of the stream waits for the future, nor for its past.

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

use super::dice::Dice;
use super::keys::{self, Range};
use super::requests::Known;
use crate::world::SOON;
use crate::world::raw::{Stream, framed};

/// etcd looks at watches that begin in the past ten times a second, and says nothing of progress
/// before.
const ASK_AGAIN: Duration = Duration::from_millis(25);
/// The id of answers that are about no watch, or about all of them.
const NO_WATCH: i64 = -1;

/// A watch that a user asks for.
pub fn create(dice: &mut Dice, known: &Known) -> pb::WatchCreateRequest {
    let Range { key, end: range_end } = keys::asked(dice);
    let start_revision = match dice.below(30) {
        0..=5 => dice.around(known.revision, 12),
        // Long ago: mostly compacted by then.
        6 => 1,
        7 => -1,
        _ => 0,
    };
    pb::WatchCreateRequest {
        key,
        range_end,
        start_revision,
        progress_notify: dice.once_in(4),
        filters: (0..2).filter(|_| dice.once_in(8)).collect(),
        prev_kv: dice.once_in(3),
        watch_id: 0,
        fragment: dice.once_in(4),
    }
}

/// What is said to a create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// Not allowed.
    Refused(String),
    /// Allowed, and not possible.
    Impossible(String),
    /// It is there since this revision.
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

/// A watch that both sides have.
struct Watch {
    ours: i64,
    theirs: i64,
    /// The first revision that it tells of.
    first: i64,
}

impl Watcher {
    /// Streams on which nothing was said yet.
    pub fn new((ours, theirs): (Stream, Stream)) -> Self {
        Self { ours: Side::new(ours), theirs: Side::new(theirs), watches: Vec::new(), next: 1000 }
    }

    /// Whether both sides have a watch of this user.
    pub fn is_watching(&self) -> bool {
        !self.watches.is_empty()
    }

    /// The revision that every watch has reached.
    pub fn furthest(&self) -> i64 {
        self.watches.iter().map(|watch| watch.first).max().unwrap_or_default()
    }

    /// Asks for a watch on both sides. The client chooses its id, leaves it to the server, or takes
    /// one that is in use.
    pub async fn create(
        &mut self,
        dice: &mut Dice,
        create: &pb::WatchCreateRequest,
    ) -> (Made, Made) {
        let mut create = (create.clone(), create.clone());
        match (dice.below(12), self.watches.last()) {
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
            (Made::Watching { revision }, Made::Watching { .. }) => {
                let first = (*revision + 1).max(ours.start);
                self.watches.push(Watch { ours: ours.id, theirs: theirs.id, first });
            }
            // What only one side has would be compared with nothing.
            (Made::Watching { .. }, _) => self.ours.cancel(ours.id).await,
            (_, Made::Watching { .. }) => self.theirs.cancel(theirs.id).await,
            _ => {}
        }
        made
    }

    /// Both sides tell everything up to this revision, which every watch has reached. How many
    /// events that was.
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
            let ended = theirs.iter().any(|told| matches!(told, Told::Ended { .. }));
            if ours != theirs {
                differing = Some(format!(
                    "the watches {}, {} tell otherwise:\n ours   {ours:?}\n theirs {theirs:?}",
                    watch.ours, watch.theirs
                ));
            }
            !ended
        });
        // Nobody is told of what nobody watches.
        let of_none =
            self.ours.told.iter().chain(&self.theirs.told).find(|(_, told)| !told.is_empty());
        match (differing, of_none) {
            (Some(differing), _) => Err(differing),
            (None, Some((id, told))) => {
                Err(format!("the watch {id}, which is none, tells {told:?}"))
            }
            (None, None) => Ok(events),
        }
    }

    /// The client ends one of its watches, of which everything was told and compared.
    pub async fn cancel(&mut self, dice: &mut Dice) {
        if self.watches.is_empty() {
            return;
        }
        let watch = self.watches.swap_remove(dice.below(self.watches.len()));
        tokio::join!(self.ours.cancel(watch.ours), self.theirs.cancel(watch.theirs));
    }
}

/// What a watch tells, without the answers that it comes in: how many events share one is chance.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Event(mvccpb::Event),
    /// etcd ended it.
    Ended {
        compact_revision: i64,
        reason: String,
    },
}

/// The answer to a create.
struct Created {
    id: i64,
    start: i64,
    answer: pb::WatchResponse,
}

impl Created {
    fn made(&self) -> Made {
        let pb::WatchResponse { canceled, cancel_reason, header, .. } = &self.answer;
        match canceled {
            true if cancel_reason.ends_with(": permission denied") => {
                Made::Refused(cancel_reason.clone())
            }
            true => Made::Impossible(cancel_reason.clone()),
            false => Made::Watching { revision: header.unwrap_or_default().revision },
        }
    }
}

/// A Watch stream on one side.
pub struct Side {
    request: SendStream<Bytes>,
    answers: UnboundedReceiver<pb::WatchResponse>,
    reading: JoinHandle<()>,
    told: BTreeMap<i64, Vec<Told>>,
    /// The watches that it has. Without any, etcd says nothing of progress.
    live: BTreeSet<i64>,
    /// The revision of the last answer to a progress request.
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

    /// The next answer; what it tells of a watch is noted.
    async fn next(&mut self) -> pb::WatchResponse {
        let answer = self.answers.recv().await.expect("a Watch stream does not end");
        let told = answer.events.iter().cloned().map(Told::Event);
        self.told.entry(answer.watch_id).or_default().extend(told);
        if answer.watch_id == NO_WATCH && !answer.created {
            self.progress = self.progress.max(answer.header.unwrap_or_default().revision);
        }
        if answer.canceled && !answer.created && answer.compact_revision != 0 {
            let ended = Told::Ended {
                compact_revision: answer.compact_revision,
                reason: answer.cancel_reason.clone(),
            };
            self.told.entry(answer.watch_id).or_default().push(ended);
            self.live.remove(&answer.watch_id);
            // As clientv3 does. Until then etcd takes it for one that has not told all.
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
                .unwrap_or_else(|_| panic!("no answer to {what}"));
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

    fn take(&mut self, id: i64) -> Vec<Told> {
        self.told.remove(&id).unwrap_or_default()
    }
}

/// Reads a stream to its end, message for message.
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
