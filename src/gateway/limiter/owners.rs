//! One value for each owner. Owners that are gone are forgotten.

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
    /// Looks for owners to forget when there are `min_sweep` entries, and then each time when twice
    /// as many as the last sweep has left.
    pub fn new(min_sweep: usize) -> Self {
        Self { by_name: HashMap::new(), sweep_at: min_sweep, min_sweep }
    }

    /// The value of `owner`, made by `new` for an owner that is not known. `is_gone`: the entry may
    /// be forgotten.
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

    /// How many owners are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }
}
