//! Segments Calico's hosted manifest: each component gets its own certificate for etcd.
//!
//! Operators know and compare the text of their manifest, so only the necessary bytes change. The
//! text is read into a tree with positions (`value`), inspected (`inspect`) and edited (`edit`).
//! The changes are also applied to the meaning of the tree (`change`). The new text is read again
//! and must have exactly that meaning, without a deviation. `--check` and `segment` share the
//! inspection.

mod bindings;
mod certificates;
mod change;
mod component;
mod cursor;
mod edit;
mod environment;
mod inspect;
mod manifest;
mod mounts;
mod options;
mod report;
mod source;
mod template;
mod value;
mod version;

use etcd_warden_core::diagnostics::{Diagnostics, SourcePosition};
use etcd_warden_core::yaml::{Node, hint};

use change::Changes;
pub use component::{ALL, Component};
use inspect::Facts;
pub use options::{CompactionPeriod, Endpoints, Options, PerNode, secret};
pub use report::Deviation;
use report::Report;
use source::Source;
use value::Value;
use version::Version;

/// Maximum size of a manifest in bytes. Calico's have 24 KiB.
pub const MAX_BYTES: u64 = 4 << 20;

/// The result of [`segment`].
#[derive(Debug)]
pub struct Segmented {
    /// The text with all changes.
    pub text: String,
    /// The deviations of the input; none if it was segmented already.
    pub deviations: Vec<Deviation>,
    /// The policy for the manifest.
    pub policy: String,
    /// Remaining work for the operator, one sentence each.
    pub notes: Vec<String>,
}

/// The deviations of a manifest from the segmented form.
///
/// # Errors
/// Everything that is not understood, with positions.
pub fn check(file: &str, text: &str, options: &Options) -> Result<Vec<Deviation>, Diagnostics> {
    let root = parse(file, text)?;
    inspect(file, text, &root, options).map(|(deviations, _, _)| deviations)
}

/// Segments a manifest.
///
/// # Errors
/// Everything that is not understood or cannot be changed in the text, with positions.
pub fn segment(file: &str, text: &str, options: &Options) -> Result<Segmented, Diagnostics> {
    let root = parse(file, text)?;
    let (deviations, changes, _) = inspect(file, text, &root, options)?;
    let new = edit::apply(text, &root, &changes).map_err(|refusals| {
        let mut report = Report::new(file, text);
        let objects = manifest::objects(&root, &mut report);
        report.set_objects(objects);
        refusals.into_iter().for_each(|refusal| report.refusal(refusal));
        report.finish().err().unwrap_or_default()
    })?;
    let facts = verify(file, &new, &root, &changes, options)?;
    let version = Version::of_all(&facts.images);
    Ok(Segmented {
        policy: bindings::policy(file, &facts, version),
        notes: notes(&facts, version),
        text: new,
        deviations,
    })
}

fn parse<'t>(file: &str, text: &'t str) -> Result<Node<'t>, Diagnostics> {
    let mut report = Report::new(file, text);
    let parsed = value::parse(text);
    let placeholders = match &parsed {
        Ok(root) => template::in_tree(root),
        Err(_) => template::in_text(text),
    };
    match parsed {
        Ok(root) if placeholders.is_empty() => return Ok(root),
        Err(failures) if placeholders.is_empty() => {
            for (position, message) in failures {
                report.error_at(position, message, hint(text, position));
            }
        }
        _ => {}
    }
    for (position, written) in placeholders {
        report.error_at(position, format!("`{written}` is a placeholder"), template::HELP);
    }
    Err(report.finish().err().unwrap_or_default())
}

fn inspect(
    file: &str,
    text: &str,
    root: &Node<'_>,
    options: &Options,
) -> Result<(Vec<Deviation>, Changes, Facts), Diagnostics> {
    let (mut report, mut changes) = (Report::new(file, text), Changes::default());
    let facts = inspect::inspect(root, options, &mut report, &mut changes);
    report.finish().map(|deviations| (deviations, changes, facts))
}

