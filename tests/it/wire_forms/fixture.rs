//! The state that each form is sent to: a few keys of the client's own, a few of another client,
//! and a lease of each; and the outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    AlarmAction, AlarmType, Client, DeleteOptions, GetOptions, LeaseGrantOptions, PutOptions,
};
use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::etcd::Etcd;
use prost::Message as _;

use super::form::Form;
use crate::world::raw::{Answer, Raw, framed, grpc_headers};
use crate::world::{SOON, authorities, connect, root};

/// Key, value, lease. The client may do everything below `g/`, and nothing else.
const KEYS: [(&str, &str, i64); 5] = [
    ("g/a", "granted", 0),
    ("g/b", "another", 0),
    ("g/l", "leased", 1),
    ("s/a", "secret", 0),
    ("s/l", "lent", 2),
];

/// The keys of an etcd, read and written by root.
pub struct Fixture {
    root: Client,
    /// The initial state, once it has been set.
    set: Option<State>,
    /// True if the state may have changed.
    disturbed: bool,
}

/// Everything that a form can change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    keys: BTreeMap<String, (Vec<u8>, i64)>,
    leases: BTreeSet<i64>,
}

/// The outcome of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The code and the message that ended the call; `None` for a Watch stream that stayed open.
    pub status: Option<(u32, String)>,
    /// Its effects, in words; usually none if the call failed.
    pub effects: Vec<String>,
}

impl Outcome {
    /// The effects on another client's keys and leases.
    pub fn foreign_effects(&self) -> Vec<&str> {
        self.effects
            .iter()
            .map(String::as_str)
            .filter(|effect| effect.contains("`s/") || effect.ends_with("lease 2"))
            .collect()
    }

    /// A short summary.
    pub fn summary(&self) -> String {
        let mut words = self.effects.clone();
        match &self.status {
            Some((0, _)) | None if words.is_empty() => words.push("done".to_owned()),
            Some((0, _)) | None => {}
            Some((13, message)) if message.contains("unmarshal") => {
                words.push("cannot decode it".to_owned());
            }
            Some((_, message)) => {
                words.push(message.trim_start_matches("etcdserver: ").replace('\u{a0}', " "));
            }
        }
        words.join(", ")
    }
}

impl Fixture {
    pub async fn of(etcd: &Etcd) -> Self {
        Self {
            root: connect(&etcd.endpoints(), &authorities().upstream, root()).await,
            set: None,
            disturbed: true,
        }
    }

    /// Turns etcd's own auth on, with a user `limited` that has the rights of the policy.
    pub async fn auth_on(&mut self) {
        use etcd_client::{Permission, PermissionType};
        self.root.user_add("root", "root", None).await.unwrap();
        self.root.user_grant_role("root", "root").await.unwrap();
        self.root.role_add("limited").await.unwrap();
        let own = Permission::new(PermissionType::Readwrite, "g/").with_prefix();
        self.root.role_grant_permission("limited", own).await.unwrap();
        self.root.user_add("limited", "limited", None).await.unwrap();
        self.root.user_grant_role("limited", "limited").await.unwrap();
        self.root.auth_enable().await.unwrap();
    }

    /// Restores the initial state.
    async fn reset(&mut self) -> State {
        if let (Some(set), false) = (&self.set, self.disturbed) {
            return set.clone();
        }
        let root = &mut self.root;
        root.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.unwrap();
        for lease in root.leases().await.unwrap().leases() {
            root.lease_revoke(lease.id()).await.unwrap();
        }
        root.delete("", Some(DeleteOptions::new().with_all_keys())).await.unwrap();
        for id in [1, 2] {
            root.lease_grant(600, Some(LeaseGrantOptions::new().with_id(id))).await.unwrap();
        }
        for (key, value, lease) in KEYS {
            root.put(key, value, Some(PutOptions::new().with_lease(lease))).await.unwrap();
        }
        let set = self.state().await;
        self.set = Some(set.clone());
        self.disturbed = false;
        set
    }

