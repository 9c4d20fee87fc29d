//! Inspects the certificates: each component must have its own, and only it can read the key.

use super::change::{Change, Changes};
use super::component::Component;
use super::cursor::{Cursor, Path};
use super::manifest::Volume;
use super::mounts::CertificateMount;
use super::options::Options;
use super::report::Report;
use super::source::{DIRECTORY, FILES, Source, bits};
use super::value::{Step, Value, is_text};

pub(super) fn inspect<'t>(
    mounted: &[CertificateMount<'t>],
    options: &Options,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let mut plans: Vec<(&CertificateMount<'t>, Source)> = Vec::new();
    for one in mounted {
        let Some(wanted) = wanted(one, &sharers(one, mounted), options, report) else { continue };
        match plans.iter().find(|(_, source)| *source == wanted) {
            None => plans.push((one, wanted)),
            Some((other, _)) => {
                let message = format!(
                    "{} and {} would both use the certificate from {wanted}",
                    one.component, other.component
                );
                report.error(
                    &one.container,
                    message,
                    "set another one with `--secret COMPONENT=NAME`",
                );
            }
        }
    }
    for (index, (one, wanted)) in plans.iter().enumerate() {
        match &one.volume {
            None => {
                report.deviation(
                    &one.container,
                    format!(
                        "{} has no certificate: nothing is mounted at {DIRECTORY}",
                        one.component
                    ),
                );
                add_mount(one, wanted, report, changes);
            }
            Some(volume) if volume.source == *wanted => {
                check_volume(one.component, volume, report, changes);
            }
            Some(volume) => {
                let sharers = sharers(one, mounted);
                let why = if sharers.is_empty() {
                    format!("and must have it from {wanted}")
                } else {
                    why(&sharers)
                };
                report.deviation(
                    &volume.at,
                    format!("{} has its certificate from {}, {why}", one.component, volume.source),
                );
                // Two components mount one volume: the one whose source it is keeps it, or else the
                // first.
                let keeps = |at: usize, other: &CertificateMount<'_>, wanted: &Source| {
                    let same = other.volume.as_ref().is_some_and(|kept| kept.name == volume.name);
                    at != index
                        && other.is_beside(one)
                        && same
                        && (at < index || *wanted == volume.source)
                };
                if plans.iter().enumerate().any(|(at, (other, wanted))| keeps(at, other, wanted)) {
                    add_volume(one, volume, wanted, report, changes);
                } else {
                    replace_source(one.component, volume, wanted, report, changes);
                }
            }
        }
    }
}

/// The other components with the same source.
fn sharers(one: &CertificateMount<'_>, mounted: &[CertificateMount<'_>]) -> Vec<Component> {
    let shares = |other: &&CertificateMount<'_>| {
        other.component != one.component && one.source().is_some() && other.source() == one.source()
    };
    mounted.iter().filter(shares).map(|other| other.component).collect()
}

fn why(sharers: &[Component]) -> String {
    let names: Vec<&str> = sharers.iter().map(|component| component.name()).collect();
    format!("as {} {} it", names.join(" and "), if sharers.len() == 1 { "has" } else { "have" })
}

/// The source that a component's certificate must have: the requested one, else the current one if
/// no other component uses it, else a Secret with the default name.
fn wanted<'t>(
    one: &CertificateMount<'t>,
    sharers: &[Component],
    options: &Options,
    report: &mut Report<'t>,
) -> Option<Source> {
    if let Some(asked) = options.source(one.component) {
        return Some(asked);
    }
    let default = Source::Secret(one.component.secret().to_owned());
    let Some(volume) = &one.volume else { return Some(default) };
    match &volume.source {
        Source::Other(_) => {}
        source if sharers.is_empty() => return Some(source.clone()),
        Source::Secret(_) => return Some(default),
        Source::HostPath(_) | Source::Csi(_) => {}
    }
    let message = format!(
        "{} has its certificate from {}, which other components may use too",
        one.component, volume.source
    );
    let help = if one.component.is_on_nodes() {
        "set its source with `--per-node host-path=DIRECTORY` or `--secret COMPONENT=NAME`"
    } else {
        "set its source with `--secret COMPONENT=NAME`"
    };
    report.error(&volume.at, message, help);
    None
}

