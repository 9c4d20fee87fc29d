//! Where rights end, to the byte: prefixes, unions, holes, every form of a range, and the guards in
//! a Txn's compares. Each row is checked against the code behind `policy explain` (`authorize` over
//! `wire::inspect`) and against the running proxy. Both must agree.

mod forms;
mod guards;

use etcd_warden_core::authorize::{Missing, authorize};
use etcd_warden_core::identity::Identity;
use etcd_warden_core::keyspace::OwnedRange;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::{Policy, Principal};
use etcd_warden_core::wire;
use etcd_warden_proto::etcdserverpb as pb;

use crate::live::Live;
use crate::world::World;
use crate::world::raw::Raw;
use forms::Form;

/// Each role is bound to a client of the same name.
const POLICY: &str = r#"
version: 1
mode: enforce
roles:
  prefix: {allow: [{keys: '$P/a/*', verbs: [rw]}]}
  adjacent: {allow: [{keys: [{from: '$P/a', to: '$P/b'}, {from: '$P/b', to: '$P/c'}], verbs: [rw]}]}
  hole: {allow: [{keys: [{from: '$P/a', to: '$P/b'}, {from: '$P/b\x00', to: '$P/c'}], verbs: [rw]}]}
  exact: {allow: [{keys: '$P/k', verbs: [rw]}]}
  high: {allow: [{keys: '$P/\xff*', verbs: [rw]}]}
  highest: {allow: [{keys: '\xff\xff*', verbs: [rw]}]}
  onwards: {allow: [{keys: {from: '$P/m'}, verbs: [rw]}]}
  segment: {allow: [{keys: '$P/s/*/x', verbs: [rw]}]}
  carved: {allow: [{keys: '$P/a/*', verbs: [rw]}], deny: [{keys: '$P/a/d', verbs: [rw]}]}
  everything: {allow: [{keys: '*', verbs: [rw]}]}
bindings:
  - {cn: prefix, roles: [prefix]}
  - {cn: adjacent, roles: [adjacent]}
  - {cn: hole, roles: [hole]}
  - {cn: exact, roles: [exact]}
  - {cn: high, roles: [high]}
  - {cn: highest, roles: [highest]}
  - {cn: onwards, roles: [onwards]}
  - {cn: segment, roles: [segment]}
  - {cn: carved, roles: [carved]}
  - {cn: everything, roles: [everything]}
"#;

const CALLERS: [&str; 10] = [
    "prefix",
    "adjacent",
    "hole",
    "exact",
    "high",
    "highest",
    "onwards",
    "segment",
    "carved",
    "everything",
];

