//! How the last reloads went, as `/policy` shows it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::metrics::reason::Reloaded;

/// The errors of the last reloads, and the source of the policy in effect.
#[derive(Debug, Default)]
pub(in crate::app) struct ReloadStatus {
    errors: Mutex<BTreeMap<Reloaded, String>>,
    /// Why shadow mode is suspended.
    suspended: Mutex<Option<&'static str>>,
    /// The policy in effect is the one that was kept in `state-dir`.
    kept: AtomicBool,
}

impl ReloadStatus {
    /// Where the policy in effect was read.
    pub(in crate::app) fn source(&self) -> &'static str {
        if self.kept.load(Ordering::Relaxed) { "state-dir" } else { "file" }
    }

    /// Why the policy in effect is not the one in the file, or why shadow mode is suspended.
    pub(in crate::app) fn policy_error(&self) -> Option<String> {
        let suspended = *self.suspended.lock().unwrap_or_else(PoisonError::into_inner);
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.get(&Reloaded::Policy).cloned().or(suspended.map(str::to_owned))
    }

    /// Why the last reloads of certificates and revocation lists failed.
    pub(in crate::app) fn certificate_errors(&self) -> BTreeMap<&'static str, String> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors
            .iter()
            .filter(|(what, _)| **what != Reloaded::Policy)
            .map(|(what, error)| (what.code(), error.clone()))
            .collect()
    }

    /// Notes the result of a reload.
    pub(in crate::app) fn set(&self, what: Reloaded, error: Option<String>) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => errors.insert(what, error),
            None => errors.remove(&what),
        };
    }

    /// Notes whether the policy in effect is the one that was kept in `state-dir`.
    pub(in crate::app) fn set_kept(&self, kept: bool) {
        self.kept.store(kept, Ordering::Relaxed);
    }

    /// Notes why shadow mode is suspended, or that it is not.
    pub(in crate::app) fn set_suspended(&self, why: Option<&'static str>) {
        *self.suspended.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}
