//! The fields of a policy file as text, each with its source position. Names are not resolved here.

use crate::diagnostics::{Findings, SourcePosition, nearest};
use crate::yaml::{Entry, Limits, Node, TagType, Type, integer};

/// Bounds of a policy's YAML. No valid policy nests deeper than 7.
pub(super) const LIMITS: Limits =
    Limits { documents: 1, depth: 16, values: 1_000_000, repeated: 100_000 };

/// Text with its position.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) position: SourcePosition,
}

/// A policy file, or a role set, which has roles only.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) mode: Option<Text>,
    pub(super) include: Vec<Text>,
    pub(super) roles: Vec<Role>,
    pub(super) bindings: Vec<Binding>,
}

#[derive(Debug)]
pub(super) struct Role {
    pub(super) name: Text,
    pub(super) allow: Vec<Rule>,
    pub(super) deny: Vec<Rule>,
    pub(super) capabilities: Vec<Text>,
}

/// An entry of `allow` or `deny`.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) keys: Vec<Keys>,
    pub(super) verbs: Vec<Text>,
}

#[derive(Debug)]
pub(super) enum Keys {
    /// `/prefix/*`, `/exact`, `/nodes/{node}`.
    Template(Text),
    /// `{from: A, to: B}`; without `to`, all keys from `from` on.
    Interval { from: Text, to: Option<Text>, position: SourcePosition },
}

#[derive(Debug)]
pub(super) struct Binding {
    pub(super) position: SourcePosition,
    /// Field and pattern of each matcher. A valid binding has exactly one.
    pub(super) matchers: Vec<(&'static str, Text)>,
    pub(super) ca: Option<Text>,
    pub(super) roles: Vec<Text>,
    pub(super) deny: Vec<Rule>,
    pub(super) mode: Option<Text>,
}

/// The fields of a policy file.
pub(super) const FIELDS: &[&str] = &["version", "mode", "include", "roles", "bindings"];
/// The fields of a role set.
pub(super) const ROLE_SET_FIELDS: &[&str] = &["version", "roles"];
/// The fields of a role.
pub(super) const ROLE_FIELDS: &[&str] = &["description", "allow", "deny", "capabilities"];
/// The fields of an entry of `allow` and `deny`.
pub(super) const RULE_FIELDS: &[&str] = &["keys", "verbs", "why"];
/// The fields of `keys` in its long form.
pub(super) const INTERVAL_FIELDS: &[&str] = &["from", "to"];
/// The fields of a binding.
pub(super) const BINDING_FIELDS: &[&str] =
    &["cn", "uri", "dns", "o", "ca", "roles", "deny", "mode"];
/// The fields of a binding that match an identity.
pub(super) const MATCHER_FIELDS: &[&str] = &["cn", "uri", "dns", "o"];

impl File {
    /// Reads a policy file.
    pub(super) fn policy(root: Option<&Node<'_>>, findings: &mut Findings<'_>) -> Self {
        let Some(root) = root.filter(|root| root.schema_type() != Type::Null) else {
            findings.error(
                SourcePosition::default(),
                "the policy is empty",
                "write at least `version`, `mode`, `roles` and `bindings`",
            );
            return Self::default();
        };
        let fields = Fields::of(root, "a policy", FIELDS, findings);
        let file = Self::read(&fields, findings);
        if root.schema_type() == Type::Map {
            fields.require(
                "mode",
                "write `mode: shadow` (decide and record) or `mode: enforce` (also refuse)",
                findings,
            );
            fields.require("bindings", "without bindings every request is denied", findings);
        }
        file
    }

    /// Reads a role set.
    pub(super) fn role_set(root: &Node<'_>, findings: &mut Findings<'_>) -> Self {
        Self::read(&Fields::of(root, "a role set", ROLE_SET_FIELDS, findings), findings)
    }

