//! The policy: which identities have which rights.
//!
//! It has three stages: `file::File` is the parsed file, `check::Checked` is the validated policy,
//! and [`Policy`] is the policy in effect. Rights are compiled once per identity into sorted
//! disjoint ranges, so a request costs a binary search and no allocation.

pub mod builtin;
mod check;
pub(crate) mod compile;
mod file;
pub mod import;
pub(crate) mod keyset;
pub mod name;
mod redundant;
mod rights;
mod select;
mod template;

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::access::Verbs;
use crate::diagnostics::{Diagnostics, Findings, nearest};
use crate::identity::NameRefusal;
use crate::yaml;
use name::Captures;
pub use rights::{Grant, GrantId, Rights};

/// Maximum size of a policy file in bytes.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Whether denials are enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Decide and record; forward everything.
    Shadow,
    /// Decide, record and refuse denied requests.
    Enforce,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Shadow => "shadow",
            Mode::Enforce => "enforce",
        })
    }
}

/// Whether a binding matches an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingStatus {
    /// At least one binding matches.
    Bound,
    /// No binding matches. Nothing is allowed.
    Unbound,
    /// The certificate has no usable name. Nothing is allowed.
    Nameless(NameRefusal),
    /// The pattern of a binding matches, but a captured value is not a DNS-1123 subdomain. Nothing
    /// is allowed.
    BadCapture,
}

/// An identity under one generation of the policy. It has everything that a decision needs to know
/// about the client.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The name of the identity in lease ids and audit lines: `ca/cn:NAME`, or `ca/uri:..` or
    /// `ca/dns:..` if a binding on such a name matches and none on `cn`. See [`Policy::principal`].
    pub name: Arc<str>,
    /// Whether a binding matches.
    pub binding_status: BindingStatus,
    /// [`Mode::Enforce`] if any matching binding is enforced.
    pub mode: Mode,
    /// The roles of all matching bindings, in the policy's order.
    pub roles: Arc<[Arc<str>]>,
    /// The rights of all roles together, minus all denials.
    pub rights: Arc<Rights>,
    /// The generation of the policy that this was compiled from.
    pub generation: u64,
}

/// A policy in effect. It never changes; a reload creates a new one.
#[derive(Debug)]
pub struct Policy {
    /// Increases with each policy that the process puts into effect.
    pub generation: u64,
    /// SHA-256 of the file in hexadecimal.
    pub hash: Arc<str>,
    mode: Mode,
    mode_override: Option<Mode>,
    checked: Arc<check::Checked>,
    role_names: Arc<[Arc<str>]>,
    index: Arc<select::Index>,
    rights_cache: select::RightsCache,
    warnings: Diagnostics,
    name: Arc<str>,
    text: Arc<str>,
}

impl Policy {
    /// Parses, checks and compiles the text of a policy file. `name` is the file's name in
    /// messages. `mode_override` (break-glass) replaces the policy's mode and the modes of all its
    /// bindings.
    ///
    /// # Errors
    /// All errors in the text, together with the warnings.
    pub fn parse(
        name: &str,
        text: &[u8],
        generation: u64,
        mode_override: Option<Mode>,
    ) -> Result<Policy, Diagnostics> {
        if text.len() > MAX_BYTES {
            return Err(too_large(name));
        }
        let hash =
            Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let text = std::str::from_utf8(text).map_err(|error| {
            let before = text.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let help = r"write other bytes of a key as `\xNN`";
            Diagnostics::about(
                name,
                format!("the policy is not UTF-8: the first invalid byte is in line {line}"),
                Some(help),
            )
        })?;
        let mut findings = Findings::new(name, text);
        let documents = match yaml::parse(text, file::LIMITS) {
            Ok(documents) => documents,
            Err(error) => {
                let hint = yaml::hint(text, error.position);
                findings.error(error.position, error.message, hint);
                return Err(findings.finish());
            }
        };
        let file = file::File::policy(documents.first(), &mut findings);
        let checked = check::check(&file, &mut findings);
        let warnings = findings.finish();
        if warnings.has_errors() {
            return Err(warnings);
        }
        Ok(Policy {
            generation,
            hash: hash.into(),
            mode: mode_override.unwrap_or(checked.mode),
            mode_override,
            role_names: checked.roles.iter().map(|role| Arc::clone(&role.name)).collect(),
            index: Arc::new(select::Index::of(&checked.bindings)),
            rights_cache: select::RightsCache::default(),
            warnings,
            name: name.into(),
            text: text.into(),
            checked: Arc::new(checked),
        })
    }

    /// The mode of identities without a binding, and of bindings without a mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The mode that replaces the modes of the file.
    pub fn mode_override(&self) -> Option<Mode> {
        self.mode_override
    }

    /// The same policy with this mode override, as a new generation.
    pub fn in_mode(&self, generation: u64, mode_override: Option<Mode>) -> Policy {
        Policy {
            generation,
            hash: self.hash.clone(),
            mode: mode_override.unwrap_or(self.checked.mode),
            mode_override,
            checked: self.checked.clone(),
            role_names: self.role_names.clone(),
            index: self.index.clone(),
            rights_cache: select::RightsCache::default(),
            warnings: self.warnings.clone(),
            name: self.name.clone(),
            text: self.text.clone(),
        }
    }

