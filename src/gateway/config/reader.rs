//! Reads settings as typed values and reports each error at its origin.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_warden_core::diagnostics::Diagnostics;

use super::effective::Effective;
use super::given::Item;
use super::origin::Origin;
use super::settings::Key;
use super::value;

/// Each method returns `None` after it has reported an error.
pub(super) struct Reader<'a> {
    pub(super) effective: &'a Effective,
    pub(super) errors: &'a mut Diagnostics,
}

impl Reader<'_> {
    #[expect(clippy::option_option, reason = "an error, or an optional value")]
    pub(super) fn optional<T>(
        &mut self,
        key: Key,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match (self.effective.items(key).first(), self.effective.origin(key)) {
            (Some(item), _) => self.item(item, read).map(Some),
            (None, Origin::Default) => Some(None),
            // The source has reported an error about the value.
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
            None => {
                let variable = key.setting().variable();
                let how = format!("set it in the file, with `--{key}` or with {variable}");
                self.refuse(key, format!("`{key}` is not set: {how}"))
            }
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

    /// One value without a name, or any number of values with different names.
    pub(super) fn named(&mut self, key: Key, several_without_names: &str) -> Option<Vec<Item>> {
        let items = self.effective.items(key);
        let mut seen = BTreeSet::new();
        for item in items {
            let message = match item.name.as_deref() {
                None if items.len() > 1 => several_without_names.to_owned(),
                Some(name) if !seen.insert(name) => {
                    format!("the name `{}` appears twice", value::shown(name))
                }
                _ => continue,
            };
            self.errors.push(item.origin.error(message));
            return None;
        }
        Some(items.to_vec())
    }

    /// `meanings` are the values of the words of the setting, in the order of the table.
    pub(super) fn word<T: Copy>(&mut self, key: Key, meanings: &[T]) -> Option<T> {
        self.required(key, word(key, meanings))
    }

    pub(super) fn switch(&mut self, key: Key) -> Option<bool> {
        self.required(key, value::switch)
    }

    pub(super) fn number<T: TryFrom<u64>>(&mut self, key: Key) -> Option<T> {
        self.required(key, |text| value::number(key.setting().kind, text))
    }

    #[expect(clippy::option_option, reason = "an error, or an optional value")]
    pub(super) fn optional_number<T: TryFrom<u64>>(&mut self, key: Key) -> Option<Option<T>> {
        self.optional(key, |text| value::number(key.setting().kind, text))
    }

    pub(super) fn duration(&mut self, key: Key) -> Option<Duration> {
        self.required(key, |text| value::duration(key.setting().kind, text))
    }

    fn item<T>(&mut self, item: &Item, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        read(&item.text).map_err(|message| self.errors.push(item.origin.error(message))).ok()
    }

    pub(super) fn error(&mut self, key: Key, message: impl Into<String>) {
        self.errors.push(self.effective.origin(key).error(message));
    }

    /// Reports an error that leaves no value.
    pub(super) fn refuse<T>(&mut self, key: Key, message: impl Into<String>) -> Option<T> {
        self.error(key, message);
        None
    }
}

/// Reads one of the words of a setting; `meanings` are their values, in the order of the table.
pub(super) fn word<T: Copy>(key: Key, meanings: &[T]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let index = value::choice(key.setting().kind, text)?;
        meanings.get(index).copied().ok_or_else(|| format!("`{text}` has no meaning here"))
    }
}