    fn read(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Self {
        match fields.find("version") {
            Some(node) if is_number_one(node) => {}
            Some(node) => findings.error(
                node.position,
                "unknown version of the policy language",
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

fn is_number_one(node: &Node<'_>) -> bool {
    node.schema_type() == Type::Number
        && node.tag != Some(TagType::Float)
        && node.scalar().and_then(integer) == Some(1)
}

fn roles(node: &Node<'_>, findings: &mut Findings<'_>) -> Vec<Role> {
    let Some(map) = mapping(node) else {
        let message = format!("`roles` must be a mapping, not {}", node.schema_type().name());
        findings.error(node.position, message, "write each role as `NAME:` with its fields below");
        return Vec::new();
    };
    let mut roles: Vec<Role> = Vec::new();
    for (name, value) in map {
        let Some(name) = text(name, "the name of a role", findings) else { continue };
        if let Some(first) = roles.iter().find(|role| role.name.text == name.text) {
            let message = format!("role `{}` is defined twice", name.text);
            let help = format!("the first definition is in line {}", first.name.position.line);
            findings.error(name.position, message, help);
            continue;
        }
        roles.push(role(name, value, findings));
    }
    if map.is_empty() {
        findings.error(node.position, "`roles` is empty", "remove the field, or define a role");
    }
    roles
}

fn role(name: Text, node: &Node<'_>, findings: &mut Findings<'_>) -> Role {
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
    let is_mapping = node.schema_type() == Type::Map;
    if is_mapping && fields.find("allow").is_none() && fields.find("capabilities").is_none() {
        let message = format!("role `{}` grants nothing", name.text);
        findings.error(name.position, message, "write `allow`, `capabilities` or both");
    }
    Role { name, allow, deny, capabilities }
}

fn rules(node: &Node<'_>, said: &str, findings: &mut Findings<'_>) -> Vec<Rule> {
    entries(node, said, findings).iter().map(|entry| rule(entry, said, findings)).collect()
}

fn rule(node: &Node<'_>, said: &str, findings: &mut Findings<'_>) -> Rule {
    let fields = Fields::of(node, &format!("an entry of {said}"), RULE_FIELDS, findings);
    if node.schema_type() == Type::Map {
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

fn keys(node: &Node<'_>, findings: &mut Findings<'_>) -> Vec<Keys> {
    match node.schema_type() {
        Type::List => {
            let list = entries(node, "`keys`", findings);
            list.iter().filter_map(|node| key(node, findings)).collect()
        }
        _ => key(node, findings).into_iter().collect(),
    }
}

fn key(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Keys> {
    if node.schema_type() != Type::Map {
        return text(node, "a key", findings).map(Keys::Template);
    }
    let fields = Fields::of(node, "a range of keys", INTERVAL_FIELDS, findings);
    fields.require(
        "from",
        "write `{from: FIRST, to: END}` (without END itself), or `{from: FIRST}`",
        findings,
    );
    let mut bound = |field, said| fields.find(field).map(|node| text(node, said, findings));
    let (from, to) = (bound("from", "`from`")??, bound("to", "`to`"));
    match to {
        Some(None) => None,
        to => Some(Keys::Interval { from, to: to.flatten(), position: node.position }),
    }
}

fn binding(node: &Node<'_>, findings: &mut Findings<'_>) -> Binding {
    let fields = Fields::of(node, "a binding", BINDING_FIELDS, findings);
    let mut matchers = Vec::new();
    for &field in MATCHER_FIELDS {
        if let Some(found) = fields.find(field)
            && let Some(pattern) = text(found, &format!("`{field}`"), findings)
        {
            matchers.push((field, pattern));
        }
    }
    if node.schema_type() == Type::Map {
        fields.require("roles", "write `roles: [NAME]`", findings);
        if !MATCHER_FIELDS.iter().any(|field| fields.find(field).is_some()) {
            findings.error(
                fields.first,
                "this binding matches no identity",
                "write one of `cn`, `uri`, `dns`, `o`",
            );
        }
    }
    let ca = fields.find("ca").and_then(|node| text(node, "`ca`", findings));
    let mode = fields.find("mode").and_then(|node| text(node, "`mode`", findings));
    let roles =
        fields.find("roles").map(|node| texts(node, "`roles`", findings)).unwrap_or_default();
    let deny = fields.find("deny").map(|node| rules(node, "`deny`", findings)).unwrap_or_default();
    Binding { position: fields.first, matchers, ca, roles, deny, mode }
}

/// The known fields of a mapping, each once.
struct Fields<'n> {
    what: String,
    node: &'n Node<'n>,
    found: Vec<(&'n str, &'n Node<'n>)>,
    /// The position of the first key, for messages about the mapping as a whole.
    first: SourcePosition,
}

impl<'n> Fields<'n> {
    /// Reports unknown and repeated fields.
    fn of(node: &'n Node<'n>, what: &str, known: &[&str], findings: &mut Findings<'_>) -> Self {
        let mut fields =
            Self { what: what.to_owned(), node, found: Vec::new(), first: node.position };
        let Some(map) = mapping(node) else {
            let message = format!("{what} must be a mapping, not {}", node.schema_type().name());
            findings.error(node.position, message, format!("its fields are {}", listed(known)));
            return fields;
        };
        if let Some((key, _)) = map.first() {
            fields.first = key.position;
        }
        for (key, value) in map {
            let Some(name) = key.text() else {
                let kind = key.schema_type().name();
                findings.error(key.position, format!("a field name must be text, not {kind}"), "");
                continue;
            };
            if !known.contains(&name) {
                let help = match nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("its fields are {}", listed(known)),
                };
                findings.error(key.position, format!("{what} has no field `{name}`"), help);
            } else if fields.find(name).is_some() {
                findings.error(key.position, format!("`{name}` appears twice"), "keep one of them");
            } else {
                fields.found.push((name, value));
            }
        }
        fields
    }

    fn find(&self, name: &str) -> Option<&'n Node<'n>> {
        self.found.iter().find(|(found, _)| *found == name).map(|(_, node)| *node)
    }

    fn require(&self, name: &str, help: &str, findings: &mut Findings<'_>) {
        if self.find(name).is_none() && self.node.schema_type() == Type::Map {
            findings.error(self.first, format!("{} needs `{name}`", self.what), help);
        }
    }
}

fn mapping<'n>(node: &'n Node<'n>) -> Option<&'n [Entry<'n>]> {
    (node.schema_type() == Type::Map).then(|| node.entries())
}

/// The entries of a list. An empty list is an error.
fn entries<'n>(node: &'n Node<'n>, said: &str, findings: &mut Findings<'_>) -> &'n [Node<'n>] {
    if node.schema_type() != Type::List {
        let message = format!("{said} must be a list, not {}", node.schema_type().name());
        let help = "write `[ENTRY, ...]`, or one `- ENTRY` per line";
        findings.error(node.position, message, help);
    } else if node.items().is_empty() {
        let help = "an empty list does not mean everything: remove the field, or add an entry";
        findings.error(node.position, format!("{said} is an empty list"), help);
    }
    node.items()
}

fn texts(node: &Node<'_>, said: &str, findings: &mut Findings<'_>) -> Vec<Text> {
    let one = format!("an entry of {said}");
    entries(node, said, findings).iter().filter_map(|entry| text(entry, &one, findings)).collect()
}

fn text(node: &Node<'_>, said: &str, findings: &mut Findings<'_>) -> Option<Text> {
    if let Some(text) = node.text() {
        return Some(Text { text: text.to_owned(), position: node.position });
    }
    let help = match node.schema_type() {
        Type::Map => "write it in quotes if it contains `{`",
        Type::Number | Type::Boolean => "write it in quotes",
        Type::Tagged => "remove the tag",
        Type::Text | Type::Null | Type::List => "",
    };
    let message = format!("{said} must be text, not {}", node.schema_type().name());
    findings.error(node.position, message, help);
    None
}

/// Names as a list in a sentence.
pub(super) fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
