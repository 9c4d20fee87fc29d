//! YAML 1.2 as a tree of nodes that know their position in the text, down to the byte.
//!
//! This is the only YAML reader of the project: policies, the configuration and Kubernetes
//! manifests are read from its tree. It keeps what those readers have to report or to preserve:
//! repeated keys, anchors, aliases, tags and the style of each scalar.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, StructureStyle, Tag};

use crate::diagnostics::SourcePosition;

/// Bounds of what is read, so that a small text cannot become a large tree.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Documents in the text.
    pub documents: usize,
    /// Lists and mappings around a value.
    pub depth: usize,
    /// Scalars, lists and mappings, those that aliases repeat included.
    pub values: usize,
    /// The part of `values` that aliases may repeat. A scalar counts once, and one more for each
    /// 64 bytes of it.
    pub repeated: usize,
}

/// A value of the document.
#[derive(Clone, Debug)]
pub struct Node<'t> {
    /// The scalar, list or mapping.
    pub data: Data<'t>,
    /// Bytes from the first to the last of the node, without comments and blank lines after it.
    pub span: Range<usize>,
    /// The position of the node, or of the alias that repeats it.
    pub position: SourcePosition,
    /// True if the node has an anchor (`&NAME`): a change of it may change other nodes.
    pub anchored: bool,
    /// True if an alias (`*NAME`) repeats a node that was read elsewhere.
    pub aliased: bool,
    /// The type that a tag (`!!str`) gives to the node.
    pub tag: Option<TagType>,
}

/// The content of a node. Lists and mappings are shared by the aliases that repeat them.
#[derive(Clone, Debug)]
pub enum Data<'t> {
    /// A value without parts.
    Scalar {
        /// The characters, without quotes and escapes.
        text: Cow<'t, str>,
        /// The notation.
        style: Style,
    },
    /// A sequence.
    List {
        /// The items in order.
        items: Arc<Vec<Node<'t>>>,
        /// True for `[A, B]`.
        flow: bool,
    },
    /// A mapping.
    Map {
        /// In the order of the text. Keys may repeat: the reader of the tree reports that.
        entries: Arc<Vec<Entry<'t>>>,
        /// True for `{A: B}`.
        flow: bool,
    },
}

/// Key and value.
pub type Entry<'t> = (Node<'t>, Node<'t>);

/// The notation of a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// `'...'`.
    SingleQuoted,
    /// `"..."`.
    DoubleQuoted,
    /// A literal (`|`) or folded (`>`) block.
    Block,
}

/// The type that a tag gives to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagType {
    /// `!` alone (YAML 1.2.2, 6.9.1): a scalar is text.
    NonSpecific,
    /// `!!str`.
    Text,
    /// `!!int`.
    Integer,
    /// `!!float`.
    Float,
    /// `!!bool`.
    Boolean,
    /// `!!null`.
    Null,
    /// `!!seq`.
    List,
    /// `!!map`.
    Map,
    /// Any other tag, such as `!!binary`.
    Other,
}

/// The type of a node in the core schema (YAML 1.2.2, 10.3), where a scalar without quotes can be
/// something else than text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Characters.
    Text,
    /// An integer or a decimal, infinity and "not a number" included.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `null`, `~` or no value.
    Null,
    /// A node with a tag of another schema, such as `!!binary`, or of another kind of node: its
    /// content is not its value.
    Tagged,
    /// A list.
    List,
    /// A mapping.
    Map,
}

impl Type {
    /// The word for it in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Type::Text => "text",
            Type::Number => "a number",
            Type::Boolean => "a boolean",
            Type::Null => "nothing",
            Type::Tagged => "a value with a tag",
            Type::List => "a list",
            Type::Map => "a mapping",
        }
    }
}

