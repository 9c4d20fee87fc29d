//! Everything that is looked at in a manifest: what is understood, what it lacks, and the changes
//! that help. `--check` shows the lacks, `segment` makes the changes and then looks once more.

use super::certificates::{self, append, put_last};
use super::change::{Change, Changes};
use super::component::Component;
use super::cursor::Cursor;
use super::manifest::{objects, repeated, workload};
use super::mounts::{Mounted, strangers};
use super::report::Report;
use super::setting::{Environment, Setting};
use super::source::{FILES, FOLDER, Source, trimmed};
use super::wish::{Wish, is_never, usable};
use super::yaml::{Node, Value};

/// What was learned about a manifest that is understood.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Component and image.
    pub(super) images: Vec<(Component, String)>,
    /// What each certificate comes from.
    pub(super) sources: Vec<(Component, Source)>,
    /// The namespace of the pods, and so of the Secrets.
    pub(super) namespace: String,
    /// Whether kube-controllers compact etcd.
    pub(super) compacts: bool,
    /// Secrets in the manifest that hold keys.
    pub(super) filled: Vec<String>,
    /// Secrets in the manifest that a component's certificate comes from, without this key.
    pub(super) empty: Vec<(String, &'static str)>,
}

/// Looks at all of it.
pub(super) fn inspect<'t>(
    root: &'t Node,
    wish: &Wish,
    report: &mut Report<'t>,
    changes: &mut Changes,
) -> Seen {
    let objects = objects(root, report);
    report.set_objects(objects.clone());
    repeated(&objects, report);
    for object in &objects {
        merged(&object.at, report);
    }
    let nodes = workload(&objects, "DaemonSet", Component::Node, report);
    let controllers = workload(&objects, "Deployment", Component::KubeControllers, report);
    let pods = [
        (Component::Node, &nodes),
        (Component::Cni, &nodes),
        (Component::KubeControllers, &controllers),
    ];
    let found = pods
        .into_iter()
        .filter_map(|(component, workload)| Mounted::find(component, workload.as_ref()?, report));
    let mounted: Vec<Mounted<'t>> = found.collect();
    strangers(&mounted, report);
    certificates::inspect(&mounted, wish, report, changes);
    let mut seen = Seen { compacts: true, ..Seen::default() };
    for one in &mounted {
        let environment = Environment::of(&objects, &one.workload, &one.container, report);
        let look = Look { environment, container: &one.container };
        if look.surprises(report) {
            // Everything else would only be said to be missing.
            continue;
        }
        look.endpoints(wish, report, changes);
        match one.component {
            Component::Cni => look.cni(report),
            Component::Node => look.files(report, changes),
            Component::KubeControllers => {
                look.files(report, changes);
                seen.compacts = look.compaction(wish, report, changes);
            }
        }
        seen.images
            .push((one.component, one.container.scalar("image").unwrap_or_default().to_owned()));
        seen.sources.extend(one.source().map(|source| (one.component, source.clone())));
        seen.namespace = one.workload.object.namespace.to_owned();
    }
    for object in objects.iter().filter(|object| object.kind == "Secret") {
        let holds = |key: &&str| {
            ["data", "stringData"]
                .iter()
                .any(|data| object.at.along(&[data, key]).is_some_and(|at| !at.node.is_nothing()))
        };
        if holds(&"etcd-key") {
            seen.filled.push(object.name.to_owned());
        }
        let is_used = seen
            .sources
            .iter()
            .any(|(_, source)| *source == Source::Secret(object.name.to_owned()));
        if let Some(missing) = FILES.iter().find(|key| is_used && !holds(key)) {
            seen.empty.push((object.name.to_owned(), missing));
        }
    }
    seen
}

/// Merge keys (`<<`) say in one place what counts in another.
fn merged<'t>(at: &Cursor<'t>, report: &mut Report<'t>) {
    for (key, value) in at.entries() {
        if key == "<<" {
            report.mistake(&value, "a merge key (`<<`) stands here", "write out what it merges");
        } else {
            merged(&value, report);
        }
    }
    for item in at.items() {
        merged(&item, report);
    }
}

