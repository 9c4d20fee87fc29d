//! Validates a parsed policy file: resolves names, parses keys, and reports every error.

mod rules;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

#[cfg(test)]
pub(super) use rules::VERBS;
use rules::{position_of, rules, text_of, verbs_of};

use super::file::{self, File, Text, listed};
use super::name::NamePattern;
use super::template::Template;
use super::{Grant, GrantId, Mode, builtin, redundant};
use crate::access::{Capability, Verbs};
use crate::diagnostics::{Findings, SourcePosition, nearest};

/// A valid policy: every name is resolved.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) mode: Mode,
    /// The policy's own roles in file order, then those of the included role sets.
    pub(super) roles: Vec<CheckedRole>,
    pub(super) bindings: Vec<CheckedBinding>,
    pub(super) grants: Vec<Grant>,
}

#[derive(Debug)]
pub(super) struct CheckedRole {
    pub(super) name: Arc<str>,
    position: SourcePosition,
    pub(super) allow: Vec<Allowed>,
    pub(super) deny: Vec<Denied>,
    pub(super) capabilities: Vec<(Capability, GrantId)>,
    /// The captures that its keys use.
    pub(super) captures: BTreeSet<Arc<str>>,
}

/// One key of one `allow` entry.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    pub(super) keys: Template,
    pub(super) verbs: Verbs,
    pub(super) grant: GrantId,
    pub(super) position: SourcePosition,
}

/// One key of one `deny` entry.
#[derive(Clone, Debug)]
pub(super) struct Denied {
    pub(super) keys: Template,
    pub(super) verbs: Verbs,
    pub(super) position: SourcePosition,
}

/// The name in a certificate that a binding matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameField {
    /// The subject's Common Name.
    Cn,
    /// A URI subject alternative name.
    Uri,
    /// A DNS subject alternative name.
    Dns,
    /// An O of the subject.
    O,
}

impl NameField {
    /// The name of the field in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            NameField::Cn => "cn",
            NameField::Uri => "uri",
            NameField::Dns => "dns",
            NameField::O => "o",
        }
    }

    fn of(name: &str) -> Self {
        [NameField::Uri, NameField::Dns, NameField::O]
            .into_iter()
            .find(|field| field.name() == name)
            .unwrap_or(NameField::Cn)
    }
}

#[derive(Debug)]
pub(super) struct CheckedBinding {
    pub(super) field: NameField,
    pub(super) pattern: NamePattern,
    /// The pattern as written.
    pub(super) written: Arc<str>,
    pub(super) ca: Option<(Arc<str>, SourcePosition)>,
    /// Indices in [`Checked::roles`].
    pub(super) roles: Vec<usize>,
    pub(super) deny: Vec<Denied>,
    pub(super) mode: Option<Mode>,
    pub(super) line: usize,
}

/// Validates `file`. If `findings` has errors afterwards, the result is incomplete and must not be
/// used.
pub(super) fn check(file: &File, findings: &mut Findings<'_>) -> Checked {
    let mut checked = Checked {
        mode: Mode::Enforce,
        roles: Vec::new(),
        bindings: Vec::new(),
        grants: Vec::new(),
    };
    if let Some(mode) = file.mode.as_ref().and_then(|written| mode(written, findings)) {
        checked.mode = mode;
    }
    for written in &file.roles {
        role(written, &mut checked, findings);
    }
    let own = checked.roles.len();
    include(&file.include, &mut checked, findings);
    let role_indices: HashMap<Arc<str>, usize> = checked
        .roles
        .iter()
        .enumerate()
        .rev()
        .map(|(at, role)| (Arc::clone(&role.name), at))
        .collect();
    let mut seen = HashMap::new();
    for written in &file.bindings {
        if let Some(binding) = binding(written, &checked, &role_indices, findings) {
            let matcher = (
                binding.field,
                binding.pattern.clone(),
                binding.ca.as_ref().map(|(name, _)| Arc::clone(name)),
            );
            if let Some(line) = seen.insert(matcher, binding.line) {
                let help = format!("the first is in line {line}; list all roles in one of them");
                findings.error(written.position, "two bindings match the same identities", help);
            }
            checked.bindings.push(binding);
        }
    }
    if !findings.has_errors() {
        warn(&checked, own, findings);
    }
    checked
}

/// Warns about entries without effect. Called only if there are no errors.
fn warn(checked: &Checked, own: usize, findings: &mut Findings<'_>) {
    let used: BTreeSet<usize> =
        checked.bindings.iter().flat_map(|binding| binding.roles.iter().copied()).collect();
    for (at, role) in checked.roles.iter().take(own).enumerate() {
        if !used.contains(&at) {
            findings.warning(role.position, format!("no binding uses role `{}`", role.name), "");
        }
        redundant::warn(role, findings);
    }
}

