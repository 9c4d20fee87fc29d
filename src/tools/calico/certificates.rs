//! What has to change so that each component has a certificate of its own, and no two share one.

use super::change::{Change, Changes};
use super::component::Component;
use super::cursor::{Cursor, Path};
use super::manifest::Volume;
use super::mounts::Mounted;
use super::report::Report;
use super::source::{FILES, FOLDER, Source, bits};
use super::wish::Wish;
use super::yaml::{Step, Value};

/// What keeps the certificates from being the components' own, and the changes that help.
pub(super) fn inspect<'t>(
    mounted: &[Mounted<'t>],
    wish: &Wish,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let mut plans: Vec<(&Mounted<'t>, Source)> = Vec::new();
    for one in mounted {
        let Some(wanted) = wanted(one, &sharers(one, mounted), wish, report) else { continue };
        match plans.iter().find(|(_, source)| *source == wanted) {
            None => plans.push((one, wanted)),
            Some((other, _)) => {
                let message = format!(
                    "{} and {} would both have their certificate from {wanted}",
                    one.component, other.component
                );
                report.mistake(
                    &one.container,
                    message,
                    "name another with `--secret COMPONENT=NAME`",
                );
            }
        }
    }
    for (index, (one, wanted)) in plans.iter().enumerate() {
        match &one.volume {
            None => {
                report.lack(
                    &one.container,
                    format!("{} has no certificate: nothing is mounted at {FOLDER}", one.component),
                );
                mount(one, wanted, report, changes);
            }
            Some(volume) if volume.source == *wanted => {
                details(one.component, volume, report, changes)
            }
            Some(volume) => {
                let sharers = sharers(one, mounted);
                let why = if sharers.is_empty() {
                    format!("and is to have it from {wanted}")
                } else {
                    why(&sharers)
                };
                report.lack(
                    &volume.at,
                    format!("{} has its certificate from {}, {why}", one.component, volume.source),
                );
                // Of two who mount one volume, the one keeps it that needs it as it is, or else the
                // first.
                let keeps = |at: usize, other: &Mounted<'_>, wanted: &Source| {
                    let same = other.volume.as_ref().is_some_and(|kept| kept.name == volume.name);
                    at != index
                        && other.is_beside(one)
                        && same
                        && (at < index || *wanted == volume.source)
                };
                if plans.iter().enumerate().any(|(at, (other, wanted))| keeps(at, other, wanted)) {
                    another(one, volume, wanted, report, changes);
                } else {
                    refill(one.component, volume, wanted, report, changes);
                }
            }
        }
    }
}

/// The components whose certificate comes from the same place.
fn sharers(one: &Mounted<'_>, mounted: &[Mounted<'_>]) -> Vec<Component> {
    let shares = |other: &&Mounted<'_>| {
        other.component != one.component && one.source().is_some() && other.source() == one.source()
    };
    mounted.iter().filter(shares).map(|other| other.component).collect()
}

fn why(sharers: &[Component]) -> String {
    let names: Vec<&str> = sharers.iter().map(|component| component.name()).collect();
    format!("as {} {} it", names.join(" and "), if sharers.len() == 1 { "has" } else { "have" })
}

/// What a component's certificate is to come from: what is asked for, else what is its own already,
/// else a Secret of its own.
fn wanted<'t>(
    one: &Mounted<'t>,
    sharers: &[Component],
    wish: &Wish,
    report: &mut Report<'t>,
) -> Option<Source> {
    if let Some(asked) = wish.source(one.component) {
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
        "{} has its certificate from {}, which cannot be told from others",
        one.component, volume.source
    );
    let help = if one.component.is_on_nodes() {
        "say what it is to come from: `--per-node host-path=DIRECTORY`, or `--secret COMPONENT=NAME`"
    } else {
        "say what it is to come from: `--secret COMPONENT=NAME`"
    };
    report.mistake(&volume.at, message, help);
    None
}

/// A volume that is the component's own, and may still be too open.
fn details<'t>(
    component: Component,
    volume: &Volume<'t>,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    if let Some(secret) = volume.at.get("secret") {
        items(component, &secret, report, changes);
        match secret.get("defaultMode") {
            Some(written) => mode(component, written, report, changes),
            None => {
                let wanted = component.mode();
                report.lack(
                    &secret,
                    format!("has no `defaultMode`, so that everybody may read the key: {wanted}"),
                );
                put(&secret, "secretName", "defaultMode", Value::Other(wanted.to_owned()), changes);
            }
        }
    }
    let Some(folder) = volume.at.get("hostPath") else { return };
    match folder.get("type") {
        Some(kind) if kind.node.scalar() == Some("Directory") => {}
        Some(kind) => {
            report.lack(
                &kind,
                "has to be Directory, so that a pod without certificates does not start",
            );
            changes.add(Change::Set { path: kind.path, value: Value::text("Directory") });
        }
        None => {
            report.lack(
                &folder,
                "has no `type: Directory`, so that a pod starts without certificates",
            );
            put(&folder, "path", "type", Value::text("Directory"), changes);
        }
    }
}

