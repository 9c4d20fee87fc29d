//! Generates `docs/calico-access.md` from the role sets: the keys that each component accesses, the
//! reasons, and the differences to Calico's own tables. Write it with `cargo test -p
//! etcd-warden-core -- --ignored access_page::write`.

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

Generated from the role sets by `cargo test -p etcd-warden-core -- --ignored access_page::write`; a test compares them. `$R` is
`/calico/resources/v3/projectcalico.org`.

The page compares two role sets. `calico/documented` is the page \"Calico key and path prefixes\" of Calico's documentation, unchanged.
`calico/v3.31` contains the requests of Calico 3.29 to 3.31: its real programs run through an enforcing gateway with these roles without a
refusal, and removing any grant causes one (`it::calico`). Grants marked *not tried* are the exception: they are derived from the source.
Files in parentheses are in projectcalico/calico.

In the column *documented*, a **missing** verb fails with Calico's own table. Below each table is a list of what Calico's table grants beyond
the need. A table of keys cannot grant capabilities (leases, compaction, status), because they have no key.
";

/// One key of an `allow` entry.
struct Row {
    keys: String,
    verbs: Vec<String>,
    why: String,
    untried: Option<String>,
}

/// A role as it is written in its file.
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

/// The comment on the line of a node.
fn comment(set: &RoleSet, node: &Node<'_>) -> Option<String> {
    let line = set.text.lines().nth(node.position.line - 1).unwrap();
    line.split_once(" # ").map(|(_, comment)| comment.trim().to_owned())
}

/// Formats the comment `# untried VERBS: REASON` on the line of a node as a sentence.
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

/// The verbs that the principal has on the keys `written`. An inner `*` is replaced by an example.
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
        .fold(Verbs::NONE, Verbs::union)
}

fn verbs_of(row: &Row) -> Verbs {
    row.verbs
        .iter()
        .map(|verb| match verb.as_str() {
            "rw" => Verbs::ALL,
            "write" => Verbs::WRITE,
            one => Verb::ALL.into_iter().find(|verb| verb.name() == one).map(Verbs::of).unwrap(),
        })
        .fold(Verbs::NONE, Verbs::union)
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

/// The reason of a row; `as above` if it is that of the row before. (An entry with several keys
/// gives several adjacent rows.)
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
                writeln!(page, "\n| keys | verbs | documented | why |\n|---|---|---|---|").unwrap();
            }
            None => writeln!(page, "\n| keys | verbs | why |\n|---|---|---|").unwrap(),
        }
    }
    for (at, row) in role.rows.iter().enumerate() {
        let needed = verbs_of(row);
        let why = why(row, at.checked_sub(1).map(|before| &role.rows[before]));
        let summary = principal
            .as_ref()
            .map(|principal| needed.without(given(principal, &row.keys)))
            .map(|missing| match missing.is_empty() {
                true => " yes |".to_owned(),
                false => format!(" **missing**: {missing} |"),
            });
        writeln!(
            page,
            "| {} | {needed} |{} {why} |",
            short(&row.keys),
            summary.unwrap_or_default()
        )
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

/// Lists the entries of Calico's table that grant more than the verified role.
fn excess(page: &mut String, documented: &Role, verified: &Principal) {
    let mut beyond = Vec::new();
    for row in &documented.rows {
        let more = verbs_of(row).without(given(verified, &row.keys));
        if !more.is_empty() {
            beyond.push(format!("{more} on {}", short(&row.keys)));
        }
    }
    let summary = match beyond.is_empty() {
        true => "Calico's table grants nothing more".to_owned(),
        false => format!("Calico's table grants more than needed: {}", beyond.join("; ")),
    };
    writeln!(page, "\n{summary}.").unwrap();
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
            Some(published) => excess(&mut page, published, &principal(VERIFIED, &role.name)),
            None => page.push_str("\nCalico's tables do not contain this component.\n"),
        }
    }
    page.push_str(
        "\n## The components of a node, restricted to its keys: `calico/v3.31-per-node`\n\n\
         `{node}` is captured from the certificate's name. Rows without it are the same for all \
         nodes.\n",
    );
    for role in roles(set(PER_NODE)) {
        section(&mut page, &role, false);
    }
    for (name, title) in
        [("kubernetes", "Kubernetes in the same etcd"), ("etcd-ops", "Operation of etcd")]
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
fn the_page_matches_the_role_sets() {
    assert_eq!(
        std::fs::read_to_string(path()).unwrap(),
        page(),
        "cargo test -p etcd-warden-core -- --ignored access_page::write"
    );
}

#[test]
fn the_page_lists_missing_and_excess_grants() {
    let page = page();
    let row = |keys: &str, said: &str| {
        page.lines().any(|line| line.starts_with(&format!("| `{keys}` |")) && line.contains(said))
    };
    assert!(row("$R/tiers/default", "**missing**: create"), "{page}");
    assert!(row("$R/nodes/*", "| create, update | yes |"), "{page}");
    assert!(
        page.contains(
            "than needed: read, create, update, delete on `/calico/felix/v1/*`; \
             create, update, delete on `/calico/ipam/v2/*`"
        ),
        "{page}"
    );
}

#[test]
#[ignore = "writes docs/calico-access.md"]
fn write() {
    std::fs::write(path(), page()).unwrap();
    assert!(path().is_file());
}
