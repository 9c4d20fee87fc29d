//! What one source (flags, environment or file) says, before anybody asks whether it makes sense.

use super::diagnostic::{Diagnostic, Origin};
use super::settings::{Key, Shape};

/// One setting, as one source gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Which.
    pub key: Key,
    /// Where.
    pub origin: Origin,
    /// Its values: one for [`Shape::One`], else at least one. None at all when what was written is
    /// a mistake that has been noted.
    pub items: Vec<Item>,
}

impl Given {
    /// Notes the mistake, if it is one, at the place of the value.
    pub(super) fn new(
        key: Key,
        origin: Origin,
        at: Origin,
        items: Result<Vec<Item>, String>,
        mistakes: &mut Vec<Diagnostic>,
    ) -> Self {
        let items = items.unwrap_or_else(|message| {
            mistakes.push(Diagnostic { origin: at, message });
            Vec::new()
        });
        Self { key, origin, items }
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name, for [`Shape::Named`].
    pub name: Option<String>,
    /// The value as written.
    pub text: String,
    /// Where exactly.
    pub origin: Origin,
}

impl Item {
    /// The items in texts from a flag, a variable or a plain value in the file.
    ///
    /// # Errors
    /// A sentence, when a value is empty.
    pub(super) fn split(key: Key, texts: &[String], origin: &Origin) -> Result<Vec<Item>, String> {
        let item = |name: Option<&str>, text: &str| Item {
            name: name.map(str::to_owned),
            text: text.trim().to_owned(),
            origin: origin.clone(),
        };
        let elements = || texts.iter().flat_map(|text| text.split(','));
        let items: Vec<Item> = match key.setting().shape {
            Shape::One => texts.iter().map(|text| item(None, text)).collect(),
            Shape::List => elements().map(|text| item(None, text)).collect(),
            Shape::Named => elements()
                .map(|text| match text.split_once('=') {
                    Some((name, value)) if !name.contains(['/', ':']) => {
                        item(Some(name.trim()), value)
                    }
                    _ => item(None, text),
                })
                .collect(),
        };
        match items.iter().find(|item| item.text.is_empty()) {
            None => Ok(items),
            Some(_) if items.len() == 1 => {
                Err("has no value; leave it out to keep the default".into())
            }
            Some(_) => Err("has an empty value between its commas".into()),
        }
    }
}
