//! The role sets that are built into the binary. Each is a file in the policy language. `policy
//! show` prints it unchanged.

use super::file::{File, LIMITS};
use crate::diagnostics::Findings;
use crate::yaml;

/// A role set that a policy can include by name.
#[derive(Clone, Copy, Debug)]
pub struct RoleSet {
    /// Its name in `include`.
    pub name: &'static str,
    /// Its description in one line.
    pub summary: &'static str,
    /// What fails with this set, and which set to include instead. Empty if nothing is known to
    /// fail. Otherwise, a policy that includes the set gets a warning.
    pub caution: &'static str,
    /// The text of the file.
    pub text: &'static str,
}

/// All role sets, in the order in which `policy show` lists them.
pub const ALL: &[RoleSet] = &[
    RoleSet {
        name: "calico/documented",
        summary: "the tables in Calico's documentation, unchanged; known to be too narrow for \
                  Calico 3.22 and later",
        caution: "with these roles only, calico/node and kube-controllers 3.29 and later exit at \
                  start-up, and the CNI plugin 3.22 and later assigns no addresses; include \
                  `calico/v3.31` or `calico/v3.32` instead",
        text: include_str!("builtin/calico-documented.yaml"),
    },
    RoleSet {
        name: "calico/v3.31",
        summary: "the requests of Calico 3.29 to 3.31: one role per component, a reason for each \
                  grant",
        caution: "",
        text: include_str!("builtin/calico-v3.31.yaml"),
    },
    RoleSet {
        name: "calico/v3.31-per-node",
        summary: "in addition to calico/v3.31: the components of a node, restricted to its keys",
        caution: "",
        text: include_str!("builtin/calico-v3.31-per-node.yaml"),
    },
    RoleSet {
        name: "calico/v3.32",
        summary: "calico/v3.31 plus the requests that the source of Calico 3.32 adds",
        caution: "",
        text: include_str!("builtin/calico-v3.32.yaml"),
    },
    RoleSet {
        name: "calico/v3.32-per-node",
        summary: "in addition to calico/v3.32: the components of a node, restricted to its keys",
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

/// The role set with this name.
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

    /// The names of its roles in file order.
    pub fn role_names(&self) -> Vec<String> {
        let mut findings = Findings::new(self.name, self.text);
        self.file(&mut findings).roles.into_iter().map(|role| role.name.text).collect()
    }
}

#[cfg(test)]
mod access_page;
#[cfg(test)]
mod tests;