    async fn state(&mut self) -> State {
        let answer = self.root.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
        let entry = |kv: &etcd_client::KeyValue| {
            (kv.key().escape_ascii().to_string(), (kv.value().to_vec(), kv.lease()))
        };
        let keys = answer.kvs().iter().map(entry).collect();
        State {
            keys,
            leases: self
                .root
                .leases()
                .await
                .unwrap()
                .leases()
                .iter()
                .map(|lease| lease.id())
                .collect(),
        }
    }

    /// Sends a form over `raw`, to this etcd or through a proxy in front of it.
    pub async fn send(&mut self, raw: &mut Raw, form: &Form) -> Outcome {
        let before = self.reset().await;
        if form.method == Method::Watch {
            return self.watch(raw, form).await;
        }
        let answer = tokio::time::timeout(SOON, raw.call(form.method.path(), &form.bytes)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{}: no response", form.name));
        assert!(answer.error.is_none(), "{}: {answer:?}", form.name);
        let mut effects: Vec<String> = Vec::new();
        let summary = |key: &&(&str, &str, i64)| {
            answer.body.windows(key.0.len()).any(|part| part == key.0.as_bytes())
        };
        let summary: Vec<String> =
            KEYS.iter().filter(summary).map(|(key, ..)| format!("`{key}`")).collect();
        if !summary.is_empty() {
            effects.push(format!("reads {}", summary.join(" ")));
        }
        effects.extend(leases_in(form.method, &answer));
        let after = self.state().await;
        // A lease that still exists, or an alarm, does not show in the keys.
        self.disturbed = after != before || form.method == Method::Alarm;
        effects.extend(changes(&before, &after));
        Outcome { status: Some(status(&form.name, &answer)), effects }
    }

    /// A watch stays open: its rights show in the events of later writes.
    async fn watch(&mut self, raw: &mut Raw, form: &Form) -> Outcome {
        let mut stream = WatchCall::open(raw).await;
        stream.say(&create("g/none"));
        let mut outcome = Outcome { status: None, effects: Vec::new() };
        if let Some(first) = stream.until(|answer| answer.created).await {
            assert!(!first.canceled, "{first:?}");
            stream.say(&form.bytes);
        }
        stream.settled(0).await;
        self.disturbed = true;
        let mut revision = 0;
        for (key, ..) in KEYS {
            revision = self.root.put(key, "new", None).await.unwrap().header().unwrap().revision();
        }
        stream.settled(revision).await;
        let mut summary = BTreeSet::new();
        for answer in &stream.answers {
            summary.extend(
                answer
                    .events
                    .iter()
                    .filter_map(|event| event.kv.as_ref())
                    .map(|kv| kv.key.escape_ascii().to_string()),
            );
            if answer.canceled {
                outcome.effects.push(
                    answer
                        .cancel_reason
                        .rsplit("desc = ")
                        .next()
                        .unwrap()
                        .trim_start_matches("etcdserver: ")
                        .to_owned(),
                );
            }
        }
        if !summary.is_empty() {
            outcome.effects.push(format!(
                "watches {}",
                summary.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" ")
            ));
        }
        outcome.status = stream.end.as_ref().map(|answer| status(&form.name, answer));
        outcome
    }
}

