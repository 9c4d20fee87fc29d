//! From a certificate's names to a principal: which bindings match, what they add up to, and what
//! the caller is called.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use super::check::{Checked, CheckedBinding, Denied, Field};
use super::compile::{Held, Holdings};
use super::keyset::KeySet;
use super::name::{Captures, NameMatch};
use super::{Mode, Policy, Principal, Rights, Standing};
use crate::access::Verbs;
use crate::identity::Identity;
use crate::keyspace::Escaped;

/// Compiled rights that are kept although nobody uses them at the moment.
const KEPT: usize = 16_384;

/// Exact names to bindings: a policy may name every node and user one by one.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<(Field, Arc<str>), Vec<usize>>,
    open: Vec<usize>,
}

impl Index {
    pub(super) fn of(bindings: &[CheckedBinding]) -> Self {
        let mut index = Self::default();
        for (at, binding) in bindings.iter().enumerate() {
            match binding.pattern.exact() {
                Some(name) => {
                    index.exact.entry((binding.field, Arc::clone(name))).or_default().push(at)
                }
                None => index.open.push(at),
            }
        }
        index
    }
}

/// One binding that matches, and the name that it matched.
struct Matched<'i> {
    binding: usize,
    field: Field,
    name: &'i str,
    captures: Captures,
}

/// What rights depend on: roles with the captures that they use, and denials of bindings. Equal
/// keys share one [`Rights`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct RightsKey {
    roles: Vec<(usize, Captures)>,
    denials: Vec<(usize, Captures)>,
}

/// Rights that were compiled once and are shared by all identities that have the same.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<HashMap<RightsKey, Arc<Rights>>>);

