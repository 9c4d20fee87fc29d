//! `policy explain --key`: which bindings have rights on a key.

use std::io::Write;

use etcd_warden_core::access::{Capability, Verb};
use etcd_warden_core::keyspace::{Escaped, KeyRange};
use etcd_warden_core::policy::name::Captures;
use etcd_warden_core::policy::{BindingView, GrantId, Policy};
use serde_json::{Value, json};

use super::Output;
use super::explain::{grant_json, spelled};

/// A placeholder for captured values that make no difference to the key. A rule that contains it
/// would do so by coincidence only.
const ANY: &str = "any-other-value.invalid";

/// The rights of one binding on the key, for identities with these captured values.
struct Holder<'p> {
    binding: BindingView<'p>,
    captures: Captures,
    verbs: Vec<(Verb, GrantId)>,
    /// The grant of capability `snapshot`, which reads every key.
    snapshot: Option<GrantId>,
}

/// Writes the bindings that have rights on `key`. If several bindings match an identity, their
/// grants add up, and a denial of one applies to all of them.
pub(super) fn write(
    policy: &Policy,
    key: &[u8],
    output: Output,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let holders: Vec<Holder<'_>> =
        policy.bindings().flat_map(|binding| holders(policy, binding, key)).collect();
    match output {
        Output::Json => {
            let list: Vec<Value> = holders.iter().map(|holder| holder.to_json(policy)).collect();
            writeln!(out, "{}", json!({ "key": Escaped(key).to_string(), "holders": list }))
        }
        Output::Text => {
            writeln!(out, "{}", Escaped(key))?;
            for holder in &holders {
                holder.text(policy, out)?;
            }
            if holders.is_empty() {
                writeln!(out, "  no binding has a right on it")
            } else {
                Ok(())
            }
        }
    }
}

fn holders<'p>(policy: &Policy, binding: BindingView<'p>, key: &[u8]) -> Vec<Holder<'p>> {
    let mut solutions = policy.captures_for(binding.index, key);
    if solutions.is_empty() {
        solutions.push(Captures::new());
    }
    let names = policy.capture_names(binding.index);
    let holder = |captures: Captures| {
        let mut filled = captures.clone();
        let open = names.iter().filter(|name| captures.iter().all(|(known, _)| known != *name));
        filled.extend(open.map(|name| (name.clone(), ANY.into())));
        filled.sort();
        let rights = policy.entitlements_of_binding(binding.index, &filled).compile();
        let verbs: Vec<(Verb, GrantId)> = Verb::ALL
            .into_iter()
            .filter_map(|verb| Some((verb, rights.covers(verb, &KeyRange::key(key)).ok()?)))
            .collect();
        let snapshot = rights.capability(Capability::Snapshot);
        (!verbs.is_empty() || snapshot.is_some()).then_some(Holder {
            binding,
            captures,
            verbs,
            snapshot,
        })
    };
    solutions.into_iter().filter_map(holder).collect()
}

impl Holder<'_> {
    fn text(&self, policy: &Policy, out: &mut dyn Write) -> std::io::Result<()> {
        let binding = &self.binding;
        let ca = binding.ca.map(|ca| format!(" of CA {ca}")).unwrap_or_default();
        let captured: Vec<String> =
            self.captures.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let captured = if captured.is_empty() {
            String::new()
        } else {
            format!(" with {}", captured.join(", "))
        };
        writeln!(
            out,
            "  {} {}{ca}{captured} ({}, line {})",
            binding.field, binding.pattern, binding.mode, binding.line
        )?;
        for (verb, grant) in &self.verbs {
            writeln!(
                out,
                "      {:<7} by {}",
                verb.name(),
                policy.grant(*grant).map(spelled).unwrap_or_default()
            )?;
        }
        if let Some(grant) = self.snapshot.and_then(|id| policy.grant(id)) {
            writeln!(
                out,
                "      reads it in a snapshot of the whole database, by {}",
                spelled(grant)
            )?;
        }
        Ok(())
    }

    fn to_json(&self, policy: &Policy) -> Value {
        let captures: serde_json::Map<String, Value> =
            self.captures.iter().map(|(name, value)| (name.to_string(), json!(&**value))).collect();
        let grant = |id: GrantId| policy.grant(id).map(grant_json);
        let verbs: Vec<Value> = self
            .verbs
            .iter()
            .map(|(verb, id)| json!({ "verb": verb.name(), "grant": grant(*id) }))
            .collect();
        json!({
            "binding": { self.binding.field: self.binding.pattern },
            "ca": self.binding.ca,
            "mode": self.binding.mode.to_string(),
            "line": self.binding.line,
            "captures": captures,
            "verbs": verbs,
            "snapshot": self.snapshot.and_then(grant),
        })
    }
}
