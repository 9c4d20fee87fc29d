//! Which Calico a manifest installs, by its images.

use std::fmt;

use super::component::Component;

/// Major, minor and patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// The oldest whose manifest this program was tried on.
    pub(super) const OLDEST: Version = Version(3, 20, 0);

    /// Of an image: `quay.io/calico/node:v3.31.0`, also with a digest or a suffix behind.
    pub(super) fn of(image: &str) -> Option<Self> {
        let image = image.split('@').next()?;
        let (_, tag) = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))?;
        let number = tag.strip_prefix('v').unwrap_or(tag).split(['-', '_', '+']).next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let version = Self(parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
        parts.next().is_none().then_some(version)
    }

    /// Of all images together: the oldest of those that tell.
    pub(super) fn of_all(images: &[(Component, String)]) -> Option<Self> {
        images.iter().filter_map(|(_, image)| Self::of(image)).min()
    }

    /// Whether the role set of 3.31 was seen to be what its programs need.
    pub(super) fn is_observed(self) -> bool {
        (self.0, self.1) == (3, 31)
    }

    /// Whether it needs what 3.32 adds.
    pub(super) fn is_new(self) -> bool {
        (self.0, self.1) >= (3, 32)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}
