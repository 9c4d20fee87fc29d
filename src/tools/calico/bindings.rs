//! The policy for a segmented manifest.

use std::fmt::Write as _;

use super::component::Component;
use super::inspect::Facts;
use super::source::Source;
use super::version::Version;

/// A policy in shadow mode, with comments for the operator.
pub(super) fn policy(file: &str, facts: &Facts, version: Option<Version>) -> String {
    let per_node = |component: Component| {
        let source =
            facts.sources.iter().find(|(known, _)| *known == component).map(|(_, source)| source);
        matches!(source, Some(Source::HostPath(_) | Source::Csi(_))) && component.is_on_nodes()
    };
    let set =
        if version.is_some_and(Version::needs_3_32) { "calico/v3.32" } else { "calico/v3.31" };
    let mut include = vec![set.to_owned()];
    if per_node(Component::Node) || per_node(Component::Cni) {
        include.push(format!("{set}-per-node"));
    }
    let mut text = format!(
        "# The policy for the output of `etcd-warden calico segment` for {}.\n",
        file.escape_debug()
    );
    let known = version.map_or_else(
        || "unknown: no image has a version".to_owned(),
        |version| version.to_string(),
    );
    let roles = match version {
        Some(version) if version.is_verified() => {
            "these are exactly the rights that the programs of 3.31.0 needed in tests."
        }
        Some(version) if version.needs_3_32() => {
            "the roles of 3.31 and additions from the source of 3.32, NOT verified with its programs."
        }
        _ => {
            "the roles were tested with the programs of 3.31.0 and are NOT verified for this version."
        }
    };
    let _ = writeln!(text, "# Calico version {known}: {roles}");
    if include.len() > 1 {
        text.push_str("# During the first start of a cluster, add calico-first-start to the roles of nodes (docs/stolen-node.md).\n");
    }
    let _ = write!(
        text,
        "# When the audit log has no new `would_deny`: set `mode: enforce`, for one binding at a time or for all.\nversion: 1\nmode: shadow\ninclude: [{}]\nbindings:\n",
        include.join(", ")
    );
    for component in super::component::ALL {
        let suffix = if per_node(component) { "-per-node" } else { "" };
        let _ = match component {
            Component::Node | Component::Cni if per_node(component) => {
                writeln!(text, "  - cn: \"{component}:{{node}}\"")
            }
            _ => writeln!(text, "  - cn: {}", component.common_name()),
        };
        let _ = match component {
            Component::Node => writeln!(text, "    roles: [calico-node{suffix}]"),
            Component::Cni => writeln!(text, "    roles: [calico-cni{suffix}]"),
            Component::KubeControllers if facts.compacts => {
                writeln!(
                    text,
                    "    roles: [calico-kube-controllers, calico-kube-controllers-compaction]"
                )
            }
            Component::KubeControllers => {
                writeln!(
                    text,
                    "    roles: [calico-kube-controllers]       # COMPACTION_PERIOD is 0: another program must compact etcd"
                )
            }
        };
    }
    text
}