/// Checks that only the component can read the files of its volume.
fn check_volume<'t>(
    component: Component,
    volume: &Volume<'t>,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    if let Some(secret) = volume.at.get("secret") {
        check_items(component, &secret, report, changes);
        match secret.get("defaultMode") {
            Some(written) => check_mode(component, written, report, changes),
            None => {
                let wanted = component.mode();
                report.deviation(
                    &secret,
                    format!(
                        "has no `defaultMode`, so every user can read the key: must be {wanted}"
                    ),
                );
                put(&secret, "secretName", "defaultMode", Value::Other(wanted.to_owned()), changes);
            }
        }
    }
    let Some(directory) = volume.at.get("hostPath") else { return };
    match directory.get("type") {
        Some(kind) if kind.node.scalar() == Some("Directory") => {}
        Some(kind) => {
            report.deviation(
                &kind,
                "must be Directory, so that a pod without certificates does not start",
            );
            changes.add(Change::Set { path: kind.path, value: Value::text("Directory") });
        }
        None => {
            report.deviation(
                &directory,
                "has no `type: Directory`, so a pod can start without certificates",
            );
            put(&directory, "path", "type", Value::text("Directory"), changes);
        }
    }
}

/// Checks the selected keys of a Secret: Calico reads them under their own names, and each may have
/// its own mode.
fn check_items<'t>(
    component: Component,
    secret: &Cursor<'t>,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let items = secret.list("items");
    for item in &items {
        let (key, path) = (item.scalar("key"), item.scalar("path"));
        if key != path || key.is_none_or(|key| !FILES.contains(&key)) {
            report.error(
                item,
                "a key of the Secret is mounted under another name",
                format!(
                    "give the Secrets the keys {} and mount them without `items`",
                    FILES.join(", ")
                ),
            );
        }
        if let Some(written) = item.get("mode") {
            check_mode(component, written, report, changes);
        }
    }
    let is_left_out = |file: &&str| items.iter().all(|item| item.scalar("path") != Some(file));
    let left_out: Vec<&str> = FILES.into_iter().filter(is_left_out).collect();
    if let Some(list) = secret.get("items").filter(|_| !items.is_empty() && !left_out.is_empty()) {
        let verb = if left_out.len() == 1 { "is" } else { "are" };
        report.error(
            &list,
            format!("{} {verb} left out", left_out.join(" and ")),
            "mount the Secret without `items`",
        );
    }
}

/// Checks a file mode: on nodes, only root can read; kube-controllers read through their group.
fn check_mode<'t>(
    component: Component,
    written: Cursor<'t>,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let wanted = component.mode();
    let bits = written.node.scalar().filter(|_| !is_text(written.node)).and_then(bits);
    let allowed =
        if component.is_on_nodes() { [Some(0o400), None] } else { [Some(0o440), Some(0o400)] };
    if bits.is_none() {
        report.error(&written, "this is not a file mode", format!("write {wanted}"));
    } else if !allowed.contains(&bits) {
        report.deviation(&written, format!("must be {wanted}"));
        changes.add(Change::Set { path: written.path, value: Value::Other(wanted.to_owned()) });
    }
}

/// Changes the source of the component's volume.
fn replace_source<'t>(
    component: Component,
    volume: &Volume<'t>,
    wanted: &Source,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let key = match volume.source {
        Source::Secret(_) => Some("secret"),
        Source::HostPath(_) => Some("hostPath"),
        Source::Csi(_) | Source::Other(_) => None,
    };
    let Some((key, old)) = key.and_then(|key| Some((key, volume.at.get(key)?))) else {
        let message = format!(
            "{} has its certificate from {}, which this command does not change",
            component, volume.source
        );
        report.error(
            &volume.at,
            message,
            "change it to a Secret manually, or remove the flag that requests another source",
        );
        return;
    };
    let kept = match (&volume.source, wanted) {
        (Source::Secret(_), Source::Secret(name)) => old.get("secretName").map(|at| (at, name)),
        (Source::HostPath(_), Source::HostPath(path)) => old.get("path").map(|at| (at, path)),
        _ => None,
    };
    if let Some((at, new)) = kept {
        changes.add(Change::Set { path: at.path, value: Value::text(new) });
        check_volume(component, volume, report, changes);
    } else if let Some((by, value)) = wanted.entry(component.mode()) {
        changes.add(Change::ReplaceEntry {
            path: volume.at.path.clone(),
            key: key.to_owned(),
            by,
            value,
        });
    }
}

