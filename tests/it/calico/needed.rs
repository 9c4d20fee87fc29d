//! Checks that every grant of a role set is needed: each is removed alone, and the recorded calls
//! of the programs are judged again. A grant whose removal refuses nothing must be marked in the
//! role set by a comment on its line: `# untried: REASON`, or `# untried VERB VERB: REASON` for
//! some of its verbs. The same holds for a role that no program had.

use std::collections::{BTreeMap, BTreeSet};

use etcd_warden_core::access::{Capability, Verb};
use etcd_warden_core::identity::Identity;
use etcd_warden_core::keyspace::KeyRange;
use etcd_warden_core::policy::builtin::{self, RoleSet};
use etcd_warden_core::policy::{Policy, Principal};
use serde_json::{Value, json};

use super::Binding;

const VERBS: [Verb; 4] = [Verb::Read, Verb::Create, Verb::Update, Verb::Delete];

/// A part of a role that can be removed: a verb on a key pattern, or a capability (without a verb).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    role: String,
    what: String,
    verb: Option<&'static str>,
}

/// One recorded need of a program.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Keys(&'static str, Vec<u8>, Vec<u8>),
    Capability(String),
}

/// The differences between the marks in the role sets and the audit log, each as a sentence.
///
/// `sets` are the names of the role sets to check.
pub fn wrong_marks(audit: &[Value], bindings: &[Binding], sets: &[&str]) -> Vec<String> {
    let mut roles = serde_json::Map::new();
    for set in sets {
        roles.extend(parsed(builtin::find(set).unwrap()));
    }
    let bindings: Vec<Binding> = bindings
        .iter()
        .filter(|(_, held)| held.iter().all(|role| roles.contains_key(*role)))
        .copied()
        .collect();
    let whole = policy(&roles, &bindings);
    let mut seen = needs(audit);
    seen.retain(|name, _| !whole.principal(&named(name)).roles.is_empty());
    assert!(seen.len() > 3, "the audit log has lines of {} programs", seen.len());
    assert_eq!(
        refused(&whole, &seen),
        Vec::<String>::new(),
        "with everything that the role sets grant"
    );
    let bound: BTreeSet<&str> = bindings.iter().flat_map(|(_, roles)| *roles).copied().collect();
    let mut wrong = Vec::new();
    for set in sets.iter().map(|name| builtin::find(name).unwrap()) {
        let marked = marked(set);
        for role in set.role_names() {
            if !bound.contains(role.as_str()) {
                if !marked.contains_key(&Part {
                    role: role.clone(),
                    what: String::new(),
                    verb: None,
                }) {
                    wrong.push(format!(
                        "{}: no program had the role {role}: mark its line `# untried: REASON`",
                        set.name
                    ));
                }
                continue;
            }
            for part in parts(&role, &roles[&role]) {
                let mut less = roles.clone();
                take(&mut less[&role], &part);
                let needed = !refused(&policy(&less, &bindings), &seen).is_empty();
                match (needed, marked.contains_key(&part)) {
                    (false, false) => wrong.push(format!(
                        "{}: nothing is refused without {part:?}: mark it or remove it",
                        set.name
                    )),
                    (true, true) => wrong
                        .push(format!("{}: {part:?} is marked as untried but is needed", set.name)),
                    _ => {}
                }
            }
        }
        let known: BTreeSet<Part> =
            set.role_names().iter().flat_map(|role| parts(role, &roles[role])).collect();
        wrong.extend(
            marked
                .keys()
                .filter(|part| !part.what.is_empty() && !known.contains(part))
                .map(|part| format!("{}: {part:?} is marked but does not exist", set.name)),
        );
    }
    wrong
}

/// The needs of each Common Name, without duplicates.
fn needs(audit: &[Value]) -> BTreeMap<String, BTreeSet<Need>> {
    let mut seen = BTreeMap::<_, BTreeSet<Need>>::new();
    for line in audit.iter().filter(|line| line["decision"] == "allow") {
        assert!(line["omitted"].is_null(), "an incomplete line: {line}");
        let needs = seen.entry(line["identity"]["cn"].as_str().unwrap().to_owned()).or_default();
        needs.extend(
            line["capability"].as_str().map(|capability| Need::Capability(capability.to_owned())),
        );
        for access in line["accesses"].as_array().into_iter().flatten() {
            let bytes = |field: &str| unescaped(access[field].as_str().unwrap());
            for verb in VERBS
                .iter()
                .map(|verb| verb.name())
                .filter(|verb| access["verbs"].as_array().unwrap().iter().any(|said| said == verb))
            {
                needs.insert(Need::Keys(verb, bytes("key"), bytes("range_end")));
            }
        }
    }
    seen
}

