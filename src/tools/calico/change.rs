//! What is to be changed, said once: as an edit of the text, and as what the text means afterwards.

use super::cursor::Path;
use super::yaml::{Step, Value};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Another scalar.
    Set { path: Path, value: Value },
    /// More entries in the mapping at `path`, behind the entry `after`.
    Put { path: Path, after: String, entries: Vec<(String, Value)> },
    /// More items in the list at `path`, behind the item at `after`.
    Push { path: Path, after: usize, values: Vec<Value> },
    /// Another entry in place of `key` in the mapping at `path`.
    Swap { path: Path, key: String, by: &'static str, value: Value },
}

impl Change {
    pub(super) fn path(&self) -> &Path {
        match self {
            Change::Set { path, .. }
            | Change::Put { path, .. }
            | Change::Push { path, .. }
            | Change::Swap { path, .. } => path,
        }
    }

    /// Takes over what the other one says, if both are about one place; else gives it back.
    fn join(&mut self, other: Change) -> Option<Change> {
        match (self, other) {
            (
                Change::Put { path, after, entries },
                Change::Put { path: place, after: behind, entries: more },
            ) if (&*path, &*after) == (&place, &behind) => {
                for (key, value) in more {
                    let mut known = entries.iter_mut().filter(|(known, _)| *known == key);
                    // Another value of the same key stays beside it, and is a contradiction.
                    let left = known.try_fold(value, |value, (_, known)| known.join(value));
                    entries.extend(left.map(|value| (key, value)));
                }
                None
            }
            (Change::Set { path, value }, Change::Set { path: place, value: other })
                if *path == place =>
            {
                value.join(other).map(|value| Change::Set { path: place, value })
            }
            (
                Change::Push { path, after, values },
                Change::Push { path: place, after: behind, values: more },
            ) if (&*path, *after) == (&place, behind) => {
                values.extend(more);
                None
            }
            (known, other) => (*known != other).then_some(other),
        }
    }
}

/// All changes. Those of one place are one, so that text and meaning have what is added there in
/// one order.
#[derive(Debug, Default)]
pub(super) struct Changes(Vec<Change>);

impl Changes {
    pub(super) fn add(&mut self, change: Change) {
        let left = self.0.iter_mut().try_fold(change, |change, known| known.join(change));
        self.0.extend(left);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter()
    }

    /// What the documents mean with all changes; `None` where one has no place in them.
    pub(super) fn applied(&self, mut documents: Value) -> Option<Value> {
        // Items that are added move those behind them: what is inside an item is changed before,
        // and lists from their end on.
        let mut pushes: Vec<&Change> = Vec::new();
        for change in &self.0 {
            match change {
                Change::Push { .. } => pushes.push(change),
                _ => apply(change, &mut documents)?,
            }
        }
        pushes.sort_by_key(|change| {
            if let Change::Push { after, .. } = change {
                std::cmp::Reverse(*after)
            } else {
                std::cmp::Reverse(0)
            }
        });
        for change in pushes {
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
        (Change::Put { after, entries: more, .. }, Value::Map(entries)) => {
            let index = entries.iter().position(|(name, _)| name == after)?;
            entries.splice(index + 1..index + 1, more.iter().cloned());
        }
        (Change::Push { after, values, .. }, Value::List(items)) if *after < items.len() => {
            items.splice(after + 1..after + 1, values.iter().cloned());
        }
        (Change::Swap { key, by, value, .. }, Value::Map(entries)) => {
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
    fn what_is_added_at_two_places_of_a_list_stands_where_it_was_meant() {
        let list =
            |texts: &[&str]| Value::List(texts.iter().map(|text| Value::text(*text)).collect());
        let mut changes = Changes::default();
        for (after, text) in [(0, "x"), (1, "y"), (0, "z"), (2, "w")] {
            changes.add(Change::Push { path: Path::new(), after, values: vec![Value::text(text)] });
        }
        assert_eq!(
            changes.applied(list(&["a", "b", "c"])),
            Some(list(&["a", "x", "z", "b", "y", "c", "w"]))
        );
        // A list that is made for the first is there for the second; another value of one key is a
        // contradiction, which is told.
        let put = |item: &str| Change::Put {
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
        changes.add(Change::Push { path: Path::new(), after: 3, values: Vec::new() });
        assert_eq!(changes.applied(list(&["a", "b", "c"])), None);
    }
}
