//! Whatever is sent through the proxy with everything granted, etcd keeps running and can restart:
//! each integer field of each request at its bounds, then random messages from the tables of
//! `proto/fields.txt`, to three members of each release with their own auth off. `fuzz/README.md`
//! lists the runs.
//!
//! `ETCD_WARDEN_TEST_RAW_SECONDS` sets the seconds for each release (20),
//! `ETCD_WARDEN_TEST_RAW_SEED` repeats a run.

mod deadly;
mod draw;
mod spared;
mod tables;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client};
use etcd_warden_core::method::{CallKind, Method};

use crate::oracle::rng::Rng;
use crate::world::raw::{Raw, framed, grpc_headers};
use crate::world::{World, soon};
use draw::Drawer;
use spared::Spared;
use tables::{Tables, hex};

/// Members of an etcd, so that effects of one on the others are covered.
const MEMBERS: usize = 3;
/// Connections that send in parallel, each one message at a time.
const SENDERS: usize = 8;
/// A call that waits (a Lock, a Watch) is cancelled after this time.
const PATIENCE: Duration = Duration::from_millis(150);
/// At this interval the members are checked, and stopped and restarted in turn.
const ROUND: Duration = Duration::from_secs(8);
/// The number of recent messages that are printed when an etcd ends: more than are sent until that
/// is noticed.
const REMEMBERED: usize = 4000;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`"))
    })
}

/// An etcd and a proxy in front of it that allows everything to `all`.
async fn everything_is_granted(minor: &'static str, members: usize, mode: &str) -> World {
    let capabilities: Vec<&str> = etcd_warden_core::access::Capability::ALL
        .iter()
        .map(|capability| capability.name())
        .collect();
    let role = format!(
        "{{allow: [{{keys: \"*\", verbs: [rw]}}], capabilities: [{}]}}",
        capabilities.join(", ")
    );
    let policy = format!(
        "{{version: 1, mode: {mode}, roles: {{all: {role}}}, bindings: [{{cn: all, roles: [all]}}]}}"
    );
    let quiet = |config: &mut etcd_warden_gateway::config::Config| config.audit.file = None;
    // A cheap password hash, because each new user costs one.
    World::with(&policy)
        .release(minor)
        .members(members)
        .etcd_flag("--bcrypt-cost=4")
        .config(quiet)
        .start()
        .await
}

type Sent = (Method, Vec<u8>);

/// Results of the messages so far, and the most recent messages.
#[derive(Default)]
struct Record {
    last: VecDeque<Sent>,
    sent: u64,
    refused: u64,
    spared: u64,
    by_status: BTreeMap<String, u64>,
    rounds: u64,
}

impl Record {
    fn note(&mut self, sent: Sent) {
        self.sent += 1;
        self.last.push_back(sent);
        if self.last.len() > REMEMBERED {
            self.last.pop_front();
        }
    }
}

/// Sends one message and records the result.
async fn send(raw: &mut Raw, (method, message): Sent, record: &Mutex<Record>) {
    let answered = tokio::time::timeout(PATIENCE, async {
        if method.call_kind() == CallKind::Unary {
            let answer = raw.call(method.path(), &message).await;
            return (answer.grpc_status(), answer.grpc_message().starts_with("etcd-warden"));
        }
        let Ok(mut stream) = raw.open(method.path(), &grpc_headers()).await else {
            return (None, false);
        };
        let _ = stream.request.send_data(framed(&message).into(), false);
        let answer = crate::world::raw::Answer::read(stream.response).await;
        (answer.grpc_status(), answer.grpc_message().starts_with("etcd-warden"))
    });
    let (status, ours) = answered.await.unwrap_or((None, false));
    let mut record = record.lock().unwrap();
    record.refused += u64::from(ours);
    *record
        .by_status
        .entry(status.map_or("none".to_owned(), |status| status.to_string()))
        .or_default() += 1;
}

/// Clears all alarms, which stop writes.
async fn disarm(direct: &mut Client) -> Option<()> {
    let raised = direct.alarm(AlarmAction::Get, AlarmType::None, None).await.ok()?;
    for alarm in raised.alarms() {
        let mut of_member = AlarmOptions::new();
        of_member.with_member(alarm.member_id());
        direct.alarm(AlarmAction::Deactivate, alarm.alarm(), Some(of_member)).await.ok()?;
    }
    Some(())
}

/// An etcd under test and its state.
struct Trial {
    world: World,
    minor: &'static str,
    record: Arc<Mutex<Record>>,
    spared: Arc<Spared>,
}

impl Trial {
    async fn start(minor: &'static str, mode: &str) -> Self {
        let world = everything_is_granted(minor, MEMBERS, mode).await;
        let members = world
            .direct()
            .await
            .member_list()
            .await
            .unwrap()
            .members()
            .iter()
            .map(|member| member.id())
            .collect();
        Self { world, minor, record: Arc::default(), spared: Arc::new(Spared::new(members)) }
    }

    /// Sends the messages of `next` until there are no more, from several connections.
    async fn send_all(&self, next: impl FnMut() -> Option<Sent> + Send + 'static) {
        let next = Arc::new(Mutex::new(next));
        let stop = Arc::new(AtomicBool::new(false));
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..SENDERS {
            let mut raw = self.world.raw("all").await;
            let (next, stop, record, spared) =
                (next.clone(), stop.clone(), self.record.clone(), self.spared.clone());
            senders.spawn(async move {
                // Each round uses a new connection.
                while !stop.load(Ordering::Relaxed) && !raw.connection.is_finished() {
                    let Some(message) = (next.lock().unwrap())() else { break };
                    if spared.why(message.0, &message.1).is_some() {
                        record.lock().unwrap().spared += 1;
                        continue;
                    }
                    record.lock().unwrap().note(message.clone());
                    send(&mut raw, message, &record).await;
                }
            });
        }
        let mut direct = self.world.direct().await;
        let disarming = tokio::spawn(async move {
            loop {
                let _ = disarm(&mut direct).await;
                tokio::time::sleep(PATIENCE).await;
            }
        });
        while let Some(ended) = senders.join_next().await {
            if let Err(panic) = ended {
                stop.store(true, Ordering::Relaxed);
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        disarming.abort();
    }

    /// Asserts that all members run, can be restarted one after the other, and serve. Legitimate
    /// effects of the messages are undone.
    async fn lives_and_starts_again(&mut self) {
        for member in 0..MEMBERS {
            if !self.world.etcd_mut().is_running(member) {
                self.fail("has ended", member);
            }
        }
        // A member with an alarm is not healthy.
        soon("the alarms are off", || async { disarm(&mut self.world.direct().await).await }).await;
        for member in 0..MEMBERS {
            if let Err(error) = self.world.etcd_mut().restart(member).await {
                self.fail(&format!("does not start again: {error}"), member);
            }
        }
        soon("a written key is read", || async {
            let mut client = self.world.as_("all").await;
            client.put("alive", "1", None).await.ok()?;
            (client.get("alive", None).await.ok()?.count() == 1).then_some(())
        })
        .await;
        let mut record = self.record.lock().unwrap();
        record.rounds += 1;
        record.last.clear();
    }

    /// Fails with the last log lines of a dead etcd and the messages before.
    fn fail(&self, how: &str, member: usize) -> ! {
        let log = self.world.etcd().log(member);
        let words: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("panic") || line.contains("\"fatal\""))
            .collect();
        let record = self.record.lock().unwrap();
        let sent: Vec<String> = record
            .last
            .iter()
            .map(|(method, message)| format!("{} {}", method.path(), hex(message)))
            .collect();
        let file =
            std::env::temp_dir().join(format!("ended-etcd-{}-{}", self.minor, std::process::id()));
        std::fs::write(&file, sent.join("\n")).unwrap();
        panic!(
            "etcd {} {how} (member {member}); the messages before are in {}; its last log lines:\n{}",
            self.minor,
            file.display(),
            words.join("\n")
        );
    }

    fn report(&self, what: &str, since: Instant) {
        let record = self.record.lock().unwrap();
        println!(
            "etcd {}: {what}: {} messages in {} s, {} refused by the proxy, {} not sent, all members restarted {} times, by status {:?}",
            self.minor,
            record.sent,
            since.elapsed().as_secs(),
            record.refused,
            record.spared,
            record.rounds,
            record.by_status
        );
    }
}

async fn ends_no_etcd(minor: &'static str) {
    let seconds = number("ETCD_WARDEN_TEST_RAW_SECONDS", 20);
    let seed = number("ETCD_WARDEN_TEST_RAW_SEED", u64::from(std::process::id()));
    println!("etcd {minor}: seed {seed}");
    let tables = Arc::new(Tables::read());
    let mut trial = Trial::start(minor, "enforce").await;
    let begun = Instant::now();

    let mut bounds = draw::each_integer_at_its_bounds(&tables).into_iter();
    assert!(bounds.len() > 500, "{} messages", bounds.len());
    trial.send_all(move || bounds.next()).await;
    trial.lives_and_starts_again().await;
    trial.report("integers at their bounds", begun);

    let drawer = Arc::new(Mutex::new(Drawer::new(tables, Rng::new(seed))));
    let end = begun + Duration::from_secs(seconds);
    while Instant::now() < end {
        let (drawer, until) = (drawer.clone(), end.min(Instant::now() + ROUND));
        trial
            .send_all(move || (Instant::now() < until).then(|| drawer.lock().unwrap().message()))
            .await;
        trial.lives_and_starts_again().await;
    }
    trial.report("raw messages", begun);
    let record = trial.record.lock().unwrap();
    // The run shows nothing if all messages are refused, or none.
    assert!(
        record.refused * 10 < record.sent * 9 && record.refused > 0,
        "{} of {} were refused",
        record.refused,
        record.sent
    );
}

#[tokio::test]
async fn raw_messages_end_no_etcd_3_5() {
    ends_no_etcd("3.5").await;
}

#[tokio::test]
async fn raw_messages_end_no_etcd_3_6() {
    ends_no_etcd("3.6").await;
}

#[tokio::test]
async fn raw_messages_end_no_etcd_3_7() {
    ends_no_etcd("3.7").await;
}

/// Without the proxy these messages do crash an etcd: in shadow mode, which refuses none, a member
/// ends within a few thousand.
#[tokio::test]
async fn in_shadow_mode_the_same_messages_end_an_etcd() {
    let mut trial = Trial::start("3.5", "shadow").await;
    let drawer = Mutex::new(Drawer::new(Arc::new(Tables::read()), Rng::new(1)));
    for _ in 0..100 {
        let mut batch: Vec<Sent> = (0..200).map(|_| drawer.lock().unwrap().message()).collect();
        trial.send_all(move || batch.pop()).await;
        if (0..MEMBERS).any(|member| !trial.world.etcd_mut().is_running(member)) {
            return;
        }
    }
    trial.report("messages in shadow mode", Instant::now());
    panic!("no etcd crashed: the random messages show nothing");
}