impl<'t> Node<'t> {
    /// The type in the core schema.
    pub fn schema_type(&self) -> Type {
        match (&self.data, self.tag) {
            (Data::List { .. }, None | Some(TagType::NonSpecific | TagType::List)) => Type::List,
            (Data::Map { .. }, None | Some(TagType::NonSpecific | TagType::Map)) => Type::Map,
            (Data::Scalar { text, style: Style::Plain }, None) => plain_type(text),
            (Data::Scalar { .. }, None | Some(TagType::Text | TagType::NonSpecific)) => Type::Text,
            (Data::Scalar { .. }, Some(TagType::Integer | TagType::Float)) => Type::Number,
            (Data::Scalar { .. }, Some(TagType::Boolean)) => Type::Boolean,
            (Data::Scalar { .. }, Some(TagType::Null)) => Type::Null,
            _ => Type::Tagged,
        }
    }

    /// The characters of a scalar that is text in the core schema.
    pub fn text(&self) -> Option<&str> {
        self.scalar().filter(|_| self.schema_type() == Type::Text)
    }

    /// The characters of a scalar of any type.
    pub fn scalar(&self) -> Option<&str> {
        if let Data::Scalar { text, .. } = &self.data { Some(text) } else { None }
    }

    /// The items of a list; none if the node is no list.
    pub fn items(&self) -> &[Node<'t>] {
        if let Data::List { items, .. } = &self.data { items } else { &[] }
    }

    /// The entries of a mapping; none if the node is no mapping.
    pub fn entries(&self) -> &[Entry<'t>] {
        if let Data::Map { entries, .. } = &self.data { entries } else { &[] }
    }

    /// The first entry with this key.
    pub fn entry(&self, key: &str) -> Option<&Entry<'t>> {
        self.entries().iter().find(|(name, _)| name.scalar() == Some(key))
    }

    /// The value of the first entry with this key.
    pub fn get(&self, key: &str) -> Option<&Node<'t>> {
        self.entry(key).map(|(_, value)| value)
    }
}

/// The integer that a plain scalar means: decimal, or with the prefix `0x`, `0o` or `0b`; `_` may
/// separate digits. None if it is no integer, or fits neither `i64` nor `u64`.
pub fn integer(plain: &str) -> Option<i128> {
    let (negative, unsigned) = match plain.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, plain.strip_prefix('+').unwrap_or(plain)),
    };
    let prefixed = |marks: [&str; 2]| marks.iter().find_map(|mark| unsigned.strip_prefix(mark));
    let (radix, digits) = if let Some(digits) = prefixed(["0x", "0X"]) {
        (16, digits)
    } else if let Some(digits) = prefixed(["0o", "0O"]) {
        (8, digits)
    } else if let Some(digits) = prefixed(["0b", "0B"]) {
        (2, digits)
    } else if unsigned.len() > 1 && unsigned.starts_with('0') {
        // YAML 1.1 read this as octal.
        return None;
    } else {
        (10, unsigned)
    };
    let separated = !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    let is_digit = |c: char| c == '_' || c.is_digit(radix);
    if !separated || !digits.chars().all(is_digit) {
        return None;
    }
    let magnitude = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    if negative {
        i64::try_from(-magnitude).ok().map(i128::from)
    } else {
        u64::try_from(magnitude).ok().map(i128::from)
    }
}

fn plain_type(text: &str) -> Type {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Type::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Type::Boolean,
        _ if integer(text).is_some() || is_float(text) => Type::Number,
        _ => Type::Text,
    }
}

fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF") {
        return true;
    }
    // Rust also reads `inf`, `infinity` and `nan`, which are text.
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok()
}

/// A text that could not be read to its end.
#[derive(Clone, Debug)]
pub struct SyntaxError<'t> {
    /// The position of the error.
    pub position: SourcePosition,
    /// The problem.
    pub message: String,
    /// The documents before the error. Of an unfinished mapping or list, the entries that were
    /// complete.
    pub documents: Vec<Node<'t>>,
}

