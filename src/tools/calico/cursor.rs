//! A node together with the way to it, so that whoever found it can say what is to be changed.

use std::fmt::Write as _;

use super::yaml::{Node, Step};

/// The way from the list of documents to a node.
pub(super) type Path = Vec<Step>;

/// A node, and the way to it.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'t> {
    pub(super) node: &'t Node,
    pub(super) path: Path,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(root: &'t Node) -> Self {
        Self { node: root, path: Path::new() }
    }

    pub(super) fn get(&self, key: &str) -> Option<Self> {
        self.to(&Step::Key(key.to_owned()))
    }

    /// Along several keys.
    pub(super) fn along(&self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self.clone(), |at, key| at.get(key))
    }

    /// The items of a list under a key; none where there is no list.
    pub(super) fn list(&self, key: &str) -> Vec<Self> {
        let Some(list) = self.get(key) else { return Vec::new() };
        (0..list.node.items().len()).filter_map(|index| list.to(&Step::Index(index))).collect()
    }

    /// The items of this list.
    pub(super) fn items(&self) -> Vec<Self> {
        (0..self.node.items().len()).filter_map(|index| self.to(&Step::Index(index))).collect()
    }

    /// The keys of this mapping with what stands under them.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'t str, Self)> {
        let node: &'t Node = self.node;
        node.entries().iter().map(|(key, value)| {
            let key = key.scalar().unwrap_or_default();
            (
                key,
                Self {
                    node: value,
                    path: [self.path.as_slice(), &[Step::Key(key.to_owned())]].concat(),
                },
            )
        })
    }

    /// The characters of a scalar under a key.
    pub(super) fn scalar(&self, key: &str) -> Option<&'t str> {
        self.node.get(key).and_then(Node::scalar)
    }

    fn to(&self, step: &Step) -> Option<Self> {
        let node = self.node.at(step)?;
        let mut path = self.path.clone();
        path.push(step.clone());
        Some(Self { node, path })
    }
}

/// How a message writes the way from `from` to a node:
/// `spec.template.spec.volumes[etcd-certs].secret`.
pub(super) fn field(from: &Cursor<'_>, path: &[Step]) -> String {
    let mut at = Some(from.node);
    let mut text = String::new();
    for step in path.iter().skip(from.path.len()) {
        at = at.and_then(|node| node.at(step));
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                let _ = write!(text, ".{key}");
            }
            Step::Index(index) => {
                let name = at.and_then(|node| node.get("name")).and_then(Node::scalar);
                let _ = match name {
                    Some(name) => write!(text, "[{name}]"),
                    None => write!(text, "[{index}]"),
                };
            }
        }
    }
    text
}
