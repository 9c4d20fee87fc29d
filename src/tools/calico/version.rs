//! The version of Calico that a manifest installs, from its images.

use std::fmt;

use super::component::Component;

/// Major, minor and patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// The oldest version whose manifest was tested with this program.
    pub(super) const OLDEST: Version = Version(3, 20, 0);

    /// The version in an image name such as `quay.io/calico/node:v3.31.0`. A digest and a suffix
    /// are ignored.
    pub(super) fn of(image: &str) -> Option<Self> {
        let image = image.split('@').next()?;
        let (_, tag) = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))?;
        let number = tag.strip_prefix('v').unwrap_or(tag).split(['-', '_', '+']).next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let version = Self(parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
        parts.next().is_none().then_some(version)
    }

    /// The oldest version of all images that have one.
    pub(super) fn of_all(images: &[(Component, String)]) -> Option<Self> {
        images.iter().filter_map(|(_, image)| Self::of(image)).min()
    }

    /// True if the role set was verified with the programs of this version.
    pub(super) fn is_verified(self) -> bool {
        (self.0, self.1) == (3, 31)
    }

    /// True if the version needs the role set of 3.32.
    pub(super) fn needs_3_32(self) -> bool {
        (self.0, self.1) >= (3, 32)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}
