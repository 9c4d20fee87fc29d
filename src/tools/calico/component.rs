//! The programs of Calico's hosted manifest that connect to etcd, each with its own certificate.
//! Their names are those of `certs issue`.

use std::fmt;

/// A program, in the order of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// calico/node: Felix, confd and the startup of each node.
    Node,
    /// The CNI plugin, which `install-cni` installs on the host.
    Cni,
    /// kube-controllers.
    KubeControllers,
}

/// All components.
pub const ALL: [Component; 3] = [Component::Node, Component::Cni, Component::KubeControllers];

impl Component {
    /// The name in flags and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Component::Node => "calico-node",
            Component::Cni => "cni",
            Component::KubeControllers => "calico-kube-controllers",
        }
    }

    /// The component with this name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|component| component.name() == name)
    }

    /// The name of its container in all versions of the manifest.
    pub const fn container(self) -> &'static str {
        match self {
            Component::Node => "calico-node",
            Component::Cni => "install-cni",
            Component::KubeControllers => "calico-kube-controllers",
        }
    }

    /// The default name of its Secret.
    pub const fn secret(self) -> &'static str {
        match self {
            Component::Node => "calico-etcd-node",
            Component::Cni => "calico-etcd-cni",
            Component::KubeControllers => "calico-etcd-kube-controllers",
        }
    }

    /// The Common Name of a certificate that all nodes share. With a certificate for each node, the
    /// Common Name is [`Component::name`], `:` and the name of the node.
    pub const fn common_name(self) -> &'static str {
        match self {
            Component::Node => "calico-node",
            Component::Cni => "calico-cni",
            Component::KubeControllers => "calico-kube-controllers",
        }
    }

    /// True if it runs on every node.
    pub const fn is_on_nodes(self) -> bool {
        !matches!(self, Component::KubeControllers)
    }

    /// The mode of the files in the volume of its Secret. kube-controllers do not run as root and
    /// read the files through their group.
    pub(super) const fn mode(self) -> &'static str {
        if self.is_on_nodes() { "0400" } else { "0440" }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
