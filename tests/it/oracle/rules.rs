//! A random policy, both as a policy file and as etcd's users and roles.

use std::fmt::Write as _;

use etcd_warden_core::method::Method;
use etcd_warden_proto::{authpb, etcdserverpb as pb};
use prost::Message as _;

use super::keys::{self, Range};
use super::rng::Rng;

/// The users on both sides, in every policy.
pub const USERS: [&str; 3] = ["u0", "u1", "u2"];
const ROLES: usize = 4;

/// What etcd lets every user do. Most random policies grant it too.
const ORDINARY: [&str; 3] = ["lease", "status", "member-list"];

/// What only root may do at etcd. Some random policies grant it. None of it can harm the cluster.
const MORE: [&str; 2] = ["compact", "hash"];

/// The permissions that etcd has for a range, by the names of both sides.
const KINDS: [(&str, authpb::permission::Type); 3] = [
    ("read", authpb::permission::Type::Read),
    ("write", authpb::permission::Type::Write),
    ("rw", authpb::permission::Type::Readwrite),
];

/// A policy that both sides can express.
#[derive(Debug, Default)]
pub struct Rules {
    roles: Vec<Vec<(Range, usize)>>,
    users: Vec<User>,
}

#[derive(Debug)]
struct User {
    roles: Vec<usize>,
    capabilities: Vec<&'static str>,
}

impl Rules {
    /// Roles as ranges with permissions; users by the numbers of their roles and their
    /// capabilities.
    pub fn of(
        roles: &[&[(&str, &str, &str)]],
        users: [(&[usize], &[&'static str]); USERS.len()],
    ) -> Self {
        let kind = |kind: &str| KINDS.iter().position(|(name, _)| *name == kind).unwrap();
        let grant = |(key, end, may): &(&str, &str, &str)| {
            (Range { key: (*key).into(), end: (*end).into() }, kind(may))
        };
        let user = |(roles, capabilities): (&[usize], &[&'static str])| User {
            roles: roles.to_vec(),
            capabilities: capabilities.to_vec(),
        };
        Self {
            roles: roles.iter().map(|role| role.iter().map(grant).collect()).collect(),
            users: users.map(user).into(),
        }
    }

    pub fn random(rng: &mut Rng) -> Self {
        let roles = (0..ROLES).map(|_| role(rng)).collect();
        let users = USERS.iter().map(|_| user(rng)).collect();
        Self { roles, users }
    }

    /// True if the policy grants a user this capability.
    pub fn grant(&self, user: &str, capability: &str) -> bool {
        USERS
            .iter()
            .zip(&self.users)
            .any(|(name, of)| *name == user && of.capabilities.contains(&capability))
    }

    /// The policy file.
    pub fn policy(&self) -> String {
        let mut text = "version: 1\nmode: enforce\nroles:\n".to_owned();
        for (place, grants) in self.roles.iter().enumerate() {
            let _ = writeln!(text, "  r{place}:\n    allow:");
            for (range, kind) in grants {
                let _ = writeln!(
                    text,
                    "      - keys: {}\n        verbs: [{}]",
                    written(range),
                    KINDS[*kind].0
                );
            }
        }
        for (name, user) in USERS.iter().zip(&self.users) {
            if !user.capabilities.is_empty() {
                let _ = writeln!(
                    text,
                    "  of-{name}:\n    capabilities: [{}]",
                    user.capabilities.join(", ")
                );
            }
        }
        text.push_str("bindings:\n");
        for (name, user) in USERS.iter().zip(&self.users) {
            let mut roles: Vec<String> = user.roles.iter().map(|role| format!("r{role}")).collect();
            if !user.capabilities.is_empty() {
                roles.push(format!("of-{name}"));
            }
            let _ = writeln!(text, "  - cn: {name}\n    roles: [{}]", roles.join(", "));
        }
        text
    }

    /// The calls of etcd's auth API that replace everything these users could do before.
    pub fn calls(&self) -> Vec<(Method, Vec<u8>)> {
        let mut calls = Vec::new();
        for (place, grants) in self.roles.iter().enumerate() {
            let name = format!("r{place}");
            calls.push((
                Method::RoleDelete,
                pb::AuthRoleDeleteRequest { role: name.clone() }.encode_to_vec(),
            ));
            calls.push((
                Method::RoleAdd,
                pb::AuthRoleAddRequest { name: name.clone() }.encode_to_vec(),
            ));
            for (range, kind) in grants {
                let perm = authpb::Permission {
                    perm_type: KINDS[*kind].1.into(),
                    key: range.key.clone(),
                    range_end: range.end.clone(),
                };
                let grant =
                    pb::AuthRoleGrantPermissionRequest { name: name.clone(), perm: Some(perm) };
                calls.push((Method::RoleGrantPermission, grant.encode_to_vec()));
            }
        }
        for (name, user) in USERS.iter().zip(&self.users) {
            for role in &user.roles {
                let grant = pb::AuthUserGrantRoleRequest {
                    user: (*name).to_owned(),
                    role: format!("r{role}"),
                };
                calls.push((Method::UserGrantRole, grant.encode_to_vec()));
            }
        }
        calls
    }
}

fn role(rng: &mut Rng) -> Vec<(Range, usize)> {
    let mut grants: Vec<(Range, usize)> = Vec::new();
    for _ in 0..1 + rng.below(4) {
        let range = match grants.last() {
            // A range that begins where another one ends: the two must join.
            Some((before, _)) if rng.once_in(2) && before.end.len() > 1 => {
                Range { key: before.end.clone(), end: Vec::new() }
            }
            _ => keys::granted(rng),
        };
        // A role of etcd has one permission for a range: granting it again replaces it.
        if grants.iter().all(|(other, _)| *other != range) {
            grants.push((range, rng.below(KINDS.len())));
        }
    }
    grants
}

fn user(rng: &mut Rng) -> User {
    let first = rng.below(ROLES);
    let roles = (0..1 + rng.below(3)).map(|more| (first + more) % ROLES).collect();
    let ordinary = ORDINARY.into_iter().filter(|_| !rng.once_in(5));
    let mut capabilities: Vec<_> = ordinary.collect();
    capabilities.extend(MORE.into_iter().filter(|_| rng.once_in(4)));
    User { roles, capabilities }
}

/// A range in the language of `docs/policy.md`.
fn written(range: &Range) -> String {
    let text =
        |key: &[u8]| key.iter().fold(String::new(), |text, byte| format!("{text}\\x{byte:02x}"));
    let key = text(&range.key);
    match &range.end[..] {
        b"" => format!("'{key}'"),
        b"\0" if range.key == b"\0" => "'*'".to_owned(),
        b"\0" => format!("{{from: '{key}'}}"),
        end if *range == keys::prefix(range.key.clone()) && end.len() == range.key.len() => {
            format!("'{key}*'")
        }
        end => format!("{{from: '{key}', to: '{}'}}", text(end)),
    }
}
