//! The policy that goes with a segmented manifest.

use std::fmt::Write as _;

use super::component::Component;
use super::inspect::Seen;
use super::source::Source;
use super::version::Version;

/// The policy, in shadow mode, and what to know about it.
pub(super) fn policy(file: &str, seen: &Seen, version: Option<Version>) -> String {
    let per_node = |component: Component| {
        let source =
            seen.sources.iter().find(|(known, _)| *known == component).map(|(_, source)| source);
        matches!(source, Some(Source::HostPath(_) | Source::Csi(_))) && component.is_on_nodes()
    };
    let set = if version.is_some_and(Version::is_new) { "calico/v3.32" } else { "calico/v3.31" };
    let mut include = vec![set.to_owned()];
    if per_node(Component::Node) || per_node(Component::Cni) {
        include.push(format!("{set}-per-node"));
    }
    let mut text = format!(
        "# The policy for {}, as `etcd-warden calico segment` leaves it.\n",
        file.escape_debug()
    );
    let known = version.map_or_else(
        || "of a version that its images do not tell".to_owned(),
        |version| version.to_string(),
    );
    let roles = match version {
        Some(version) if version.is_observed() => {
            "the programs of 3.31.0 were seen to need just these roles."
        }
        Some(version) if version.is_new() => {
            "the roles are those of 3.31 with what the source of 3.32 adds: NOT verified with its programs."
        }
        _ => {
            "the programs of 3.31.0 were seen to need these roles; for this version that is NOT verified."
        }
    };
    let _ = writeln!(text, "# Calico is {known}: {roles}");
    if include.len() > 1 {
        text.push_str("# While a cluster starts for the first time, add calico-first-start to the roles of nodes (docs/stolen-node.md).\n");
    }
    let _ = write!(
        text,
        "# When the audit shows no `would_deny` any more: `mode: enforce`, for one binding at a time or for all.\nversion: 1\nmode: shadow\ninclude: [{}]\nbindings:\n",
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
            Component::KubeControllers if seen.compacts => {
                writeln!(
                    text,
                    "    roles: [calico-kube-controllers, calico-kube-controllers-compaction]"
                )
            }
            Component::KubeControllers => {
                writeln!(
                    text,
                    "    roles: [calico-kube-controllers]       # COMPACTION_PERIOD is 0: somebody else compacts etcd"
                )
            }
        };
    }
    text
}
