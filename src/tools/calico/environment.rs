//! The environment variables of a container, traced to the field that sets them.

use super::cursor::Cursor;
use super::manifest::{Object, Workload};
use super::report::Report;
use super::value::{is_null, is_text, type_name};

/// The ConfigMap with the address of kube-apiserver, which operators create for eBPF. Calico's
/// manifests refer to it and do not contain it.
const SERVICES: &str = "kubernetes-services-endpoint";

/// The value of a variable.
#[derive(Clone, Debug)]
pub(super) enum Variable<'t> {
    /// The container does not have the variable.
    Missing,
    /// The value is set at `at`.
    Set { value: &'t str, at: Cursor<'t> },
    /// The variable refers to a ConfigMap without this key. `data` is the `data` of the ConfigMap.
    NoKey { data: Cursor<'t>, key: &'t str },
    /// An error was reported.
    Invalid,
}

impl<'t> Variable<'t> {
    /// The value, if the manifest sets it.
    pub(super) fn value(&self) -> Option<&'t str> {
        if let Variable::Set { value, .. } = self { Some(value) } else { None }
    }
}

/// The variables of a container.
pub(super) struct Environment<'l, 't> {
    objects: &'l [Object<'t>],
    namespace: &'t str,
    container: &'l Cursor<'t>,
    /// The variables of `envFrom`. Of two with the same name, the last one wins. Those of `env`
    /// take precedence.
    imported: Vec<(String, Cursor<'t>)>,
}

impl<'l, 't> Environment<'l, 't> {
    /// Reports sources of variables whose content is not in the manifest.
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
                        let message = format!("the variables of `{kind}` are not in this manifest");
                        report.error(
                            &from,
                            message,
                            "set them with `value`, or in a ConfigMap of this manifest",
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
                        report.error(
                            &from,
                            message,
                            "add it to this file: it may set the address of etcd",
                        );
                    }
                }
            }
        }
        environment
    }

    /// The names of all variables, each with the field that sets it.
    pub(super) fn names(&self) -> Vec<(String, Cursor<'t>)> {
        let own = self
            .container
            .list("env")
            .into_iter()
            .map(|entry| (entry.scalar("name").unwrap_or_default().to_owned(), entry));
        self.imported.iter().cloned().chain(own).collect()
    }

    /// The value of a variable.
    pub(super) fn read(&self, name: &str, report: &mut Report<'t>) -> Variable<'t> {
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
                report.error(&second, format!("`{name}` is set twice"), "remove one of them");
                return Variable::Invalid;
            }
            (Some(entry), None) => match self.entry(name, &entry, report) {
                Variable::Set { at, .. } => at,
                other => return other,
            },
            (None, None) => match imported() {
                Some(at) => at,
                None => return Variable::Missing,
            },
        };
        if is_null(at.node) {
            return Variable::Set { value: "", at };
        }
        match at.node.scalar().filter(|_| is_text(at.node)) {
            Some(value) if !value.contains("$(") => Variable::Set { value, at },
            Some(_) => {
                report.error(&at, format!("`{name}` refers to other variables"), "write the value");
                Variable::Invalid
            }
            None => {
                report.error(
                    &at,
                    format!("`{name}` must be text, not {}", type_name(at.node)),
                    "write it in quotes",
                );
                Variable::Invalid
            }
        }
    }

    /// The value of an entry of `env`.
    fn entry(&self, name: &str, entry: &Cursor<'t>, report: &mut Report<'t>) -> Variable<'t> {
        match (entry.get("value"), entry.along(&["valueFrom", "configMapKeyRef"])) {
            (Some(at), None) => Variable::Set { value: at.node.scalar().unwrap_or_default(), at },
            (None, Some(reference)) => self.referred(&reference, report),
            _ => {
                report.error(
                    entry,
                    format!("the value of `{name}` is not in this manifest"),
                    "set it with `value`, or with a key of a ConfigMap in this manifest",
                );
                Variable::Invalid
            }
        }
    }

    /// The value behind a reference to a key of a ConfigMap.
    fn referred(&self, reference: &Cursor<'t>, report: &mut Report<'t>) -> Variable<'t> {
        let (Some(name), Some(key)) = (reference.scalar("name"), reference.scalar("key")) else {
            report.error(reference, "this reference is incomplete", "set `name` and `key`");
            return Variable::Invalid;
        };
        let Some(map) = self.config_map(name) else {
            report.error(
                reference,
                format!("ConfigMap `{name}` is not in this manifest"),
                "add it to this file: its values must be changed",
            );
            return Variable::Invalid;
        };
        match map.at.get("data") {
            Some(data) => match data.get(key) {
                Some(at) => Variable::Set { value: at.node.scalar().unwrap_or_default(), at },
                None => Variable::NoKey { data, key },
            },
            None => {
                report.error(
                    &map.at,
                    "the ConfigMap has no `data`",
                    format!("add `data` with `{key}`"),
                );
                Variable::Invalid
            }
        }
    }

    /// The ConfigMap with this name in the namespace of the pods.
    fn config_map(&self, name: &str) -> Option<&'l Object<'t>> {
        let wanted = ["", "ConfigMap", self.namespace, name];
        self.objects.iter().find(|object| object.identity() == wanted)
    }
}
