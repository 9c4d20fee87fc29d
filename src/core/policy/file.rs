//! What the operator wrote: names, keys and verbs as text, each with its place. Nothing is looked
//! up yet.

use super::diagnostics::{Findings, Place, nearest};
use super::yaml::{Node, Value};

/// Text with its place.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) place: Place,
}

/// A whole policy file, or a role set (without mode, include and bindings).
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) mode: Option<Text>,
    pub(super) include: Vec<Text>,
    pub(super) roles: Vec<Role>,
    pub(super) bindings: Vec<Binding>,
}

/// A role.
#[derive(Debug)]
pub(super) struct Role {
    pub(super) name: Text,
    pub(super) allow: Vec<Rule>,
    pub(super) deny: Vec<Rule>,
    pub(super) capabilities: Vec<Text>,
}

/// Keys and verbs.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) keys: Vec<Keys>,
    pub(super) verbs: Vec<Text>,
}

/// Which keys.
#[derive(Debug)]
pub(super) enum Keys {
    Template(Text),
    Interval { from: Text, to: Option<Text>, place: Place },
}

/// Who gets which roles.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) place: Place,
    /// The matchers that are there: the field's name and its pattern. Exactly one is meaningful.
    pub(super) matchers: Vec<(&'static str, Text)>,
    pub(super) ca: Option<Text>,
    pub(super) roles: Vec<Text>,
    pub(super) deny: Vec<Rule>,
    pub(super) mode: Option<Text>,
}

/// The fields of a policy file.
pub const FIELDS: &[&str] = &["version", "mode", "include", "roles", "bindings"];
/// The fields of a role set.
pub const ROLE_SET_FIELDS: &[&str] = &["version", "roles"];
/// The fields of a role.
pub const ROLE_FIELDS: &[&str] = &["description", "allow", "deny", "capabilities"];
/// The fields of an entry of `allow` and `deny`.
pub const RULE_FIELDS: &[&str] = &["keys", "verbs", "why"];
/// The fields of `keys` in its long form.
pub const INTERVAL_FIELDS: &[&str] = &["from", "to"];
/// The fields of a binding.
pub const BINDING_FIELDS: &[&str] = &["cn", "uri", "dns", "o", "ca", "roles", "deny", "mode"];
/// The fields of a binding that say whom it means.
pub const MATCHER_FIELDS: &[&str] = &["cn", "uri", "dns", "o"];

impl File {
    /// Reads a policy file.
    pub(super) fn policy(root: &Node, findings: &mut Findings<'_>) -> Self {
        if matches!(root.value, Value::Other("nothing")) {
            findings.mistake(
                Place::default(),
                "the policy is empty",
                "the least is `version`, `mode`, `roles` and `bindings`",
            );
            return Self::default();
        }
        let fields = Fields::of(root, "a policy", FIELDS, findings);
        let file = Self::read(&fields, findings);
        if matches!(root.value, Value::Map(_)) {
            fields.require(
                "mode",
                "write `mode: shadow` (judge and record) or `mode: enforce` (also refuse)",
                findings,
            );
            fields.require("bindings", "without bindings nobody may do anything", findings);
        }
        file
    }

    /// Reads a role set.
    pub(super) fn role_set(root: &Node, findings: &mut Findings<'_>) -> Self {
        Self::read(&Fields::of(root, "a role set", ROLE_SET_FIELDS, findings), findings)
    }

