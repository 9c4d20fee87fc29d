//! Which releases of etcd this version was written for.

/// The newest minor release whose messages are known: `proto/fields.txt` has them.
pub const NEWEST_KNOWN: (u32, u32) = (3, 7);

/// Whether `version`, as `StatusResponse.version` has it, is of a later minor release. What is no version is not.
#[must_use]
pub fn is_newer_than_known(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) > NEWEST_KNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::build::RELEASES;

    #[test]
    fn the_newest_that_is_known_is_the_newest_that_is_tested() {
        let newest = RELEASES.iter().map(|release| release.minor.strip_prefix("3.").unwrap().parse::<u32>().unwrap()).max();
        assert_eq!(newest, Some(NEWEST_KNOWN.1));
    }

    #[test]
    fn a_later_minor_release_is_newer_and_a_later_patch_is_not() {
        for (version, newer) in [
            ("3.5.35", false),
            ("3.7.3", false),
            ("3.7.99", false),
            ("3.8.0", true),
            ("3.8.0-alpha.0", true),
            ("3.10.1", true),
            ("4.0.0", true),
            ("2.3.8", false),
            ("", false),
            ("3", false),
            ("unknown", false),
        ] {
            assert_eq!(is_newer_than_known(version), newer, "{version}");
        }
    }
}
