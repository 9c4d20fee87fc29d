//! Reads and checks the responses of Watch streams.

use std::collections::HashMap;

use etcd_warden_core::keyspace::Escaped;
use etcd_warden_proto::etcdserverpb::WatchResponse;
use etcd_warden_proto::mvccpb::{Event, event::EventType};
use prost::Message as _;

use super::connection::{Failure, ResponseStream};

/// The next response of a stream.
///
/// # Errors
/// The stream has ended, or the response cannot be decoded.
pub async fn next(stream: &mut ResponseStream) -> Result<WatchResponse, Failure> {
    let message =
        stream.message().await?.ok_or_else(|| Failure::Lost("the watch stream ended".into()))?;
    WatchResponse::decode(message)
        .map_err(|error| Failure::Wrong(format!("a watch response cannot be decoded: {error}")))
}

/// Why the watch of this response was canceled or not created; `None` if it was not.
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

/// A failure if this response has events, for a watch that is not on the stream.
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

/// Limit of keys per watch whose versions are remembered: more than a run writes.
const KEYS: usize = 20_000_000;

/// Checks the events of one watch.
#[derive(Debug)]
pub struct SeenEvents {
    last: i64,
    /// The last version of each key. etcd numbers the writes of a key, so a missed event shows.
    versions: HashMap<Vec<u8>, i64>,
}

impl SeenEvents {
    /// Events must have a revision greater than this one.
    #[must_use]
    pub fn after(revision: i64) -> Self {
        Self { last: revision, versions: HashMap::new() }
    }

    /// The revision of the last event.
    #[must_use]
    pub const fn last(&self) -> i64 {
        self.last
    }

    /// Checks the next event. Revisions must increase, because this program never writes two keys
    /// of one watch in one request; and no version of a key may be missing.
    ///
    /// # Errors
    /// What is wrong with the event.
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
            return wrong(format!("an event of {}, after {KEYS} other keys", Escaped(&pair.key)));
        }
        // After a Delete the next version is 1.
        let before = self.versions.insert(pair.key.clone(), if put { pair.version } else { 0 });
        match before.filter(|before| put && before + 1 != pair.version) {
            None => Ok(()),
            Some(before) => wrong(format!(
                "version {} of {} after {before}: events are missing",
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
    fn missing_repeated_and_unordered_events_are_detected() {
        let mut seen = SeenEvents::after(4);
        for (key, revision, version) in
            [("a", 5, 3), ("b", 6, 1), ("a", 7, 4), ("a", 8, 0), ("a", 9, 1)]
        {
            assert_eq!(seen.check(&event(key, revision, version)), Ok(()), "{key} {revision}");
        }
        assert!(seen.check(&event("b", 9, 2)).is_err(), "a repeated revision");
        assert!(seen.check(&event("a", 10, 3)).is_err(), "a missing version");
        assert!(seen.check(&Event::default()).is_err());
        assert!(SeenEvents::after(4).check(&event("a", 4, 1)).is_err(), "an event before the list");
    }

    #[test]
    fn a_canceled_watch_has_the_reason_of_the_server() {
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
    fn events_of_an_unknown_watch_are_a_wrong_response() {
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
