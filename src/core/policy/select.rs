//! Finds the bindings that match the names in a certificate and combines them into a principal.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use super::check::{Checked, CheckedBinding, Denied, NameField};
use super::compile::{Entitlements, ResolvedRole};
use super::keyset::KeySet;
use super::name::{Captures, NameMatch};
use super::{BindingStatus, Mode, Policy, Principal, Rights};
use crate::access::Verbs;
use crate::identity::Identity;
use crate::keyspace::Escaped;

/// Limit on compiled rights in the cache. At the limit, those that no principal holds are removed.
/// If all are held, new rights are compiled without being cached.
const MAX_CACHED_RIGHTS: usize = 16_384;

/// Index of the bindings. Exact names are in a map, because a policy may list every node and user.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Bindings whose pattern is one exact name.
    exact: HashMap<(NameField, Arc<str>), Vec<usize>>,
    /// Bindings with a capture or a wildcard, which are tried one by one.
    open: Vec<usize>,
}

impl Index {
    pub(super) fn of(bindings: &[CheckedBinding]) -> Self {
        let mut index = Self::default();
        for (at, binding) in bindings.iter().enumerate() {
            match binding.pattern.exact() {
                Some(name) => {
                    index.exact.entry((binding.field, Arc::clone(name))).or_default().push(at);
                }
                None => index.open.push(at),
            }
        }
        index
    }
}

/// A binding that matches, and the name that it matched.
struct MatchedBinding<'i> {
    binding: usize,
    field: NameField,
    name: &'i str,
    captures: Captures,
}

/// Everything that compiled rights depend on: the roles with the captures that they use, and the
/// bindings that have denials. Equal keys share one [`Rights`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct RightsKey {
    roles: Vec<(usize, Captures)>,
    denials: Vec<(usize, Captures)>,
}

/// Cache of compiled rights. Identities with equal rights share one entry.
#[derive(Debug, Default)]
pub(super) struct RightsCache(Mutex<HashMap<RightsKey, Arc<Rights>>>);

