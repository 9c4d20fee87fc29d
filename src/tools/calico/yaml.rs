//! YAML as a tree that knows where each node stands in the text, down to the byte: what is to be
//! changed is changed there, and nothing else is.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use etcd_warden_core::policy::diagnostics::Place;
use serde_saphyr::granit_parser::{
    Event, Marker, Parser, ScalarStyle, Span, StrInput, StructureStyle,
};

/// Nodes of all documents, aliases counted as often as they are used, so that a small file cannot
/// become a large tree.
const MAX_NODES: usize = 500_000;

/// A node, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) data: Data,
    /// From its first byte to behind its last, comments and blank lines after it not counted.
    pub(super) span: Range<usize>,
    pub(super) place: Place,
    /// It has an anchor: what is changed here may change elsewhere.
    pub(super) anchored: bool,
    /// It stands elsewhere, and here is an alias of it.
    pub(super) aliased: bool,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Scalar { text: String, style: Style },
    List { items: Vec<Node>, flow: bool },
    Map { entries: Vec<(Node, Node)>, flow: bool },
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Single,
    Double,
    /// A literal or a folded block.
    Block,
}

/// What a node means, wherever and however it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// A scalar that is no text (a number, a boolean, nothing), as it is written.
    Other(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

/// One step from a node to one inside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Value {
    /// Takes in another value of the same place, if it is an equal one or both are lists; else
    /// gives it back.
    pub(super) fn join(&mut self, other: Value) -> Option<Value> {
        match (self, other) {
            (Value::List(items), Value::List(more)) => {
                let new: Vec<_> = more.into_iter().filter(|item| !items.contains(item)).collect();
                items.extend(new);
                None
            }
            (known, other) => (*known != other).then_some(other),
        }
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Value::Text(text.into())
    }

    pub(super) fn map<const N: usize>(entries: [(&str, Value); N]) -> Self {
        Value::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
    }
}

impl Node {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Key and value. No key stands twice: the reader refuses that.
    pub(super) fn entry(&self, key: &str) -> Option<&(Node, Node)> {
        self.entries().iter().find(|(name, _)| name.scalar() == Some(key))
    }

    pub(super) fn entries(&self) -> &[(Node, Node)] {
        if let Data::Map { entries, .. } = &self.data { entries } else { &[] }
    }

    pub(super) fn items(&self) -> &[Node] {
        if let Data::List { items, .. } = &self.data { items } else { &[] }
    }

    /// The characters of a scalar, of whatever type.
    pub(super) fn scalar(&self) -> Option<&str> {
        if let Data::Scalar { text, .. } = &self.data { Some(text) } else { None }
    }

    /// A scalar that is text, as Kubernetes reads it.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar { text, style } if *style != Style::Plain || is_text(text) => Some(text),
            _ => None,
        }
    }

    /// Nothing stands here, or a null.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(&self.data, Data::Scalar { text, style: Style::Plain } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// How a message calls it.
    pub(super) fn kind(&self) -> &'static str {
        match &self.data {
            Data::Scalar { .. } if self.is_nothing() => "nothing",
            Data::Scalar { .. } if self.text().is_some() => "text",
            Data::Scalar { .. } => "a number or a boolean",
            Data::List { .. } => "a list",
            Data::Map { .. } => "a mapping",
        }
    }

    pub(super) fn at(&self, step: &Step) -> Option<&Node> {
        match step {
            Step::Key(key) => self.get(key),
            Step::Index(index) => self.items().get(*index),
        }
    }

    pub(super) fn value(&self) -> Value {
        match &self.data {
            Data::Scalar { text, .. } if self.text().is_some() => Value::Text(text.clone()),
            Data::Scalar { .. } if self.is_nothing() => Value::Other(String::new()),
            Data::Scalar { text, .. } => Value::Other(text.clone()),
            Data::List { items, .. } => Value::List(items.iter().map(Node::value).collect()),
            Data::Map { entries, .. } => Value::Map(
                entries
                    .iter()
                    .map(|(key, value)| {
                        (key.scalar().unwrap_or_default().to_owned(), value.value())
                    })
                    .collect(),
            ),
        }
    }
}

