use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use etcd_warden_core::access::Capability;
use etcd_warden_core::authorize::Decision;
use etcd_warden_core::authorize::{Denial, Reason};
use etcd_warden_core::identity::{Identity, NameRefusal};
use etcd_warden_core::keyspace::{Escaped, OwnedRange};
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::{BindingStatus, Principal, Rights};
use etcd_warden_core::wire::{Fault, Malformed};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::audit::OwnedAccesses;

/// The example of `docs/audit.md`: all fields that can occur together.
pub(in crate::audit) fn example() -> Record {
    let key = |key: &str| OwnedRange::from(KeyRange::key(key.as_bytes()));
    Record {
        time: UNIX_EPOCH + Duration::from_micros(1_793_000_000_123_456),
        decision: Decision::Deny,
        identity: Arc::new(Identity {
            ca: "calico".into(),
            common_name: Ok("calico-node:node-1".into()),
            uri_sans: vec!["spiffe://cluster.local/ns/calico-system/sa/calico-node".to_owned()],
            dns_sans: vec!["node-1.example.org".to_owned()],
            organizations: vec![],
            distinction: None,
            serial: "4b1d".to_owned(),
            issuer: "CN=calico-ca".to_owned(),
            not_after: 1_800_000_000,
        }),
        principal: Arc::new(Principal {
            name: "calico/cn:calico-node:node-1".into(),
            binding_status: BindingStatus::Bound,
            mode: Mode::Enforce,
            roles: ["calico-node-self".into()].into(),
            rights: Arc::new(Rights::default()),
            generation: 7,
        }),
        peer: "10.0.0.17:41822".parse().unwrap(),
        method: Ok(Method::Txn),
        accesses: OwnedAccesses {
            ranges: vec![
                (Verbs::READ, key("/calico/resources/v3/projectcalico.org/nodes/node-2")),
                (
                    Verbs::WRITE,
                    OwnedRange::from(KeyRange {
                        start: b"/calico/ipam/\xff",
                        end: etcd_warden_core::keyspace::End::Open,
                    }),
                ),
            ],
            capability: None,
            leases: vec![(0x694d_8f5a_1c2e_3b40, LeaseUse::Attach)],
        },
        grant: None,
        denial: Some(Denial {
            reason: Reason::KeyNotGranted,
            missing: Missing::Keys {
                verb: Verb::Create,
                range: key("/calico/resources/v3/projectcalico.org/nodes/node-2"),
            },
        }),
        policy_hash: "9f2c".into(),
        member: Some("10.0.0.5:2379".into()),
        status: Some(7),
        request_id: 42,
    }
}

fn rendered(record: &Record, cut: LineLimits) -> (String, Value) {
    let mut out = Vec::new();
    render(record, cut, &mut out);
    let text = String::from_utf8(out).expect("UTF-8");
    let value = serde_json::from_str(&text).expect(&text);
    (text, value)
}

#[test]
fn the_documented_example_is_current() {
    let (text, _) = rendered(&example(), LineLimits::WIDE);
    let document = include_str!("../../../../docs/audit.md");
    assert!(document.contains(&text), "docs/audit.md should show:\n{text}");
}

/// Collects the paths of all fields of an object, as `identity.cn` and `accesses[].key`.
fn fields(value: &Value, path: &str, into: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                into.insert(path.clone());
                fields(value, &path, into);
            }
        }
        Value::Array(list) => {
            list.iter().for_each(|value| fields(value, &format!("{path}[]"), into));
        }
        _ => {}
    }
}

#[test]
fn every_field_is_documented_and_no_other() {
    let mut written = std::collections::BTreeSet::new();
    let missing = |missing| Some(Denial { reason: Reason::MalformedMessage, missing });
    let malformed = Malformed { field: "PutRequest.key", offset: 3, fault: Fault::Truncated };
    let mut nameless = (*example().identity).clone();
    nameless.common_name = Err(NameRefusal::Several);
    let omitted = LineLimits { text: 1024, entries: 0 };
    let records = [
        (example(), LineLimits::WIDE),
        (example(), omitted),
        (
            Record { grant: Some("role: key [read] (file:1)".to_owned()), ..example() },
            LineLimits::WIDE,
        ),
        (
            Record {
                method: Err(b"/x".as_slice().into()),
                identity: Arc::new(nameless),
                ..example()
            },
            LineLimits::WIDE,
        ),
        (
            Record { denial: missing(Missing::Capability(Capability::Compact)), ..example() },
            LineLimits::WIDE,
        ),
        (Record { denial: missing(Missing::Lease(5)), ..example() }, LineLimits::WIDE),
        (Record { denial: missing(Missing::Form(malformed)), ..example() }, LineLimits::WIDE),
        (
            Record {
                accesses: OwnedAccesses {
                    capability: Some(Capability::Compact),
                    ..OwnedAccesses::default()
                },
                ..example()
            },
            LineLimits::WIDE,
        ),
    ];
    for (record, cut) in &records {
        fields(&rendered(record, *cut).1, "", &mut written);
    }
    // The writer adds it.
    written.insert("lost".to_owned());
    let document = include_str!("../../../../docs/audit.md");
    let (table, _) = document.split_once("## Reasons").unwrap();
    let listed = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned));
    let listed: std::collections::BTreeSet<_> = listed.collect();
    assert_eq!(listed, written);
}

