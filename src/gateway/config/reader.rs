//! Reads settings as values, one by one, and notes each mistake at its place.

use std::collections::BTreeSet;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Origin};
use super::effective::Effective;
use super::given::Item;
use super::settings::Key;
use super::value;

/// Reads settings and notes mistakes. `None` always means that a mistake was noted.
pub(super) struct Reader<'a> {
    pub(super) effective: &'a Effective,
    pub(super) mistakes: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    #[expect(clippy::option_option, reason = "a mistake, or an optional value")]
    pub(super) fn optional<T>(
        &mut self,
        key: Key,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match (self.effective.items(key).first(), self.effective.origin(key)) {
            (Some(item), _) => self.item(item, read).map(Some),
            (None, Origin::Default) => Some(None),
            // Its source gave it without a usable value, and has said so.
            (None, _) => None,
        }
    }

    pub(super) fn required<T>(
        &mut self,
        key: Key,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.optional(key, read)? {
            Some(value) => Some(value),
            None => self.refuse(
                key,
                format!(
                    "`{key}` is not set: give it in the file, as `--{key}`, or as {}",
                    key.setting().variable()
                ),
            ),
        }
    }

    pub(super) fn list<T>(
        &mut self,
        key: Key,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let values: Vec<Option<T>> =
            self.effective.items(key).iter().map(|item| self.item(item, &read)).collect();
        values.into_iter().collect()
    }

    /// One value without a name, or any number with a name each.
    pub(super) fn named(&mut self, key: Key, without_names: &str) -> Option<Vec<Item>> {
        let items = self.effective.items(key);
        let mut seen = BTreeSet::new();
        for item in items {
            let message = match item.name.as_deref() {
                None if items.len() > 1 => without_names.to_owned(),
                Some(name) if !seen.insert(name) => {
                    format!("`{}` is named a second time", value::shown(name))
                }
                _ => continue,
            };
            self.mistakes.push(Diagnostic { origin: item.origin.clone(), message });
            return None;
        }
        Some(items.to_vec())
    }

    pub(super) fn word<T: Copy>(&mut self, key: Key, meanings: &[T]) -> Option<T> {
        self.required(key, word(key, meanings))
    }

    pub(super) fn number<T: TryFrom<u64>>(&mut self, key: Key) -> Option<T> {
        self.required(key, |text| value::number(key.setting().kind, text))
    }

    #[expect(clippy::option_option, reason = "a mistake, or an optional value")]
    pub(super) fn optional_number<T: TryFrom<u64>>(&mut self, key: Key) -> Option<Option<T>> {
        self.optional(key, |text| value::number(key.setting().kind, text))
    }

    pub(super) fn duration(&mut self, key: Key) -> Option<Duration> {
        self.required(key, |text| value::duration(key.setting().kind, text))
    }

    fn item<T>(&mut self, item: &Item, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        read(&item.text)
            .map_err(|message| {
                self.mistakes.push(Diagnostic { origin: item.origin.clone(), message })
            })
            .ok()
    }

    pub(super) fn mistake(&mut self, key: Key, message: String) {
        self.mistakes.push(Diagnostic { origin: self.effective.origin(key).clone(), message });
    }

    /// A mistake that leaves no value.
    pub(super) fn refuse<T>(&mut self, key: Key, message: String) -> Option<T> {
        self.mistake(key, message);
        None
    }
}

/// Reads a word as the meaning that stands at its place.
pub(super) fn word<T: Copy>(key: Key, meanings: &[T]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let index = value::choice(key.setting().kind, text)?;
        meanings.get(index).copied().ok_or_else(|| format!("`{text}` has no meaning here"))
    }
}
