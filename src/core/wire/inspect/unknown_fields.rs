//! Whether an unknown field is refused or ignored in each request message: tested for all messages
//! and compared with the table in `docs/unknown-fields.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::inspect;
use crate::method::Method;
use crate::wire::Fault;
use crate::wire::spell::{len, num, tag, wire};

/// Every field and RPC of etcd 3.7 (`proto/README.md`).
pub(super) const FIELDS: &str = include_str!("../../../../proto/fields.txt");
const PAGE: &str = include_str!("../../../../docs/unknown-fields.md");
/// The highest field number; no etcd will use it soon.
const HIGHEST: u32 = (1 << 29) - 1;

/// The fields whose type is a message: number and type.
pub(super) fn nested(message: &str) -> Vec<(u32, &'static str)> {
    let fields = FIELDS.lines().filter_map(|line| line.strip_prefix(message)?.strip_prefix(' '));
    let parsed = fields
        .map(|field| field.split(' ').collect::<Vec<_>>())
        .map(|field| (field[0].parse().unwrap(), field[2]));
    parsed.filter(|(_, kind)| is_message(kind)).collect()
}

/// True for messages. Enums have dots in their names, too. A message has fields or its name ends in
/// `Request`.
fn is_message(kind: &str) -> bool {
    kind.ends_with("Request")
        || FIELDS
            .lines()
            .any(|line| line.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' ')))
}

/// The request type of a method, from the line of the RPC.
pub(super) fn request_of(method: Method) -> Option<&'static str> {
    let prefix = format!("rpc {} ", &method.path()[1..]);
    FIELDS
        .lines()
        .find_map(|line| line.strip_prefix(prefix.as_str()))
        .and_then(|rest| rest.split(' ').next())
}

/// Adds an unknown field of every wire type to `kind`, which is at `path` in the method's request,
/// and to every message inside it. Records whether the scan accepts it.
fn try_all(
    method: Method,
    kind: &'static str,
    path: &[(u32, &'static str)],
    tried: &mut BTreeMap<&'static str, BTreeSet<bool>>,
) {
    for unknown in [
        num(HIGHEST, 1),
        len(HIGHEST, "x"),
        wire![tag(HIGHEST, 1), [0; 8]],
        wire![tag(HIGHEST, 5), [0; 4]],
    ] {
        // A MemberUpdate without a URL is refused for another reason.
        let unknown = if kind.ends_with(".MemberUpdateRequest") {
            wire![len(2, "http://a:1"), unknown]
        } else {
            unknown
        };
        let message = path.iter().rev().fold(unknown, |within, (number, _)| len(*number, within));
        let read = inspect(method, &message);
        if let Err(malformed) = &read {
            assert_eq!(malformed.fault, Fault::UnknownField, "{method:?} {kind}: {malformed}");
            assert_eq!(
                malformed.field,
                kind.rsplit('.').next().unwrap(),
                "{method:?}: the message is named"
            );
        }
        tried.entry(kind).or_default().insert(read.is_ok());
    }
    for (number, within) in nested(kind) {
        if path.iter().all(|(_, outer)| *outer != within) {
            try_all(method, within, &[path, &[(number, within)]].concat(), tried);
        }
    }
}

#[test]
fn the_docs_list_the_rule_for_unknown_fields_of_each_message() {
    let mut tried = BTreeMap::new();
    for &method in Method::ALL {
        match request_of(method) {
            Some(request) => try_all(method, request, &[], &mut tried),
            None => assert!(method.is_health(), "{method:?} is not etcd's"),
        }
    }
    assert!(tried.len() > 50, "{} messages", tried.len());
    let rows: Vec<String> = tried
        .iter()
        .map(|(message, passes)| {
            assert_eq!(passes.len(), 1, "{message}: the result depends on the wire type");
            format!(
                "| `{message}` | {} |",
                if passes.contains(&true) { "passes" } else { "refused" }
            )
        })
        .collect();
    let written: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(
        written,
        rows,
        "the table in docs/unknown-fields.md should be:\n{}",
        rows.join("\n")
    );
}