fn create(key: &str) -> Vec<u8> {
    let create = pb::WatchCreateRequest { key: key.into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
        .encode_to_vec()
}

/// A Watch stream.
struct WatchCall {
    request: h2::SendStream<Bytes>,
    incoming: tokio::sync::mpsc::UnboundedReceiver<Result<pb::WatchResponse, Answer>>,
    reader: tokio::task::AbortHandle,
    answers: Vec<pb::WatchResponse>,
    /// Its end, if it has ended.
    end: Option<Answer>,
}

impl WatchCall {
    async fn open(raw: &mut Raw) -> Self {
        let stream = raw.open(Method::Watch.path(), &grpc_headers()).await.unwrap();
        let (send, incoming) = tokio::sync::mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            let response = stream.response.await.unwrap();
            let mut answer = Answer {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                ..Answer::default()
            };
            let mut body = response.into_body();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                answer.body.extend_from_slice(&data);
                let messages: Vec<_> = answer
                    .messages()
                    .into_iter()
                    .map(|message| pb::WatchResponse::decode(message).unwrap())
                    .collect();
                let read: usize = answer.messages().iter().map(|message| message.len() + 5).sum();
                answer.body.drain(..read);
                messages.into_iter().for_each(|message| drop(send.send(Ok(message))));
            }
            answer.trailers = body.trailers().await.unwrap().unwrap_or_default();
            let _ = send.send(Err(answer));
        });
        Self {
            request: stream.request,
            incoming,
            reader: reader.abort_handle(),
            answers: Vec::new(),
            end: None,
        }
    }

    fn say(&mut self, message: &[u8]) {
        // The stream may have ended; the response shows how.
        let _ = self.request.send_data(framed(message).into(), false);
    }

    /// Reads until a response `fits`, or to the end.
    async fn until(
        &mut self,
        fits: impl Fn(&pb::WatchResponse) -> bool,
    ) -> Option<&pb::WatchResponse> {
        while self.end.is_none() {
            match tokio::time::timeout(SOON, self.incoming.recv())
                .await
                .expect("a response")
                .expect("the end")
            {
                Err(end) => self.end = Some(end),
                Ok(answer) => {
                    let found = fits(&answer);
                    self.answers.push(answer);
                    if found {
                        return self.answers.last();
                    }
                }
            }
        }
        None
    }

    /// Waits until everything up to `revision` has been reported. etcd responds to a progress
    /// request only while its watches are up to date.
    async fn settled(&mut self, revision: i64) {
        let progress =
            pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
        let progress = pb::WatchRequest { request_union: Some(progress) }.encode_to_vec();
        let deadline = tokio::time::Instant::now() + SOON;
        while self.end.is_none() {
            assert!(tokio::time::Instant::now() < deadline, "no progress");
            self.say(&progress);
            let settled = |answer: &pb::WatchResponse| {
                answer.watch_id == -1
                    && !answer.created
                    && answer.header.is_some_and(|header| header.revision >= revision)
            };
            if tokio::time::timeout(Duration::from_millis(500), self.until(settled)).await.is_ok() {
                return;
            }
        }
    }
}

impl Drop for WatchCall {
    fn drop(&mut self) {
        self.request.send_reset(h2::Reason::CANCEL);
        self.reader.abort();
    }
}

fn status(name: &str, answer: &Answer) -> (u32, String) {
    let code = answer.grpc_status().unwrap_or_else(|| panic!("{name}: no status: {answer:?}"));
    (code, percent_decoded(answer.grpc_message()))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| {
                tail.get(..2)
                    .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok())
            })
            .flatten();
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap()
}

/// The lease that a response names.
fn leases_in(method: Method, answer: &Answer) -> Option<String> {
    let message = *answer.messages().first()?;
    match method {
        Method::LeaseKeepAlive => {
            let summary = pb::LeaseKeepAliveResponse::decode(message).unwrap();
            Some(format!(
                "{} lease {}",
                if summary.ttl > 0 { "renews" } else { "does not renew" },
                summary.id
            ))
        }
        Method::LeaseTimeToLive => Some(format!(
            "reports lease {}",
            pb::LeaseTimeToLiveResponse::decode(message).unwrap().id
        )),
        _ => None,
    }
}

fn changes(before: &State, after: &State) -> Vec<String> {
    let mut changes = Vec::new();
    let mut list = |verb: &str, what: Vec<String>| {
        if !what.is_empty() {
            changes.push(format!("{verb} {}", what.join(" ")));
        }
    };
    let named = |key: &String| format!("`{key}`");
    list(
        "writes",
        after
            .keys
            .iter()
            .filter(|(key, value)| before.keys.get(*key) != Some(value))
            .map(|(key, _)| named(key))
            .collect(),
    );
    list(
        "deletes",
        before.keys.keys().filter(|key| !after.keys.contains_key(*key)).map(named).collect(),
    );
    for id in after.leases.difference(&before.leases) {
        // An id that etcd chose has the highest bits set.
        list(
            "creates",
            vec![if *id < 1000 { format!("lease {id}") } else { "a lease".to_owned() }],
        );
    }
    for id in before.leases.difference(&after.leases) {
        list("revokes", vec![format!("lease {id}")]);
    }
    changes
}