/// The bytes of a text in the audit log's spelling.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        (bytes, rest) = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => ([&bytes[..], b"\\"].concat(), after),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                (
                    [
                        &bytes[..],
                        &[u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()],
                    ]
                    .concat(),
                    after,
                )
            }
            _ => ([&bytes[..], &[*first]].concat(), after),
        };
    }
    bytes
}

/// The needs in `seen` that the policy does not grant.
fn refused(policy: &Policy, seen: &BTreeMap<String, BTreeSet<Need>>) -> Vec<String> {
    let mut refused = Vec::new();
    for (name, needs) in seen {
        let principal = policy.principal(&named(name));
        refused.extend(
            needs
                .iter()
                .filter(|need| !gives(&principal, need))
                .map(|need| format!("{name}: {need:?}")),
        );
    }
    refused
}

fn gives(principal: &Principal, need: &Need) -> bool {
    match need {
        Need::Keys(verb, key, end) => {
            let verb = VERBS.into_iter().find(|known| known.name() == *verb).unwrap();
            principal.rights.covers(verb, &KeyRange::from_request(key, end)).is_ok()
        }
        Need::Capability(name) => {
            let capability = *Capability::ALL.iter().find(|known| known.name() == name).unwrap();
            principal.rights.capability(capability).is_some()
        }
    }
}

fn named(common_name: &str) -> Identity {
    Identity {
        ca: "default".into(),
        common_name: Ok(common_name.into()),
        uri_sans: Vec::new(),
        dns_sans: Vec::new(),
        organizations: Vec::new(),
        distinction: None,
        serial: "01".to_owned(),
        issuer: "CN=test".to_owned(),
        not_after: i64::MAX,
    }
}

fn parsed(set: &RoleSet) -> serde_json::Map<String, Value> {
    let value: Value =
        serde_saphyr::from_str(set.text).unwrap_or_else(|error| panic!("{}: {error}", set.name));
    value["roles"].as_object().unwrap().clone()
}

fn policy(roles: &serde_json::Map<String, Value>, bindings: &[Binding]) -> Policy {
    let bindings: Vec<Value> =
        bindings.iter().map(|(cn, roles)| json!({ "cn": cn, "roles": roles })).collect();
    let text = json!({ "version": 1, "mode": "enforce", "roles": roles, "bindings": bindings })
        .to_string();
    Policy::parse("less", text.as_bytes(), 1, None).unwrap_or_else(|errors| panic!("{errors}"))
}

/// All parts of a role.
fn parts(role: &str, value: &Value) -> Vec<Part> {
    let part = |what: &str, verb| Part { role: role.to_owned(), what: what.to_owned(), verb };
    let mut all = Vec::new();
    for rule in value["allow"].as_array().into_iter().flatten() {
        for key in keys(rule) {
            all.extend(verbs(rule).into_iter().map(|verb| part(&key, Some(verb))));
        }
    }
    all.extend(
        value["capabilities"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|capability| part(capability.as_str().unwrap(), None)),
    );
    all
}

/// `keys` of a rule: one, or a list.
fn keys(rule: &Value) -> Vec<String> {
    match &rule["keys"] {
        Value::String(key) => vec![key.clone()],
        list => {
            list.as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect()
        }
    }
}

fn verbs(rule: &Value) -> Vec<&'static str> {
    let names: Vec<&str> =
        rule["verbs"].as_array().unwrap().iter().map(|verb| verb.as_str().unwrap()).collect();
    let has = |verb: &Verb| {
        names.iter().any(|name| {
            *name == verb.name() || *name == "rw" || (*name == "write" && *verb != Verb::Read)
        })
    };
    VERBS.iter().filter(|verb| has(verb)).map(|verb| verb.name()).collect()
}

