//! Parses the keys and verbs of `allow` and `deny` entries.

use super::{Denied, suggestion};
use crate::access::{Verb, Verbs};
use crate::diagnostics::{Findings, SourcePosition};
use crate::policy::file::{Keys, Rule, Text};
use crate::policy::template::{KeyError, Template};

/// The names of verbs in a policy.
pub(in crate::policy) const VERBS: &[&str] = &["read", "create", "update", "delete", "write", "rw"];

/// Parses each key of each entry; `None` for a key that is invalid.
pub(super) fn rules(written: &[Rule], findings: &mut Findings<'_>) -> Vec<Option<Denied>> {
    let mut all = Vec::new();
    for rule in written {
        for verb in &rule.verbs {
            if verbs(&verb.text).is_none() {
                findings.error(
                    verb.position,
                    format!("there is no verb `{}`", verb.text),
                    suggestion(&verb.text, VERBS),
                );
            }
        }
        for keys in &rule.keys {
            let position = position_of(keys);
            all.push(template(keys, findings).map(|keys| Denied {
                keys,
                verbs: verbs_of(rule),
                position,
            }));
        }
    }
    all
}

fn template(keys: &Keys, findings: &mut Findings<'_>) -> Option<Template> {
    let (read, text) = match keys {
        Keys::Template(text) => (Template::parse(&text.text), text),
        Keys::Interval { from, to, .. } => {
            (Template::interval(&from.text, to.as_ref().map(|to| to.text.as_str())), from)
        }
    };
    match read {
        Ok(template) => {
            if let Some((message, help)) = template.spills() {
                findings.warning(text.position, message, help);
            }
            Some(template)
        }
        Err((message, help, at)) => {
            key_error(text, &(message, help, at), findings);
            None
        }
    }
}

fn key_error(written: &Text, (message, help, at): &KeyError, findings: &mut Findings<'_>) {
    let before = written.text.get(..*at).unwrap_or_default().chars().count();
    // A plain scalar has the same characters in the file, so the error can point to the exact one.
    let plain = written.text.chars().count() == written.position.width;
    let position = if plain && *at > 0 {
        SourcePosition { column: written.position.column + before, width: 1, ..written.position }
    } else {
        written.position
    };
    findings.error(position, message.clone(), *help);
}

fn verbs(written: &str) -> Option<Verbs> {
    match written {
        "write" => Some(Verbs::WRITE),
        "rw" => Some(Verbs::ALL),
        one => Verb::ALL.into_iter().find(|verb| verb.name() == one).map(Verbs::of),
    }
}

pub(super) fn verbs_of(rule: &Rule) -> Verbs {
    rule.verbs.iter().filter_map(|verb| verbs(&verb.text)).fold(Verbs::NONE, Verbs::union)
}

pub(super) fn text_of(keys: &Keys) -> String {
    match keys {
        Keys::Template(text) => text.text.clone(),
        Keys::Interval { from, to: Some(to), .. } => format!("[{}, {})", from.text, to.text),
        Keys::Interval { from, to: None, .. } => format!("[{}, ...)", from.text),
    }
}

pub(super) fn position_of(keys: &Keys) -> SourcePosition {
    match keys {
        Keys::Template(text) => text.position,
        Keys::Interval { position, .. } => *position,
    }
}