#[test]
fn every_reason_is_documented() {
    let document = include_str!("../../../../docs/audit.md");
    for reason in Reason::ALL {
        assert!(
            document.contains(&format!("\n| `{}` | ", reason.code())),
            "docs/audit.md lacks the reason `{}`",
            reason.code()
        );
    }
}

#[test]
fn lease_ids_are_in_the_format_of_etcdctl() {
    let spelled = |id| serde_json::to_string(&LeaseId(id)).unwrap();
    assert_eq!(spelled(0x694d_8f5a_1c2e_3b40), "\"694d8f5a1c2e3b40\"");
    assert_eq!(
        (spelled(16), spelled(-1)),
        ("\"0000000000000010\"".to_owned(), "\"-000000000000001\"".to_owned())
    );
}

#[test]
fn a_time_out_of_range_is_clamped() {
    let time = UNIX_EPOCH - Duration::from_secs(5);
    assert_eq!(
        rendered(&Record { time, ..example() }, LineLimits::WIDE).1["time"],
        "1970-01-01T00:00:00.000000Z"
    );
    let time = UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    assert_eq!(
        rendered(&Record { time, ..example() }, LineLimits::WIDE).1["time"],
        "9999-12-31T23:59:59.000000Z"
    );
}

#[test]
fn a_giant_record_is_cut_and_shows_how_much() {
    let mut record = example();
    let range = OwnedRange::from(KeyRange {
        start: &[0xff; 5000],
        end: etcd_warden_core::keyspace::End::Before(&[0xff; 4000]),
    });
    record.accesses.ranges = vec![(Verbs::ALL, range.clone()); 3000];
    record.denial = Some(Denial {
        reason: Reason::KeyNotGranted,
        missing: Missing::Keys { verb: Verb::Read, range },
    });
    let (text, value) = rendered(&record, LineLimits::WIDE);
    assert!(text.len() <= MAX_LINE, "{}", text.len());
    let shown = value["accesses"].as_array().map_or(0, Vec::len);
    assert_eq!(value["omitted"]["accesses"], 3000 - shown);
    assert!(value["missing"]["key"].as_str().unwrap().ends_with("\\xff\\...+3976"), "{value}");
}

#[test]
fn a_line_stays_bounded_for_any_certificate() {
    let mut record = example();
    let wild = "\u{202e}".repeat(40_000);
    let identity = Identity {
        ca: wild.as_str().into(),
        common_name: Ok(wild.as_str().into()),
        uri_sans: vec![wild.clone(); 100],
        dns_sans: vec![wild.clone(); 100],
        serial: wild.clone(),
        issuer: wild.clone(),
        ..(*record.identity).clone()
    };
    let roles = vec![Arc::<str>::from(wild.as_str()); 1000].into();
    record.principal =
        Arc::new(Principal { name: wild.as_str().into(), roles, ..(*record.principal).clone() });
    record.identity = Arc::new(identity);
    record.method = Err(vec![0; 100_000].into());
    record.grant = Some(wild.clone());
    record.member = Some(wild.as_str().into());
    for cut in [LineLimits::WIDE, LineLimits::NARROW] {
        let (text, _) = rendered(&record, cut);
        assert!(text.len() <= MAX_LINE, "{}", text.len());
        assert!(
            text.bytes().all(|byte| (0x20..=0x7e).contains(&byte) || byte == b'\n')
                && text.lines().count() == 1
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_can_be_recovered(
        key in proptest::collection::vec(any::<u8>(), 0..200),
        end in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut record = example();
        let range = OwnedRange::from(KeyRange::from_request(&key, &end));
        record.accesses.ranges = vec![(Verbs::READ, range)];
        let (_, value) = rendered(&record, LineLimits::WIDE);
        let read = |field: &str| unescape(value["accesses"][0][field].as_str().unwrap());
        prop_assert_eq!((read("key"), read("range_end")), (Some(key), Some(end)));
    }

    #[test]
    fn unescape_refuses_a_text_that_was_cut(text in "[\\\\x0-9a-fA-F.é+]{0,12}") {
        if let Some(bytes) = unescape(&text) {
            // `\x41` is also read, though `Escaped` writes `A`.
            let spelled = Escaped(&bytes).to_string();
            prop_assert_eq!(unescape(&format!("{spelled}\\...+3")), None);
            prop_assert_eq!(unescape(&spelled), Some(bytes));
        }
    }
}
