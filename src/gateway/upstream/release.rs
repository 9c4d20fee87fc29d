//! The releases of etcd that this version of etcd-warden knows.

/// Newest minor release whose messages are in `proto/fields.txt`.
pub const NEWEST_KNOWN: (u32, u32) = (3, 7);

/// True if `version` (a `StatusResponse.version`) is of a later minor release. False if it cannot
/// be parsed.
pub fn is_newer_than_known(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    (major, minor) > NEWEST_KNOWN
}

/// First patch release of each supported minor release without a published vulnerability, as of
/// 2026-11 (`docs/threat-model.md` lists them).
const FIXED: [(u32, u32, u32); 3] = [(3, 5, 35), (3, 6, 16), (3, 7, 3)];

/// True if `version` lacks published security fixes, or is of a minor release that gets no more
/// fixes. False if it cannot be parsed.
pub fn has_known_vulnerabilities(version: &str) -> bool {
    let mut numbers =
        version.split('-').next().unwrap_or_default().split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    match FIXED
        .iter()
        .find(|(fixed_major, fixed_minor, _)| (*fixed_major, *fixed_minor) == (major, minor))
    {
        Some((_, _, fixed)) => patch < *fixed,
        None => (major, minor) < (3, 5),
    }
}

#[cfg(test)]
mod tests {
    use etcd_warden_testbed::etcd::build::RELEASES;

    use super::*;

    #[test]
    fn the_newest_known_release_is_tested() {
        let newest = RELEASES
            .iter()
            .map(|release| release.minor.strip_prefix("3.").unwrap().parse::<u32>().unwrap())
            .max();
        assert_eq!(newest, Some(NEWEST_KNOWN.1));
    }

    #[test]
    fn a_release_before_its_fixes_is_vulnerable() {
        for (version, vulnerable) in [
            ("3.4.40", true),
            ("3.5.34", true),
            ("3.5.35", false),
            ("3.6.8", true),
            ("3.6.16", false),
            ("3.7.0-rc.1", true),
            ("3.7.3", false),
            ("3.8.0", false),
            ("unknown", false),
        ] {
            assert_eq!(has_known_vulnerabilities(version), vulnerable, "{version}");
        }
    }

    #[test]
    fn only_a_later_minor_release_is_newer() {
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
