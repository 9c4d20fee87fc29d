//! YAML as a tree with places. What the fields mean is [`super::file`]'s to say, so that it can
//! report all mistakes at once.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, Spanned};

use super::diagnostics::Place;

/// A node of the document.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    /// A scalar that is neither (YAML 1.2 core schema): how a message calls it.
    Other(&'static str),
    List(Vec<Node>),
    /// In the order of the file; keys may repeat, which is for the reader to refuse.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// How a message calls it.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "text",
            Value::Number(_) => "a number",
            Value::Other(kind) => kind,
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Reads one document.
///
/// # Errors
/// Where `text` is no YAML, in the parser's words.
pub(super) fn parse(text: &str) -> Result<Node, (Place, String)> {
    let options = serde_saphyr::options! {
        // Aliases are allowed and bounded, so that a small file cannot become a large tree.
        budget: serde_saphyr::budget! {
            max_depth: 16,
            max_nodes: 1_000_000,
            max_events: 3_000_000,
            max_aliases: 1_000,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Node>(text, options).map_err(|error| refusal(&error))
}

/// What most likely helps against an error of the parser at this place.
pub(super) fn advice(text: &str, place: Place) -> &'static str {
    let line = place.line.checked_sub(1).and_then(|at| text.lines().nth(at)).unwrap_or_default();
    let indented = line.split(|c: char| c != ' ' && c != '\t').next().unwrap_or_default();
    if indented.contains('\t') {
        return "YAML is indented by spaces, never by tabs";
    }
    let value = line
        .split_once(": ")
        .map_or(line, |(_, value)| value)
        .trim_start()
        .trim_start_matches("- ");
    if value.starts_with(['*', '{', '[', '@', '`', '&', '!', '%', '|', '>']) {
        return "text that begins with such a character is written in quotes, as in `keys: \"*\"`";
    }
    ""
}

fn refusal(error: &Error) -> (Place, String) {
    let place =
        error.location().map(|location| Place { width: 1, ..place(&location) }).unwrap_or_default();
    let said = error.without_snippet().to_string();
    // The place is ours to show; the parser's words go without it.
    let message = match said.split(" at line ").next().unwrap_or(&said) {
        breach if breach.starts_with("budget breached: Documents") => {
            "a policy is one YAML document, and here a second one begins"
        }
        breach if breach.starts_with("budget breached: Depth") => {
            "this is nested deeper than any policy is"
        }
        other => other,
    };
    (place, message.to_owned())
}

fn place(location: &Location) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Place {
        line: number(location.line()),
        column: number(location.column()),
        width: number(location.span().len()),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node { value: spanned.value, place: place(&spanned.referenced) })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, a list or a mapping")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or(Value::Other("a number"), Value::Number))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other("a boolean"))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other("nothing"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = entries.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Value::Map(map))
    }
}