impl Shared {
    /// Compiled without the lock: a policy of many rules takes a while, and whoever connects
    /// meanwhile must not wait for it. Of two who compile the same at once, both get what the
    /// first has kept.
    fn fetch(&self, key: RightsKey, compile: impl FnOnce(&RightsKey) -> Rights) -> Arc<Rights> {
        if let Some(rights) = self.kept().get(&key) {
            return Arc::clone(rights);
        }
        let rights = Arc::new(compile(&key));
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.retain(|_, rights| Arc::strong_count(rights) > 1);
        }
        if kept.len() >= KEPT { rights } else { Arc::clone(kept.entry(key).or_insert(rights)) }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<RightsKey, Arc<Rights>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy {
    /// What the policy makes of an identity.
    ///
    /// It is called by the name that lasts: its CN if a binding on `cn` matches; else the URI or
    /// DNS name that the first matching binding matched; else its CN, its first URI or its
    /// first DNS name; else its O, which it may share with others, together with what
    /// tells it from those. Where bindings match by other names as well, digits that stand for
    /// those are part of it: the same name means the same rights.
    #[must_use]
    pub fn principal(&self, identity: &Identity) -> Principal {
        let unusable = identity.common_name.as_ref().err().copied();
        if let Some(refusal) = unusable.filter(|refusal| !refusal.leaves_other_names()) {
            return self.nobody(identity, Standing::Nameless(refusal), self.mode);
        }
        let (matched, nearly) = self.matching(identity);
        if matched.is_empty() {
            return match (nearly.is_empty(), unusable) {
                (false, _) => {
                    self.nobody(identity, Standing::BadCapture, self.mode_of(nearly.into_iter()))
                }
                (true, Some(refusal)) => {
                    self.nobody(identity, Standing::Nameless(refusal), self.mode)
                }
                (true, None) => self.nobody(identity, Standing::Unbound, self.mode),
            };
        }
        let mut roles: Vec<usize> = matched
            .iter()
            .filter_map(|m| self.checked.bindings.get(m.binding))
            .flat_map(|b| b.roles.iter().copied())
            .collect();
        roles.sort_unstable();
        roles.dedup();
        let key = self.rights_key(matched.iter().map(|m| (m.binding, &m.captures)));
        Principal {
            name: name(identity, &matched),
            standing: Standing::Bound,
            mode: self.mode_of(matched.iter().map(|m| m.binding)),
            roles: roles.iter().filter_map(|at| self.role_names.get(*at)).cloned().collect(),
            rights: self.shared.fetch(key, |key| holdings(&self.checked, key).compile()),
            generation: self.generation,
        }
    }

    /// What an identity that matches exactly this binding, with these captures, holds. For
    /// `explain` and for tests.
    #[must_use]
    pub fn holdings_of_binding(&self, binding: usize, captures: &Captures) -> Holdings {
        holdings(&self.checked, &self.rights_key(std::iter::once((binding, captures))))
    }

    /// The bindings that match an identity, by their places, each with what it captured: how the
    /// policy reads its names.
    #[must_use]
    pub fn readings(&self, identity: &Identity) -> Vec<(usize, Captures)> {
        let unusable = identity
            .common_name
            .as_ref()
            .err()
            .is_some_and(|refusal| !refusal.leaves_other_names());
        let matched = if unusable { Vec::new() } else { self.matching(identity).0 };
        matched.into_iter().map(|matched| (matched.binding, matched.captures)).collect()
    }

    /// What an identity was given, word for word: the input of the reference model.
    #[must_use]
    pub fn holdings(&self, identity: &Identity) -> Holdings {
        let (matched, _) = self.matching(identity);
        holdings(&self.checked, &self.rights_key(matched.iter().map(|m| (m.binding, &m.captures))))
    }

    fn nobody(&self, identity: &Identity, standing: Standing, mode: Mode) -> Principal {
        let rights = self.shared.fetch(RightsKey::default(), |_| Rights::default());
        Principal {
            name: name(identity, &[]),
            standing,
            mode,
            roles: Arc::default(),
            rights,
            generation: self.generation,
        }
    }

    /// Enforced if any of these bindings is.
    fn mode_of(&self, bindings: impl Iterator<Item = usize>) -> Mode {
        if let Some(mode) = self.mode_override {
            return mode;
        }
        let mut modes = bindings
            .filter_map(|at| self.checked.bindings.get(at))
            .map(|binding| binding.mode.unwrap_or(self.mode));
        if modes.any(|mode| mode == Mode::Enforce) { Mode::Enforce } else { Mode::Shadow }
    }

    /// The bindings that match, in the policy's order, and those that would but for a captured
    /// value.
    fn matching<'i>(&self, identity: &'i Identity) -> (Vec<Matched<'i>>, Vec<usize>) {
        let common_name = identity.common_name.as_ref().ok().map(|name| (Field::Cn, &**name));
        let others = [
            (Field::Uri, &identity.uri_sans),
            (Field::Dns, &identity.dns_sans),
            (Field::O, &identity.organizations),
        ];
        let others = others
            .into_iter()
            .flat_map(|(field, names)| names.iter().map(move |name| (field, name.as_str())));
        let (mut matched, mut nearly) = (Vec::new(), Vec::new());
        for (field, name) in common_name.into_iter().chain(others) {
            let exact = self.index.exact.get(&(field, Arc::from(name))).into_iter().flatten();
            for &at in exact.chain(&self.index.open) {
                let Some(binding) =
                    self.checked.bindings.get(at).filter(|binding| binding.field == field)
                else {
                    continue;
                };
                if binding.ca.as_ref().is_some_and(|(ca, _)| *ca != identity.ca) {
                    continue;
                }
                match binding.pattern.matches(name) {
                    NameMatch::No => {}
                    NameMatch::BadCapture => nearly.push(at),
                    NameMatch::Yes(captures) => {
                        matched.push(Matched { binding: at, field, name, captures })
                    }
                }
            }
        }
        matched.sort_by_key(|m| m.binding);
        (matched, nearly)
    }

