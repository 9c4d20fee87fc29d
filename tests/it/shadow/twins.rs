//! Two identical etcds, one behind a shadowing proxy, and a client's view of each.

use std::fmt::Write as _;

use bytes::Bytes;
use etcd_warden_core::authorize::Reason;
use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::Config;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::etcd::{Etcd, Options};
use etcd_warden_testbed::pki::Leaf;
use h2::client::ResponseFuture;
use http::{HeaderMap, HeaderValue, Request};
use prost::Message as _;
use tokio::sync::watch;

use crate::world::raw::{Answer, Raw, Stream};
use crate::world::{SOON, World, soon, start_etcd};

/// One request: its headers, and what is done with its stream after that.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub verb: http::Method,
    pub path: String,
    pub headers: HeaderMap,
    pub steps: Vec<Step>,
    /// Enforcement's decisions, one entry for each audit line; empty for a request that ends before
    /// it can be judged.
    pub expected: Vec<Expected>,
}

/// A client's action on a stream. Without [`Step::End`] it never half-closes.
#[derive(Clone, Debug)]
pub enum Step {
    Data(Vec<u8>),
    /// END_STREAM, in an empty DATA frame.
    End,
    /// END_STREAM, with the headers.
    EndWithHead,
    /// Trailers, which end the stream.
    Trailers(&'static str, &'static str),
    /// Waits until this number of messages has arrived in total.
    Await(usize),
    Reset,
}

/// An audit line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Allow,
    WouldDeny(Reason),
}

/// The two sides.
pub struct Twins {
    pub world: World,
    pub direct: Etcd,
}

/// The same identity for both etcds: member and cluster ids are hashes of the peer URLs, and lists
/// show the client URLs.
const ALIKE: [&str; 3] = [
    "--initial-advertise-peer-urls=http://127.0.0.1:1",
    "--initial-cluster=m0=http://127.0.0.1:1",
    "--advertise-client-urls=https://127.0.0.1:2",
];

impl Twins {
    /// Two identical etcds, and a proxy in front of one of them.
    pub async fn start(policy: &str, configure: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        let flags = ALIKE.map(str::to_owned).to_vec();
        let direct = start_etcd(Options { flags, ..Options::default() }).await;
        let builder =
            ALIKE.iter().fold(World::with(policy), |builder, flag| builder.etcd_flag(flag));
        let world = builder.config(configure).start().await;
        for etcd in [&direct, world.etcd()] {
            // Before that, a Downgrade that cancels crashes etcd 3.7.3: it has no version to
            // compare with.
            soon("the version of the cluster", || async {
                etcd.log(0).contains("set initial cluster version").then_some(())
            })
            .await;
        }
        Self { world, direct }
    }

    /// Sends every request to both sides, one after the other. Returns the differences as text.
    pub async fn differences(&self, leaf: &Leaf, cases: &[Case]) -> Vec<String> {
        let mut through = Side::Proxy(&self.world, leaf).connect().await;
        let mut direct = Side::Etcd(&self.direct).connect().await;
        let mut differences = Vec::new();
        for case in cases {
            // A message that ends a connection must end it on both sides.
            if through.connection.is_finished() {
                through = Side::Proxy(&self.world, leaf).connect().await;
            }
            if direct.connection.is_finished() {
                direct = Side::Etcd(&self.direct).connect().await;
            }
            let expected = seen(case, &run(&mut direct, case).await);
            let found = seen(case, &run(&mut through, case).await);
            if expected != found {
                differences.push(format!(
                    "{}\n--- direct\n{expected}+++ through the proxy\n{found}",
                    case.name
                ));
            }
        }
        differences
    }
}

enum Side<'s> {
    Proxy(&'s World, &'s Leaf),
    Etcd(&'s Etcd),
}

impl Side<'_> {
    async fn connect(&self) -> Raw {
        match self {
            Side::Proxy(world, leaf) => Raw::over(world.tls(leaf).await).await,
            Side::Etcd(etcd) => Raw::direct(etcd.addresses()[0]).await,
        }
    }
}

