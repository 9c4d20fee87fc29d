//! Inspects a manifest: reports errors and deviations, and collects the changes that correct the
//! deviations. `--check` shows the deviations. `segment` makes the changes and inspects the result.

use etcd_warden_core::yaml::Node;

use super::certificates::{self, append, put_last};
use super::change::{Change, Changes};
use super::component::Component;
use super::cursor::Cursor;
use super::environment::{Environment, Variable};
use super::manifest::{objects, repeated, workload};
use super::mounts::{CertificateMount, foreign_mounts};
use super::options::{Options, is_never, usable};
use super::report::Report;
use super::source::{DIRECTORY, FILES, Source, trimmed};
use super::value::{Value, is_null};

/// Facts about a manifest, for the policy and the notes.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The image of each component.
    pub(super) images: Vec<(Component, String)>,
    /// The source of each component's certificate.
    pub(super) sources: Vec<(Component, Source)>,
    /// The namespace of the pods and their Secrets.
    pub(super) namespace: String,
    /// True if kube-controllers compact etcd.
    pub(super) compacts: bool,
    /// Secrets in the manifest that contain a private key.
    pub(super) secrets_with_keys: Vec<String>,
    /// Secrets in the manifest that a component uses and that lack this key.
    pub(super) incomplete_secrets: Vec<(String, &'static str)>,
}

pub(super) fn inspect<'t>(
    root: &'t Node<'t>,
    options: &Options,
    report: &mut Report<'t>,
    changes: &mut Changes,
) -> Facts {
    let objects = objects(root, report);
    report.set_objects(objects.clone());
    repeated(&objects, report);
    for object in &objects {
        merge_keys(&object.at, report);
    }
    let nodes = workload(&objects, "DaemonSet", Component::Node, report);
    let controllers = workload(&objects, "Deployment", Component::KubeControllers, report);
    let pods = [
        (Component::Node, &nodes),
        (Component::Cni, &nodes),
        (Component::KubeControllers, &controllers),
    ];
    let found = pods.into_iter().filter_map(|(component, workload)| {
        CertificateMount::find(component, workload.as_ref()?, report)
    });
    let mounted: Vec<CertificateMount<'t>> = found.collect();
    foreign_mounts(&mounted, report);
    certificates::inspect(&mounted, options, report, changes);
    let mut facts = Facts { compacts: true, ..Facts::default() };
    for one in &mounted {
        let environment = Environment::of(&objects, &one.workload, &one.container, report);
        let container = Container { environment, at: &one.container };
        if container.has_other_datastore(report) {
            // Other errors would follow from this one.
            continue;
        }
        container.endpoints(options, report, changes);
        match one.component {
            Component::Cni => container.cni(report),
            Component::Node => container.files(report, changes),
            Component::KubeControllers => {
                container.files(report, changes);
                facts.compacts = container.compaction(options, report, changes);
            }
        }
        facts
            .images
            .push((one.component, one.container.scalar("image").unwrap_or_default().to_owned()));
        facts.sources.extend(one.source().map(|source| (one.component, source.clone())));
        facts.namespace = one.workload.object.namespace.to_owned();
    }
    for object in objects.iter().filter(|object| object.kind == "Secret") {
        let contains = |key: &&str| {
            ["data", "stringData"]
                .iter()
                .any(|data| object.at.along(&[data, key]).is_some_and(|at| !is_null(at.node)))
        };
        if contains(&"etcd-key") {
            facts.secrets_with_keys.push(object.name.to_owned());
        }
        let is_used = facts
            .sources
            .iter()
            .any(|(_, source)| *source == Source::Secret(object.name.to_owned()));
        if let Some(missing) = FILES.iter().find(|key| is_used && !contains(key)) {
            facts.incomplete_secrets.push((object.name.to_owned(), missing));
        }
    }
    facts
}

/// Reports merge keys (`<<`): they set fields elsewhere than where they are written.
fn merge_keys<'t>(at: &Cursor<'t>, report: &mut Report<'t>) {
    for (key, value) in at.entries() {
        if key == "<<" {
            report.error(&value, "merge keys (`<<`) are not supported", "write the merged fields");
        } else {
            merge_keys(&value, report);
        }
    }
    for item in at.items() {
        merge_keys(&item, report);
    }
}

/// A container of a component.
struct Container<'l, 't> {
    environment: Environment<'l, 't>,
    at: &'l Cursor<'t>,
}

