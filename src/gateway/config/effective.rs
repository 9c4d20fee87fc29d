//! What is in effect: for each setting the strongest source that gives it, flag before environment
//! before file before default.

use std::fmt;

use super::diagnostic::Origin;
use super::given::{Given, Item};
use super::settings::{Default, Key, SETTINGS, Shape};

/// Every setting with its value and where that came from. Shown as a configuration file that means
/// the same.
#[derive(Clone, Debug)]
pub struct Effective {
    /// One for each row of the table, in its order.
    settings: Vec<Given>,
}

impl Effective {
    /// Picks from the sources, strongest first. A setting counts whole: a list in a flag replaces
    /// the list in the file.
    pub(super) fn merge(sources: [&[Given]; 3]) -> Self {
        let strongest =
            |key: Key| sources.into_iter().flatten().find(|given| given.key == key).cloned();
        let settings = SETTINGS
            .iter()
            .map(|setting| strongest(setting.key).unwrap_or_else(|| default(setting.key)));
        Self { settings: settings.collect() }
    }

    /// Where a setting came from.
    #[must_use]
    pub fn origin(&self, key: Key) -> &Origin {
        self.given(key).map_or(&Origin::Default, |given| &given.origin)
    }

    /// Its values as written; empty when nobody set it and there is no default.
    pub(super) fn items(&self, key: Key) -> &[Item] {
        self.given(key).map_or(&[], |given| given.items.as_slice())
    }

    fn given(&self, key: Key) -> Option<&Given> {
        self.settings.get(key as usize)
    }
}

fn default(key: Key) -> Given {
    let items = match key.setting().default {
        Default::Value(text) => {
            vec![Item { name: None, text: text.to_owned(), origin: Origin::Default }]
        }
        Default::Unset(_) | Default::Required => Vec::new(),
    };
    Given { key, origin: Origin::Default, items }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Given { key, origin, items } in &self.settings {
            let origin = origin.short();
            match (items.as_slice(), key.setting().shape, key.setting().default) {
                ([], _, Default::Unset(meaning)) => writeln!(f, "# {key}: not set: {meaning}")?,
                ([], ..) => writeln!(f, "# {key}: not set")?,
                ([item], ..) if item.name.is_none() && !item.text.contains(',') => {
                    writeln!(f, "{:<50} # {origin}", format!("{key}: {}", scalar(&item.text)))?;
                }
                (items, shape, _) => {
                    writeln!(f, "{:<50} # {origin}", format!("{key}:"))?;
                    for item in items {
                        match (shape, &item.name) {
                            (Shape::Named, Some(name)) => {
                                writeln!(f, "  {}: {}", scalar(name), scalar(&item.text))?
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

/// Text as a YAML scalar. JSON's strings are YAML's double-quoted ones.
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
