//! A manifest's nodes as Kubernetes reads them, and paths to them.

use std::collections::HashSet;
use std::sync::Arc;

use etcd_warden_core::diagnostics::SourcePosition;
use etcd_warden_core::yaml::{self, Data, Limits, Node, Style, Type};

/// Bounds of a manifest's YAML. Calico's manifests have 7,000 values and nest 15 deep.
const LIMITS: Limits =
    Limits { documents: usize::MAX, depth: 255, values: 500_000, repeated: 500_000 };

/// The meaning of a node, independent of its notation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// A scalar that is no text (a number, a boolean), as written; empty for a null.
    Other(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

/// One step from a node to a node inside of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Value {
    pub(super) fn of(node: &Node<'_>) -> Self {
        match &node.data {
            Data::Scalar { .. } if is_null(node) => Value::Other(String::new()),
            Data::Scalar { text, .. } if is_text(node) => Value::text(&**text),
            Data::Scalar { text, .. } => Value::Other(text.to_string()),
            Data::List { items, .. } => Value::List(items.iter().map(Value::of).collect()),
            Data::Map { entries, .. } => Value::Map(
                entries.iter().map(|(key, value)| (key_of(key), Value::of(value))).collect(),
            ),
        }
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Value::Text(text.into())
    }

    pub(super) fn map<const N: usize>(entries: [(&str, Value); N]) -> Self {
        Value::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// Merges another value for the same node: an equal one, or the items of another list. Returns
    /// a value that contradicts this one.
    pub(super) fn merge(&mut self, other: Value) -> Option<Value> {
        match (self, other) {
            (Value::List(items), Value::List(more)) => {
                let new: Vec<_> = more.into_iter().filter(|item| !items.contains(item)).collect();
                items.extend(new);
                None
            }
            (known, other) => (*known != other).then_some(other),
        }
    }
}

fn key_of(key: &Node<'_>) -> String {
    key.scalar().unwrap_or_default().to_owned()
}

/// The node one step inside of `node`.
pub(super) fn step<'n, 't>(node: &'n Node<'t>, step: &Step) -> Option<&'n Node<'t>> {
    match step {
        Step::Key(key) => node.get(key),
        Step::Index(index) => node.items().get(*index),
    }
}

/// True for a missing value and for `null`.
pub(super) fn is_null(node: &Node<'_>) -> bool {
    node.tag.is_none() && node.schema_type() == Type::Null
}

/// True for a scalar that Kubernetes reads as text. Its tools use both YAML 1.1 and 1.2, so a plain
/// scalar is text only if it is text in both. A tag makes any scalar text.
pub(super) fn is_text(node: &Node<'_>) -> bool {
    match &node.data {
        Data::Scalar { text, style: Style::Plain } => node.tag.is_some() || is_plain_text(text),
        Data::Scalar { .. } => true,
        Data::List { .. } | Data::Map { .. } => false,
    }
}

/// The type of a node in messages.
pub(super) fn type_name(node: &Node<'_>) -> &'static str {
    match &node.data {
        Data::Scalar { .. } if is_null(node) => "nothing",
        Data::Scalar { .. } if is_text(node) => "text",
        Data::Scalar { .. } => "a number or a boolean",
        Data::List { .. } => "a list",
        Data::Map { .. } => "a mapping",
    }
}

fn is_plain_text(plain: &str) -> bool {
    const WORDS: [&str; 12] =
        ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<"];
    let is_number = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_hexdigit() || b"xo_.:+-eE".contains(&b))
    };
    let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(plain);
    let fraction = unsigned.strip_prefix('.').unwrap_or(unsigned);
    !WORDS.contains(&plain.to_ascii_lowercase().as_str())
        && !is_number(fraction)
        && !matches!(fraction.to_ascii_lowercase().as_str(), "inf" | "nan")
}

/// A position and what is wrong there.
pub(super) type Failure = (SourcePosition, String);

/// Reads all documents; the result is a list of them. In every mapping, keys are scalars and do not
/// repeat.
///
/// # Errors
/// The text is no YAML, has more values than any manifest, or a mapping has an unusable key.
pub(super) fn parse(text: &str) -> Result<Node<'_>, Vec<Failure>> {
    let documents =
        yaml::parse(text, LIMITS).map_err(|error| vec![(error.position, error.message)])?;
    let mut failures = Vec::new();
    documents.iter().for_each(|document| check_keys(document, &mut failures));
    if !failures.is_empty() {
        return Err(failures);
    }
    Ok(Node {
        data: Data::List { items: Arc::new(documents), flow: false },
        span: 0..text.len(),
        position: SourcePosition::default(),
        anchored: false,
        aliased: false,
        tag: None,
    })
}

fn check_keys(node: &Node<'_>, failures: &mut Vec<Failure>) {
    // The node that an alias repeats was checked where it is written.
    if node.aliased {
        return;
    }
    let mut seen = HashSet::new();
    for (key, value) in node.entries() {
        match key.scalar() {
            None => failures.push((key.position, "a key must be a word".to_owned())),
            Some(name) if !seen.insert(name) => {
                failures.push((key.position, format!("`{name}` appears twice in this mapping")));
            }
            Some(_) => {}
        }
        check_keys(value, failures);
    }
    node.items().iter().for_each(|item| check_keys(item, failures));
}