/// Gives a component that shares a volume its own one: an existing volume with the right source, or
/// a new one after the shared one.
fn add_volume<'t>(
    one: &CertificateMount<'t>,
    shared: &Volume<'t>,
    wanted: &Source,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let Some(mount) = one.mount_name.clone() else { return };
    if let Some(volume) = one.workload.volumes().into_iter().find(|volume| volume.source == *wanted)
    {
        changes.add(Change::Set { path: mount.path, value: Value::text(volume.name) });
        check_volume(one.component, &volume, report, changes);
        return;
    }
    let name = unused_name(one, &format!("{}-{}", shared.name, one.component));
    let (Some(value), Some((Step::Index(after), list))) =
        (volume_entry(one.component, &name, wanted), shared.at.path.split_last())
    else {
        return;
    };
    changes.add(Change::AddItems { path: Path::from(list), after: *after, values: vec![value] });
    changes.add(Change::Set { path: mount.path, value: Value::text(name) });
}

/// Adds a mount and a volume.
fn add_mount<'t>(
    one: &CertificateMount<'t>,
    wanted: &Source,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let name = unused_name(
        one,
        if one.component == Component::Cni { "etcd-certs-cni" } else { "etcd-certs" },
    );
    let Some(volume) = volume_entry(one.component, &name, wanted) else { return };
    let mount = Value::map([("mountPath", Value::text(DIRECTORY)), ("name", Value::text(name))]);
    append(&one.container, "volumeMounts", "name", mount, changes);
    if one.component.is_on_nodes() && one.workload.pod.list("volumes").is_empty() {
        report.error(
            &one.workload.pod,
            "these pods have no volumes",
            "in calico-etcd.yaml of Calico 3.20 to 3.31, the DaemonSet has several",
        );
        return;
    }
    append(&one.workload.pod, "volumes", "containers", volume, changes);
}

/// Adds an entry to a mapping, after another.
fn put(at: &Cursor<'_>, after: &str, key: &str, value: Value, changes: &mut Changes) {
    changes.add(Change::AddEntries {
        path: at.path.clone(),
        after: after.to_owned(),
        entries: vec![(key.to_owned(), value)],
    });
}

/// Adds an entry at the end of a mapping.
pub(super) fn put_last(at: &Cursor<'_>, key: &str, value: Value, changes: &mut Changes) {
    let last = at.node.entries().last().and_then(|(name, _)| name.scalar()).unwrap_or_default();
    put(at, last, key, value, changes);
}

/// Adds an item to the list under `key`, or adds that list after the key `after`.
pub(super) fn append(at: &Cursor<'_>, key: &str, after: &str, value: Value, changes: &mut Changes) {
    match at.get(key) {
        Some(list) if !list.node.items().is_empty() => {
            let after = list.node.items().len() - 1;
            changes.add(Change::AddItems { path: list.path, after, values: vec![value] });
        }
        Some(nothing) => {
            changes.add(Change::Set { path: nothing.path, value: Value::List(vec![value]) });
        }
        None => put(at, after, key, Value::List(vec![value]), changes),
    }
}

fn volume_entry(component: Component, name: &str, source: &Source) -> Option<Value> {
    let (key, value) = source.entry(component.mode())?;
    Some(Value::map([("name", Value::text(name)), (key, value)]))
}

/// A name that no volume of the pod uses.
fn unused_name(one: &CertificateMount<'_>, name: &str) -> String {
    let volumes = one.workload.volumes();
    let is_free = |name: &String| volumes.iter().all(|volume| volume.name != name);
    let mut names =
        std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
    names.find(is_free).unwrap_or_default()
}
