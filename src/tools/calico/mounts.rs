//! Where each component's container finds its certificate.

use super::component::Component;
use super::cursor::Cursor;
use super::manifest::{Volume, Workload};
use super::report::Report;
use super::source::{FILES, FOLDER, Source, trimmed};

/// A component, its container, and what stands at `/calico-secrets` there.
#[derive(Debug)]
pub(super) struct Mounted<'t> {
    pub(super) component: Component,
    pub(super) workload: Workload<'t>,
    pub(super) container: Cursor<'t>,
    pub(super) volume: Option<Volume<'t>>,
    /// Where its mount names the volume.
    pub(super) mount_name: Option<Cursor<'t>>,
}

impl<'t> Mounted<'t> {
    /// What stands there; mistakes are reported, and leave nothing.
    pub(super) fn find(
        component: Component,
        workload: &Workload<'t>,
        report: &mut Report<'t>,
    ) -> Option<Self> {
        let workload = workload.clone();
        let Some(container) = workload.container(component.container()) else {
            let message = format!("there is no container `{}`", component.container());
            report.mistake(
                &workload.object.at,
                message,
                "this reads calico-etcd.yaml of Calico 3.20 to 3.31, where it is one of the containers or initContainers",
            );
            return None;
        };
        let mut mounts = Vec::new();
        for mount in container.list("volumeMounts") {
            let path = trimmed(mount.scalar("mountPath").unwrap_or_default());
            if path == FOLDER {
                mounts.push(mount);
            } else if path.strip_prefix(FOLDER).is_some_and(|rest| rest.starts_with('/')) {
                report.mistake(
                    &mount,
                    format!("files are mounted into {FOLDER} one by one"),
                    format!("mount one volume at {FOLDER}, with the files {}", FILES.join(", ")),
                );
                return None;
            }
        }
        let mut mounts = mounts.into_iter();
        let first = mounts.next();
        if let Some(second) = mounts.next() {
            report.mistake(&second, format!("a second mount at {FOLDER}"), "leave one of them");
            return None;
        }
        let mount_name = first.as_ref().and_then(|mount| mount.get("name"));
        let volume = match first {
            None => None,
            Some(mount) => Some(volume(&workload, &mount, report)?),
        };
        Some(Self { component, workload, container, volume, mount_name })
    }

    /// What its certificate comes from.
    pub(super) fn source(&self) -> Option<&Source> {
        self.volume.as_ref().map(|volume| &volume.source)
    }

    /// Whether both run in the same pods.
    pub(super) fn is_beside(&self, other: &Mounted<'_>) -> bool {
        self.workload.object.at.path == other.workload.object.at.path
    }
}

fn volume<'t>(
    workload: &Workload<'t>,
    mount: &Cursor<'t>,
    report: &mut Report<'t>,
) -> Option<Volume<'t>> {
    if mount.get("subPath").or_else(|| mount.get("subPathExpr")).is_some() {
        report.mistake(
            mount,
            "a part of a volume is mounted",
            "mount a volume as a whole: without `subPath` and `subPathExpr`",
        );
        return None;
    }
    let name = mount.scalar("name").unwrap_or_default();
    let mut volumes = workload.volumes().into_iter().filter(|volume| volume.name == name);
    let Some(found) = volumes.next() else {
        report.mistake(
            mount,
            format!("there is no volume `{name}`"),
            "name one of the pod's volumes",
        );
        return None;
    };
    if let Some(second) = volumes.next() {
        report.mistake(&second.at, format!("a second volume `{name}`"), "leave one of them");
        return None;
    }
    Some(found)
}

/// Containers of no component that mount what one of them has its certificate from.
pub(super) fn strangers<'t>(mounted: &[Mounted<'t>], report: &mut Report<'t>) {
    let mut seen = Vec::new();
    for pod in mounted {
        if seen.contains(&&pod.workload.object.at.path) {
            continue;
        }
        seen.push(&pod.workload.object.at.path);
        for container in pod.workload.containers() {
            if mounted.iter().any(|known| known.container.path == container.path) {
                continue;
            }
            for mount in container.list("volumeMounts") {
                let volume = pod
                    .workload
                    .volumes()
                    .into_iter()
                    .find(|volume| mount.scalar("name") == Some(volume.name));
                let source = volume.map(|volume| volume.source);
                if let Some(owner) = mounted
                    .iter()
                    .find(|known| source.is_some() && known.source() == source.as_ref())
                {
                    let message = format!(
                        "this container is given the certificate of {}, and is none of Calico's programs that this command knows",
                        owner.component
                    );
                    report.mistake(
                        &mount,
                        message,
                        "give it a volume with a certificate of its own, or none",
                    );
                }
            }
        }
    }
}
