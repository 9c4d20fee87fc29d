//! The objects of a manifest, and the pods that connect to etcd.

use std::collections::HashSet;

use etcd_warden_core::yaml::Node;

use super::component::Component;
use super::cursor::Cursor;
use super::report::Report;
use super::source::Source;
use super::value::{is_null, type_name};

#[derive(Clone, Debug)]
pub(super) struct Object<'t> {
    pub(super) at: Cursor<'t>,
    /// The API group; empty for the core group.
    group: &'t str,
    pub(super) kind: &'t str,
    pub(super) name: &'t str,
    pub(super) namespace: &'t str,
}

impl<'t> Object<'t> {
    /// Group, kind, namespace and name, which are unique in a cluster.
    pub(super) fn identity(&self) -> [&'t str; 4] {
        [self.group, self.kind, self.namespace, self.name]
    }

    /// The object in messages: `DaemonSet kube-system/calico-node`.
    pub(super) fn title(&self) -> String {
        match self.namespace {
            "" => format!("{} {}", self.kind, self.name),
            namespace => format!("{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// All objects of all documents, including those in Lists.
pub(super) fn objects<'t>(root: &'t Node<'t>, report: &mut Report<'t>) -> Vec<Object<'t>> {
    let mut found = Vec::new();
    for document in Cursor::new(root).items() {
        if !is_null(document.node) {
            object(document, &mut found, report);
        }
    }
    found
}

fn object<'t>(at: Cursor<'t>, found: &mut Vec<Object<'t>>, report: &mut Report<'t>) {
    let Some(kind) = at.scalar("kind") else {
        let kind = type_name(at.node);
        report.error_at(
            at.node.position,
            format!("{kind} without a `kind` is not a Kubernetes object"),
            "each document must be an object with `apiVersion` and `kind`",
        );
        return;
    };
    if kind.ends_with("List") && at.get("items").is_some() {
        for item in at.list("items") {
            object(item, found, report);
        }
        return;
    }
    let metadata = at.get("metadata");
    let field =
        |key: &str| metadata.as_ref().and_then(|metadata| metadata.scalar(key)).unwrap_or_default();
    let (name, namespace) = (field("name"), field("namespace"));
    let group = at
        .scalar("apiVersion")
        .and_then(|version| version.split_once('/'))
        .map_or("", |(group, _)| group);
    found.push(Object { at, group, kind, name, namespace });
}

/// Reports objects that appear twice: with `kubectl apply`, the last one wins.
pub(super) fn repeated<'t>(objects: &[Object<'t>], report: &mut Report<'t>) {
    let mut seen = HashSet::new();
    for object in objects {
        if !object.name.is_empty() && !seen.insert(object.identity()) {
            report.error(
                &object.at,
                "this object appears twice in the manifest",
                "remove one of them",
            );
        }
    }
}

/// A workload whose pods connect to etcd.
#[derive(Clone, Debug)]
pub(super) struct Workload<'t> {
    pub(super) object: Object<'t>,
    /// The pod spec.
    pub(super) pod: Cursor<'t>,
}

impl<'t> Workload<'t> {
    /// All containers, init containers first.
    pub(super) fn containers(&self) -> Vec<Cursor<'t>> {
        [self.pod.list("initContainers"), self.pod.list("containers")].concat()
    }

    pub(super) fn volumes(&self) -> Vec<Volume<'t>> {
        let volume = |at: Cursor<'t>| Volume {
            name: at.scalar("name").unwrap_or_default(),
            source: Source::of(&at),
            at,
        };
        self.pod.list("volumes").into_iter().map(volume).collect()
    }

    pub(super) fn container(&self, name: &str) -> Option<Cursor<'t>> {
        self.containers().into_iter().find(|container| container.scalar("name") == Some(name))
    }
}

#[derive(Debug)]
pub(super) struct Volume<'t> {
    pub(super) name: &'t str,
    pub(super) at: Cursor<'t>,
    pub(super) source: Source,
}

/// The workload of this kind that contains the component; reports an error if there is not exactly
/// one.
pub(super) fn workload<'t>(
    objects: &[Object<'t>],
    kind: &str,
    component: Component,
    report: &mut Report<'t>,
) -> Option<Workload<'t>> {
    let mut found = Vec::new();
    for object in objects.iter().filter(|object| object.kind == kind) {
        if let Some(pod) = object.at.along(&["spec", "template", "spec"]) {
            let workload = Workload { object: object.clone(), pod };
            if workload.container(component.container()).is_some() {
                found.push(workload);
            }
        }
    }
    let mut found = found.into_iter();
    let first = found.next();
    if let Some(second) = found.next() {
        report.error(
            &second.object.at,
            format!("a second {kind} with a container `{}`", component.container()),
            "use the manifest of one Calico installation",
        );
        return None;
    }
    if first.is_none() {
        let message = format!("there is no {kind} with a container `{}`", component.container());
        report.error_at(
            Default::default(),
            message,
            "use the complete calico-etcd.yaml of a self-hosted Calico 3.20 to 3.31",
        );
    }
    first
}
