//! `docs/calico-access.md` is written from the role sets: which keys each component touches, why,
//! and how far Calico's own tables are from that. `cargo test -p etcd-warden-core -- --ignored
//! access_page::write` writes it anew.

use std::fmt::Write as _;

use super::{RoleSet, find};
use crate::access::{Verb, Verbs};
use crate::identity::Identity;
use crate::keyspace::{KeyRange, prefix_end};
use crate::policy::file::LIMITS;
use crate::policy::{Policy, Principal};
use crate::yaml::{self, Entry, Node, Type};

const DOCUMENTED: &str = "calico/documented";
const VERIFIED: &str = "calico/v3.31";
const PER_NODE: &str = "calico/v3.31-per-node";
const KINDS: &str = "/calico/resources/v3/projectcalico.org/";

const HEAD: &str = "\
# What Calico does in etcd

Written from the role sets by `cargo test -p etcd-warden-core -- --ignored access_page::write`; a test holds it to them. `$R` is `/calico/resources/v3/projectcalico.org`.

Two role sets are compared. `calico/documented` is the page \"Calico key and path prefixes\" of Calico's documentation, word for word.
`calico/v3.31` is what Calico 3.29 to 3.31 was seen to send: its real programs run through an enforcing proxy with these roles and nothing of
what they do is refused, and nothing can be taken out of the roles without a refusal, but for what is marked *not tried*, which is from
the source (`it::calico`). Files in brackets are those of projectcalico/calico.

In the column *documented*, what is **missing** fails with Calico's own table. What the table gives beyond the need stands below each one.
Capabilities (leases, compaction, status) have no key, so that no table of keys can give them.
";

/// One entry of `allow`, one key of it.
struct Row {
    keys: String,
    verbs: Vec<String>,
    why: String,
    untried: Option<String>,
}

/// One role, as written.
struct Role {
    name: String,
    description: String,
    untried: Option<String>,
    rows: Vec<Row>,
    capabilities: Vec<(String, String)>,
}

fn text(node: &Node<'_>) -> String {
    node.text()
        .unwrap_or_else(|| panic!("{} where text should be", node.schema_type().name()))
        .to_owned()
}

fn list<'n>(node: Option<&'n Node<'n>>) -> Vec<&'n Node<'n>> {
    match node {
        Some(node) if node.schema_type() == Type::List => node.items().iter().collect(),
        node => node.into_iter().collect(),
    }
}

/// What stands behind `#` in the line of a node.
fn comment(set: &RoleSet, node: &Node<'_>) -> Option<String> {
    let line = set.text.lines().nth(node.position.line - 1).unwrap();
    line.split_once(" # ").map(|(_, comment)| comment.trim().to_owned())
}

/// `untried VERBS: REASON` as a reader's sentence.
fn untried(set: &RoleSet, node: &Node<'_>) -> Option<String> {
    let comment = comment(set, node)?;
    let (verbs, reason) = comment.strip_prefix("untried")?.split_once(':')?;
    let verbs = if verbs.is_empty() { String::new() } else { format!(" ({})", verbs.trim()) };
    Some(format!("Not tried{verbs}: {}", reason.trim()))
}

fn roles(set: &RoleSet) -> Vec<Role> {
    let documents = yaml::parse(set.text, LIMITS).unwrap();
    let read = |(name, role): &Entry<'_>| Role {
        name: text(name),
        description: role.get("description").map(text).unwrap_or_default(),
        untried: untried(set, name),
        rows: list(role.get("allow")).into_iter().flat_map(|entry| rows(set, entry)).collect(),
        capabilities: list(role.get("capabilities"))
            .into_iter()
            .map(|node| (text(node), comment(set, node).unwrap_or_default()))
            .collect(),
    };
    documents[0].get("roles").unwrap().entries().iter().map(read).collect()
}

fn rows(set: &RoleSet, entry: &Node<'_>) -> Vec<Row> {
    let verbs: Vec<String> = list(entry.get("verbs")).into_iter().map(text).collect();
    let why = entry.get("why").map(text).unwrap_or_default();
    let row = |node: &&Node<'_>| Row {
        keys: text(node),
        verbs: verbs.clone(),
        why: why.clone(),
        untried: untried(set, node),
    };
    list(entry.get("keys")).iter().map(row).collect()
}

/// What `written` (with `*` inside as one example) may be done to.
fn given(principal: &Principal, written: &str) -> Verbs {
    let prefix = written.strip_suffix('*');
    let start = prefix.unwrap_or(written).replace('*', "x").into_bytes();
    let end = prefix.and_then(|_| prefix_end(&start));
    let range = match &end {
        Some(end) => KeyRange::from_request(&start, end),
        None => KeyRange::key(&start),
    };
    Verb::ALL
        .into_iter()
        .filter(|verb| principal.rights.covers(*verb, &range).is_ok())
        .map(Verbs::of)
        .fold(Verbs::NONE, Verbs::and)
}

fn verbs_of(row: &Row) -> Verbs {
    row.verbs
        .iter()
        .map(|verb| match verb.as_str() {
            "rw" => Verbs::ALL,
            "write" => Verbs::WRITE,
            one => Verb::ALL.into_iter().find(|verb| verb.name() == one).map(Verbs::of).unwrap(),
        })
        .fold(Verbs::NONE, Verbs::and)
}

