//! etcd's own users and roles as a policy: the same rights, in the language of this proxy.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::check::is_role_name;
use crate::access::Capability;
use crate::keyspace::{Escaped, prefix_end};
use crate::printable::is_unfit;

/// The role that etcd lets do everything, and its user (`server/auth/store.go`).
const ROOT: &str = "root";
/// What etcd lets every user do (`docs/compared-with-etcd-auth.md`, S-capability).
const EVERY_USER: &str = "every-etcd-user";
const OF_EVERY_USER: [Capability; 3] =
    [Capability::Lease, Capability::MemberList, Capability::Status];

/// A role of etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdRole {
    /// Its name: any text.
    pub name: String,
    /// What it permits.
    pub permissions: Vec<Permission>,
}

/// A permission of a role (`authpb.Permission`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// `READ` or `READWRITE`.
    pub read: bool,
    /// `WRITE` or `READWRITE`.
    pub write: bool,
    /// The first key.
    pub key: Vec<u8>,
    /// Empty: the key alone; `\0`: every key from it on; else the first key behind the range.
    pub range_end: Vec<u8>,
}

/// A user of etcd: whoever shows a certificate with its name as Common Name, or logs in with its
/// password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdUser {
    /// Its name: any text.
    pub name: String,
    /// The names of its roles.
    pub roles: Vec<String>,
}

/// A policy, and what it does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The policy file.
    pub text: String,
    /// What the operator should know of it, a sentence each.
    pub notes: Vec<String>,
}

/// Writes the policy that gives each certificate the rights of the etcd user of its Common Name.
#[must_use]
pub fn import(roles: &[EtcdRole], users: &[EtcdUser]) -> Imported {
    let mut notes = Vec::new();
    // etcd lists that role only if somebody has made it; it is there without.
    let root = EtcdRole { name: ROOT.to_owned(), permissions: Vec::new() };
    let unlisted = users.iter().any(|user| user.roles.iter().any(|role| role == ROOT))
        && roles.iter().all(|role| role.name != ROOT);
    let roles: Vec<&EtcdRole> = roles.iter().chain(unlisted.then_some(&root)).collect();
    let names = role_names(&roles, &mut notes);
    let mut text =
        "# etcd's own users and roles, as `etcd-warden policy import` found them.\nversion: 1\nmode: enforce\nroles:\n".to_owned();
    let listed: Vec<&str> = OF_EVERY_USER.iter().map(|capability| capability.name()).collect();
    put(
        &mut text,
        format_args!(
            "  {EVERY_USER}:\n    description: what etcd lets every user do\n    capabilities: [{}]\n",
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
                    "  {name}:\n    allow:\n      - {{ keys: \"*\", verbs: [rw] }}\n    capabilities: [{}]\n",
                    all.join(", ")
                ),
            );
            continue;
        }
        put(&mut text, format_args!("  {name}:\n    allow:\n"));
        for permission in role.permissions.iter().filter(|permission| permission.means_something())
        {
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
        notes.push("etcd has no user: a policy needs at least one binding".to_owned());
    }
    Imported { text, notes }
}

/// What each role is called in the policy; those that give nothing are left out.
fn role_names<'r>(roles: &[&'r EtcdRole], notes: &mut Vec<String>) -> BTreeMap<&'r str, String> {
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    for role in roles {
        let empty =
            role.permissions.iter().filter(|permission| !permission.means_something()).count();
        if empty > 0 {
            notes.push(format!(
                "role {}: {empty} permissions hold no key, and are left out",
                Escaped(role.name.as_bytes())
            ));
        }
        if role.name != ROOT && empty == role.permissions.len() {
            notes.push(format!(
                "role {} permits nothing, and is left out",
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
            notes.push(format!("role {} is called {name} here", Escaped(role.name.as_bytes())));
        }
        names.insert(&role.name, name);
    }
    names
}

impl Permission {
    fn means_something(&self) -> bool {
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
        // No key is empty: what begins with "" begins with the smallest one.
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

/// A key as the policy language spells bytes.
fn quoted(bytes: &[u8]) -> String {
    in_quotes(&marked(&Escaped(bytes).to_string()))
}

/// A name as the policy language spells it: text, in which only what it would take for itself is
/// escaped.
fn quoted_name(name: &str) -> String {
    in_quotes(&marked(&name.replace('\\', r"\\")))
}

/// With what the policy language takes for itself as escapes.
fn marked(text: &str) -> String {
    text.replace('*', r"\x2a").replace('{', r"\x7b").replace('}', r"\x7d")
}

/// Within YAML's double quotes, which are those of JSON.
fn in_quotes(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    let mut spelled = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        // JSON leaves C1 controls and what reorders text as it is. YAML has `\u` for 16 bits and
        // `\U` for more.
        match u32::from(c) {
            code @ ..=0xffff if is_unfit(c) => put(&mut spelled, format_args!("\\u{code:04x}")),
            code if is_unfit(c) => put(&mut spelled, format_args!("\\U{code:08x}")),
            _ => spelled.push(c),
        }
    }
    spelled
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = text.write_fmt(line);
}

#[cfg(test)]
mod tests;
