//! Writes documents as text in many styles: indentation, lists at the column of their key, quotes,
//! flow style, comments and line breaks.

use super::super::value::Value;

/// A random number generator.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        // xorshift64*: the sequence need not be good.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// The style of a text.
pub(super) struct Style {
    pub(super) indent: usize,
    /// Lists begin at the column of their key.
    pub(super) flush: bool,
    pub(super) newline: &'static str,
    /// One in N lines has a comment after or before it.
    pub(super) comments: usize,
    /// One in N scalars has quotes that it does not need.
    pub(super) quotes: usize,
    /// One in N leaf mappings and lists is in flow style.
    pub(super) flow: usize,
}

pub(super) fn text(documents: &[Value], style: &Style, rng: &mut Rng) -> String {
    let mut writer = Writer { style, rng, lines: Vec::new(), after_block: false };
    for document in documents {
        writer.lines.push("---".to_owned());
        writer.node(document, 0);
    }
    writer.lines.iter().map(|line| format!("{line}{}", style.newline)).collect()
}

struct Writer<'s> {
    style: &'s Style,
    rng: &'s mut Rng,
    lines: Vec<String>,
    after_block: bool,
}

impl Writer<'_> {
    fn line(&mut self, line: String) {
        // After a block scalar, an indented line would be part of it.
        let free = !std::mem::take(&mut self.after_block);
        if free && self.rng.once_in(self.style.comments) {
            let column = self.rng.below(9);
            self.lines.push(format!("{}# a: comment - 'of' {{theirs}}", " ".repeat(column)));
        }
        if self.rng.once_in(self.style.comments) {
            self.lines.push(String::new());
        }
        let tail = if self.rng.once_in(self.style.comments) { " # theirs: too" } else { "" };
        self.lines.push(format!("{line}{tail}"));
    }

    fn node(&mut self, value: &Value, column: usize) {
        match value {
            Value::Map(entries) => entries
                .iter()
                .for_each(|(key, value)| self.entry(&" ".repeat(column), key, value, column)),
            Value::List(items) => items.iter().for_each(|item| self.item(item, column)),
            Value::Text(_) | Value::Other(_) => {
                let scalar = self.scalar(value, false);
                self.line(format!("{}{scalar}", " ".repeat(column)));
            }
        }
    }

    /// `margin` is the text before the key on its line.
    fn entry(&mut self, margin: &str, key: &str, value: &Value, column: usize) {
        let inside = match value {
            Value::List(_) if self.style.flush => column,
            _ => column + self.style.indent,
        };
        match value {
            Value::Text(text) if text.contains('\n') => {
                self.line(format!("{margin}{key}: |-"));
                let before = " ".repeat(column + self.style.indent);
                self.lines.extend(text.lines().map(|line| {
                    if line.is_empty() { String::new() } else { format!("{before}{line}") }
                }));
                self.after_block = true;
            }
            Value::Map(_) | Value::List(_) if !self.in_flow(value) => {
                self.line(format!("{margin}{key}:"));
                self.node(value, inside);
            }
            _ => {
                let scalar = self.scalar(value, false);
                self.line(format!("{margin}{key}: {scalar}"));
            }
        }
    }

    fn item(&mut self, item: &Value, column: usize) {
        let dash = format!("{}- ", " ".repeat(column));
        match item {
            Value::Map(entries) if !self.in_flow(item) => {
                for (index, (key, value)) in entries.iter().enumerate() {
                    let margin = if index == 0 { dash.clone() } else { " ".repeat(column + 2) };
                    self.entry(&margin, key, value, column + 2);
                }
            }
            _ => {
                let scalar = self.scalar(item, false);
                self.line(format!("{dash}{scalar}"));
            }
        }
    }

    fn in_flow(&mut self, value: &Value) -> bool {
        let is_empty = matches!(value, Value::Map(entries) if entries.is_empty())
            || matches!(value, Value::List(items) if items.is_empty());
        is_empty || (size(value) < 8 && self.rng.once_in(self.style.flow))
    }

    fn scalar(&mut self, value: &Value, flow: bool) -> String {
        match value {
            Value::Other(text) => text.clone(),
            Value::Text(text) => {
                let needs = text.is_empty()
                    || flow
                    || text.bytes().any(|b| !b.is_ascii_alphanumeric() && !b"/._-".contains(&b))
                    || !text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
                    || ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
                        .contains(&text.to_ascii_lowercase().as_str());
                match self.rng.below(self.style.quotes) {
                    0 if !text.contains('\'') => format!("'{text}'"),
                    1 => format!("{text:?}"),
                    _ if needs => format!("{text:?}"),
                    _ => text.clone(),
                }
            }
            Value::List(items) => format!(
                "[{}]",
                items.iter().map(|item| self.scalar(item, true)).collect::<Vec<_>>().join(", ")
            ),
            Value::Map(entries) => {
                format!(
                    "{{{}}}",
                    entries
                        .iter()
                        .map(|(key, value)| format!("{key}: {}", self.scalar(value, true)))
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            }
        }
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) if text.contains('\n') => 100,
        Value::Text(_) | Value::Other(_) => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| size(value)).sum::<usize>(),
    }
}