fn include(wanted: &[Text], checked: &mut Checked, findings: &mut Findings<'_>) {
    let mut from: HashMap<Arc<str>, String> = checked
        .roles
        .iter()
        .map(|role| (Arc::clone(&role.name), format!("line {}", role.position.line)))
        .collect();
    for (at, name) in wanted.iter().enumerate() {
        if wanted.iter().take(at).any(|earlier| earlier.text == name.text) {
            findings.error(name.position, format!("`{}` is included twice", name.text), "");
            continue;
        }
        let Some(set) = builtin::find(&name.text) else {
            let names: Vec<&str> = builtin::ALL.iter().map(|set| set.name).collect();
            findings.error(
                name.position,
                format!("there is no role set `{}`", name.text),
                suggestion(&name.text, &names),
            );
            continue;
        };
        if !set.caution.is_empty() {
            findings.warning(
                name.position,
                format!("role set `{}` is for comparison only", set.name),
                set.caution,
            );
        }
        let first = checked.roles.len();
        let mut inside = Findings::new(&format!("builtin:{}", set.name), set.text);
        for written in &set.file(&mut inside).roles {
            role(written, checked, &mut inside);
        }
        if inside.has_errors() {
            findings.error(
                name.position,
                format!("role set `{}` is broken: {}", set.name, inside.finish()),
                "",
            );
        }
        for role in checked.roles.iter().skip(first) {
            if let Some(other) =
                from.insert(Arc::clone(&role.name), format!("role set `{}`", set.name))
            {
                let message =
                    format!("role set `{}` and {other} both define role `{}`", set.name, role.name);
                findings.error(
                    name.position,
                    message,
                    "rename your own role, or remove one of the two",
                );
            }
        }
    }
}

fn role(written: &file::Role, checked: &mut Checked, findings: &mut Findings<'_>) {
    let name: Arc<str> = written.name.text.as_str().into();
    if !is_role_name(&name) {
        let help = "use at most 128 letters, digits, `-`, `_`, `.` and `/`";
        findings.error(written.name.position, format!("`{name}` is not a valid role name"), help);
    }
    let index = u32::try_from(checked.roles.len()).unwrap_or(u32::MAX);
    let mut grant = |text: &str, verbs, position| {
        let id = GrantId(u32::try_from(checked.grants.len()).unwrap_or(u32::MAX));
        let source = findings.source(position);
        checked.grants.push(Grant {
            role: Arc::clone(&name),
            role_index: index,
            text: text.into(),
            verbs,
            source,
        });
        id
    };
    let mut capabilities: Vec<(Capability, GrantId)> = Vec::new();
    let mut problems: Vec<(SourcePosition, String, String)> = Vec::new();
    for written in &written.capabilities {
        let names: Vec<&str> = Capability::ALL.iter().map(|capability| capability.name()).collect();
        match Capability::ALL.iter().find(|capability| capability.name() == written.text) {
            None => problems.push((
                written.position,
                format!("there is no capability `{}`", written.text),
                suggestion(&written.text, &names),
            )),
            Some(found) if capabilities.iter().any(|(known, _)| known == found) => {
                problems.push((
                    written.position,
                    format!("`{found}` is listed twice"),
                    String::new(),
                ));
            }
            Some(&found) => capabilities.push((
                found,
                grant(&format!("capability {found}"), Verbs::NONE, written.position),
            )),
        }
    }
    let mut ids = Vec::new();
    for rule in &written.allow {
        for keys in &rule.keys {
            ids.push(grant(&text_of(keys), verbs_of(rule), position_of(keys)));
        }
    }
    for (position, message, help) in problems {
        findings.error(position, message, help);
    }
    for (capability, _) in &capabilities {
        if *capability == Capability::Snapshot
            && let Some(written) =
                written.capabilities.iter().find(|written| written.text == "snapshot")
        {
            let help = "a snapshot is a copy of the whole database; `deny` does not apply to it";
            findings.warning(
                written.position,
                format!("role `{name}` can read every key by `snapshot`"),
                help,
            );
        }
    }
    let allow: Vec<Allowed> = rules(&written.allow, findings)
        .into_iter()
        .zip(ids)
        .filter_map(|(denied, grant)| {
            denied.map(|d| Allowed { keys: d.keys, verbs: d.verbs, grant, position: d.position })
        })
        .collect();
    let deny: Vec<Denied> = rules(&written.deny, findings).into_iter().flatten().collect();
    let captures = allow
        .iter()
        .map(|a| &a.keys)
        .chain(deny.iter().map(|d| &d.keys))
        .flat_map(Template::captures)
        .cloned()
        .collect();
    checked.roles.push(CheckedRole {
        name,
        position: written.name.position,
        allow,
        deny,
        capabilities,
        captures,
    });
}