/// A client, `key` and `range_end` (a leading `/` stands for the test's prefix), and the first part
/// that is not granted.
type Edge = (&'static str, &'static [u8], &'static [u8], Option<(&'static [u8], &'static [u8])>);

const EDGES: &[Edge] = &[
    // A prefix: its first key, its last ones, the key just after it, the key just before.
    ("prefix", b"/a/", b"", None),
    ("prefix", b"/a/\xff\xff\xff", b"", None),
    ("prefix", b"/a/", b"/a0", None),
    ("prefix", b"/a0", b"", Some((b"/a0", b""))),
    ("prefix", b"/a/", b"/a0\0", Some((b"/a0", b"/a0\0"))),
    ("prefix", b"/a", b"", Some((b"/a", b""))),
    ("prefix", b"/a", b"/a0", Some((b"/a", b"/a/"))),
    ("prefix", b"/a.\xff", b"", Some((b"/a.\xff", b""))),
    // From one key on, and the whole key space.
    ("prefix", b"/a/x", b"\0", Some((b"/a0", b"\0"))),
    ("prefix", b"\0", b"\0", Some((b"\0", b"/a/"))),
    // An empty range needs the right on its start and nothing else.
    ("prefix", b"/a/z", b"/a/b", None),
    ("prefix", b"/a/z", b"/a/z", None),
    ("prefix", b"/b", b"/a/", Some((b"/b", b""))),
    ("prefix", b"/b", b"/b", Some((b"/b", b""))),
    // Two adjacent grants act as one; the key in neither is reported as missing.
    ("adjacent", b"/a", b"/c", None),
    ("adjacent", b"/b", b"", None),
    ("adjacent", b"/a\xff", b"/b\0", None),
    ("adjacent", b"/a", b"/c\0", Some((b"/c", b"/c\0"))),
    ("hole", b"/a", b"/b", None),
    ("hole", b"/b\0", b"/c", None),
    ("hole", b"/b", b"", Some((b"/b", b""))),
    ("hole", b"/a", b"/b\0", Some((b"/b", b"/b\0"))),
    ("hole", b"/a", b"/c", Some((b"/b", b"/b\0"))),
    // One key, and the next possible one after it.
    ("exact", b"/k", b"", None),
    ("exact", b"/k", b"/k\0", None),
    ("exact", b"/k\0", b"", Some((b"/k\0", b""))),
    ("exact", b"/k", b"/k\0\0", Some((b"/k\0", b"/k\0\0"))),
    ("exact", b"/k", b"/l", Some((b"/k\0", b"/l"))),
    ("exact", b"/k", b"\0", Some((b"/k\0", b"\0"))),
    ("exact", b"/", b"", Some((b"/", b""))),
    // Prefixes that end in 0xff.
    ("high", b"/\xff", b"", None),
    ("high", b"/\xff\xff\xff", b"", None),
    ("high", b"/\xff", b"0", None),
    ("high", b"0", b"", Some((b"0", b""))),
    ("high", b"/\xfe\xff", b"", Some((b"/\xfe\xff", b""))),
    ("high", b"/\xff", b"\0", Some((b"0", b"\0"))),
    ("highest", b"\xff\xff", b"\0", None),
    ("highest", b"\xff\xff\xff", b"", None),
    ("highest", b"\xff\xfe\xff", b"\0", Some((b"\xff\xfe\xff", b"\xff\xff"))),
    // Every key from one on.
    ("onwards", b"/m", b"\0", None),
    ("onwards", b"/m", b"/z", None),
    ("onwards", b"\xff\xff\xff\xff", b"\0", None),
    ("onwards", b"/l\xff", b"\0", Some((b"/l\xff", b"/m"))),
    // `/*/` matches exactly one segment.
    ("segment", b"/s/1/x", b"", None),
    ("segment", b"/s/1/2/x", b"", Some((b"/s/1/2/x", b""))),
    ("segment", b"/s/1/x\0", b"", Some((b"/s/1/x\0", b""))),
    ("segment", b"/s/", b"/s0", Some((b"/s/", b"/s0"))),
    // A denied pattern is excluded from every range.
    ("carved", b"/a/c", b"/a/d", None),
    ("carved", b"/a/d", b"", Some((b"/a/d", b""))),
    ("carved", b"/a/d\0", b"/a0", None),
    ("carved", b"/a/", b"/a0", Some((b"/a/d", b"/a/d\0"))),
    // The whole key space and parts of it.
    ("everything", b"\0", b"\0", None),
    ("everything", b"/m", b"\0", None),
    ("everything", b"z", b"a", None),
];

#[tokio::test]
async fn a_right_ends_where_its_keys_end_in_every_form_of_request() {
    let judged = Judged::start(POLICY).await;
    for (caller, key, range_end, missing) in EDGES {
        let (key, range_end) = (judged.bytes(key), judged.bytes(range_end));
        let mut raw = judged.world.raw(caller).await;
        for form in Form::all() {
            let (method, message) = form.request(&key, &range_end);
            let verdict = judged.by_policy(caller, method, &message);
            let expected = missing.map(|(key, range_end)| {
                let range = OwnedRange::from(etcd_warden_core::keyspace::KeyRange::from_request(
                    &judged.bytes(key),
                    &judged.bytes(range_end),
                ));
                format!("key_not_granted: {} {range}", form.verb())
            });
            assert_eq!(verdict, expected, "{caller} {form:?} {}", key.escape_ascii());
            let answer = judged.by_proxy(&mut raw, method, &message).await;
            assert_eq!(answer, told(method, expected), "{caller} {form:?} {}", key.escape_ascii());
        }
    }
}

#[tokio::test]
async fn the_proxy_and_the_judge_agree_on_every_pair_of_boundaries() {
    let judged = Judged::start(POLICY).await;
    let forms = Form::all();
    let marks: &[&[u8]] = &[
        b"",
        b"\0",
        b"/a",
        b"/a/",
        b"/a/d",
        b"/a/d\0",
        b"/a0",
        b"/b",
        b"/b\0",
        b"/c",
        b"/k",
        b"/k\0",
        b"/m",
        b"/s/1/x",
        b"/\xff",
        b"0",
        b"\xff\xff",
        b"\xff\xff\0",
    ];
    let (mut asked, mut allowed) = (0_usize, 0_usize);
    for caller in CALLERS {
        let mut raw = judged.world.raw(caller).await;
        for (key, range_end) in marks.iter().flat_map(|key| marks.iter().map(move |end| (key, end)))
        {
            // Every pair takes one form, and each form occurs many times.
            let (method, message) =
                forms[asked % forms.len()].request(&judged.bytes(key), &judged.bytes(range_end));
            let verdict = judged.by_policy(caller, method, &message);
            let answer = judged.by_proxy(&mut raw, method, &message).await;
            asked += 1;
            allowed += usize::from(verdict.is_none());
            assert_eq!(
                answer,
                told(method, verdict),
                "{caller} {method:?} {} {}",
                key.escape_ascii(),
                range_end.escape_ascii()
            );
        }
    }
    assert!(
        allowed > asked / 10 && allowed < asked / 2,
        "{allowed} of {asked} allowed: the boundaries miss the edges"
    );
}

/// The error that a client gets for a decision.
fn told(method: Method, verdict: Option<String>) -> Option<String> {
    if method == Method::Watch { verdict.map(|_| String::new()) } else { verdict }
}

/// A proxy and its policy.
pub struct Judged {
    pub world: World,
    policy: Policy,
}

impl Judged {
    pub async fn start(policy: &str) -> Self {
        let world = World::with(policy)
            .own_etcd()
            .config(|config| config.reason_trailer = true)
            .start()
            .await;
        let policy =
            Policy::parse("policy.yaml", policy.replace("$P", &world.prefix).as_bytes(), 1, None)
                .unwrap();
        Self { world, policy }
    }

    /// The key as it is sent. `/` and `0` as first byte (the key after the last one below `/`) are
    /// replaced by this test's prefix.
    fn bytes(&self, key: &[u8]) -> Vec<u8> {
        match key {
            [b'/' | b'0', ..] => [self.world.prefix.as_bytes(), key].concat(),
            _ => key.to_vec(),
        }
    }

    fn principal(&self, common_name: &str) -> Principal {
        self.policy.principal(&Identity {
            ca: "default".into(),
            common_name: Ok(common_name.into()),
            uri_sans: vec![],
            dns_sans: vec![],
            organizations: vec![],
            distinction: None,
            serial: "01".to_owned(),
            issuer: "CN=clients CA".to_owned(),
            not_after: i64::MAX,
        })
    }

    /// The reason why the policy refuses the request.
    pub fn by_policy(&self, common_name: &str, method: Method, message: &[u8]) -> Option<String> {
        let accesses = wire::inspect(method, message).unwrap();
        let denial = authorize(&self.principal(common_name), &accesses, &[]).err()?;
        assert!(!matches!(denial.missing, Missing::Lease(_)), "keys are judged before leases");
        Some(denial.to_string())
    }

    /// The reason why the proxy refuses the request; etcd's own errors do not count. A refused
    /// watch has no trailers, and so no reason.
    pub async fn by_proxy(&self, raw: &mut Raw, method: Method, message: &[u8]) -> Option<String> {
        if method == Method::Watch {
            let mut live = Live::open(raw, method).await;
            live.send_bytes(message);
            let first: pb::WatchResponse = live.next().await.unwrap();
            assert!(first.created, "{first:?}");
            return first.cancel_reason.contains("permission denied").then(String::new);
        }
        let answer = raw.call(method.path(), message).await;
        let status = answer.grpc_status().unwrap_or_else(|| panic!("{answer:?}"));
        let reason = answer
            .headers
            .get("etcd-warden-reason")
            .map(|reason| reason.to_str().unwrap().to_owned());
        assert_eq!(status == 7, reason.is_some(), "{answer:?}");
        reason
    }
}