/// Checks that the new text has the meaning of the changes, and no deviation.
fn verify(
    file: &str,
    new: &str,
    old: &Node<'_>,
    changes: &Changes,
    options: &Options,
) -> Result<Facts, Diagnostics> {
    let bug = |what: &str| {
        let help = "this is a bug in etcd-warden, and nothing was written: please report it with \
                    the manifest";
        Diagnostics::about(file, format!("the changed text {what}"), Some(help))
    };
    let root = value::parse(new).map_err(|failures| {
        let failure =
            |(SourcePosition { line, column, .. }, message): &(SourcePosition, String)| {
                format!("cannot be read at {line}:{column}: {message}")
            };
        bug(&failures.first().map(failure).unwrap_or_default())
    })?;
    if changes.applied(Value::of(old)).as_ref() != Some(&Value::of(&root)) {
        return Err(bug("does not have the intended meaning"));
    }
    let (deviations, more, facts) = inspect(file, new, &root, options)
        .map_err(|errors| bug(&format!("is not understood: {errors}")))?;
    match deviations.first() {
        None if more.is_empty() => Ok(facts),
        None => Err(bug("would be changed again")),
        Some(deviation) => Err(bug(&format!("still has a deviation: {deviation}"))),
    }
}

/// The Common Name if each node has its own certificate.
fn name_on_nodes(component: Component) -> String {
    if component.is_on_nodes() {
        format!("{component}:NODE")
    } else {
        component.common_name().to_owned()
    }
}

/// Remaining work for the operator.
fn notes(facts: &Facts, version: Option<Version>) -> Vec<String> {
    let certificates =
        facts.sources.iter().map(|(component, source)| certificate(*component, source, facts));
    let unused_keys = facts.secrets_with_keys.iter().filter_map(|name| {
        let secret = Source::Secret(name.clone());
        let is_used = facts.sources.iter().any(|(_, source)| *source == secret);
        (!is_used).then(|| {
            format!(
                "Secret `{name}` still contains a private key, and no pod of this manifest mounts \
                 it: remove the key, and revoke its certificate when all pods have been replaced"
            )
        })
    });
    let incomplete = facts.incomplete_secrets.iter().map(|(name, key)| {
        format!(
            "Secret `{name}` in this manifest has no `{key}`: applying the manifest may delete \
             the value in the cluster; remove the Secret from the manifest, or complete it"
        )
    });
    certificates.chain(unused_keys).chain(incomplete).chain(version_note(version)).collect()
}

fn certificate(component: Component, source: &Source, facts: &Facts) -> String {
    let files = source::FILES.join(", ");
    match source {
        Source::Secret(name) => {
            let shared = if component.is_on_nodes() { " --cluster-wide" } else { "" };
            let (namespace, cn) = (&facts.namespace, component.common_name());
            format!(
                "{component}: create Secret `{name}` in namespace `{namespace}` with the keys \
                 {files} for CN `{cn}` (`etcd-warden certs issue --component {component}{shared} \
                 --output secret`)"
            )
        }
        Source::HostPath(path) => {
            let cn = name_on_nodes(component);
            format!(
                "{component}: put {files} for CN `{cn}` into {path} on every node, owned by root, \
                 with a key that only root can read (`nodes/NODE/{component}` of `etcd-warden \
                 certs issue`, with the tool that manages the files of the nodes)"
            )
        }
        Source::Csi(_) | Source::Other(_) => {
            let cn = name_on_nodes(component);
            format!("{component}: {source} must provide {files} for CN `{cn}`")
        }
    }
}

fn version_note(version: Option<Version>) -> Option<String> {
    match version {
        Some(version) if version < Version::OLDEST => Some(format!(
            "Calico {version} is older than the tested manifests ({} to 3.31)",
            Version::OLDEST
        )),
        Some(version) if version.is_verified() => None,
        Some(version) => Some(format!(
            "the roles were verified with Calico 3.31 only, and this is {version}: stay in shadow \
             mode until the audit log has no new `would_deny`"
        )),
        None => Some(
            "no image has a version of Calico: the roles were verified with 3.31 only".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests;