/// Keys of the Secret that are chosen: under other names they are not what Calico reads, and each
/// may have a mode of its own.
fn items<'t>(
    component: Component,
    secret: &Cursor<'t>,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let items = secret.list("items");
    for item in &items {
        let (key, path) = (item.scalar("key"), item.scalar("path"));
        if key != path || key.is_none_or(|key| !FILES.contains(&key)) {
            report.mistake(
                item,
                "a key of the Secret is mounted under another name",
                format!(
                    "give the Secrets the keys {} and mount them without `items`",
                    FILES.join(", ")
                ),
            );
        }
        if let Some(written) = item.get("mode") {
            mode(component, written, report, changes);
        }
    }
    let is_left_out = |file: &&str| items.iter().all(|item| item.scalar("path") != Some(file));
    let left_out: Vec<&str> = FILES.into_iter().filter(is_left_out).collect();
    if let Some(list) = secret.get("items").filter(|_| !items.is_empty() && !left_out.is_empty()) {
        let verb = if left_out.len() == 1 { "is" } else { "are" };
        report.mistake(
            &list,
            format!("{} {verb} left out", left_out.join(" and ")),
            "mount the Secret without `items`",
        );
    }
}

/// Only root may read nodes' files; kube-controllers read theirs by their group.
fn mode<'t>(
    component: Component,
    written: Cursor<'t>,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let wanted = component.mode();
    let bits = written.node.scalar().filter(|_| written.node.text().is_none()).and_then(bits);
    let enough =
        if component.is_on_nodes() { [Some(0o400), None] } else { [Some(0o440), Some(0o400)] };
    if bits.is_none() {
        report.mistake(&written, "this is no mode", format!("write {wanted}"));
    } else if !enough.contains(&bits) {
        report.lack(&written, format!("has to be {wanted}"));
        changes.add(Change::Set { path: written.path, value: Value::Other(wanted.to_owned()) });
    }
}

/// The component's volume, filled from elsewhere.
fn refill<'t>(
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
        report.mistake(
            &volume.at,
            message,
            "make it a Secret by hand, or take the flag away that asks for another",
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
        details(component, volume, report, changes);
    } else if let Some((by, value)) = wanted.entry(component.mode()) {
        changes.add(Change::Swap { path: volume.at.path.clone(), key: key.to_owned(), by, value });
    }
}

/// A volume of its own for the second who mounts one: one that is there already, or a new one
/// behind the shared one.
fn another<'t>(
    one: &Mounted<'t>,
    shared: &Volume<'t>,
    wanted: &Source,
    report: &mut Report<'t>,
    changes: &mut Changes,
) {
    let Some(mount) = one.mount_name.clone() else { return };
    if let Some(volume) = one.workload.volumes().into_iter().find(|volume| volume.source == *wanted)
    {
        changes.add(Change::Set { path: mount.path, value: Value::text(volume.name) });
        details(one.component, &volume, report, changes);
        return;
    }
    let name = free(one, &format!("{}-{}", shared.name, one.component));
    let (Some(value), Some((Step::Index(after), list))) =
        (filled(one.component, &name, wanted), shared.at.path.split_last())
    else {
        return;
    };
    changes.add(Change::Push { path: Path::from(list), after: *after, values: vec![value] });
    changes.add(Change::Set { path: mount.path, value: Value::text(name) });
}

/// Mount and volume, where there are none.
fn mount<'t>(one: &Mounted<'t>, wanted: &Source, report: &mut Report<'t>, changes: &mut Changes) {
    let name =
        free(one, if one.component == Component::Cni { "etcd-certs-cni" } else { "etcd-certs" });
    let Some(volume) = filled(one.component, &name, wanted) else { return };
    let mount = Value::map([("mountPath", Value::text(FOLDER)), ("name", Value::text(name))]);
    append(&one.container, "volumeMounts", "name", mount, changes);
    if one.component.is_on_nodes() && one.workload.pod.list("volumes").is_empty() {
        report.mistake(
            &one.workload.pod,
            "these pods have no volumes at all",
            "this reads calico-etcd.yaml of Calico 3.20 to 3.31, whose DaemonSet has several",
        );
        return;
    }
    append(&one.workload.pod, "volumes", "containers", volume, changes);
}

/// One more entry in a mapping, behind another.
fn put(at: &Cursor<'_>, behind: &str, key: &str, value: Value, changes: &mut Changes) {
    changes.add(Change::Put {
        path: at.path.clone(),
        after: behind.to_owned(),
        entries: vec![(key.to_owned(), value)],
    });
}

/// One more entry at the end of a mapping.
pub(super) fn put_last(at: &Cursor<'_>, key: &str, value: Value, changes: &mut Changes) {
    let last = at.node.entries().last().and_then(|(name, _)| name.scalar()).unwrap_or_default();
    put(at, last, key, value, changes);
}

/// One more item in the list under `key`, or that list, behind another key.
pub(super) fn append(
    at: &Cursor<'_>,
    key: &str,
    behind: &str,
    value: Value,
    changes: &mut Changes,
) {
    match at.get(key) {
        Some(list) if !list.node.items().is_empty() => {
            let after = list.node.items().len() - 1;
            changes.add(Change::Push { path: list.path, after, values: vec![value] });
        }
        Some(nothing) => {
            changes.add(Change::Set { path: nothing.path, value: Value::List(vec![value]) })
        }
        None => put(at, behind, key, Value::List(vec![value]), changes),
    }
}

fn filled(component: Component, name: &str, source: &Source) -> Option<Value> {
    let (key, value) = source.entry(component.mode())?;
    Some(Value::map([("name", Value::text(name)), (key, value)]))
}

/// A name that no volume of the pod has.
fn free(one: &Mounted<'_>, name: &str) -> String {
    let volumes = one.workload.volumes();
    let is_free = |name: &String| volumes.iter().all(|volume| volume.name != name);
    let mut names =
        std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
    names.find(is_free).unwrap_or_default()
}