/// Reads all documents of a text.
///
/// # Errors
/// The text is no YAML, or more than `limits` allow.
pub fn parse(text: &str, limits: Limits) -> Result<Vec<Node<'_>>, SyntaxError<'_>> {
    let options = granit_parser::options! { emit_comments: false };
    let mut events = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::new(limits);
    match builder.read(&mut events) {
        Ok(()) => Ok(builder.documents),
        Err((position, message)) => {
            Err(SyntaxError { position, message, documents: builder.abandon() })
        }
    }
}

/// A hint for the most frequent causes of a syntax error at `position`; may be empty.
pub fn hint(text: &str, position: SourcePosition) -> &'static str {
    let index = position.line.checked_sub(1);
    let line = index.and_then(|index| text.lines().nth(index)).unwrap_or_default();
    let indentation = line.split(|c: char| c != ' ' && c != '\t').next().unwrap_or_default();
    if indentation.contains('\t') {
        return "indent with spaces: YAML does not allow tabs";
    }
    let value = line.split_once(": ").map_or(line, |(_, value)| value);
    let value = value.trim_start().trim_start_matches("- ");
    if value.starts_with(['*', '{', '[', '@', '`', '&', '!', '%', '|', '>']) {
        return "text that begins with such a character must be in quotes, as in `keys: \"*\"`";
    }
    ""
}

type Failure = (SourcePosition, String);

/// A list or mapping whose end has not been read.
struct Open<'t> {
    content: Content<'t>,
    span: Range<usize>,
    position: SourcePosition,
    anchor: usize,
    tag: Option<TagType>,
    flow: bool,
    /// What an alias of it counts.
    weight: usize,
}

enum Content<'t> {
    List(Vec<Node<'t>>),
    Map { entries: Vec<Entry<'t>>, key: Option<Node<'t>> },
}

/// Builds the tree without recursion: the depth of the text does not use the stack.
struct Builder<'t> {
    limits: Limits,
    documents: Vec<Node<'t>>,
    open: Vec<Open<'t>>,
    /// Nodes with an anchor, and what an alias of each counts.
    anchors: HashMap<usize, (Node<'t>, usize)>,
    begun: usize,
    values: usize,
    repeated: usize,
}

