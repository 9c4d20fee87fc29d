//! The configuration file: a YAML mapping of settings, read strictly. Unknown and repeated keys,
//! empty values and lists, anchors, aliases and tags are errors. All errors are reported.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use etcd_warden_core::diagnostics::{Diagnostics, SourcePosition};
use etcd_warden_core::yaml::{self, Data, Limits, Node, Style};

use super::given::{Given, Item, NO_VALUE};
use super::origin::{Origin, SourceText, suggestion};
use super::settings::{Key, SETTINGS, Shape};
use crate::files::{self, ReadError};

/// Bytes of a configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// Bounds of its YAML. A setting nests two deep; a deeper value of an unknown key is one error.
const LIMITS: Limits = Limits { documents: 1, depth: 64, values: 1 << 20, repeated: 1 << 20 };

/// The settings of the file at `path`; `None` if it cannot be read to its end.
pub(super) fn read(path: &Path, errors: &mut Diagnostics) -> Option<Vec<Given>> {
    let name = path.display().to_string();
    let message = match files::read(path, MAX_BYTES) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return parse(&name, text, errors),
            Err(error) => {
                format!("the file is not UTF-8, from byte {}", error.utf8_error().valid_up_to())
            }
        },
        Err(why @ ReadError::TooLarge(_)) => format!("the file {why}: it is no configuration file"),
        Err(why) => format!("the file {why}"),
    };
    errors.append(Diagnostics::about(&name, message, None));
    None
}

/// The settings in `text`; `name` is the file's name in messages.
fn parse(name: &str, text: String, errors: &mut Diagnostics) -> Option<Vec<Given>> {
    let source = Arc::new(SourceText { name: name.to_owned(), text });
    let before = errors.len();
    let (documents, failure) = match yaml::parse(&source.text, LIMITS) {
        Ok(documents) => (documents, None),
        Err(error) => (error.documents, Some((error.position, error.message))),
    };
    let mut reader = Reader { source: &source, errors, given: Vec::new() };
    if let Some(root) = documents.first() {
        reader.settings(root);
    }
    if let Some((position, message)) = failure {
        reader.error(position, message, yaml::hint(&source.text, position));
        return None;
    }
    if reader.given.is_empty() && reader.errors.len() == before {
        reader.error(SourcePosition::default(), "the file contains no setting", "");
    }
    Some(reader.given)
}

struct Reader<'s, 'e> {
    source: &'s Arc<SourceText>,
    errors: &'e mut Diagnostics,
    given: Vec<Given>,
}

/// The value of a setting.
enum Value {
    Scalar(String),
    List(Vec<Item>),
    Named(Vec<Item>),
    /// An error that has been reported.
    Invalid,
}

impl Reader<'_, '_> {
    fn settings(&mut self, root: &Node<'_>) {
        self.check_plain(root);
        match &root.data {
            Data::Map { entries, .. } => {
                let mut lines = HashMap::new();
                for (key, value) in entries.iter() {
                    self.setting(key, value, &mut lines);
                }
            }
            Data::Scalar { text, .. } if text.is_empty() => {}
            Data::Scalar { .. } | Data::List { .. } => {
                let help = "write `SETTING: VALUE` lines";
                self.error(root.position, "the configuration must be a mapping", help);
            }
        }
    }

    /// `lines` has the line of each key that has been read.
    fn setting(&mut self, name: &Node<'_>, value: &Node<'_>, lines: &mut HashMap<Key, usize>) {
        let at = name.position;
        let Some(text) = self.key(name) else { return };
        let Some(key) = Key::named(text) else {
            let near = suggestion(text, SETTINGS.iter().map(|setting| setting.name));
            return self.error(at, format!("unknown setting `{}`", text.escape_debug()), near);
        };
        if let Some(first) = lines.get(&key) {
            let help = format!("the first value is in line {first}");
            return self.error(at, format!("`{key}` is set twice"), help);
        }
        lines.insert(key, at.line);
        let (origin, value_origin) = (self.origin(at), self.origin(value.position));
        let items = match (self.value(value), key.setting().shape) {
            (Value::Invalid, _) => {
                return self.given.push(Given { key, origin, items: Vec::new() });
            }
            (Value::Scalar(text), _) => Item::split(key, &[text], &value_origin),
            (Value::List(items), Shape::List) if items.is_empty() => {
                Err("the list is empty: remove the setting to use the default".into())
            }
            (Value::Named(items), Shape::Named) if items.is_empty() => {
                Err("the mapping is empty: remove the setting to use the default".into())
            }
            (Value::List(items), Shape::List) | (Value::Named(items), Shape::Named) => Ok(items),
            (_, Shape::One) => Err(format!("`{key}` takes one value")),
            (_, Shape::List) => Err(format!("`{key}` takes a list of values")),
            (_, Shape::Named) => Err(format!("`{key}` takes one value, or `NAME: VALUE` lines")),
        };
        self.given.push(Given::new(key, origin, &value_origin, items, self.errors));
    }