    fn read(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Self {
        match fields.find("version") {
            Some(node) if matches!(node.value, Value::Number(1)) => {}
            Some(node) => findings.mistake(
                node.place,
                "this version of the policy language is not known",
                "write `version: 1`",
            ),
            None => fields.require("version", "write `version: 1`", findings),
        }
        let mode = fields.find("mode").and_then(|node| text(node, "`mode`", findings));
        let include = fields
            .find("include")
            .map(|node| texts(node, "`include`", findings))
            .unwrap_or_default();
        let roles = fields.find("roles").map(|node| roles(node, findings)).unwrap_or_default();
        let bindings = fields
            .find("bindings")
            .map(|node| entries(node, "`bindings`", findings))
            .unwrap_or_default();
        let bindings = bindings.iter().map(|node| binding(node, findings)).collect();
        Self { mode, include, roles, bindings }
    }
}

fn roles(node: &Node, findings: &mut Findings<'_>) -> Vec<Role> {
    let Value::Map(map) = &node.value else {
        let message = format!("`roles` is {}, and should be a mapping", node.value.kind());
        findings.mistake(node.place, message, "write each role as `NAME:` with its fields below");
        return Vec::new();
    };
    let mut roles: Vec<Role> = Vec::new();
    for (name, value) in map {
        let Some(name) = text(name, "the name of a role", findings) else { continue };
        if let Some(first) = roles.iter().find(|role| role.name.text == name.text) {
            let message = format!("role `{}` is there twice", name.text);
            let help = format!("the first is in line {}", first.name.place.line);
            findings.mistake(name.place, message, help);
            continue;
        }
        roles.push(role(name, value, findings));
    }
    if map.is_empty() {
        findings.mistake(node.place, "`roles` is empty", "remove the field, or write a role");
    }
    roles
}

fn role(name: Text, node: &Node, findings: &mut Findings<'_>) -> Role {
    let fields = Fields::of(node, "a role", ROLE_FIELDS, findings);
    if let Some(description) = fields.find("description") {
        let _ = text(description, "`description`", findings);
    }
    let capabilities = fields
        .find("capabilities")
        .map(|node| texts(node, "`capabilities`", findings))
        .unwrap_or_default();
    let mut rules_of = |field, said| {
        fields.find(field).map(|node| rules(node, said, findings)).unwrap_or_default()
    };
    let (allow, deny) = (rules_of("allow", "`allow`"), rules_of("deny", "`deny`"));
    let readable = matches!(node.value, Value::Map(_));
    if readable && fields.find("allow").is_none() && fields.find("capabilities").is_none() {
        let message = format!("role `{}` gives nothing", name.text);
        findings.mistake(name.place, message, "write `allow`, `capabilities` or both");
    }
    Role { name, allow, deny, capabilities }
}

fn rules(node: &Node, said: &str, findings: &mut Findings<'_>) -> Vec<Rule> {
    entries(node, said, findings).iter().map(|entry| rule(entry, said, findings)).collect()
}

fn rule(node: &Node, said: &str, findings: &mut Findings<'_>) -> Rule {
    let fields = Fields::of(node, &format!("an entry of {said}"), RULE_FIELDS, findings);
    if matches!(node.value, Value::Map(_)) {
        fields.require("keys", "write `keys: /some/prefix/*` (`*` alone is every key)", findings);
        fields.require(
            "verbs",
            "write `verbs: [read]` (read, create, update, delete, write, rw)",
            findings,
        );
    }
    if let Some(why) = fields.find("why") {
        let _ = text(why, "`why`", findings);
    }
    let verbs =
        fields.find("verbs").map(|node| texts(node, "`verbs`", findings)).unwrap_or_default();
    let keys = fields.find("keys").map(|node| keys(node, findings)).unwrap_or_default();
    Rule { keys, verbs }
}

fn keys(node: &Node, findings: &mut Findings<'_>) -> Vec<Keys> {
    match &node.value {
        Value::List(list) if list.is_empty() => {
            entries(node, "`keys`", findings);
            Vec::new()
        }
        Value::List(list) => list.iter().filter_map(|node| key(node, findings)).collect(),
        _ => key(node, findings).into_iter().collect(),
    }
}

fn key(node: &Node, findings: &mut Findings<'_>) -> Option<Keys> {
    if !matches!(node.value, Value::Map(_)) {
        return text(node, "a key", findings).map(Keys::Template);
    }
    let fields = Fields::of(node, "a range of keys", INTERVAL_FIELDS, findings);
    fields.require(
        "from",
        "write `{from: FIRST, to: END}` (END itself is not in it), or `{from: FIRST}`",
        findings,
    );
    let mut bound = |field, said| fields.find(field).map(|node| text(node, said, findings));
    let (from, to) = (bound("from", "`from`")??, bound("to", "`to`"));
    match to {
        Some(None) => None,
        to => Some(Keys::Interval { from, to: to.flatten(), place: node.place }),
    }
}

fn binding(node: &Node, findings: &mut Findings<'_>) -> Binding {
    let fields = Fields::of(node, "a binding", BINDING_FIELDS, findings);
    let mut matchers = Vec::new();
    for &field in MATCHER_FIELDS {
        if let Some(found) = fields.find(field)
            && let Some(pattern) = text(found, &format!("`{field}`"), findings)
        {
            matchers.push((field, pattern));
        }
    }
    if matches!(node.value, Value::Map(_)) {
        fields.require("roles", "write `roles: [NAME]`", findings);
        if !MATCHER_FIELDS.iter().any(|field| fields.find(field).is_some()) {
            findings.mistake(
                fields.place(),
                "this binding does not say whom it means",
                "write one of `cn`, `uri`, `dns`, `o`",
            );
        }
    }
    let ca = fields.find("ca").and_then(|node| text(node, "`ca`", findings));
    let mode = fields.find("mode").and_then(|node| text(node, "`mode`", findings));
    let roles =
        fields.find("roles").map(|node| texts(node, "`roles`", findings)).unwrap_or_default();
    let deny = fields.find("deny").map(|node| rules(node, "`deny`", findings)).unwrap_or_default();
    Binding { place: fields.place(), matchers, ca, roles, deny, mode }
}

/// The fields of a mapping: unknown and repeated ones are already reported.
struct Fields<'n> {
    what: String,
    node: &'n Node,
    found: Vec<(&'n str, &'n Node)>,
    /// The first key's place: where a message about the mapping as a whole points.
    first: Place,
}

