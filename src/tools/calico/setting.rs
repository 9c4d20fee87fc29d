//! What a container's environment says, followed to the place where it is written.

use super::cursor::Cursor;
use super::manifest::{Object, Workload};
use super::report::Report;

/// A ConfigMap of kube-apiserver's address, which operators make for eBPF; Calico's manifests take
/// variables from it, and do not have it.
const SERVICES: &str = "kubernetes-services-endpoint";

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

/// The variables of a container.
pub(super) struct Environment<'l, 't> {
    objects: &'l [Object<'t>],
    namespace: &'t str,
    container: &'l Cursor<'t>,
    /// Those of `envFrom`: of two with one name the last one counts, and the container's own
    /// before both.
    imported: Vec<(String, Cursor<'t>)>,
}

impl<'l, 't> Environment<'l, 't> {
    /// Reports what brings variables that are not known.
    pub(super) fn of(
        objects: &'l [Object<'t>],
        workload: &Workload<'t>,
        container: &'l Cursor<'t>,
        report: &mut Report<'t>,
    ) -> Self {
        let mut environment =
            Self { objects, namespace: workload.object.namespace, container, imported: Vec::new() };
        for from in container.list("envFrom") {
            let prefix = from.scalar("prefix").unwrap_or_default();
            for (kind, source) in from.entries().filter(|(kind, _)| *kind != "prefix") {
                let name = source.scalar("name").unwrap_or_default();
                match environment.config_map(name) {
                    _ if kind != "configMapRef" => {
                        let message =
                            format!("`{kind}` brings variables that are not in this manifest");
                        report.mistake(
                            &from,
                            message,
                            "write them as `value`, or in a ConfigMap in this manifest",
                        );
                    }
                    Some(map) => {
                        let variables = map
                            .at
                            .get("data")
                            .into_iter()
                            .flat_map(|data| data.entries().collect::<Vec<_>>());
                        environment.imported.extend(
                            variables.map(|(key, value)| (format!("{prefix}{key}"), value)),
                        );
                    }
                    None if name == SERVICES && prefix.is_empty() => {}
                    None => {
                        let message = format!("ConfigMap `{name}` is not in this manifest");
                        report.mistake(
                            &from,
                            message,
                            "put it into the same file: its variables may say where etcd is",
                        );
                    }
                }
            }
        }
        environment
    }

    /// All names, each with the place that says it.
    pub(super) fn names(&self) -> Vec<(String, Cursor<'t>)> {
        let own = self
            .container
            .list("env")
            .into_iter()
            .map(|entry| (entry.scalar("name").unwrap_or_default().to_owned(), entry));
        self.imported.iter().cloned().chain(own).collect()
    }

    /// Reads a variable.
    pub(super) fn read(&self, name: &str, report: &mut Report<'t>) -> Setting<'t> {
        let mut entries = self
            .container
            .list("env")
            .into_iter()
            .filter(|entry| entry.scalar("name") == Some(name));
        let imported = || {
            self.imported.iter().rev().find(|(known, _)| known == name).map(|(_, at)| at.clone())
        };
        let at = match (entries.next(), entries.next()) {
            (_, Some(second)) => {
                report.mistake(
                    &second,
                    format!("`{name}` is set a second time"),
                    "leave one of them",
                );
                return Setting::Unreadable;
            }
            (Some(entry), None) => match self.entry(name, &entry, report) {
                Setting::Written { at, .. } => at,
                other => return other,
            },
            (None, None) => match imported() {
                Some(at) => at,
                None => return Setting::Missing,
            },
        };
        if at.node.is_nothing() {
            return Setting::Written { value: "", at };
        }
        match at.node.text() {
            Some(value) if !value.contains("$(") => Setting::Written { value, at },
            Some(_) => {
                report.mistake(
                    &at,
                    format!("`{name}` is put together from other variables"),
                    "write it out",
                );
                Setting::Unreadable
            }
            None => {
                report.mistake(
                    &at,
                    format!("`{name}` is {}, and has to be text", at.node.kind()),
                    "put it in quotes",
                );
                Setting::Unreadable
            }
        }
    }

    /// Where an entry of `env` has its value.
    fn entry(&self, name: &str, entry: &Cursor<'t>, report: &mut Report<'t>) -> Setting<'t> {
        match (entry.get("value"), entry.along(&["valueFrom", "configMapKeyRef"])) {
            (Some(at), None) => {
                Setting::Written { value: at.node.scalar().unwrap_or_default(), at }
            }
            (None, Some(reference)) => self.referred(&reference, report),
            _ => {
                report.mistake(
                    entry,
                    format!("`{name}` comes from elsewhere"),
                    "write it as `value`, or as a key of a ConfigMap in this manifest",
                );
                Setting::Unreadable
            }
        }
    }

    /// What a reference to a key of a ConfigMap leads to.
    fn referred(&self, reference: &Cursor<'t>, report: &mut Report<'t>) -> Setting<'t> {
        let (Some(name), Some(key)) = (reference.scalar("name"), reference.scalar("key")) else {
            report.mistake(
                reference,
                "this names no ConfigMap and key",
                "give it `name` and `key`",
            );
            return Setting::Unreadable;
        };
        let Some(map) = self.config_map(name) else {
            report.mistake(
                reference,
                format!("ConfigMap `{name}` is not in this manifest"),
                "put it into the same file: what it says has to be changed",
            );
            return Setting::Unreadable;
        };
        match map.at.get("data") {
            Some(data) => match data.get(key) {
                Some(at) => Setting::Written { value: at.node.scalar().unwrap_or_default(), at },
                None => Setting::Unset { data, key },
            },
            None => {
                report.mistake(&map.at, "it has no `data`", format!("give it `data` with `{key}`"));
                Setting::Unreadable
            }
        }
    }

    /// A ConfigMap that the pods can name: one of their own namespace.
    fn config_map(&self, name: &str) -> Option<&'l Object<'t>> {
        let wanted = ["", "ConfigMap", self.namespace, name];
        self.objects.iter().find(|object| object.identity() == wanted)
    }
}