async fn run(raw: &mut Raw, case: &Case) -> Answer {
    let mut request = Request::builder()
        .method(&case.verb)
        .uri(format!("https://127.0.0.1{}", case.path))
        .body(())
        .unwrap();
    *request.headers_mut() = case.headers.clone();
    let ends = matches!(case.steps.first(), Some(Step::EndWithHead));
    let Stream { mut request, response } = match raw.begin(request, ends).await {
        Ok(stream) => stream,
        Err(error) => return Answer { error: Some(error), ..Answer::default() },
    };
    let (count, mut counted) = watch::channel(0);
    let reading = tokio::spawn(read(response, count));
    for step in &case.steps {
        // The response may arrive before the request has ended; then the rest cannot be sent.
        match step {
            Step::Data(bytes) => drop(request.send_data(Bytes::copy_from_slice(bytes), false)),
            Step::End => drop(request.send_data(Bytes::new(), true)),
            Step::Trailers(name, value) => {
                let mut trailers = HeaderMap::new();
                trailers.insert(*name, HeaderValue::from_static(value));
                drop(request.send_trailers(trailers));
            }
            Step::Await(messages) => {
                let waited =
                    tokio::time::timeout(SOON, counted.wait_for(|seen| seen >= messages)).await;
                assert!(
                    waited.is_ok_and(|seen| seen.is_ok()),
                    "{}: fewer than {messages} messages",
                    case.name
                );
            }
            Step::Reset => request.send_reset(h2::Reason::CANCEL),
            Step::EndWithHead => {}
        }
    }
    let answer = tokio::time::timeout(SOON, reading).await;
    answer.unwrap_or_else(|_| panic!("{}: the response does not end", case.name)).unwrap()
}

async fn read(response: ResponseFuture, count: watch::Sender<usize>) -> Answer {
    let mut answer = Answer::default();
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return Answer { error: Some(error), ..answer },
    };
    (answer.status, answer.headers) = (response.status().as_u16(), response.headers().clone());
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                body.flow_control().release_capacity(data.len()).unwrap();
                answer.body.extend_from_slice(&data);
                count.send_replace(answer.messages().len());
            }
            Err(error) => return Answer { error: Some(error), ..answer },
        }
    }
    match body.trailers().await {
        Ok(trailers) => answer.trailers = trailers.unwrap_or_default(),
        Err(error) => answer.error = Some(error),
    }
    answer
}

/// Everything that a client can see of a response, except what always differs between two etcds.
fn seen(case: &Case, answer: &Answer) -> String {
    let mut text = format!("status {}\n", answer.status);
    for (kind, fields) in [("header", &answer.headers), ("trailer", &answer.trailers)] {
        let mut lines: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{kind} {name}: {}", shown(name.as_str(), value)))
            .collect();
        lines.sort();
        for line in lines {
            let _ = writeln!(text, "{line}");
        }
    }
    let method = Method::from_path(&case.path);
    let messages = answer.messages();
    let framed: usize = messages.iter().map(|message| message.len() + 5).sum();
    match method {
        // Its messages are cut from the database wherever the reader was, so their sizes vary.
        Some(Method::Snapshot) if !messages.is_empty() => text.push_str("a snapshot\n"),
        _ => {
            for message in &messages {
                let _ = writeln!(text, "message {}", comparable(method, message));
            }
        }
    }
    let rest = answer.body[framed..].escape_ascii().to_string();
    match (answer.status, &case.path[..]) {
        (200, "/metrics") => text.push_str("rest (metrics)\n"),
        // As in `Status`: its last entry is the storage version.
        (200, "/version") => {
            text += &format!("rest {}\n", rest.split("storage").next().unwrap_or_default());
        }
        _ => text += &format!("rest {rest}\n"),
    }
    if let Some(error) = &answer.error {
        let _ = writeln!(
            text,
            "error {:?}, reset {}, go away {}",
            error.reason(),
            error.is_reset(),
            error.is_go_away()
        );
    }
    text
}

/// `date` is the only header whose value depends on when it is sent.
fn shown(name: &str, value: &HeaderValue) -> String {
    if name == "date" { "(a date)".to_owned() } else { value.as_bytes().escape_ascii().to_string() }
}

/// A message without values that depend on time, chance or the number of health checks.
fn comparable(method: Option<Method>, message: &[u8]) -> String {
    match method {
        Some(Method::Status) => {
            let status = pb::StatusResponse::decode(message).unwrap();
            // etcd raises the storage version some seconds after its start.
            let storage_version = String::new();
            let quiet = pb::StatusResponse {
                db_size: 0,
                db_size_in_use: 0,
                raft_index: 0,
                raft_applied_index: 0,
                storage_version,
                ..status
            };
            format!("{quiet:?}")
        }
        Some(Method::Hash) => format!(
            "{:?}",
            pb::HashResponse { hash: 0, ..pb::HashResponse::decode(message).unwrap() }
        ),
        Some(Method::LeaseTimeToLive) => {
            // The keys are in the order of a Go map.
            let mut answer = pb::LeaseTimeToLiveResponse::decode(message).unwrap();
            answer.keys.sort();
            format!("{:?}", pb::LeaseTimeToLiveResponse { ttl: answer.ttl.signum(), ..answer })
        }
        Some(Method::LeaseGrant) => {
            let answer = pb::LeaseGrantResponse::decode(message).unwrap();
            // Leases that etcd chose have the highest bits set (its member id); those of the tests
            // are small.
            format!(
                "{:?}",
                pb::LeaseGrantResponse {
                    id: if answer.id > 1 << 32 { 0 } else { answer.id },
                    ..answer
                }
            )
        }
        _ => message.escape_ascii().to_string(),
    }
}