    fn rights_key<'c>(&self, matched: impl Iterator<Item = (usize, &'c Captures)>) -> RightsKey {
        let mut key = RightsKey::default();
        for (at, captures) in matched {
            let Some(binding) = self.checked.bindings.get(at) else { continue };
            for &role in &binding.roles {
                let used = self.checked.roles.get(role).map(|role| &role.captures);
                let used = captures
                    .iter()
                    .filter(|(name, _)| used.is_some_and(|used| used.contains(name)))
                    .cloned()
                    .collect();
                key.roles.push((role, used));
            }
            if !binding.deny.is_empty() {
                key.denials.push((at, captures.clone()));
            }
        }
        key.roles.sort();
        key.roles.dedup();
        key
    }
}

fn holdings(checked: &Checked, key: &RightsKey) -> Holdings {
    let roles =
        key.roles.iter().filter_map(|(at, captures)| Some((checked.roles.get(*at)?, captures)));
    let roles = roles.map(|(role, captures)| Held {
        allowed: role
            .allow
            .iter()
            .filter_map(|a| Some((a.keys.resolve(captures)?, a.verbs, a.grant)))
            .collect(),
        denied: resolve(&role.deny, captures),
        capabilities: role.capabilities.clone(),
    });
    let denials = key
        .denials
        .iter()
        .filter_map(|(at, captures)| Some((checked.bindings.get(*at)?, captures)));
    let denied = denials.flat_map(|(binding, captures)| resolve(&binding.deny, captures));
    Holdings { roles: roles.collect(), denied: denied.collect() }
}

fn resolve(denied: &[Denied], captures: &Captures) -> Vec<(KeySet, Verbs)> {
    denied
        .iter()
        .filter_map(|denied| Some((denied.keys.resolve(captures)?, denied.verbs)))
        .collect()
}

/// What an identity is called. Who has the same name has the same rights: leases and limits go by
/// it. So where a binding matches by another name than this one, a digest of those others is part
/// of it, in front of the colon, where no certificate can write the same.
fn name(identity: &Identity, matched: &[Matched<'_>]) -> Arc<str> {
    let common_name = identity.common_name.as_deref().ok().map(|name| (Field::Cn, name));
    let matched_by = |fields: &[Field]| {
        matched.iter().find(|m| fields.contains(&m.field)).map(|m| (m.field, m.name))
    };
    let first = |field, names: &'_ [String]| names.first().map(|name| (field, name.clone()));
    let owned = |(field, name): (Field, &str)| (field, name.to_owned());
    let own = matched_by(&[Field::Cn])
        .or_else(|| matched_by(&[Field::Uri, Field::Dns]))
        .or(common_name)
        .map(owned);
    let own = own
        .or_else(|| first(Field::Uri, &identity.uri_sans))
        .or_else(|| first(Field::Dns, &identity.dns_sans));
    // An O stands for many: what tells the certificate from others with that O is part of its name.
    let shared =
        || matched_by(&[Field::O]).map(owned).or_else(|| first(Field::O, &identity.organizations));
    let ca = Escaped(identity.ca.as_bytes());
    let (field, name, distinction) = match own {
        Some((field, name)) => (field, name, None),
        None => match shared() {
            Some((field, name)) => (field, name, identity.distinction.as_deref()),
            None => return format!("{ca}/serial:{}", identity.serial).into(),
        },
    };
    let others = matched
        .iter()
        .filter(|m| (m.field, m.name) != (field, name.as_str()))
        .map(|m| (m.field.name(), m.name));
    let others = digest(others.collect());
    let marks: String =
        distinction.into_iter().chain(others.as_deref()).map(|mark| format!("+{mark}")).collect();
    format!("{ca}/{}{marks}:{}", field.name(), Escaped(name.as_bytes())).into()
}

/// Sixteen digits for a set of names; `None` where it is empty.
fn digest(names: BTreeSet<(&str, &str)>) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for text in names.into_iter().flat_map(|(field, name)| [field, name]) {
        hash.update(text.len().to_be_bytes());
        hash.update(text);
    }
    Some(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