    fn key<'n>(&mut self, node: &'n Node<'_>) -> Option<&'n str> {
        match node.scalar() {
            Some(text) if !node.aliased => {
                self.check_plain(node);
                Some(text)
            }
            _ => {
                self.error(node.position, "a key must be one word", "");
                None
            }
        }
    }

    fn value(&mut self, node: &Node<'_>) -> Value {
        if node.aliased {
            let message = "aliases are not allowed in configuration files";
            self.error(node.position, message, "write the value");
            return Value::Invalid;
        }
        let mut valid = self.check_plain(node);
        let value = match &node.data {
            Data::Scalar { .. } => {
                let text = self.scalar(node);
                valid &= text.is_some();
                Value::Scalar(text.unwrap_or_default())
            }
            Data::List { items, .. } => {
                let mut values = Vec::new();
                for item in items.iter() {
                    match self.single(item, "each entry of this list must be a single value") {
                        Some(text) => {
                            let origin = self.origin(item.position);
                            values.push(Item { name: None, text, origin });
                        }
                        None => valid = false,
                    }
                }
                Value::List(values)
            }
            Data::Map { entries, .. } => {
                let mut values: Vec<Item> = Vec::new();
                for (key, value) in entries.iter() {
                    let Some(name) = self.key(key) else {
                        valid = false;
                        continue;
                    };
                    if values.iter().any(|item| item.name.as_deref() == Some(name)) {
                        let message = format!("the name `{}` appears twice", name.escape_debug());
                        self.error(key.position, message, "");
                        valid = false;
                    }
                    match self.single(value, "each name must have a single value") {
                        Some(text) => {
                            let (name, origin) = (name.to_owned(), self.origin(key.position));
                            values.push(Item { name: Some(name), text, origin });
                        }
                        None => valid = false,
                    }
                }
                Value::Named(values)
            }
        };
        if valid { value } else { Value::Invalid }
    }

    /// A scalar inside of a list or mapping; `otherwise` is the error about anything else.
    fn single(&mut self, node: &Node<'_>, otherwise: &str) -> Option<String> {
        if node.aliased || node.scalar().is_none() {
            self.error(node.position, otherwise, "");
            return None;
        }
        let is_plain = self.check_plain(node);
        self.scalar(node).filter(|_| is_plain)
    }

    /// The characters of a scalar that is not empty.
    fn scalar(&mut self, node: &Node<'_>) -> Option<String> {
        let Data::Scalar { text, style } = &node.data else { return None };
        let is_null = *style == Style::Plain && matches!(&**text, "~" | "null" | "Null" | "NULL");
        if is_null || text.trim().is_empty() {
            self.error(node.position, NO_VALUE, "");
            return None;
        }
        Some(text.to_string())
    }

    /// Anchors and tags would have an effect in YAML and none here.
    fn check_plain(&mut self, node: &Node<'_>) -> bool {
        let is_plain = !node.anchored && node.tag.is_none();
        if !is_plain {
            let message = "anchors and tags are not allowed in configuration files";
            self.error(node.position, message, "");
        }
        is_plain
    }

    fn error(
        &mut self,
        position: SourcePosition,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.errors.push(self.origin(position).error(message).help(help));
    }

    fn origin(&self, position: SourcePosition) -> Origin {
        Origin::File { source: Arc::clone(self.source), position }
    }
}

#[cfg(test)]
mod tests;
