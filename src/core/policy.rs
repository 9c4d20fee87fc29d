//! Who may do what: three types for three truths, and no function that takes two of them.
//!
//! `file::File` is what the operator wrote, `check::Checked` is what it means, [`Policy`] is what
//! serves: rights compiled once per identity into sorted disjoint ranges, so that a request costs a
//! binary search and no allocation.

pub mod builtin;
pub mod check;
pub mod compile;
mod file;
pub mod import;
pub mod keyset;
pub mod name;
pub mod rights;
mod select;
mod shadowed;
pub mod template;

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::access::Verbs;
use crate::diagnostics::{Diagnostics, Findings, nearest};
use crate::identity::NameRefusal;
use crate::yaml;
use name::Captures;
pub use rights::{Grant, GrantId, Rights};

/// The largest policy that is read, in bytes.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Whether a verdict is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Judge and record; everything goes through.
    Shadow,
    /// Judge, record and refuse.
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

/// Whether any binding knows an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// At least one binding matches.
    Bound,
    /// No binding matches: nothing is allowed.
    Unbound,
    /// The certificate gives no usable name.
    Nameless(NameRefusal),
    /// A binding matches but for a captured value that is no DNS-1123 subdomain.
    BadCapture,
}

/// An identity under one generation of the policy: everything that a decision needs to know about
/// the caller.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The identity's name: what leases belong to and audit lines show. `ca/cn:NAME`; `ca/uri:..`
    /// or `ca/dns:..` when a binding on such a name matches and none on `cn`.
    pub name: Arc<str>,
    /// Whether a binding knows it.
    pub standing: Standing,
    /// Enforced if any matching binding is enforced.
    pub mode: Mode,
    /// The roles of all matching bindings, in the policy's order.
    pub roles: Arc<[Arc<str>]>,
    /// What those roles add up to, after all denials.
    pub rights: Arc<Rights>,
    /// The generation of the policy that this was compiled from.
    pub generation: u64,
}

/// A policy that serves. Cheap to ask, safe to share; a reload makes a new one.
#[derive(Debug)]
pub struct Policy {
    /// Counts up with each policy that a process serves.
    pub generation: u64,
    /// Hexadecimal SHA-256 of the file's text.
    pub hash: Arc<str>,
    mode: Mode,
    mode_override: Option<Mode>,
    checked: Arc<check::Checked>,
    role_names: Arc<[Arc<str>]>,
    index: Arc<select::Index>,
    shared: select::Shared,
    warnings: Diagnostics,
    name: Arc<str>,
    text: Arc<str>,
}

