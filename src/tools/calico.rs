//! Calico's hosted manifest, segmented: each component reaches etcd with a certificate of its own.
//!
//! The manifest is text that its operator knows and compares, so it stays that text: it is read
//! into a tree that knows every byte's place (`yaml`), looked at (`inspect`), and changed at single
//! places (`edit`). What the changes mean is computed a second time on the tree (`change`); the new
//! text is read again, has to mean exactly that, and has to lack nothing. One look serves `--check`
//! and `segment`.

mod bindings;
mod certificates;
mod change;
mod component;
mod cursor;
mod edit;
mod inspect;
mod manifest;
mod mounts;
mod report;
mod setting;
mod source;
mod template;
mod version;
mod wish;
mod yaml;

use etcd_warden_core::policy::Diagnostics;
use etcd_warden_core::policy::diagnostics::Place;

use change::Changes;
pub use component::{ALL, Component};
use inspect::Seen;
pub use report::Lack;
use report::Report;
use source::Source;
use version::Version;
pub use wish::{CompactionPeriod, Endpoints, PerNode, Wish, secret};

/// Bytes that a manifest may have: Calico's have 24 KiB.
pub const MAX_BYTES: u64 = 4 << 20;

/// A manifest that was understood.
#[derive(Debug)]
pub struct Segmented {
    /// The text, with all changes.
    pub text: String,
    /// What the given text lacked; nothing where it was segmented already.
    pub lacks: Vec<Lack>,
    /// The policy that goes with it.
    pub policy: String,
    /// What is left to do, one sentence each.
    pub notes: Vec<String>,
}

/// What a manifest lacks; nothing where it is segmented.
///
/// # Errors
/// What is not understood, all of it, each with its place.
pub fn check(file: &str, text: &str, wish: &Wish) -> Result<Vec<Lack>, Diagnostics> {
    let root = parsed(file, text)?;
    looked(file, text, &root, wish).map(|(lacks, _, _)| lacks)
}

/// The manifest, segmented.
///
/// # Errors
/// What is not understood or cannot be changed in the text, all of it, each with its place.
pub fn segment(file: &str, text: &str, wish: &Wish) -> Result<Segmented, Diagnostics> {
    let root = parsed(file, text)?;
    let (lacks, changes, _) = looked(file, text, &root, wish)?;
    let new = edit::edited(text, &root, &changes).map_err(|refusals| {
        let mut report = Report::new(file, text);
        let objects = manifest::objects(&root, &mut report);
        report.set_objects(objects);
        refusals.into_iter().for_each(|refusal| report.refusal(refusal));
        report.finish().err().unwrap_or_default()
    })?;
    let seen = proved(file, &new, &root, &changes, wish)?;
    let version = Version::of_all(&seen.images);
    Ok(Segmented {
        policy: bindings::policy(file, &seen, version),
        notes: notes(&seen, version),
        text: new,
        lacks,
    })
}

fn parsed(file: &str, text: &str) -> Result<yaml::Node, Diagnostics> {
    let mut report = Report::new(file, text);
    let parsed = yaml::parse(text);
    let gaps = match &parsed {
        Ok(root) => template::in_tree(root),
        Err(_) => template::in_text(text),
    };
    match parsed {
        Ok(root) if gaps.is_empty() => return Ok(root),
        Err((place, message)) if gaps.is_empty() => report.mistake_at(place, message, ""),
        _ => {}
    }
    for (place, written) in gaps {
        report.mistake_at(place, format!("`{written}` is not filled in"), template::HELP);
    }
    Err(report.finish().err().unwrap_or_default())
}

fn looked(
    file: &str,
    text: &str,
    root: &yaml::Node,
    wish: &Wish,
) -> Result<(Vec<Lack>, Changes, Seen), Diagnostics> {
    let (mut report, mut changes) = (Report::new(file, text), Changes::default());
    let seen = inspect::inspect(root, wish, &mut report, &mut changes);
    report.finish().map(|lacks| (lacks, changes, seen))
}

/// The new text means what the changes say and nothing else, and lacks nothing.
fn proved(
    file: &str,
    new: &str,
    old: &yaml::Node,
    changes: &Changes,
    wish: &Wish,
) -> Result<Seen, Diagnostics> {
    let wrong = |what: &str| {
        let help = "this is a mistake of etcd-warden: nothing was written; please report it with the manifest";
        Diagnostics::about(file, format!("the changed text {what}"), Some(help))
    };
    let root = yaml::parse(new).map_err(|(Place { line, column, .. }, message)| {
        wrong(&format!("cannot be read at {line}:{column}: {message}"))
    })?;
    if changes.applied(old.value()).as_ref() != Some(&root.value()) {
        return Err(wrong("does not mean what was to be changed"));
    }
    let (lacks, more, seen) = looked(file, new, &root, wish)
        .map_err(|mistakes| wrong(&format!("is not understood any more: {mistakes}")))?;
    match lacks.first() {
        None if more.is_empty() => Ok(seen),
        None => Err(wrong("would be changed again")),
        Some(lack) => Err(wrong(&format!("still lacks something: {lack}"))),
    }
}

/// The Common Name where each node has a certificate of its own.
fn name_on_nodes(component: Component) -> String {
    if component.is_on_nodes() {
        format!("{component}:NODE")
    } else {
        component.common_name().to_owned()
    }
}

/// What is left to do.
fn notes(seen: &Seen, version: Option<Version>) -> Vec<String> {
    let mut notes = Vec::new();
    for (component, source) in &seen.sources {
        let files = source::FILES.join(", ");
        notes.push(match source {
            Source::Secret(name) => {
                let shared = if component.is_on_nodes() { " --cluster-wide" } else { "" };
                format!(
                    "{component}: make Secret `{name}` in namespace `{}` with the keys {files} for CN `{}` (`etcd-warden certs issue --component {component}{shared} --output secret`)",
                    seen.namespace,
                    component.common_name()
                )
            }
            Source::HostPath(path) => format!(
                "{component}: put {files} for CN `{}` into {path} on every node, owned by root, the key readable by root alone (`nodes/NODE/{component}` of `etcd-warden certs issue`, by whatever manages the nodes' files)",
                name_on_nodes(*component)
            ),
            Source::Csi(_) | Source::Other(_) => format!("{component}: {source} has to bring {files}, for CN `{}`", name_on_nodes(*component)),
        });
    }
    for name in &seen.filled {
        if !seen.sources.iter().any(|(_, source)| *source == Source::Secret(name.clone())) {
            notes.push(format!("Secret `{name}` still holds a key, and no pod of this manifest mounts it: remove it and revoke its certificate when all pods have been made anew"));
        }
    }
    for (name, key) in &seen.empty {
        notes.push(format!("Secret `{name}` in this manifest has no `{key}`: when the manifest is applied, what the cluster has there may go; take it out, or fill it in"));
    }
    match version {
        Some(version) if version < Version::OLDEST => notes.push(format!("Calico {version} is older than the manifests that this was tried on ({} to 3.31)", Version::OLDEST)),
        Some(version) if version.is_observed() => {}
        Some(version) => notes.push(format!("the roles were verified with Calico 3.31 only, and this is {version}: stay in shadow mode until the audit shows no `would_deny`")),
        None => notes.push("the images do not tell which Calico this is: the roles were verified with 3.31 only".to_owned()),
    }
    notes
}

#[cfg(test)]
mod tests;
