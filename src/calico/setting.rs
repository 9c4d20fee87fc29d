//! What a container's environment says, followed to the place where it is written.

use super::cursor::Cursor;
use super::manifest::{Object, Workload};
use super::report::Report;

/// A variable of a container.
#[derive(Clone, Debug)]
pub(super) enum Setting<'t> {
    /// The container has no such variable.
    Missing,
    /// It is written here.
    Written { value: &'t str, at: Cursor<'t> },
    /// It is a key of this ConfigMap, which has no such key.
    Unset { data: Cursor<'t>, key: &'t str },
    /// It is not understood, which has been reported.
    Unreadable,
}

impl<'t> Setting<'t> {
    /// What it is, as far as the manifest says.
    pub(super) fn value(&self) -> Option<&'t str> {
        if let Setting::Written { value, .. } = self { Some(value) } else { None }
    }
}

/// Reads a variable.
pub(super) fn read<'t>(
    objects: &[Object<'t>],
    workload: &Workload<'t>,
    container: &Cursor<'t>,
    name: &str,
    report: &mut Report<'t>,
) -> Setting<'t> {
    let mut entries = container.list("env").into_iter().filter(|entry| entry.scalar("name") == Some(name));
    let Some(entry) = entries.next() else { return Setting::Missing };
    if let Some(second) = entries.next() {
        report.mistake(&second, format!("`{name}` is set a second time"), "leave one of them");
        return Setting::Unreadable;
    }
    let written = match (entry.get("value"), entry.along(&["valueFrom", "configMapKeyRef"])) {
        (Some(value), None) => Some(value),
        (None, Some(reference)) => match referred(objects, workload, &reference, report) {
            Setting::Written { at, .. } => Some(at),
            other => return other,
        },
        _ => None,
    };
    let Some(at) = written else {
        report.mistake(
            &entry,
            format!("`{name}` comes from elsewhere"),
            "write it as `value`, or as a key of a ConfigMap in this manifest",
        );
        return Setting::Unreadable;
    };
    if at.node.is_nothing() {
        return Setting::Written { value: "", at };
    }
    match at.node.text() {
        Some(value) if !value.contains("$(") => Setting::Written { value, at },
        Some(_) => {
            report.mistake(&at, format!("`{name}` is put together from other variables"), "write it out");
            Setting::Unreadable
        }
        None => {
            report.mistake(&at, format!("`{name}` is {}, and has to be text", at.node.kind()), "put it in quotes");
            Setting::Unreadable
        }
    }
}

/// What a reference to a key of a ConfigMap leads to.
fn referred<'t>(objects: &[Object<'t>], workload: &Workload<'t>, reference: &Cursor<'t>, report: &mut Report<'t>) -> Setting<'t> {
    let (Some(name), Some(key)) = (reference.scalar("name"), reference.scalar("key")) else {
        report.mistake(reference, "this names no ConfigMap and key", "give it `name` and `key`");
        return Setting::Unreadable;
    };
    let there = |object: &&Object<'_>| object.kind == "ConfigMap" && object.name == name && object.namespace == workload.object.namespace;
    let Some(object) = objects.iter().find(there) else {
        report.mistake(
            reference,
            format!("ConfigMap `{name}` is not in this manifest"),
            "put it into the same file: what it says has to be changed",
        );
        return Setting::Unreadable;
    };
    match object.at.get("data") {
        Some(data) => match data.get(key) {
            Some(at) => Setting::Written { value: at.node.scalar().unwrap_or_default(), at },
            None => Setting::Unset { data, key },
        },
        None => {
            report.mistake(&object.at, "it has no `data`", format!("give it `data` with `{key}`"));
            Setting::Unreadable
        }
    }
}
