//! The effective settings. A flag takes precedence over an environment variable, a variable over
//! the file, the file over the default.

use std::fmt;

use super::given::{Given, Item};
use super::origin::Origin;
use super::settings::{DefaultValue, Key, SETTINGS, Shape};

/// Every setting with its value and the origin of the value. Displayed as an equivalent
/// configuration file.
#[derive(Clone, Debug)]
pub struct Effective {
    /// One for each row of [`SETTINGS`], in the same order.
    settings: Vec<Given>,
}

impl Effective {
    /// Merges the sources, given in the order of precedence. Values are not combined: a list in a
    /// flag replaces the list in the file.
    pub(super) fn merge(sources: [&[Given]; 3]) -> Self {
        let first =
            |key: Key| sources.into_iter().flatten().find(|given| given.key == key).cloned();
        let settings = SETTINGS
            .iter()
            .map(|setting| first(setting.key).unwrap_or_else(|| default(setting.key)));
        Self { settings: settings.collect() }
    }

    pub(super) fn origin(&self, key: Key) -> &Origin {
        self.given(key).map_or(&Origin::Default, |given| &given.origin)
    }

    /// The values as written; none if no source sets them and there is no default.
    pub(super) fn items(&self, key: Key) -> &[Item] {
        self.given(key).map_or(&[], |given| given.items.as_slice())
    }

    fn given(&self, key: Key) -> Option<&Given> {
        self.settings.get(key as usize)
    }
}

fn default(key: Key) -> Given {
    let items = match key.setting().default {
        DefaultValue::Value(text) => {
            vec![Item { name: None, text: text.to_owned(), origin: Origin::Default }]
        }
        DefaultValue::Unset(_) | DefaultValue::Required => Vec::new(),
    };
    Given { key, origin: Origin::Default, items }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Given { key, origin, items } in &self.settings {
            let origin = origin.short();
            match (items.as_slice(), key.setting().shape, key.setting().default) {
                ([], _, DefaultValue::Unset(meaning)) => {
                    writeln!(f, "# {key}: not set: {meaning}")?;
                }
                ([], ..) => writeln!(f, "# {key}: not set")?,
                ([item], ..) if item.name.is_none() && !item.text.contains(',') => {
                    writeln!(f, "{:<50} # {origin}", format!("{key}: {}", scalar(&item.text)))?;
                }
                (items, shape, _) => {
                    writeln!(f, "{:<50} # {origin}", format!("{key}:"))?;
                    for item in items {
                        match (shape, &item.name) {
                            (Shape::Named, Some(name)) => {
                                writeln!(f, "  {}: {}", scalar(name), scalar(&item.text))?;
                            }
                            (Shape::One, _) => writeln!(f, "  {}", scalar(&item.text))?,
                            _ => writeln!(f, "  - {}", scalar(&item.text))?,
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Text as a YAML scalar. JSON strings are valid YAML double-quoted scalars.
fn scalar(text: &str) -> String {
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b':' | b'=');
    let word = text.bytes().all(plain)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'/');
    if word && !text.ends_with(':') && text != "null" {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}
