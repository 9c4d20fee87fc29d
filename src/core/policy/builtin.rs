//! The role sets inside the binary. Each is a file of its own, in the policy language, that `policy
//! show` prints as it is.

use super::file::{File, LIMITS};
use crate::diagnostics::Findings;
use crate::yaml;

/// A role set that a policy can include by name.
#[derive(Clone, Copy, Debug)]
pub struct RoleSet {
    /// What `include` calls it.
    pub name: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
    /// What fails for whoever relies on it, and what to do; empty for a set that can be relied on.
    pub caution: &'static str,
    /// The file.
    pub text: &'static str,
}

/// All role sets, in the order in which `policy show` lists them.
pub const ALL: &[RoleSet] = &[
    RoleSet {
        name: "calico/documented",
        summary: "the tables that Calico publishes, word for word; too narrow for Calico 3.22 and later in known places",
        caution: "with these roles alone calico/node and kube-controllers of 3.29 and later end at start-up, and since 3.22 the CNI plugin \
                  assigns no address: include `calico/v3.31` or `calico/v3.32` instead",
        text: include_str!("builtin/calico-documented.yaml"),
    },
    RoleSet {
        name: "calico/v3.31",
        summary: "what Calico 3.29 to 3.31 sends, one role for each component, with the reason of each grant",
        caution: "",
        text: include_str!("builtin/calico-v3.31.yaml"),
    },
    RoleSet {
        name: "calico/v3.31-per-node",
        summary: "beside calico/v3.31: what runs on a node, limited to what belongs to that node",
        caution: "",
        text: include_str!("builtin/calico-v3.31-per-node.yaml"),
    },
    RoleSet {
        name: "calico/v3.32",
        summary: "calico/v3.31 and what the source of Calico 3.32 adds to it",
        caution: "",
        text: include_str!("builtin/calico-v3.32.yaml"),
    },
    RoleSet {
        name: "calico/v3.32-per-node",
        summary: "beside calico/v3.32: what runs on a node, limited to what belongs to that node",
        caution: "",
        text: include_str!("builtin/calico-v3.32-per-node.yaml"),
    },
    RoleSet {
        name: "kubernetes",
        summary: "kube-apiserver",
        caution: "",
        text: include_str!("builtin/kubernetes.yaml"),
    },
    RoleSet {
        name: "etcd-ops",
        summary: "backup, defragmentation, monitoring and alarms as separate roles",
        caution: "",
        text: include_str!("builtin/etcd-ops.yaml"),
    },
];

/// The role set of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static RoleSet> {
    ALL.iter().find(|set| set.name == name)
}

impl RoleSet {
    pub(super) fn file(&self, findings: &mut Findings<'_>) -> File {
        match yaml::parse(self.text, LIMITS) {
            Ok(documents) => {
                documents.first().map_or_else(File::default, |root| File::role_set(root, findings))
            }
            Err(error) => {
                findings.error(error.position, error.message, "");
                File::default()
            }
        }
    }

    /// The names of its roles, in its order.
    #[must_use]
    pub fn role_names(&self) -> Vec<String> {
        let mut findings = Findings::new(self.name, self.text);
        self.file(&mut findings).roles.into_iter().map(|role| role.name.text).collect()
    }
}

#[cfg(test)]
mod access_page;
#[cfg(test)]
mod tests;