impl<'t> Builder<'t> {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            documents: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            begun: 0,
            values: 0,
            repeated: 0,
        }
    }

    fn read(&mut self, events: &mut Parser<'t, StrInput<'t>>) -> Result<(), Failure> {
        loop {
            match events.next_event() {
                Some(Ok((Event::StreamEnd, _))) => return Ok(()),
                Some(Ok((event, span))) => self.event(event, span)?,
                Some(Err(error)) => {
                    return Err((position(*error.marker(), 1), error.info().to_owned()));
                }
                None => return Err((SourcePosition::default(), "the text ends early".to_owned())),
            }
        }
    }

    fn event(&mut self, event: Event<'t>, span: Span) -> Result<(), Failure> {
        let at = position(span.start, span.len().max(1));
        let range = span.byte_range().unwrap_or_default();
        match event {
            Event::DocumentStart(..) => {
                self.begun += 1;
                if self.begun > self.limits.documents {
                    let message = "this file must be one YAML document, and a second one begins";
                    return Err((position(span.start, 1), message.to_owned()));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(at)?;
                let weight = 1 + text.len() / 64;
                let node = Node {
                    data: Data::Scalar { text, style: style_of(style) },
                    span: range,
                    position: at,
                    anchored: anchor > 0,
                    aliased: false,
                    tag: tag_type(tag.as_deref()),
                };
                self.complete(node, anchor, weight);
            }
            Event::SequenceStart(style, anchor, tag) => {
                let content = Content::List(Vec::new());
                self.begin(content, style, anchor, tag.as_deref(), range, at)?;
            }
            Event::MappingStart(style, anchor, tag) => {
                let content = Content::Map { entries: Vec::new(), key: None };
                self.begin(content, style, anchor, tag.as_deref(), range, at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let (anchor, weight) = (open.anchor, open.weight);
                    self.complete(close(open, Some(range.end)), anchor, weight);
                }
            }
            Event::Alias(anchor) => {
                let Some((node, weight)) = self.anchors.get(&anchor) else {
                    return Err((at, "an alias inside of the node that it repeats".to_owned()));
                };
                let (node, weight) = (node.clone(), *weight);
                self.repeated = self.repeated.saturating_add(weight);
                if self.repeated > self.limits.repeated {
                    let limit = self.limits.repeated;
                    return Err((at, format!("aliases repeat more than {limit} values")));
                }
                self.values = self.values.saturating_add(weight - 1);
                self.count(at)?;
                self.complete(Node { position: at, span: range, aliased: true, ..node }, 0, weight);
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(
        &mut self,
        content: Content<'t>,
        style: StructureStyle,
        anchor: usize,
        tag: Option<&Tag>,
        span: Range<usize>,
        position: SourcePosition,
    ) -> Result<(), Failure> {
        self.count(position)?;
        if self.open.len() >= self.limits.depth {
            let message = format!("lists and mappings are nested deeper than {}", self.open.len());
            return Err((position, message));
        }
        let (flow, tag) = (style == StructureStyle::Flow, tag_type(tag));
        self.open.push(Open { content, span, position, anchor, tag, flow, weight: 1 });
        Ok(())
    }

    /// Puts a node into the innermost open list or mapping, or else among the documents.
    fn complete(&mut self, node: Node<'t>, anchor: usize, weight: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return;
        };
        open.weight = open.weight.saturating_add(weight);
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, key } => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.push((key, node)),
            },
        }
    }

    fn count(&mut self, at: SourcePosition) -> Result<(), Failure> {
        self.values = self.values.saturating_add(1);
        let limit = self.limits.values;
        if self.values > limit {
            return Err((at, format!("this file has more than {limit} values")));
        }
        Ok(())
    }

    /// The documents before an error; of the last one, the complete entries.
    fn abandon(mut self) -> Vec<Node<'t>> {
        let unfinished = self.open.into_iter().next();
        self.documents.extend(unfinished.map(|open| close(open, None)));
        self.documents
    }
}

/// `end` is the end of the event that closes the node. A block ends with its last value, not with
/// the comments after it.
fn close(open: Open<'_>, end: Option<usize>) -> Node<'_> {
    let Open { content, span, position, anchor, tag, flow, .. } = open;
    let last = match &content {
        Content::List(items) => items.last(),
        Content::Map { entries, .. } => entries.last().map(|(_, value)| value),
    };
    let block_end = last.map_or(span.end, |last| last.span.end);
    let end = end.filter(|_| flow).unwrap_or(block_end);
    let data = match content {
        Content::List(items) => Data::List { items: Arc::new(items), flow },
        Content::Map { entries, .. } => Data::Map { entries: Arc::new(entries), flow },
    };
    Node { data, span: span.start..end, position, anchored: anchor > 0, aliased: false, tag }
}

fn position(marker: Marker, width: usize) -> SourcePosition {
    SourcePosition { line: marker.line(), column: marker.col() + 1, width }
}

const fn style_of(style: ScalarStyle) -> Style {
    match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::SingleQuoted,
        ScalarStyle::DoubleQuoted => Style::DoubleQuoted,
        ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
    }
}

fn tag_type(tag: Option<&Tag>) -> Option<TagType> {
    let tag = tag?;
    // `!` alone is the non-specific tag (YAML 1.2.2, 6.9.1).
    let is_non_specific = matches!((tag.handle(), tag.suffix()), ("" | "!", "") | ("", "!"));
    Some(match tag.core_suffix() {
        None if is_non_specific => TagType::NonSpecific,
        Some("str") => TagType::Text,
        Some("int") => TagType::Integer,
        Some("float") => TagType::Float,
        Some("seq") => TagType::List,
        Some("map") => TagType::Map,
        Some("bool") => TagType::Boolean,
        Some("null") => TagType::Null,
        _ => TagType::Other,
    })
}

#[cfg(test)]
mod tests;
