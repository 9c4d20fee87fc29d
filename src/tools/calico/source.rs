//! Sources of volumes.

use std::fmt;

use super::cursor::Cursor;
use super::value::Value;

/// The directory from which Calico's programs read their certificate. `install-cni` reads no other.
pub(super) const DIRECTORY: &str = "/calico-secrets";
/// The files in that directory, which are also the keys of the Secret.
pub(super) const FILES: [&str; 3] = ["etcd-ca", "etcd-cert", "etcd-key"];

/// The source of a volume's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The Secret with this name.
    Secret(String),
    /// A directory of the node.
    HostPath(String),
    /// A CSI driver with its parameters. It makes a volume for each pod, and so for each node.
    Csi(Value),
    /// Any other kind of volume.
    Other(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Secret(name) => write!(f, "Secret `{name}`"),
            Source::HostPath(path) => write!(f, "the node's directory `{path}`"),
            Source::Csi(_) => write!(f, "a CSI volume"),
            Source::Other(kind) => write!(f, "a volume of the kind `{kind}`"),
        }
    }
}

impl Source {
    /// The source of an entry of a pod's `volumes`.
    pub(super) fn of(volume: &Cursor<'_>) -> Self {
        let mut kinds = volume
            .node
            .entries()
            .iter()
            .filter_map(|(key, _)| key.scalar())
            .filter(|key| *key != "name");
        let (first, second) = (kinds.next(), kinds.next());
        if let (Some(first), Some(second)) = (first, second) {
            return Source::Other(format!("{first} and {second}"));
        }
        if let Some(name) =
            volume.get("secret").and_then(|secret| secret.scalar("secretName").map(str::to_owned))
        {
            return Source::Secret(name);
        }
        if let Some(path) =
            volume.get("hostPath").and_then(|folder| folder.scalar("path").map(str::to_owned))
        {
            return Source::HostPath(trimmed(&path).to_owned());
        }
        if let Some(csi) = volume.get("csi") {
            return Source::Csi(Value::of(csi.node));
        }
        Source::Other(first.unwrap_or("emptyDir").to_owned())
    }

    /// Key and value of a volume with this source; `None` for a source that this program does not
    /// write.
    pub(super) fn entry(&self, mode: &str) -> Option<(&'static str, Value)> {
        match self {
            Source::Secret(name) => Some((
                "secret",
                Value::map([
                    ("secretName", Value::text(name)),
                    ("defaultMode", Value::Other(mode.to_owned())),
                ]),
            )),
            Source::HostPath(path) => Some((
                "hostPath",
                Value::map([("path", Value::text(path)), ("type", Value::text("Directory"))]),
            )),
            Source::Csi(_) | Source::Other(_) => None,
        }
    }
}

/// A path without trailing slashes.
pub(super) fn trimmed(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => path,
        trimmed => trimmed,
    }
}

/// The bits of a file mode as Kubernetes reads it: octal after `0` or `0o`, else decimal.
pub(super) fn bits(written: &str) -> Option<u32> {
    let octal = written
        .strip_prefix("0o")
        .or_else(|| written.strip_prefix('0').filter(|rest| !rest.is_empty()));
    octal.map_or_else(|| written.parse().ok(), |digits| u32::from_str_radix(digits, 8).ok())
}