fn binding(
    written: &file::Binding,
    checked: &Checked,
    roles: &HashMap<Arc<str>, usize>,
    findings: &mut Findings<'_>,
) -> Option<CheckedBinding> {
    if let Some((field, second)) = written.matchers.get(1) {
        findings.error(
            second.position,
            format!("a binding has exactly one matcher; `{field}` is the second"),
            "write one binding for each; their rights add up",
        );
    }
    let mode = written.mode.as_ref().and_then(|written| mode(written, findings));
    let deny: Vec<Denied> = rules(&written.deny, findings).into_iter().flatten().collect();
    let mut bound: Vec<usize> = Vec::new();
    for name in &written.roles {
        match roles.get(name.text.as_str()) {
            Some(index) if bound.contains(index) => {
                findings.error(name.position, format!("`{}` is listed twice", name.text), "");
            }
            Some(index) => bound.push(*index),
            None => {
                let mut names: Vec<&str> = checked.roles.iter().map(|role| &*role.name).collect();
                names.sort_unstable();
                findings.error(
                    name.position,
                    format!("there is no role `{}`", name.text),
                    missing_role(&name.text, &names),
                );
            }
        }
    }
    let (field, text) = written.matchers.first()?;
    let pattern = match NamePattern::parse(&text.text) {
        Ok(pattern) => pattern,
        Err((message, help)) => {
            findings.error(text.position, message, help);
            return None;
        }
    };
    let captured: BTreeSet<&Arc<str>> = pattern.captures().collect();
    for name in &written.roles {
        let Some(role) = roles.get(name.text.as_str()).and_then(|at| checked.roles.get(*at)) else {
            continue;
        };
        for capture in role.captures.iter().filter(|capture| !captured.contains(capture)) {
            let message = format!(
                "role `{}` needs `{{{capture}}}`, which `{}` does not capture",
                role.name, text.text
            );
            findings.error(
                name.position,
                message,
                format!(
                    "capture it in the binding, as in `{field}: \"{}:{{{capture}}}\"`",
                    role.name
                ),
            );
        }
    }
    for denied in &deny {
        for capture in denied.keys.captures().filter(|capture| !captured.contains(capture)) {
            findings.error(
                denied.position,
                format!("`{}` does not capture `{{{capture}}}`", text.text),
                "",
            );
        }
    }
    let ca = written.ca.as_ref().map(|ca| (Arc::from(ca.text.as_str()), ca.position));
    let written_as = text.text.as_str().into();
    Some(CheckedBinding {
        field: NameField::of(field),
        pattern,
        written: written_as,
        ca,
        roles: bound,
        deny,
        mode,
        line: written.position.line,
    })
}

fn mode(written: &Text, findings: &mut Findings<'_>) -> Option<Mode> {
    let found =
        [Mode::Shadow, Mode::Enforce].into_iter().find(|mode| mode.to_string() == written.text);
    if found.is_none() {
        findings.error(
            written.position,
            format!("there is no mode `{}`", written.text),
            suggestion(&written.text, &["shadow", "enforce"]),
        );
    }
    found
}

fn suggestion(written: &str, known: &[&str]) -> String {
    match nearest(written, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("use one of {}", listed(known)),
    }
}

fn missing_role(written: &str, known: &[&str]) -> String {
    let has = |set: &&builtin::RoleSet| {
        set.caution.is_empty() && set.role_names().iter().any(|name| name == written)
    };
    let sets: Vec<&str> = builtin::ALL.iter().filter(has).map(|set| set.name).collect();
    match sets.as_slice() {
        [] => {}
        [only] => return format!("role set `{only}` defines it: write `include: [{only}]`"),
        several => {
            return format!(
                "these role sets define it; `include` one of them: {}",
                listed(several)
            );
        }
    }
    match nearest(written, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => {
            "this policy has no roles: write them under `roles`, or `include` a role set".to_owned()
        }
        None if known.len() > 12 => {
            "`etcd-warden policy show` lists the role sets that can be included".to_owned()
        }
        None => format!("use one of {}", listed(known)),
    }
}

pub(super) fn is_role_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    !name.is_empty() && name.len() <= 128 && name.bytes().all(good)
}

#[cfg(test)]
mod tests;
