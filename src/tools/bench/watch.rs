//! What comes on a Watch stream, and whether it may.

use std::collections::HashMap;

use etcd_warden_core::keyspace::Escaped;
use etcd_warden_proto::etcdserverpb::WatchResponse;
use etcd_warden_proto::mvccpb::{Event, event::EventType};
use prost::Message as _;

use super::connection::{Answer, Failure};

/// The next answer on a stream.
///
/// # Errors
/// The stream has ended, or the answer cannot be read.
pub async fn next(answer: &mut Answer) -> Result<WatchResponse, Failure> {
    let message =
        answer.message().await?.ok_or_else(|| Failure::Lost("the watch stream ended".into()))?;
    WatchResponse::decode(message)
        .map_err(|error| Failure::Wrong(format!("a watch answer cannot be read: {error}")))
}

/// Why the watch of this answer has ended, or did not begin; `None` where it goes on.
#[must_use]
pub fn ended(response: &WatchResponse) -> Option<Failure> {
    let reason = match (response.compact_revision, &*response.cancel_reason) {
        (0, reason) => reason.to_owned(),
        (compacted, reason) => {
            format!("{reason} compacted up to revision {compacted}").trim_start().to_owned()
        }
    };
    response.canceled.then(|| Failure::cancelled(&reason))
}

/// Events of a watch that nobody has made.
#[must_use]
pub fn stray(response: &WatchResponse) -> Option<Failure> {
    let events = response.events.len();
    (events > 0).then(|| {
        Failure::Wrong(format!(
            "{events} events of watch {}, which is not on this stream",
            response.watch_id
        ))
    })
}

/// Keys of one watch whose versions are held: more than a run writes.
const KEYS: usize = 20_000_000;

/// The events that a watch has had.
#[derive(Debug)]
pub struct Seen {
    last: i64,
    /// The version that each key had last: etcd counts the writes of a key, so that a gap shows.
    versions: HashMap<Vec<u8>, i64>,
}

impl Seen {
    /// None yet: all that come must be later than this revision.
    #[must_use]
    pub fn after(revision: i64) -> Self {
        Self { last: revision, versions: HashMap::new() }
    }

    /// The revision of the last one.
    #[must_use]
    pub const fn last(&self) -> i64 {
        self.last
    }

    /// Revisions grow, as this program writes no two keys of one watch in one request; and of each
    /// key every version comes.
    ///
    /// # Errors
    /// What is wrong with this one.
    pub fn check(&mut self, event: &Event) -> Result<(), Failure> {
        let wrong = |what: String| Err(Failure::Wrong(what));
        let Some(pair) = &event.kv else { return wrong("an event without a key".to_owned()) };
        if pair.mod_revision <= self.last {
            return wrong(format!(
                "an event of revision {} after one of {}",
                pair.mod_revision, self.last
            ));
        }
        self.last = pair.mod_revision;
        let put = event.r#type == i32::from(EventType::Put);
        if self.versions.len() >= KEYS && !self.versions.contains_key(&pair.key) {
            return wrong(format!(
                "an event of {}, when {KEYS} other keys have had theirs",
                Escaped(&pair.key)
            ));
        }
        // After a Delete, the next one begins with 1.
        let before = self.versions.insert(pair.key.clone(), if put { pair.version } else { 0 });
        match before.filter(|before| put && before + 1 != pair.version) {
            None => Ok(()),
            Some(before) => wrong(format!(
                "version {} of {} after {before}: there is a gap",
                pair.version,
                Escaped(&pair.key)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use etcd_warden_proto::mvccpb::KeyValue;

    use super::*;

    fn event(key: &str, revision: i64, version: i64) -> Event {
        let kind = if version == 0 { EventType::Delete } else { EventType::Put };
        let pair =
            KeyValue { key: key.into(), mod_revision: revision, version, ..KeyValue::default() };
        Event { r#type: kind.into(), kv: Some(pair), prev_kv: None }
    }

    #[test]
    fn a_gap_a_repetition_and_another_order_are_seen() {
        let mut seen = Seen::after(4);
        for (key, revision, version) in
            [("a", 5, 3), ("b", 6, 1), ("a", 7, 4), ("a", 8, 0), ("a", 9, 1)]
        {
            assert_eq!(seen.check(&event(key, revision, version)), Ok(()), "{key} {revision}");
        }
        assert!(seen.check(&event("b", 9, 2)).is_err(), "a revision again");
        assert!(seen.check(&event("a", 10, 3)).is_err(), "a version is missing");
        assert!(seen.check(&Event::default()).is_err());
        assert!(Seen::after(4).check(&event("a", 4, 1)).is_err(), "what was listed");
    }

    #[test]
    fn a_watch_ends_for_the_reason_that_is_told() {
        let response = |reason: &str| WatchResponse {
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..WatchResponse::default()
        };
        for (reason, name, message) in [
            (
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                "PermissionDenied",
                "etcdserver: permission denied",
            ),
            (
                "rpc error: code = ResourceExhausted desc = a desc = b",
                "ResourceExhausted",
                "a desc = b",
            ),
            (
                "rpc error: code = Nonsense desc = x",
                "watch cancelled",
                "rpc error: code = Nonsense desc = x",
            ),
            ("watch closed\n", "watch cancelled", "watch closed\\x0a"),
        ] {
            let failure = ended(&response(reason)).unwrap();
            assert_eq!((&*failure.name(), failure.message()), (name, message));
        }
        let compacted = ended(&WatchResponse { compact_revision: 9, ..response("") }).unwrap();
        assert_eq!(compacted.to_string(), "watch cancelled: compacted up to revision 9");
        assert_eq!(ended(&WatchResponse::default()), None);
    }

    #[test]
    fn events_of_an_unknown_watch_are_a_wrong_answer_and_a_progress_of_the_stream_is_none() {
        let events = WatchResponse {
            watch_id: 5,
            events: vec![event("a", 1, 1)],
            ..WatchResponse::default()
        };
        assert_eq!(
            stray(&events),
            Some(Failure::Wrong("1 events of watch 5, which is not on this stream".to_owned()))
        );
        assert_eq!(stray(&WatchResponse { watch_id: -1, ..WatchResponse::default() }), None);
    }
}