impl<'t> Container<'_, 't> {
    fn read(&self, name: &str, report: &mut Report<'t>) -> Variable<'t> {
        self.environment.read(name, report)
    }

    /// Reports variables that override those that are inspected. True if this Calico does not use
    /// etcd.
    fn has_other_datastore(&self, report: &mut Report<'t>) -> bool {
        for (name, at) in self.environment.names() {
            // Felix ignores the case of its variables (felix/config/env_var_loader.go).
            let upper = name.to_ascii_uppercase();
            if upper.starts_with("CALICO_ETCD_")
                || upper.starts_with("FELIX_ETCD")
                || upper == "ETCD_DISCOVERY_SRV"
            {
                report.error(
                    &at,
                    format!("`{name}` overrides the address of etcd or the certificate for it"),
                    "remove it: ETCD_ENDPOINTS, ETCD_CA_CERT_FILE, ETCD_CERT_FILE and \
                     ETCD_KEY_FILE apply to all of Calico",
                );
            }
        }
        match self.read("DATASTORE_TYPE", report) {
            Variable::Set { value: "kubernetes", at } => {
                report.error(
                    &at,
                    "this Calico stores its data in Kubernetes, not in etcd",
                    "use calico-etcd.yaml of Calico 3.20 to 3.31",
                );
                true
            }
            _ => false,
        }
    }

    fn endpoints(&self, options: &Options, report: &mut Report<'t>, changes: &mut Changes) {
        let setting = self.read("ETCD_ENDPOINTS", report);
        let (value, at) = match &setting {
            Variable::Set { value, at } => (*value, at),
            Variable::Invalid => return,
            Variable::NoKey { data, key } => {
                report.deviation(data, format!("has no `{key}`"));
                if let Some(wanted) = &options.endpoints {
                    put_last(data, key, Value::text(wanted.as_str()), changes);
                }
                return;
            }
            Variable::Missing => {
                report.error(
                    self.at,
                    "there is no variable ETCD_ENDPOINTS",
                    "in calico-etcd.yaml of Calico 3.20 to 3.31, each of these containers has it",
                );
                return;
            }
        };
        let wrong = match &options.endpoints {
            Some(wanted) if wanted.as_str() == value => None,
            Some(wanted) => Some(format!("must be {}", wanted.as_str())),
            None => value
                .split(',')
                .find_map(|url| usable(url.trim()).err().map(|why| format!("`{url}` {why}"))),
        };
        if let Some(wrong) = wrong {
            report.deviation(at, wrong);
            if let Some(wanted) = &options.endpoints {
                changes.add(Change::Set {
                    path: at.path.clone(),
                    value: Value::text(wanted.as_str()),
                });
            }
        }
    }

    /// Inspects the variables with the paths of the three files.
    fn files(&self, report: &mut Report<'t>, changes: &mut Changes) {
        for (name, file) in
            ["ETCD_CA_CERT_FILE", "ETCD_CERT_FILE", "ETCD_KEY_FILE"].into_iter().zip(FILES)
        {
            let path = format!("{DIRECTORY}/{file}");
            match self.read(name, report) {
                Variable::Invalid => {}
                Variable::Set { value, .. } if value == path => {}
                Variable::Set { value: "", at } => {
                    report.deviation(&at, format!("must be {path}"));
                    changes.add(Change::Set { path: at.path, value: Value::text(path) });
                }
                Variable::Set { at, .. } => report.error(
                    &at,
                    format!("`{name}` is not {path}"),
                    format!(
                        "mount the certificate at {DIRECTORY}, with the files {}",
                        FILES.join(", ")
                    ),
                ),
                Variable::NoKey { data, key } => {
                    report.deviation(&data, format!("has no `{key}`, which must be {path}"));
                    put_last(&data, key, Value::text(path), changes);
                }
                Variable::Missing => {
                    report.deviation(self.at, format!("has no {name}, which must be {path}"));
                    let entry =
                        Value::map([("name", Value::text(name)), ("value", Value::text(path))]);
                    append(self.at, "env", "name", entry, changes);
                }
            }
        }
    }

    /// Inspects `install-cni`, which copies the files to the host and writes their paths into the
    /// configuration of the plugin (cni-plugin/pkg/install/install.go).
    fn cni(&self, report: &mut Report<'t>) {
        if let Variable::Set { value, at } = self.read("TLS_ASSETS_DIR", report)
            && trimmed(value) != DIRECTORY
        {
            report.error(
                &at,
                format!("the certificate is taken from `{value}`"),
                format!("mount it at {DIRECTORY}, and remove TLS_ASSETS_DIR"),
            );
        }
        let (config, at) = match self.read("CNI_NETWORK_CONFIG", report) {
            Variable::Set { value, at } => (value, at),
            Variable::Invalid => return,
            Variable::Missing | Variable::NoKey { .. } => {
                report.error(
                    self.at,
                    "there is no CNI_NETWORK_CONFIG",
                    "in calico-etcd.yaml of Calico 3.20 to 3.31, it is a key of calico-config",
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
                report.error(
                    &at,
                    message,
                    format!("write \"{key}\": \"{placeholder}\", which install-cni fills in"),
                );
            }
        }
    }

    /// Returns whether kube-controllers will compact etcd.
    fn compaction(
        &self,
        options: &Options,
        report: &mut Report<'t>,
        changes: &mut Changes,
    ) -> bool {
        let setting = self.read("COMPACTION_PERIOD", report);
        let Some(wanted) = &options.compaction_period else {
            return setting.value().and_then(is_never) != Some(true);
        };
        match setting {
            Variable::Set { value, .. } if value == wanted.as_str() => {}
            Variable::Set { at, .. } => {
                report.deviation(&at, format!("must be {}", wanted.as_str()));
                changes.add(Change::Set { path: at.path, value: Value::text(wanted.as_str()) });
            }
            Variable::Missing => {
                report.deviation(
                    self.at,
                    format!("has no COMPACTION_PERIOD, which must be {}", wanted.as_str()),
                );
                let entry = Value::map([
                    ("name", Value::text("COMPACTION_PERIOD")),
                    ("value", Value::text(wanted.as_str())),
                ]);
                append(self.at, "env", "name", entry, changes);
            }
            Variable::NoKey { data, key } => {
                report
                    .deviation(&data, format!("has no `{key}`, which must be {}", wanted.as_str()));
                put_last(&data, key, Value::text(wanted.as_str()), changes);
            }
            Variable::Invalid => {}
        }
        is_never(wanted.as_str()) != Some(true)
    }
}

/// The string under a key in text that is JSON except for its placeholders.
fn json_text<'c>(config: &'c str, key: &str) -> Option<&'c str> {
    let (_, rest) = config.split_once(&format!("\"{key}\""))?;
    rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?.split('"').next()
}