    /// True if any identity is in shadow mode. Then etcd's own auth must be off.
    pub fn has_shadow(&self) -> bool {
        self.has_shadow_under(self.mode_override)
    }

    /// Like [`Policy::has_shadow`], for another mode override.
    pub fn has_shadow_under(&self, mode_override: Option<Mode>) -> bool {
        mode_override.map_or_else(
            || {
                self.checked.mode == Mode::Shadow
                    || self
                        .checked
                        .bindings
                        .iter()
                        .any(|binding| binding.mode == Some(Mode::Shadow))
            },
            |mode| mode == Mode::Shadow,
        )
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if the text ends with the end marker ([`ends_with_marker`]).
    pub fn has_end_marker(&self) -> bool {
        ends_with_marker(self.text.as_bytes())
    }

    /// The grant with this id.
    pub fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.checked.grants.get(usize::try_from(id.0).ok()?)
    }

    /// All grants in the policy's order. A [`GrantId`] is the index.
    pub fn grants(&self) -> &[Grant] {
        &self.checked.grants
    }

    /// The names of all roles, included role sets too. [`Grant::role_index`] is the index.
    pub fn role_names(&self) -> &[Arc<str>] {
        &self.role_names
    }

    /// The warnings about the policy.
    pub fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }

    /// Reports bindings whose `ca` is not one of the configured client CAs `names`. Such a binding
    /// never matches.
    pub fn check_cas<N: AsRef<str>>(&self, names: &[N]) -> Diagnostics {
        let mut findings = Findings::new(&self.name, &self.text);
        let known: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        for (ca, position) in self.checked.bindings.iter().filter_map(|binding| binding.ca.as_ref())
        {
            if !known.contains(&&**ca) {
                let near = nearest(ca, known.iter().copied());
                let help = near.map_or_else(
                    || format!("the configured CAs are {}", file::listed(&known)),
                    |near| format!("did you mean `{near}`?"),
                );
                findings.error(*position, format!("no client CA is named `{ca}`"), help);
            }
        }
        findings.finish()
    }

    /// The bindings, in the policy's order.
    pub fn bindings(&self) -> impl Iterator<Item = BindingView<'_>> {
        self.checked.bindings.iter().enumerate().map(|(index, binding)| BindingView {
            index,
            field: binding.field.name(),
            pattern: &binding.written,
            ca: binding.ca.as_ref().map(|(ca, _)| &**ca),
            mode: self.mode_override.or(binding.mode).unwrap_or(self.mode),
            line: binding.line,
        })
    }

    /// The sets of captured values with which an identity of this binding has a grant on `key`.
    /// Captures that make no difference are omitted from a set. The list is empty if no grant of
    /// the binding's roles can include the key.
    pub fn captures_for(&self, binding: usize, key: &[u8]) -> Vec<Captures> {
        let Some(binding) = self.checked.bindings.get(binding) else { return Vec::new() };
        let roles = binding.roles.iter().filter_map(|at| self.checked.roles.get(*at));
        let mut all: Vec<Captures> = roles
            .flat_map(|role| role.allow.iter())
            .flat_map(|allowed| allowed.keys.solve(key))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// The names of the captures of a binding.
    pub fn capture_names(&self, binding: usize) -> Vec<Arc<str>> {
        self.checked
            .bindings
            .get(binding)
            .map(|binding| binding.pattern.captures().cloned().collect())
            .unwrap_or_default()
    }

    /// The grants of a role, as written: keys and verbs.
    pub fn role_grants(&self, role: &str) -> Vec<(&str, Verbs)> {
        self.checked
            .grants
            .iter()
            .filter(|grant| *grant.role == *role)
            .map(|grant| (&*grant.text, grant.verbs))
            .collect()
    }
}

/// True if the text ends with the line `...`, YAML's end of a document (YAML 1.2.2, 9.1.2). A
/// truncated text never does.
pub fn ends_with_marker(text: &[u8]) -> bool {
    text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next() == Some(b"...")
}

/// A binding, for commands that explain a policy.
#[derive(Clone, Copy, Debug)]
pub struct BindingView<'p> {
    /// Its index among the bindings.
    pub index: usize,
    /// `cn`, `uri`, `dns` or `o`.
    pub field: &'static str,
    /// The pattern as written.
    pub pattern: &'p str,
    /// The client CA that it requires.
    pub ca: Option<&'p str>,
    /// The mode in effect.
    pub mode: Mode,
    /// Its line in the file.
    pub line: usize,
}

/// The error for a file larger than [`MAX_BYTES`].
pub fn too_large(name: &str) -> Diagnostics {
    let message = format!("the policy is larger than {} MiB", MAX_BYTES / 1024 / 1024);
    Diagnostics::about(name, message, Some("use captures instead of one role per node"))
}

#[cfg(test)]
mod docs_test;
#[cfg(test)]
mod tests;