impl Policy {
    /// Reads, checks and compiles the text of a policy file. `name` is what messages call it;
    /// `mode_override` (break-glass) replaces the policy's mode and that of all its bindings.
    ///
    /// # Errors
    /// Every mistake in the text, and the warnings with them.
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
            let help = r"other bytes in a key are written `\xNN`";
            Diagnostics::about(
                name,
                format!("the policy is not UTF-8: the first bad byte is in line {line}"),
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
            shared: select::Shared::default(),
            warnings,
            name: name.into(),
            text: text.into(),
            checked: Arc::new(checked),
        })
    }

    /// The mode of identities that no binding names, and of bindings that name none.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What overrides the modes of the file, if anything does.
    #[must_use]
    pub fn mode_override(&self) -> Option<Mode> {
        self.mode_override
    }

    /// The same policy as a new generation, with the modes of its file or with one for all.
    #[must_use]
    pub fn in_mode(&self, generation: u64, mode_override: Option<Mode>) -> Policy {
        Policy {
            generation,
            hash: self.hash.clone(),
            mode: mode_override.unwrap_or(self.checked.mode),
            mode_override,
            checked: self.checked.clone(),
            role_names: self.role_names.clone(),
            index: self.index.clone(),
            shared: select::Shared::default(),
            warnings: self.warnings.clone(),
            name: self.name.clone(),
            text: self.text.clone(),
        }
    }

    /// Whether any identity is only watched and not refused anything: then etcd's own auth must be
    /// off.
    #[must_use]
    pub fn has_shadow(&self) -> bool {
        self.has_shadow_under(self.mode_override)
    }

    /// As [`Policy::has_shadow`], were the modes of the file overridden so.
    #[must_use]
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

    /// The file's text, as it was read.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the text ends with the end marker ([`ends_with_marker`]).
    #[must_use]
    pub fn has_end_marker(&self) -> bool {
        ends_with_marker(self.text.as_bytes())
    }

    /// A grant that a decision named.
    #[must_use]
    pub fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.checked.grants.get(usize::try_from(id.0).ok()?)
    }

    /// All grants, in the policy's order: [`GrantId`] is the place.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.checked.grants
    }

    /// The names of all roles, also of included ones; [`Grant::role_index`] is the place.
    #[must_use]
    pub fn role_names(&self) -> &[Arc<str>] {
        &self.role_names
    }

    /// What was found that is no mistake.
    #[must_use]
    pub fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }

    /// Mistakes about CAs that bindings ask for and that are not among the configured client CAs:
    /// such a binding never matches.
    #[must_use]
    pub fn check_cas<N: AsRef<str>>(&self, names: &[N]) -> Diagnostics {
        let mut findings = Findings::new(&self.name, &self.text);
        let known: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        for (ca, position) in self.checked.bindings.iter().filter_map(|binding| binding.ca.as_ref())
        {
            if !known.contains(&&**ca) {
                let near = nearest(ca, known.iter().copied());
                let help = near.map_or_else(
                    || format!("there are {}", file::listed(&known)),
                    |near| format!("did you mean `{near}`?"),
                );
                findings.error(*position, format!("no client CA is called `{ca}`"), help);
            }
        }
        findings.finish()
    }

    /// The bindings, in the policy's order.
    pub fn bindings(&self) -> impl Iterator<Item = BindingView<'_>> {
        self.checked.bindings.iter().enumerate().map(|(place, binding)| BindingView {
            place,
            field: binding.field.name(),
            pattern: &binding.written,
            ca: binding.ca.as_ref().map(|(ca, _)| &**ca),
            mode: self.mode_override.or(binding.mode).unwrap_or(self.mode),
            line: binding.line,
        })
    }

    /// The captured values with which an identity of this binding may reach `key`, by any grant of
    /// its roles; values that make no difference are left out. Empty: nothing of it mentions
    /// the key.
    #[must_use]
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

    /// The names that a binding captures.
    #[must_use]
    pub fn capture_names(&self, binding: usize) -> Vec<Arc<str>> {
        self.checked
            .bindings
            .get(binding)
            .map(|binding| binding.pattern.captures().cloned().collect())
            .unwrap_or_default()
    }

    /// The role's rules as they are meant, for tests and for export: keys as written, verbs,
    /// whether allowed.
    #[must_use]
    pub fn role_grants(&self, role: &str) -> Vec<(&str, Verbs)> {
        self.checked
            .grants
            .iter()
            .filter(|grant| *grant.role == *role)
            .map(|grant| (&*grant.text, grant.verbs))
            .collect()
    }
}

/// Whether a policy's text ends with the line `...`, YAML's own end of a document (YAML 1.2.2,
/// 9.1.2): no text that was cut does.
#[must_use]
pub fn ends_with_marker(text: &[u8]) -> bool {
    text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next() == Some(b"...")
}

/// A binding, for those who explain a policy.
#[derive(Clone, Copy, Debug)]
pub struct BindingView<'p> {
    /// Its place among the bindings.
    pub place: usize,
    /// `cn`, `uri`, `dns` or `o`.
    pub field: &'static str,
    /// The pattern as written.
    pub pattern: &'p str,
    /// The client CA that it asks for.
    pub ca: Option<&'p str>,
    /// Its mode, the policy's where it has none.
    pub mode: Mode,
    /// Its line in the file.
    pub line: usize,
}

#[cfg(test)]
mod docs_test;
/// The file has more bytes than are read of a policy ([`MAX_BYTES`]).
#[must_use]
pub fn too_large(name: &str) -> Diagnostics {
    let message = format!("the policy is larger than {} MiB", MAX_BYTES / 1024 / 1024);
    Diagnostics::about(name, message, Some("use captures in place of one role per node"))
}

#[cfg(test)]
mod tests;
