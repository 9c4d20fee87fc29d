//! One reading of the bytes: every file of `tests/wire` is a message that two programs could read
//! differently. Each is sent to three releases of etcd with their own auth on, as a user with few
//! rights, and through the proxy with the same rights in front of the same release with auth off.

mod form;
mod page;
mod fixture;

use etcd_warden_core::method::Method;
use etcd_warden_core::wire;
use etcd_warden_testbed::etcd::Options;
use fixture::{Fixture, Outcome};
use form::{Expected, Form};
use serde_json::Value;

use crate::world::fake::Fake;
use crate::world::raw::{Raw, tls_over};
use crate::world::{World, authorities, programs_of, soon, start_etcd_of};

/// Rights that every user of etcd has as well: status, list of members, and leases.
const POLICY: &str = "
version: 1
mode: MODE
roles:
  limited:
    allow:
      - {keys: g/*, verbs: [rw]}
    capabilities: [lease, status, member-list]
bindings:
  - {cn: limited, roles: [limited]}
";

/// Without a check of rights these crash the process; the second one at each start again.
const DEADLY_ALARM: &str = "alarm-action-unknown";
/// Crashes 3.5 (`docs/upstream-findings.md`).
const DEADLY_ALARM_TYPE: &str = "alarm-type-unknown";
const DEADLY_TXN: &str = "txn-delete-from-key-and-keep-value";

const RELEASES: [&str; 3] = ["3.5", "3.6", "3.7"];

#[test]
fn each_form_is_refused_at_its_offset_or_has_one_reading() {
    let forms = form::all();
    let refused = forms.iter().filter(|form| form.expected != Expected::Judged).count();
    assert!(refused >= 40, "expected at least 40 hostile encodings, not {refused}");
    let mut wrong = Vec::new();
    for form in forms {
        let found = match wire::inspect(form.method, &form.bytes) {
            Ok(_) => Expected::Judged,
            Err(malformed) => Expected::Refused(malformed.to_string()),
        };
        if found != form.expected {
            wrong.push(format!(
                "{} ({}): expected {:?}, found {found:?}",
                form.name, form.what, form.expected
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The outcome of each form at a release with its own auth on.
async fn with_auth_on(minor: &'static str, forms: &[Form]) -> Vec<Outcome> {
    let etcd = start_etcd_of(move || programs_of(minor), Options::default()).await;
    let mut fixture = Fixture::of(&etcd).await;
    fixture.auth_on().await;
    let address = etcd.addresses()[0];
    let limited = authorities().upstream.client("limited").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = tls_over(
        stream,
        &authorities().upstream,
        address,
        Some(&limited),
        &[b"h2"],
        rustls::ALL_VERSIONS,
    )
    .await
    .unwrap();
    let mut raw = Raw::over(stream).await;
    let mut outcomes = Vec::new();
    for form in forms {
        outcomes.push(fixture.send(&mut raw, form).await);
    }
    outcomes
}

/// The outcome of each form through the proxy at a release with auth off, and that of a refused
/// form in shadow mode.
async fn through_the_proxy(minor: &'static str, forms: &[Form]) -> Vec<Outcome> {
    let mut world = World::with(&POLICY.replace("MODE", "enforce")).release(minor).start().await;
    let mut fixture = Fixture::of(world.etcd()).await;
    let mut raw = world.raw("limited").await;
    let mut outcomes = Vec::new();
    for form in forms {
        outcomes.push(fixture.send(&mut raw, form).await);
    }

    world.replace_policy(&POLICY.replace("MODE", "shadow"));
    let mut shadowed = world.raw("limited").await;
    let mut direct = Raw::direct(world.etcd().addresses()[0]).await;
    let lives =
        |form: &&Form| ![DEADLY_ALARM, DEADLY_ALARM_TYPE, DEADLY_TXN].contains(&&*form.name);
    let refused: Vec<&Form> =
        forms.iter().filter(|form| form.expected != Expected::Judged).filter(lives).collect();
    let mut wrong = Vec::new();
    for form in &refused {
        let (expected, found) =
            (fixture.send(&mut direct, form).await, fixture.send(&mut shadowed, form).await);
        if expected != found {
            wrong.push(format!(
                "{minor} {}: etcd {expected:?}, through the shadowing proxy {found:?}",
                form.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The audit log is complete when the proxy has ended.
    world.shut_down().await;
    recorded(&world.audit(), "would_deny", refused);
    recorded(&world.audit(), "deny", forms.iter().filter(|form| form.expected != Expected::Judged));
    outcomes
}

/// Asserts that the audit log has one line for each of them, in order.
fn recorded<'f>(audit: &[Value], decision: &str, forms: impl IntoIterator<Item = &'f Form>) {
    let lines = audit
        .iter()
        .filter(|line| line["decision"] == decision && line["reason"] == "malformed_message");
    let found: Vec<&str> = lines.map(|line| line["method"].as_str().unwrap()).collect();
    let expected: Vec<&str> = forms.into_iter().map(|form| form.method.path()).collect();
    assert_eq!(found, expected, "{decision}");
}

/// All measurements.
async fn measured(forms: &[Form]) -> Vec<page::Column> {
    let column = async |minor| {
        let (direct, through) =
            tokio::join!(with_auth_on(minor, forms), through_the_proxy(minor, forms));
        page::Column { version: programs_of(minor).version.to_string(), direct, through }
    };
    let [old, middle, new] = RELEASES;
    let (old, middle, new) = tokio::join!(column(old), column(middle), column(new));
    vec![old, middle, new]
}

#[tokio::test]
async fn no_form_gives_more_through_the_proxy_than_the_policy() {
    let forms = form::all();
    let columns = measured(&forms).await;
    let mut wrong = Vec::new();
    for (column, (index, form)) in
        columns.iter().flat_map(|column| forms.iter().enumerate().map(move |form| (column, form)))
    {
        let (through, direct) = (&column.through[index], &column.direct[index]);
        let right = match &form.expected {
            Expected::Refused(why) => {
                *through
                    == Outcome {
                        status: Some((3, format!("etcd-warden: {why}"))),
                        effects: Vec::new(),
                    }
            }
            // A form that passes does what etcd lets the same user do, or the policy refuses it.
            Expected::Judged => through == direct || page::denied(through),
        };
        if !right || !through.foreign_effects().is_empty() {
            wrong.push(format!(
                "{} {}: {through:?}, where etcd's own auth has {direct:?}",
                column.version, form.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let page = page::written(&forms, &columns);
    let found = std::fs::read_to_string(page::path()).unwrap_or_default();
    assert!(
        found == page,
        "tests/wire/README.md is out of date: {}\n{}",
        page::HOW,
        page::difference(&found, &page)
    );
}

#[tokio::test]
#[ignore = "writes tests/wire/README.md"]
async fn write() {
    let forms = form::all();
    let page = page::written(&forms, &measured(&forms).await);
    std::fs::write(page::path(), &page).unwrap();
    assert_eq!(std::fs::read_to_string(page::path()).unwrap(), page);
}

/// etcd's counters see only what etcd understands; the fake sees everything that arrives.
#[tokio::test]
async fn not_a_byte_of_a_refused_form_is_forwarded() {
    let fake = Fake::serving(|mut visit| async move { drop(visit.body().await) }).await;
    let world = fake.world(&POLICY.replace("MODE", "enforce")).await;
    let mut raw = world.raw("limited").await;
    for form in form::all() {
        let Expected::Refused(why) = &form.expected else { continue };
        let answer = raw.call(form.method.path(), &form.bytes).await;
        assert_eq!(
            (answer.grpc_status(), answer.grpc_message()),
            (Some(3), &*format!("etcd-warden: {why}")),
            "{}",
            form.name
        );
    }
    let arrivals = fake.all_arrivals();
    let conversations = [Method::Watch.path(), Method::LeaseKeepAlive.path()];
    let nothing = arrivals
        .iter()
        .all(|arrival| arrival.body.is_empty() && conversations.contains(&&*arrival.path));
    assert!(nothing, "{arrivals:?}");
}

/// Sends a deadly form through the proxy, with every right that it needs, and then directly to
/// etcd. Returns etcd's last log line.
async fn refused_and_deadly(world: &World, name: &str) -> String {
    let form = form::all().into_iter().find(|form| form.name == name).unwrap();
    let mut raw = world.raw("ops").await;
    let answer = raw.call(form.method.path(), &form.bytes).await;
    assert_eq!(answer.grpc_status(), Some(3), "{name}: {answer:?}");
    assert_eq!(
        raw.call(Method::Status.path(), b"").await.grpc_status(),
        Some(0),
        "{name}: etcd still runs"
    );
    let direct =
        Raw::direct(world.etcd().addresses()[0]).await.call(form.method.path(), &form.bytes).await;
    assert!(direct.error.is_some(), "{name}: {direct:?}");
    soon("etcd's last log line", || async {
        let log = world.etcd().log(0);
        log.lines().any(|line| line.starts_with("goroutine ")).then_some(log)
    })
    .await
}

async fn world_of(minor: &'static str) -> World {
    let role = "{capabilities: [alarm, status], allow: [{keys: \"*\", verbs: [rw]}]}";
    let policy = format!(
        "{{version: 1, mode: enforce, roles: {{ops: {role}}}, bindings: [{{cn: ops, roles: [ops]}}]}}"
    );
    World::with(&policy).release(minor).start().await
}

#[tokio::test]
async fn an_alarm_request_that_ends_etcd_does_not_reach_it() {
    for minor in RELEASES {
        let log = refused_and_deadly(&world_of(minor).await, DEADLY_ALARM).await;
        assert!(log.contains("nil pointer dereference"), "{minor}: {log}");
    }
}

#[tokio::test]
async fn a_txn_that_ends_etcd_for_good_does_not_reach_it() {
    for minor in RELEASES {
        let mut world = world_of(minor).await;
        world.direct().await.put("g/b", "1", None).await.unwrap();
        let log = refused_and_deadly(&world, DEADLY_TXN).await;
        let words =
            if minor == "3.7" { "index out of range" } else { "unexpected error during txn" };
        assert!(log.contains(words), "{minor}: {log}");
        let again = world.etcd_mut().restart(0).await;
        assert!(again.is_err(), "{minor}: its log crashes it at the next start");
    }
}
