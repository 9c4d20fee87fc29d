//! etcd releases with published holes, for tests that show an attack succeed before they show it
//! fail.

use std::sync::OnceLock;

use etcd_warden_testbed::etcd::{Programs, Release, Source, Version, find};

macro_rules! vulnerable {
    ($minor:literal) => {
        Release::pinned(
            $minor,
            include_str!(concat!("../../../tools/etcd/vulnerable/", $minor, "/go.mod")),
            include_str!(concat!("../../../tools/etcd/vulnerable/", $minor, "/go.sum")),
        )
    };
}

static V3_4: Release = vulnerable!("3.4").named(Version::new(3, 4, 13));
static V3_5: Release = vulnerable!("3.5");
static V3_6: Release = vulnerable!("3.6");

/// etcd 3.4.13. Built once; blocks.
pub fn v3_4() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| programs(&V3_4))
}

/// etcd 3.5.7, whose own auth has every hole since CVE-2021-28235. Built once; blocks.
pub fn v3_5() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| programs(&V3_5))
}

/// etcd 3.6.8, whose own auth has every hole since CVE-2026-33343. Built once; blocks.
pub fn v3_6() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| programs(&V3_6))
}

fn programs(release: &'static Release) -> Programs {
    find(&Source::Pinned(release)).unwrap_or_else(|error| {
        panic!("this test attacks an old etcd, built from `tools/etcd/vulnerable`: {error}")
    })
}
