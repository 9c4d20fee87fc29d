//! Converts etcd's own users and roles into a policy with the same rights.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::check::is_role_name;
use crate::access::Capability;
use crate::keyspace::{Escaped, prefix_end};
use crate::printable::is_unfit;

/// The role with all permissions, and its user (`server/auth/store.go`).
const ROOT: &str = "root";
/// The rights that etcd gives every user (`docs/compared-with-etcd-auth.md`, S-capability).
const EVERY_USER: &str = "every-etcd-user";
const EVERY_USER_CAPABILITIES: [Capability; 3] =
    [Capability::Lease, Capability::MemberList, Capability::Status];

/// A role in etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdRole {
    /// Its name: any text.
    pub name: String,
    /// Its permissions.
    pub permissions: Vec<Permission>,
}

/// A permission of a role (`authpb.Permission`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// True for `READ` and `READWRITE`.
    pub read: bool,
    /// True for `WRITE` and `READWRITE`.
    pub write: bool,
    /// The first key.
    pub key: Vec<u8>,
    /// Empty: only `key`. `\0`: every key from `key` on. Otherwise the exclusive end of the range.
    pub range_end: Vec<u8>,
}

/// A user in etcd. A client becomes it through a certificate with its name as Common Name, or
/// through a login with its password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdUser {
    /// Its name: any text.
    pub name: String,
    /// The names of its roles.
    pub roles: Vec<String>,
}

/// The result of [`import`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The text of the policy file.
    pub text: String,
    /// Notes for the operator, one sentence each.
    pub notes: Vec<String>,
}

/// Creates a policy that gives each certificate the rights of the etcd user with its Common Name.
pub fn import(roles: &[EtcdRole], users: &[EtcdUser]) -> Imported {
    let mut notes = Vec::new();
    // The role always exists, but etcd lists it only if it was created.
    let root = EtcdRole { name: ROOT.to_owned(), permissions: Vec::new() };
    let unlisted = users.iter().any(|user| user.roles.iter().any(|role| role == ROOT))
        && roles.iter().all(|role| role.name != ROOT);
    let roles: Vec<&EtcdRole> = roles.iter().chain(unlisted.then_some(&root)).collect();
    let names = role_names(&roles, &mut notes);
    let mut text =
        "# etcd's own users and roles, converted by `etcd-warden policy import`.\nversion: 1\n\
         mode: enforce\nroles:\n"
            .to_owned();
    let listed: Vec<&str> =
        EVERY_USER_CAPABILITIES.iter().map(|capability| capability.name()).collect();
    put(
        &mut text,
        format_args!(
            "  {EVERY_USER}:\n    description: the rights that etcd gives every user\n    \
             capabilities: [{}]\n",
            listed.join(", ")
        ),
    );
    for role in roles {
        let Some(name) = names.get(role.name.as_str()) else { continue };
        if role.name == ROOT {
            let all: Vec<&str> =
                Capability::ALL.iter().map(|capability| capability.name()).collect();
            put(
                &mut text,
                format_args!(
                    "  {name}:\n    allow:\n      - {{ keys: \"*\", verbs: [rw] }}\n    \
                     capabilities: [{}]\n",
                    all.join(", ")
                ),
            );
            continue;
        }
        put(&mut text, format_args!("  {name}:\n    allow:\n"));
        for permission in role.permissions.iter().filter(|permission| permission.is_effective()) {
            put(
                &mut text,
                format_args!(
                    "      - {{ keys: {}, verbs: [{}] }}\n",
                    permission.keys(),
                    permission.verbs()
                ),
            );
        }
    }
    text.push_str("bindings:\n");
    for user in users {
        let held =
            user.roles.iter().filter_map(|role| names.get(role.as_str()).map(String::as_str));
        let held: Vec<&str> = held.chain([EVERY_USER]).collect();
        put(
            &mut text,
            format_args!(
                "  - {{ cn: {}, roles: [{}] }}\n",
                quoted_name(&user.name),
                held.join(", ")
            ),
        );
    }
    if users.is_empty() {
        notes.push("etcd has no users; add at least one binding to the policy".to_owned());
    }
    Imported { text, notes }
}

/// The names of the roles in the policy. Roles without permissions are omitted.
fn role_names<'r>(roles: &[&'r EtcdRole], notes: &mut Vec<String>) -> BTreeMap<&'r str, String> {
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    for role in roles {
        let empty = role.permissions.iter().filter(|permission| !permission.is_effective()).count();
        if empty > 0 {
            notes.push(format!(
                "role {}: {empty} permissions contain no key and are omitted",
                Escaped(role.name.as_bytes())
            ));
        }
        if role.name != ROOT && empty == role.permissions.len() {
            notes.push(format!(
                "role {} has no permissions and is omitted",
                Escaped(role.name.as_bytes())
            ));
            continue;
        }
        let good = |c: char| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/') { c } else { '_' }
        };
        let mut name: String = role.name.chars().map(good).take(100).collect();
        while !is_role_name(&name)
            || name == EVERY_USER
            || names.values().any(|taken| *taken == name)
        {
            name.push('_');
        }
        if name != role.name {
            notes.push(format!("role {} is renamed to {name}", Escaped(role.name.as_bytes())));
        }
        names.insert(&role.name, name);
    }
    names
}

impl Permission {
    fn is_effective(&self) -> bool {
        (self.read || self.write)
            && (self.range_end.is_empty() && !self.key.is_empty()
                || self.range_end == [0]
                || self.key < self.range_end)
    }

    fn verbs(&self) -> &'static str {
        match (self.read, self.write) {
            (true, true) => "rw",
            (true, false) => "read",
            (false, _) => "write",
        }
    }

    fn keys(&self) -> String {
        // No key is empty: a range from "" starts at the smallest key.
        let from: &[u8] = if self.key.is_empty() { &[0] } else { &self.key };
        match self.range_end.as_slice() {
            [] => quoted(from),
            [0] if from == [0] => "\"*\"".to_owned(),
            [0] => format!("{{ from: {} }}", quoted(from)),
            end if prefix_end(from).as_deref() == Some(end) => {
                let mut prefix = quoted(from);
                prefix.insert(prefix.len() - 1, '*');
                prefix
            }
            end => format!("{{ from: {}, to: {} }}", quoted(from), quoted(end)),
        }
    }
}

/// A quoted key in the policy language.
fn quoted(bytes: &[u8]) -> String {
    in_quotes(&escape_special(&Escaped(bytes).to_string()))
}

/// A quoted name in the policy language: text in which only special characters are escaped.
fn quoted_name(name: &str) -> String {
    in_quotes(&escape_special(&name.replace('\\', r"\\")))
}

/// Escapes the special characters of the policy language.
fn escape_special(text: &str) -> String {
    text.replace('*', r"\x2a").replace('{', r"\x7b").replace('}', r"\x7d")
}

/// Quotes text with YAML's double quotes, whose escapes include those of JSON.
fn in_quotes(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    let mut spelled = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        // JSON does not escape C1 controls and characters that reorder text. YAML has `\u` for 16
        // bits and `\U` for 32.
        match u32::from(c) {
            code @ ..=0xffff if is_unfit(c) => put(&mut spelled, format_args!("\\u{code:04x}")),
            code if is_unfit(c) => put(&mut spelled, format_args!("\\U{code:08x}")),
            _ => spelled.push(c),
        }
    }
    spelled
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String never fails.
    let _ = text.write_fmt(line);
}

#[cfg(test)]
mod tests;