/// Removes one part from a role.
fn take(role: &mut Value, part: &Part) {
    let Some(lost) = part.verb else {
        role["capabilities"].as_array_mut().unwrap().retain(|capability| *capability != *part.what);
        if role["capabilities"] == json!([]) {
            role.as_object_mut().unwrap().remove("capabilities");
        }
        return;
    };
    let mut rules = Vec::new();
    for rule in role["allow"].as_array().unwrap() {
        for key in keys(rule) {
            let left: Vec<&str> =
                verbs(rule).into_iter().filter(|verb| key != part.what || *verb != lost).collect();
            if !left.is_empty() {
                rules.push(json!({ "keys": key, "verbs": left }));
            }
        }
    }
    if rules.is_empty() {
        // A role that grants nothing is an error.
        rules.push(json!({ "keys": "an unused key", "verbs": ["read"] }));
    }
    role["allow"] = Value::Array(rules);
}

/// The marked parts and their reasons.
fn marked(set: &RoleSet) -> BTreeMap<Part, String> {
    let all = parsed(set);
    let mut role = String::new();
    let mut found = BTreeMap::new();
    for line in set.text.lines() {
        let (before, comment) = line
            .split_once(" # untried")
            .map_or((line, None), |(before, comment)| (before, Some(comment)));
        let heads_role = before
            .strip_prefix("  ")
            .filter(|name| !name.starts_with([' ', '#']))
            .and_then(|name| name.trim().strip_suffix(':'));
        if let Some(name) = heads_role {
            name.clone_into(&mut role);
        }
        let Some((verbs, reason)) = comment.map(|comment| {
            comment.split_once(':').unwrap_or_else(|| panic!("{}: no reason: {line}", set.name))
        }) else {
            continue;
        };
        assert!(reason.trim().len() > 10, "{}: no reason: {line}", set.name);
        let what = before
            .trim()
            .trim_start_matches("- ")
            .trim_start_matches("keys:")
            .trim()
            .trim_matches('"');
        let what = if heads_role.is_some() { "" } else { what };
        let named: Vec<&str> = verbs.split_whitespace().collect();
        let fits = |part: &Part| {
            part.what == what
                && part.verb.is_none_or(|verb| named.is_empty() || named.contains(&verb))
        };
        if what.is_empty() {
            found.insert(
                Part { role: role.clone(), what: String::new(), verb: None },
                reason.to_owned(),
            );
        } else {
            let parts: Vec<Part> = parts(&role, &all[&role]).into_iter().filter(fits).collect();
            assert!(!parts.is_empty(), "{}: a mark without a grant: {line}", set.name);
            found.extend(parts.into_iter().map(|part| (part, reason.to_owned())));
        }
    }
    found
}

#[test]
fn finds_an_unneeded_grant_and_an_unneeded_mark() {
    const SET: RoleSet = RoleSet {
        name: "example",
        summary: "",
        caution: "",
        text: "version: 1
roles:
  reader:
    allow:
      - keys: [/a/*]
        verbs: [read]
      - keys: /b/* # untried create: not created in this test
        verbs: [read, create]
    capabilities:
      - lease # untried: no lease is seen here
  other: # untried: there is no such program
    capabilities: [status]
",
    };
    let part = |what: &str, verb| Part { role: "reader".to_owned(), what: what.to_owned(), verb };
    assert_eq!(
        parts("reader", &parsed(&SET)["reader"]),
        [
            part("/a/*", Some("read")),
            part("/b/*", Some("read")),
            part("/b/*", Some("create")),
            part("lease", None)
        ]
    );
    let other = Part { role: "other".to_owned(), what: String::new(), verb: None };
    assert_eq!(
        marked(&SET).into_keys().collect::<Vec<_>>(),
        [other, part("/b/*", Some("create")), part("lease", None)]
    );
    let seen = BTreeMap::from([(
        "me".to_owned(),
        BTreeSet::from([Need::Keys("read", b"/a/1".to_vec(), Vec::new())]),
    )]);
    let bindings: [Binding; 1] = [("me", &["reader"])];
    let mut roles = parsed(&SET);
    assert!(refused(&policy(&roles, &bindings), &seen).is_empty());
    take(&mut roles["reader"], &part("/b/*", Some("read")));
    assert!(refused(&policy(&roles, &bindings), &seen).is_empty());
    take(&mut roles["reader"], &part("/a/*", Some("read")));
    assert_eq!(refused(&policy(&roles, &bindings), &seen).len(), 1);
    assert_eq!(unescaped(r"/a\\b\x00\xffc"), b"/a\\b\x00\xffc");
}
