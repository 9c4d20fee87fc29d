//! The settings of one source (flags, environment or file), before their values are checked.

use etcd_warden_core::diagnostics::Diagnostics;

use super::origin::Origin;
use super::settings::{Key, Shape};

/// One setting of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) key: Key,
    pub(super) origin: Origin,
    /// One value for [`Shape::One`], else at least one; none if an error about them was reported.
    pub(super) items: Vec<Item>,
}

impl Given {
    /// Reports an error in `items` at the position of the value.
    pub(super) fn new(
        key: Key,
        origin: Origin,
        value_origin: &Origin,
        items: Result<Vec<Item>, String>,
        errors: &mut Diagnostics,
    ) -> Self {
        let items = items.unwrap_or_else(|message| {
            errors.push(value_origin.error(message));
            Vec::new()
        });
        Self { key, origin, items }
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its name, for [`Shape::Named`].
    pub(super) name: Option<String>,
    /// The value as written.
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Item {
    /// Splits the text of a flag, of a variable or of a plain value in the file into values.
    ///
    /// # Errors
    /// A sentence, if a value is empty.
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
                    // A path or URL may contain `=`, but a name has neither `/` nor `:`.
                    Some((name, value)) if !name.contains(['/', ':']) => {
                        item(Some(name.trim()), value)
                    }
                    _ => item(None, text),
                })
                .collect(),
        };
        match items.iter().find(|item| item.text.is_empty()) {
            None => Ok(items),
            Some(_) if items.len() == 1 => Err(NO_VALUE.into()),
            Some(_) => Err("a value between the commas is empty".into()),
        }
    }
}

/// The error about an empty value.
pub(super) const NO_VALUE: &str = "the value is empty: remove it to use the default";