/// Whether a plain scalar is text: with YAML 1.1 and 1.2, for the tools of Kubernetes read a
/// mixture of both.
fn is_text(plain: &str) -> bool {
    const WORDS: [&str; 12] =
        ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<"];
    let number = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_hexdigit() || b"xo_.:+-eE".contains(&b))
    };
    let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(plain);
    let unpointed = unsigned.strip_prefix('.').unwrap_or(unsigned);
    !WORDS.contains(&plain.to_ascii_lowercase().as_str())
        && !number(unpointed)
        && !matches!(unpointed.to_ascii_lowercase().as_str(), "inf" | "nan")
}

/// A place in the text, and what is wrong there.
pub(super) type Wrong = (Place, String);

/// Reads all documents; the tree is a list of them.
///
/// # Errors
/// Where the text is no YAML, or more than a manifest needs: the place, and what is wrong.
pub(super) fn parse(text: &str) -> Result<Node, Wrong> {
    let options = serde_saphyr::granit_parser::options! { emit_comments: false };
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut documents = Vec::new();
    loop {
        let (event, _) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(..) => {
                let (event, span) = reader.next()?;
                documents.push(reader.node(event, span)?);
            }
            _ => {}
        }
    }
    let data = Data::List { items: documents, flow: false };
    Ok(Node { data, span: 0..text.len(), place: Place::default(), anchored: false, aliased: false })
}

type Events<'t> = Parser<'t, StrInput<'t>>;

struct Reader<'t> {
    events: Events<'t>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Wrong> {
        loop {
            match self.events.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(next)) => return Ok(next),
                Some(Err(error)) => return Err((at(*error.marker(), 1), error.info().to_owned())),
                None => return Err((Place::default(), "the text ends too early".to_owned())),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, Wrong> {
        self.count(1, span)?;
        let place = at(span.start, span.len().max(1));
        let range = span.byte_range().unwrap_or_default();
        let (data, anchor, end) = match event {
            Event::Alias(anchor) => {
                let node = self
                    .anchors
                    .get(&anchor)
                    .ok_or_else(|| (place, "an alias that stands inside what it names".to_owned()))?
                    .clone();
                self.count(size(&node), span)?;
                return Ok(Node { place, span: range, aliased: true, ..node });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let style = match style {
                    // A tag says what it is, so that its looks do not.
                    ScalarStyle::Plain if tag.is_some() => Style::Block,
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::Single,
                    ScalarStyle::DoubleQuoted => Style::Double,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                (Data::Scalar { text: text.into_owned(), style }, anchor, range.end)
            }
            Event::SequenceStart(style, anchor, _) => {
                let (items, end) = self.items()?;
                let flow = style == StructureStyle::Flow;
                let end =
                    if flow { end } else { items.last().map_or(range.end, |item| item.span.end) };
                (Data::List { items, flow }, anchor, end)
            }
            Event::MappingStart(style, anchor, _) => {
                let (entries, end) = self.entries()?;
                let flow = style == StructureStyle::Flow;
                let end = if flow {
                    end
                } else {
                    entries.last().map_or(range.end, |(_, value)| value.span.end)
                };
                (Data::Map { entries, flow }, anchor, end)
            }
            _ => return Err((place, "a value was to stand here".to_owned())),
        };
        let node =
            Node { data, span: range.start..end, place, anchored: anchor > 0, aliased: false };
        if anchor > 0 {
            self.count(size(&node), span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn items(&mut self) -> Result<(Vec<Node>, usize), Wrong> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, span) => {
                    return Ok((items, span.byte_range().unwrap_or_default().end));
                }
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    /// The entries of a mapping. A key that is no scalar, or stands twice, is a mistake.
    fn entries(&mut self) -> Result<(Vec<(Node, Node)>, usize), Wrong> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let (event, span) = match self.next()? {
                (Event::MappingEnd, span) => {
                    return Ok((entries, span.byte_range().unwrap_or_default().end));
                }
                next => next,
            };
            let key = self.node(event, span)?;
            let Some(name) = key.scalar() else {
                return Err((key.place, "a key is a word, and no list or mapping".to_owned()));
            };
            if !seen.insert(name.to_owned()) {
                return Err((key.place, format!("`{name}` stands twice in this mapping")));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            entries.push((key, value));
        }
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Wrong> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err((
                at(span.start, 1),
                format!("this is larger than any manifest: more than {MAX_NODES} values"),
            ));
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    let inside: usize = node.items().iter().map(size).sum();
    let entries: usize = node.entries().iter().map(|(_, value)| 1 + size(value)).sum();
    1 + inside + entries
}

fn at(marker: Marker, width: usize) -> Place {
    Place { line: marker.line(), column: marker.col() + 1, width }
}