impl RightsCache {
    /// Returns the rights for `key`, and compiles them first if necessary. The lock is not held
    /// while it compiles: a policy with many rules takes a while, and other connections must not
    /// wait. If two threads compile the same key, both get the result that was stored first.
    fn fetch(&self, key: RightsKey, compile: impl FnOnce(&RightsKey) -> Rights) -> Arc<Rights> {
        if let Some(rights) = self.lock().get(&key) {
            return Arc::clone(rights);
        }
        let rights = Arc::new(compile(&key));
        let mut cached = self.lock();
        if cached.len() >= MAX_CACHED_RIGHTS {
            cached.retain(|_, rights| Arc::strong_count(rights) > 1);
        }
        if cached.len() >= MAX_CACHED_RIGHTS {
            rights
        } else {
            Arc::clone(cached.entry(key).or_insert(rights))
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RightsKey, Arc<Rights>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy {
    /// Resolves an identity to a principal.
    ///
    /// The principal's name is the first of these that exists:
    /// 1. the CN, if a binding on `cn` matches;
    /// 2. the URI or DNS name by which the first such binding matches;
    /// 3. the CN, the first URI or the first DNS name, even if no binding matches it;
    /// 4. an O together with the identity's `distinction`, because identities may share an O;
    /// 5. the serial number.
    ///
    /// If bindings also match by other names, a digest of these names is part of the principal's
    /// name. So equal names mean equal rights.
    pub fn principal(&self, identity: &Identity) -> Principal {
        let unusable = identity.common_name.as_ref().err().copied();
        if let Some(refusal) = unusable.filter(|refusal| !refusal.leaves_other_names()) {
            return self.without_binding(identity, BindingStatus::Nameless(refusal), self.mode);
        }
        let (matched, bad_captures) = self.matching(identity);
        if matched.is_empty() {
            return match (bad_captures.is_empty(), unusable) {
                (false, _) => self.without_binding(
                    identity,
                    BindingStatus::BadCapture,
                    self.mode_of(bad_captures.into_iter()),
                ),
                (true, Some(refusal)) => {
                    self.without_binding(identity, BindingStatus::Nameless(refusal), self.mode)
                }
                (true, None) => self.without_binding(identity, BindingStatus::Unbound, self.mode),
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
            binding_status: BindingStatus::Bound,
            mode: self.mode_of(matched.iter().map(|m| m.binding)),
            roles: roles.iter().filter_map(|at| self.role_names.get(*at)).cloned().collect(),
            rights: self.rights_cache.fetch(key, |key| entitlements(&self.checked, key).compile()),
            generation: self.generation,
        }
    }

    /// The entitlements of an identity that matches only this binding, with these captures. For
    /// `explain` and tests.
    pub fn entitlements_of_binding(&self, binding: usize, captures: &Captures) -> Entitlements {
        entitlements(&self.checked, &self.rights_key(std::iter::once((binding, captures))))
    }

    /// The bindings that match an identity, each as its index and its captures.
    pub fn readings(&self, identity: &Identity) -> Vec<(usize, Captures)> {
        let unusable = identity
            .common_name
            .as_ref()
            .err()
            .is_some_and(|refusal| !refusal.leaves_other_names());
        let matched = if unusable { Vec::new() } else { self.matching(identity).0 };
        matched.into_iter().map(|matched| (matched.binding, matched.captures)).collect()
    }

    /// The entitlements of an identity, from which its rights are compiled. The reference model
    /// uses them directly.
    pub fn entitlements(&self, identity: &Identity) -> Entitlements {
        let (matched, _) = self.matching(identity);
        entitlements(
            &self.checked,
            &self.rights_key(matched.iter().map(|m| (m.binding, &m.captures))),
        )
    }

    fn without_binding(
        &self,
        identity: &Identity,
        binding_status: BindingStatus,
        mode: Mode,
    ) -> Principal {
        let rights = self.rights_cache.fetch(RightsKey::default(), |_| Rights::default());
        Principal {
            name: name(identity, &[]),
            binding_status,
            mode,
            roles: Arc::default(),
            rights,
            generation: self.generation,
        }
    }

    /// [`Mode::Enforce`] if any of these bindings is enforced.
    fn mode_of(&self, bindings: impl Iterator<Item = usize>) -> Mode {
        if let Some(mode) = self.mode_override {
            return mode;
        }
        let mut modes = bindings
            .filter_map(|at| self.checked.bindings.get(at))
            .map(|binding| binding.mode.unwrap_or(self.mode));
        if modes.any(|mode| mode == Mode::Enforce) { Mode::Enforce } else { Mode::Shadow }
    }

    /// The bindings that match, in the policy's order, and the bindings whose pattern matches but
    /// whose captured value is not valid.
    fn matching<'i>(&self, identity: &'i Identity) -> (Vec<MatchedBinding<'i>>, Vec<usize>) {
        let common_name = identity.common_name.as_ref().ok().map(|name| (NameField::Cn, &**name));
        let others = [
            (NameField::Uri, &identity.uri_sans),
            (NameField::Dns, &identity.dns_sans),
            (NameField::O, &identity.organizations),
        ];
        let others = others
            .into_iter()
            .flat_map(|(field, names)| names.iter().map(move |name| (field, name.as_str())));
        let (mut matched, mut bad_captures) = (Vec::new(), Vec::new());
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
                    NameMatch::BadCapture => bad_captures.push(at),
                    NameMatch::Yes(captures) => {
                        matched.push(MatchedBinding { binding: at, field, name, captures });
                    }
                }
            }
        }
        matched.sort_by_key(|m| m.binding);
        (matched, bad_captures)
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

fn entitlements(checked: &Checked, key: &RightsKey) -> Entitlements {
    let roles =
        key.roles.iter().filter_map(|(at, captures)| Some((checked.roles.get(*at)?, captures)));
    let roles = roles.map(|(role, captures)| ResolvedRole {
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
    Entitlements { roles: roles.collect(), denied: denied.collect() }
}

fn resolve(denied: &[Denied], captures: &Captures) -> Vec<(KeySet, Verbs)> {
    denied
        .iter()
        .filter_map(|denied| Some((denied.keys.resolve(captures)?, denied.verbs)))
        .collect()
}

/// The name of a principal (see [`Policy::principal`]). Leases and quotas use it as their key, so
/// equal names must mean equal rights. If bindings match by other names, a digest of these is added
/// before the colon. Text before the colon never comes from a certificate, so no certificate can
/// imitate it.
fn name(identity: &Identity, matched: &[MatchedBinding<'_>]) -> Arc<str> {
    let common_name = identity.common_name.as_deref().ok().map(|name| (NameField::Cn, name));
    let matched_by = |fields: &[NameField]| {
        matched.iter().find(|m| fields.contains(&m.field)).map(|m| (m.field, m.name))
    };
    let first = |field, names: &'_ [String]| names.first().map(|name| (field, name.clone()));
    let owned = |(field, name): (NameField, &str)| (field, name.to_owned());
    let own = matched_by(&[NameField::Cn])
        .or_else(|| matched_by(&[NameField::Uri, NameField::Dns]))
        .or(common_name)
        .map(owned);
    let own = own
        .or_else(|| first(NameField::Uri, &identity.uri_sans))
        .or_else(|| first(NameField::Dns, &identity.dns_sans));
    // Several identities may have the same O, so the distinction is part of the name.
    let shared = || {
        matched_by(&[NameField::O])
            .map(owned)
            .or_else(|| first(NameField::O, &identity.organizations))
    };
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

/// 16 hexadecimal digits of a digest over a set of names; `None` if the set is empty.
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
