//! The mount of each component's certificate.

use super::component::Component;
use super::cursor::Cursor;
use super::manifest::{Volume, Workload};
use super::report::Report;
use super::source::{DIRECTORY, FILES, Source, trimmed};

/// A component with its container and the volume at `/calico-secrets`.
#[derive(Debug)]
pub(super) struct CertificateMount<'t> {
    pub(super) component: Component,
    pub(super) workload: Workload<'t>,
    pub(super) container: Cursor<'t>,
    pub(super) volume: Option<Volume<'t>>,
    /// The name of the volume in its mount.
    pub(super) mount_name: Option<Cursor<'t>>,
}

impl<'t> CertificateMount<'t> {
    /// Reports an error and returns `None` if the mount is not understood.
    pub(super) fn find(
        component: Component,
        workload: &Workload<'t>,
        report: &mut Report<'t>,
    ) -> Option<Self> {
        let workload = workload.clone();
        let Some(container) = workload.container(component.container()) else {
            let message = format!("there is no container `{}`", component.container());
            report.error(
                &workload.object.at,
                message,
                "in calico-etcd.yaml of Calico 3.20 to 3.31, it is in `containers` or `initContainers`",
            );
            return None;
        };
        let mut mounts = Vec::new();
        for mount in container.list("volumeMounts") {
            let path = trimmed(mount.scalar("mountPath").unwrap_or_default());
            if path == DIRECTORY {
                mounts.push(mount);
            } else if path.strip_prefix(DIRECTORY).is_some_and(|rest| rest.starts_with('/')) {
                report.error(
                    &mount,
                    format!("files are mounted into {DIRECTORY} individually"),
                    format!("mount one volume at {DIRECTORY}, with the files {}", FILES.join(", ")),
                );
                return None;
            }
        }
        let mut mounts = mounts.into_iter();
        let first = mounts.next();
        if let Some(second) = mounts.next() {
            report.error(&second, format!("a second mount at {DIRECTORY}"), "remove one of them");
            return None;
        }
        let mount_name = first.as_ref().and_then(|mount| mount.get("name"));
        let volume = match first {
            None => None,
            Some(mount) => Some(volume(&workload, &mount, report)?),
        };
        Some(Self { component, workload, container, volume, mount_name })
    }

    /// The source of the certificate.
    pub(super) fn source(&self) -> Option<&Source> {
        self.volume.as_ref().map(|volume| &volume.source)
    }

    /// True if both run in the same pods.
    pub(super) fn is_beside(&self, other: &CertificateMount<'_>) -> bool {
        self.workload.object.at.path == other.workload.object.at.path
    }
}

fn volume<'t>(
    workload: &Workload<'t>,
    mount: &Cursor<'t>,
    report: &mut Report<'t>,
) -> Option<Volume<'t>> {
    if mount.get("subPath").or_else(|| mount.get("subPathExpr")).is_some() {
        report.error(
            mount,
            "only a part of a volume is mounted",
            "remove `subPath` and `subPathExpr`",
        );
        return None;
    }
    let name = mount.scalar("name").unwrap_or_default();
    let mut volumes = workload.volumes().into_iter().filter(|volume| volume.name == name);
    let Some(found) = volumes.next() else {
        report.error(mount, format!("there is no volume `{name}`"), "use one of the pod's volumes");
        return None;
    };
    if let Some(second) = volumes.next() {
        report.error(&second.at, format!("a second volume `{name}`"), "remove one of them");
        return None;
    }
    Some(found)
}

/// Reports other containers that mount the certificate of a component.
pub(super) fn foreign_mounts<'t>(mounted: &[CertificateMount<'t>], report: &mut Report<'t>) {
    let mut pods = Vec::new();
    for pod in mounted {
        if pods.contains(&&pod.workload.object.at.path) {
            continue;
        }
        pods.push(&pod.workload.object.at.path);
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
                        "this container mounts the certificate of {} and is another program",
                        owner.component
                    );
                    report.error(&mount, message, "mount another certificate, or none");
                }
            }
        }
    }
}
