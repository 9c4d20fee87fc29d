//! The programs of Calico's hosted manifest that speak to etcd, each with a certificate of its own.
//! The names are those of `certs issue`.

use std::fmt;

/// One of them, in the order in which the manifest has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// calico/node: Felix, confd and the start-up of each node.
    Node,
    /// The CNI plugin, as `install-cni` sets it up on the host.
    Cni,
    /// kube-controllers.
    KubeControllers,
}

/// All of them.
pub const ALL: [Component; 3] = [Component::Node, Component::Cni, Component::KubeControllers];

impl Component {
    /// How flags and messages call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Component::Node => "calico-node",
            Component::Cni => "cni",
            Component::KubeControllers => "calico-kube-controllers",
        }
    }

    /// The component that `name` means.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|component| component.name() == name)
    }

    /// The container that it runs in, in every version of the manifest.
    #[must_use]
    pub const fn container(self) -> &'static str {
        match self {
            Component::Node => "calico-node",
            Component::Cni => "install-cni",
            Component::KubeControllers => "calico-kube-controllers",
        }
    }

    /// The Secret that it gets where nobody names another.
    #[must_use]
    pub const fn secret(self) -> &'static str {
        match self {
            Component::Node => "calico-etcd-node",
            Component::Cni => "calico-etcd-cni",
            Component::KubeControllers => "calico-etcd-kube-controllers",
        }
    }

    /// The Common Name of its only certificate. Where there is one for each node, that is
    /// [`Component::name`], `:` and the node's name.
    #[must_use]
    pub const fn common_name(self) -> &'static str {
        match self {
            Component::Node => "calico-node",
            Component::Cni => "calico-cni",
            Component::KubeControllers => "calico-kube-controllers",
        }
    }

    /// Whether it runs on every node.
    #[must_use]
    pub const fn is_on_nodes(self) -> bool {
        !matches!(self, Component::KubeControllers)
    }

    /// The mode of the files in its Secret's volume: kube-controllers run without root, and read by
    /// their group.
    pub(super) const fn mode(self) -> &'static str {
        if self.is_on_nodes() { "0400" } else { "0440" }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
