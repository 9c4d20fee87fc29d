//! Changes of a manifest. `edit` applies them to the text; [`Changes::applied`] applies them to its
//! meaning, and the two results are compared.

use super::cursor::Path;
use super::value::{Step, Value};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Replaces a scalar.
    Set { path: Path, value: Value },
    /// Adds entries to the mapping at `path`, after the entry `after`.
    AddEntries { path: Path, after: String, entries: Vec<(String, Value)> },
    /// Adds items to the list at `path`, after the item at index `after`.
    AddItems { path: Path, after: usize, values: Vec<Value> },
    /// Replaces the entry `key` of the mapping at `path`.
    ReplaceEntry { path: Path, key: String, by: &'static str, value: Value },
}

impl Change {
    pub(super) fn path(&self) -> &Path {
        match self {
            Change::Set { path, .. }
            | Change::AddEntries { path, .. }
            | Change::AddItems { path, .. }
            | Change::ReplaceEntry { path, .. } => path,
        }
    }

    /// Merges a change of the same node; returns a change that cannot be merged.
    fn merge(&mut self, other: Change) -> Option<Change> {
        match (self, other) {
            (
                Change::AddEntries { path, after, entries },
                Change::AddEntries { path: place, after: behind, entries: more },
            ) if (&*path, &*after) == (&place, &behind) => {
                for (key, value) in more {
                    let mut known = entries.iter_mut().filter(|(known, _)| *known == key);
                    // Another value of the same key is kept: `edit` reports the contradiction.
                    let left = known.try_fold(value, |value, (_, known)| known.merge(value));
                    entries.extend(left.map(|value| (key, value)));
                }
                None
            }
            (Change::Set { path, value }, Change::Set { path: place, value: other })
                if *path == place =>
            {
                value.merge(other).map(|value| Change::Set { path: place, value })
            }
            (
                Change::AddItems { path, after, values },
                Change::AddItems { path: place, after: behind, values: more },
            ) if (&*path, *after) == (&place, behind) => {
                values.extend(more);
                None
            }
            (known, other) => (*known != other).then_some(other),
        }
    }
}

/// All changes. Changes of the same node are merged, so that text and meaning get additions in the
/// same order.
#[derive(Debug, Default)]
pub(super) struct Changes(Vec<Change>);

impl Changes {
    pub(super) fn add(&mut self, change: Change) {
        let left = self.0.iter_mut().try_fold(change, |change, known| known.merge(change));
        self.0.extend(left);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter()
    }

    /// The meaning of the documents after all changes; `None` if a change does not fit.
    pub(super) fn applied(&self, mut documents: Value) -> Option<Value> {
        // Added items move the items after them: change the inside of items first, and add items
        // from the end of each list.
        let mut additions: Vec<&Change> = Vec::new();
        for change in &self.0 {
            match change {
                Change::AddItems { .. } => additions.push(change),
                _ => apply(change, &mut documents)?,
            }
        }
        additions.sort_by_key(|change| {
            if let Change::AddItems { after, .. } = change {
                std::cmp::Reverse(*after)
            } else {
                std::cmp::Reverse(0)
            }
        });
        for change in additions {
            apply(change, &mut documents)?;
        }
        Some(documents)
    }
}

fn apply(change: &Change, documents: &mut Value) -> Option<()> {
    let mut at = documents;
    for step in change.path() {
        at = match (at, step) {
            (Value::Map(entries), Step::Key(key)) => {
                &mut entries.iter_mut().find(|(name, _)| name == key)?.1
            }
            (Value::List(items), Step::Index(index)) => items.get_mut(*index)?,
            _ => return None,
        };
    }
    match (change, at) {
        (Change::Set { value, .. }, at) => *at = value.clone(),
        (Change::AddEntries { after, entries: more, .. }, Value::Map(entries)) => {
            let index = entries.iter().position(|(name, _)| name == after)?;
            entries.splice(index + 1..index + 1, more.iter().cloned());
        }
        (Change::AddItems { after, values, .. }, Value::List(items)) if *after < items.len() => {
            items.splice(after + 1..after + 1, values.iter().cloned());
        }
        (Change::ReplaceEntry { key, by, value, .. }, Value::Map(entries)) => {
            *entries.iter_mut().find(|(name, _)| name == key)? = ((*by).to_owned(), value.clone());
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_to_one_node_are_merged_in_order() {
        let list =
            |texts: &[&str]| Value::List(texts.iter().map(|text| Value::text(*text)).collect());
        let mut changes = Changes::default();
        for (after, text) in [(0, "x"), (1, "y"), (0, "z"), (2, "w")] {
            changes.add(Change::AddItems {
                path: Path::new(),
                after,
                values: vec![Value::text(text)],
            });
        }
        assert_eq!(
            changes.applied(list(&["a", "b", "c"])),
            Some(list(&["a", "x", "z", "b", "y", "c", "w"]))
        );
        // Two lists under one new key are merged. Two scalars are a contradiction.
        let put = |item: &str| Change::AddEntries {
            path: Path::new(),
            after: "a".to_owned(),
            entries: vec![("env".to_owned(), list(&[item]))],
        };
        let mut puts = Changes::default();
        ["x", "y", "x"].into_iter().for_each(|item| puts.add(put(item)));
        let map = Value::map([("a", Value::text("1"))]);
        assert_eq!(
            puts.applied(map),
            Some(Value::map([("a", Value::text("1")), ("env", list(&["x", "y"]))]))
        );
        let mut sets = Changes::default();
        ["x", "y"]
            .into_iter()
            .for_each(|item| sets.add(Change::Set { path: Path::new(), value: list(&[item]) }));
        assert_eq!(sets.applied(list(&[])), Some(list(&["x", "y"])));
        changes.add(Change::AddItems { path: Path::new(), after: 3, values: Vec::new() });
        assert_eq!(changes.applied(list(&["a", "b", "c"])), None);
    }
}