impl<'n> Fields<'n> {
    fn of(node: &'n Node, what: &str, known: &[&str], findings: &mut Findings<'_>) -> Self {
        let mut fields = Self { what: what.to_owned(), node, found: Vec::new(), first: node.place };
        let Value::Map(map) = &node.value else {
            let message = format!("{what} is a mapping, and this is {}", node.value.kind());
            findings.mistake(node.place, message, format!("its fields are {}", listed(known)));
            return fields;
        };
        if let Some((key, _)) = map.first() {
            fields.first = key.place;
        }
        for (key, value) in map {
            let Value::Text(name) = &key.value else {
                findings.mistake(
                    key.place,
                    format!("a field's name is text, and this is {}", key.value.kind()),
                    "",
                );
                continue;
            };
            if !known.contains(&name.as_str()) {
                let help = match nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("its fields are {}", listed(known)),
                };
                findings.mistake(key.place, format!("{what} has no field `{name}`"), help);
            } else if fields.find(name).is_some() {
                findings.mistake(
                    key.place,
                    format!("`{name}` is there twice"),
                    "which one counts would be a guess; keep one",
                );
            } else {
                fields.found.push((name, value));
            }
        }
        fields
    }

    fn find(&self, name: &str) -> Option<&'n Node> {
        self.found.iter().find(|(found, _)| *found == name).map(|(_, node)| *node)
    }

    fn place(&self) -> Place {
        self.first
    }

    fn require(&self, name: &str, help: &str, findings: &mut Findings<'_>) {
        if self.find(name).is_none() && matches!(self.node.value, Value::Map(_)) {
            findings.mistake(self.first, format!("{} needs `{name}`", self.what), help);
        }
    }
}

/// The entries of a list, which may not be empty.
fn entries<'n>(node: &'n Node, said: &str, findings: &mut Findings<'_>) -> &'n [Node] {
    match &node.value {
        Value::List(list) if list.is_empty() => {
            findings.mistake(
                node.place,
                format!("{said} is an empty list"),
                "an empty list never means any: remove the field, or fill it",
            );
            &[]
        }
        Value::List(list) => list,
        other => {
            findings.mistake(
                node.place,
                format!("{said} is {}, and should be a list", other.kind()),
                "write `[ENTRY, ...]`, or one `- ENTRY` a line",
            );
            &[]
        }
    }
}

fn texts(node: &Node, said: &str, findings: &mut Findings<'_>) -> Vec<Text> {
    let one = format!("an entry of {said}");
    entries(node, said, findings).iter().filter_map(|entry| text(entry, &one, findings)).collect()
}

fn text(node: &Node, said: &str, findings: &mut Findings<'_>) -> Option<Text> {
    match &node.value {
        Value::Text(text) => Some(Text { text: text.clone(), place: node.place }),
        other => {
            let help = match other {
                Value::Map(_) => "write it in quotes if it holds `{`",
                Value::Number(_) | Value::Other("a number" | "a boolean") => "write it in quotes",
                _ => "",
            };
            findings.mistake(
                node.place,
                format!("{said} is {}, and should be text", other.kind()),
                help,
            );
            None
        }
    }
}

/// Names as a sentence lists them.
pub(super) fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
