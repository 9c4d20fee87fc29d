//! A table with one value for each owner. Entries of owners that are gone are removed.

use std::collections::HashMap;
use std::sync::Arc;

/// Values by the owner's name.
#[derive(Debug)]
pub struct Owners<V> {
    by_name: HashMap<Arc<str>, V>,
    sweep_at: usize,
    min_sweep: usize,
}

impl<V: Clone> Owners<V> {
    /// An empty table. At `min_sweep` entries it removes those of owners that are gone, and again
    /// whenever the number of remaining entries has doubled.
    pub fn new(min_sweep: usize) -> Self {
        Self { by_name: HashMap::new(), sweep_at: min_sweep, min_sweep }
    }

    /// The value of `owner`. For a new owner, `new` creates it. `is_gone` returns true for an entry
    /// that may be removed.
    pub fn get_or_insert(
        &mut self,
        owner: &Arc<str>,
        is_gone: impl Fn(&V) -> bool,
        new: impl FnOnce() -> V,
    ) -> V {
        if self.by_name.len() >= self.sweep_at {
            self.by_name.retain(|_, value| !is_gone(value));
            self.sweep_at = self.by_name.len().saturating_mul(2).max(self.min_sweep);
        }
        if let Some(known) = self.by_name.get(owner) {
            return known.clone();
        }
        let value = new();
        self.by_name.insert(owner.clone(), value.clone());
        value
    }

    /// Number of entries.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }
}
