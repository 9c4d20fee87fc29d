//! A node together with its path, so that code that finds a node can also change it.

use std::fmt::Write as _;

use etcd_warden_core::yaml::Node;

use super::value::{self, Step};

/// The steps from the list of documents to a node.
pub(super) type Path = Vec<Step>;

/// A node and its path.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'t> {
    pub(super) node: &'t Node<'t>,
    pub(super) path: Path,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(root: &'t Node<'t>) -> Self {
        Self { node: root, path: Path::new() }
    }

    pub(super) fn get(&self, key: &str) -> Option<Self> {
        self.step(&Step::Key(key.to_owned()))
    }

    /// Follows several keys.
    pub(super) fn along(&self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self.clone(), |at, key| at.get(key))
    }

    /// The items of the list under a key; none if there is no list.
    pub(super) fn list(&self, key: &str) -> Vec<Self> {
        self.get(key).map(|list| list.items()).unwrap_or_default()
    }

    /// The items of this list; none if it is no list.
    pub(super) fn items(&self) -> Vec<Self> {
        let count = self.node.items().len();
        (0..count).filter_map(|index| self.step(&Step::Index(index))).collect()
    }

    /// The keys and values of this mapping.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'t str, Self)> {
        let node: &'t Node<'t> = self.node;
        node.entries().iter().map(|(key, value)| {
            let key = key.scalar().unwrap_or_default();
            let path = [self.path.as_slice(), &[Step::Key(key.to_owned())]].concat();
            (key, Self { node: value, path })
        })
    }

    /// The characters of the scalar under a key.
    pub(super) fn scalar(&self, key: &str) -> Option<&'t str> {
        self.node.get(key).and_then(Node::scalar)
    }

    fn step(&self, step: &Step) -> Option<Self> {
        let node = value::step(self.node, step)?;
        let mut path = self.path.clone();
        path.push(step.clone());
        Some(Self { node, path })
    }
}

/// The path from `from` to a node in messages: `spec.template.spec.volumes[etcd-certs].secret`.
pub(super) fn field(from: &Cursor<'_>, path: &[Step]) -> String {
    let mut at = Some(from.node);
    let mut text = String::new();
    for step in path.iter().skip(from.path.len()) {
        at = at.and_then(|node| value::step(node, step));
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
