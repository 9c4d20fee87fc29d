//! The objects of a manifest, and the pods that speak to etcd.

use std::collections::HashSet;

use super::component::Component;
use super::cursor::Cursor;
use super::report::Report;
use super::source::Source;
use super::yaml::Node;

/// An object of Kubernetes.
#[derive(Clone, Debug)]
pub(super) struct Object<'t> {
    pub(super) at: Cursor<'t>,
    /// The group of its API; empty for Kubernetes' own first one.
    group: &'t str,
    pub(super) kind: &'t str,
    pub(super) name: &'t str,
    pub(super) namespace: &'t str,
}

impl<'t> Object<'t> {
    /// What no two objects of a cluster share: group, kind, namespace and name.
    pub(super) fn identity(&self) -> [&'t str; 4] {
        [self.group, self.kind, self.namespace, self.name]
    }

    /// `DaemonSet kube-system/calico-node`.
    pub(super) fn title(&self) -> String {
        match self.namespace {
            "" => format!("{} {}", self.kind, self.name),
            namespace => format!("{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// All objects of all documents, those within Lists too.
pub(super) fn objects<'t>(root: &'t Node, report: &mut Report<'t>) -> Vec<Object<'t>> {
    let mut found = Vec::new();
    for document in Cursor::new(root).items() {
        if !document.node.is_nothing() {
            object(document, &mut found, report);
        }
    }
    found
}

fn object<'t>(at: Cursor<'t>, found: &mut Vec<Object<'t>>, report: &mut Report<'t>) {
    let Some(kind) = at.scalar("kind") else {
        let what = at.node.kind();
        report.mistake_at(
            at.node.place,
            format!("{what} without a `kind` is no object of Kubernetes"),
            "each document holds one object with `apiVersion` and `kind`",
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

/// Objects that stand in the manifest already: `kubectl apply` leaves what the last one says.
pub(super) fn repeated<'t>(objects: &[Object<'t>], report: &mut Report<'t>) {
    let mut seen = HashSet::new();
    for object in objects {
        if !object.name.is_empty() && !seen.insert(object.identity()) {
            report.mistake(
                &object.at,
                "this object stands a second time in this manifest",
                "leave one of them",
            );
        }
    }
}

/// A workload whose pods speak to etcd.
#[derive(Clone, Debug)]
pub(super) struct Workload<'t> {
    pub(super) object: Object<'t>,
    /// The spec of its pods.
    pub(super) pod: Cursor<'t>,
}

impl<'t> Workload<'t> {
    /// All containers, those that only begin a pod first.
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

/// A volume of a pod.
#[derive(Debug)]
pub(super) struct Volume<'t> {
    pub(super) name: &'t str,
    pub(super) at: Cursor<'t>,
    pub(super) source: Source,
}

/// The one workload of this kind that a component runs in.
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
        report.mistake(
            &second.object.at,
            format!("a second {kind} with a container `{}`", component.container()),
            "give the manifest of one Calico at a time",
        );
        return None;
    }
    if first.is_none() {
        let message = format!("there is no {kind} with a container `{}`", component.container());
        report.mistake_at(
            Default::default(),
            message,
            "this reads the whole of calico-etcd.yaml, of Calico 3.20 to 3.31 as a self-hosted installation has it",
        );
    }
    first
}