fn principal(set: &str, role: &str) -> Principal {
    let text = format!(
        "version: 1\nmode: enforce\ninclude: [{set}]\nbindings:\n  - {{ cn: x, roles: [{role}] }}\n"
    );
    Policy::parse("policy.yaml", text.as_bytes(), 1, None)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .principal(&Identity::named("x"))
}

fn short(keys: &str) -> String {
    format!("`{}`", keys.replace(KINDS, "$R/"))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Why, once for each entry: the keys of one entry stand together.
fn why(row: &Row, before: Option<&Row>) -> String {
    let why = if before.is_some_and(|before| before.why == row.why) {
        "as above".to_owned()
    } else {
        cell(&row.why)
    };
    match &row.untried {
        None => why,
        Some(untried) => format!("{why}. *{}*", cell(untried)),
    }
}

fn section(page: &mut String, role: &Role, documented: bool) {
    let principal = documented.then(|| principal(DOCUMENTED, &role.name));
    writeln!(page, "\n### `{}`\n\n{}.", role.name, role.description).unwrap();
    if let Some(untried) = &role.untried {
        writeln!(page, "*{untried}.*").unwrap();
    }
    if !role.rows.is_empty() {
        match principal {
            Some(_) => {
                writeln!(page, "\n| keys | verbs | documented | why |\n|---|---|---|---|").unwrap()
            }
            None => writeln!(page, "\n| keys | verbs | why |\n|---|---|---|").unwrap(),
        }
    }
    for (at, row) in role.rows.iter().enumerate() {
        let needed = verbs_of(row);
        let why = why(row, at.checked_sub(1).map(|before| &role.rows[before]));
        let told = principal
            .as_ref()
            .map(|principal| needed.without(given(principal, &row.keys)))
            .map(|missing| match missing.is_empty() {
                true => " yes |".to_owned(),
                false => format!(" **missing**: {missing} |"),
            });
        writeln!(page, "| {} | {needed} |{} {why} |", short(&row.keys), told.unwrap_or_default())
            .unwrap();
    }
    for (capability, why) in &role.capabilities {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        writeln!(
            page,
            "{}capability `{capability}`{why}",
            if page.ends_with("|\n") { "\n* " } else { "* " }
        )
        .unwrap();
    }
}

/// What Calico's table gives a role and the verified one does not, whole entries at a time.
fn too_much(page: &mut String, documented: &Role, verified: &Principal) {
    let mut beyond = Vec::new();
    for row in &documented.rows {
        let more = verbs_of(row).without(given(verified, &row.keys));
        if !more.is_empty() {
            beyond.push(format!("{more} on {}", short(&row.keys)));
        }
    }
    let told = match beyond.is_empty() {
        true => "Calico's table gives nothing beyond that".to_owned(),
        false => format!(
            "Calico's table gives all of this, where only what stands above is needed: {}",
            beyond.join("; ")
        ),
    };
    writeln!(page, "\n{told}.").unwrap();
}

fn page() -> String {
    let set = |name: &str| find(name).unwrap();
    let documented = roles(set(DOCUMENTED));
    let mut page = HEAD.to_owned();
    page.push_str("\n## Each component, on any node: `calico/v3.31`\n");
    for role in roles(set(VERIFIED)) {
        let published = documented.iter().find(|published| published.name == role.name);
        section(&mut page, &role, published.is_some());
        match published {
            Some(published) => too_much(&mut page, published, &principal(VERIFIED, &role.name)),
            None => page.push_str("\nCalico's tables have no such component.\n"),
        }
    }
    page.push_str("\n## What runs on a node, limited to that node: `calico/v3.31-per-node`\n\n`{node}` is taken from the certificate's name; what it is not in is the same for all nodes.\n");
    for role in roles(set(PER_NODE)) {
        section(&mut page, &role, false);
    }
    for (name, title) in
        [("kubernetes", "Kubernetes beside it"), ("etcd-ops", "Who looks after etcd")]
    {
        writeln!(page, "\n## {title}: `{name}`").unwrap();
        for role in roles(set(name)) {
            section(&mut page, &role, false);
        }
    }
    page
}

fn path() -> std::path::PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/calico-access.md").into()
}

#[test]
fn the_page_is_what_the_role_sets_say() {
    assert_eq!(
        std::fs::read_to_string(path()).unwrap(),
        page(),
        "cargo test -p etcd-warden-core -- --ignored access_page::write"
    );
}

/// The page speaks of what is missing and of what is too much: both are there.
#[test]
fn calicos_tables_lack_and_exceed_what_calico_does() {
    let page = page();
    let row = |keys: &str, said: &str| {
        page.lines().any(|line| line.starts_with(&format!("| `{keys}` |")) && line.contains(said))
    };
    assert!(row("$R/tiers/default", "**missing**: create"), "{page}");
    assert!(row("$R/nodes/*", "| create, update | yes |"), "{page}");
    assert!(
        page.contains("is needed: read, create, update, delete on `/calico/felix/v1/*`; create, update, delete on `/calico/ipam/v2/*`"),
        "{page}"
    );
}

#[test]
#[ignore = "writes docs/calico-access.md"]
fn write() {
    std::fs::write(path(), page()).unwrap();
    assert!(path().is_file());
}