/// One container.
struct Look<'l, 't> {
    environment: Environment<'l, 't>,
    container: &'l Cursor<'t>,
}

impl<'t> Look<'_, 't> {
    fn read(&self, name: &str, report: &mut Report<'t>) -> Setting<'t> {
        self.environment.read(name, report)
    }

    /// Variables that speak louder than those that are looked at. Gives whether this Calico has no
    /// etcd at all.
    fn surprises(&self, report: &mut Report<'t>) -> bool {
        for (name, at) in self.environment.names() {
            // Felix knows its variables in capitals or not (felix/config/env_var_loader.go).
            let upper = name.to_ascii_uppercase();
            if upper.starts_with("CALICO_ETCD_")
                || upper.starts_with("FELIX_ETCD")
                || upper == "ETCD_DISCOVERY_SRV"
            {
                report.mistake(
                    &at,
                    format!("`{name}` says where etcd is, or by which certificate it is spoken to, a second time"),
                    "take it away: ETCD_ENDPOINTS, ETCD_CA_CERT_FILE, ETCD_CERT_FILE and ETCD_KEY_FILE say it for all of Calico",
                );
            }
        }
        match self.read("DATASTORE_TYPE", report) {
            Setting::Written { value: "kubernetes", at } => {
                report.mistake(
                    &at,
                    "this Calico has its data in Kubernetes, not in etcd",
                    "this reads calico-etcd.yaml of Calico 3.20 to 3.31",
                );
                true
            }
            _ => false,
        }
    }

    fn endpoints(&self, wish: &Wish, report: &mut Report<'t>, changes: &mut Changes) {
        let setting = self.read("ETCD_ENDPOINTS", report);
        let (value, at) = match &setting {
            Setting::Written { value, at } => (*value, at),
            Setting::Unreadable => return,
            Setting::Unset { data, key } => {
                report.lack(data, format!("has no `{key}`"));
                if let Some(wanted) = &wish.endpoints {
                    put_last(data, key, Value::text(wanted.as_str()), changes);
                }
                return;
            }
            Setting::Missing => {
                report.mistake(
                    self.container,
                    "there is no variable ETCD_ENDPOINTS",
                    "this reads calico-etcd.yaml of Calico 3.20 to 3.31, where each of these containers has it",
                );
                return;
            }
        };
        let wrong = match &wish.endpoints {
            Some(wanted) if wanted.as_str() == value => None,
            Some(wanted) => Some(format!("has to be {}", wanted.as_str())),
            None => value
                .split(',')
                .find_map(|url| usable(url.trim()).err().map(|why| format!("`{url}` {why}"))),
        };
        if let Some(wrong) = wrong {
            report.lack(at, wrong);
            if let Some(wanted) = &wish.endpoints {
                changes.add(Change::Set {
                    path: at.path.clone(),
                    value: Value::text(wanted.as_str()),
                });
            }
        }
    }

    /// The variables that say where the three files are.
    fn files(&self, report: &mut Report<'t>, changes: &mut Changes) {
        for (name, file) in
            ["ETCD_CA_CERT_FILE", "ETCD_CERT_FILE", "ETCD_KEY_FILE"].into_iter().zip(FILES)
        {
            let path = format!("{FOLDER}/{file}");
            match self.read(name, report) {
                Setting::Unreadable => {}
                Setting::Written { value, .. } if value == path => {}
                Setting::Written { value: "", at } => {
                    report.lack(&at, format!("has to be {path}"));
                    changes.add(Change::Set { path: at.path, value: Value::text(path) });
                }
                Setting::Written { at, .. } => report.mistake(
                    &at,
                    format!("`{name}` is another file than {path}"),
                    format!(
                        "mount the certificates at {FOLDER}, with the files {}",
                        FILES.join(", ")
                    ),
                ),
                Setting::Unset { data, key } => {
                    report.lack(&data, format!("has no `{key}`, which has to be {path}"));
                    put_last(&data, key, Value::text(path), changes);
                }
                Setting::Missing => {
                    report.lack(self.container, format!("has no {name}, which has to be {path}"));
                    let entry =
                        Value::map([("name", Value::text(name)), ("value", Value::text(path))]);
                    append(self.container, "env", "name", entry, changes);
                }
            }
        }
    }

    /// `install-cni` copies the files to the host, and writes their places into the plugin's
    /// configuration (cni-plugin/pkg/install/install.go).
    fn cni(&self, report: &mut Report<'t>) {
        if let Setting::Written { value, at } = self.read("TLS_ASSETS_DIR", report)
            && trimmed(value) != FOLDER
        {
            report.mistake(
                &at,
                format!("the certificate is taken from `{value}`"),
                format!("mount it at {FOLDER}, and leave TLS_ASSETS_DIR away"),
            );
        }
        let (config, at) = match self.read("CNI_NETWORK_CONFIG", report) {
            Setting::Written { value, at } => (value, at),
            Setting::Unreadable => return,
            Setting::Missing | Setting::Unset { .. } => {
                report.mistake(
                    self.container,
                    "there is no CNI_NETWORK_CONFIG",
                    "this reads calico-etcd.yaml of Calico 3.20 to 3.31, where a key of calico-config is the plugin's configuration",
                );
                return;
            }
        };
        let expected = [
            ("etcd_endpoints", "__ETCD_ENDPOINTS__", ""),
            ("etcd_ca_cert_file", "__ETCD_CA_CERT_FILE__", "etcd-ca"),
            ("etcd_cert_file", "__ETCD_CERT_FILE__", "etcd-cert"),
            ("etcd_key_file", "__ETCD_KEY_FILE__", "etcd-key"),
        ];
        for (key, placeholder, file) in expected {
            let written = json_text(config, key);
            let copied =
                |path: &str| !file.is_empty() && path.ends_with(&format!("/calico-tls/{file}"));
            if !written.is_some_and(|path| path == placeholder || copied(path)) {
                let message = match written {
                    Some(other) => format!("`{key}` of the CNI configuration is `{other}`"),
                    None => format!("the CNI configuration has no `{key}`"),
                };
                report.mistake(
                    &at,
                    message,
                    format!("write \"{key}\": \"{placeholder}\", which install-cni fills in"),
                );
            }
        }
    }

    /// Whether kube-controllers compact etcd, in the end.
    fn compaction(&self, wish: &Wish, report: &mut Report<'t>, changes: &mut Changes) -> bool {
        let setting = self.read("COMPACTION_PERIOD", report);
        let Some(wanted) = &wish.compaction_period else {
            return setting.value().and_then(is_never) != Some(true);
        };
        match setting {
            Setting::Written { value, .. } if value == wanted.as_str() => {}
            Setting::Written { at, .. } => {
                report.lack(&at, format!("has to be {}", wanted.as_str()));
                changes.add(Change::Set { path: at.path, value: Value::text(wanted.as_str()) });
            }
            Setting::Missing => {
                report.lack(
                    self.container,
                    format!("has no COMPACTION_PERIOD, which has to be {}", wanted.as_str()),
                );
                let entry = Value::map([
                    ("name", Value::text("COMPACTION_PERIOD")),
                    ("value", Value::text(wanted.as_str())),
                ]);
                append(self.container, "env", "name", entry, changes);
            }
            Setting::Unset { data, key } => {
                report.lack(&data, format!("has no `{key}`, which has to be {}", wanted.as_str()));
                put_last(&data, key, Value::text(wanted.as_str()), changes);
            }
            Setting::Unreadable => {}
        }
        is_never(wanted.as_str()) != Some(true)
    }
}

/// The text under a key, anywhere in what is JSON but for its placeholders.
fn json_text<'c>(config: &'c str, key: &str) -> Option<&'c str> {
    let (_, rest) = config.split_once(&format!("\"{key}\""))?;
    rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?.split('"').next()
}
