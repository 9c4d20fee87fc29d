//! The environment: `ETCD_WARDEN_` and the setting's name in capitals.

use std::ffi::OsString;

use super::diagnostic::{Diagnostic, Origin, suggestion};
use super::given::{Given, Item};
use super::settings::{Key, SETTINGS};

/// What all variables begin with.
pub const PREFIX: &str = "ETCD_WARDEN_";

/// Names the configuration file, as `--config` does.
pub const CONFIG: &str = "ETCD_WARDEN_CONFIG";

/// Variables that are not `serve`'s: which etcd the demo and the tests run, and where they build
/// it.
const ELSEWHERE: [&str; 3] = [CONFIG, "ETCD_WARDEN_ETCD", "ETCD_WARDEN_TOOLS"];

/// What the variables of the tests alone begin with; no setting does.
const TESTS: &str = "ETCD_WARDEN_TEST_";

/// What the environment sets. Every unknown `ETCD_WARDEN_*` is a mistake: a misspelt limit would
/// else be no limit.
pub(super) fn read(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    mistakes: &mut Vec<Diagnostic>,
) -> Vec<Given> {
    let mut all: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .collect();
    all.sort();
    let mut given = Vec::new();
    for (name, value) in all {
        if !name.starts_with(PREFIX)
            || ELSEWHERE.contains(&name.as_str())
            || name.starts_with(TESTS)
        {
            continue;
        }
        let origin = Origin::Variable(name.clone());
        let Some(key) = key(&name) else {
            if !is_service_link(&name, &value.to_string_lossy()) {
                let known: Vec<String> =
                    SETTINGS.iter().map(super::settings::Setting::variable).collect();
                let near = suggestion(&name, known.iter().map(String::as_str));
                mistakes.push(Diagnostic {
                    origin,
                    message: format!("no setting has this name{near}"),
                });
            }
            continue;
        };
        let items = value
            .into_string()
            .map_err(|_| "the value is not UTF-8".to_owned())
            .and_then(|text| Item::split(key, &[text], &origin));
        given.push(Given::new(key, origin.clone(), origin, items, mistakes));
    }
    given
}

fn key(variable: &str) -> Option<Key> {
    SETTINGS.iter().find(|setting| setting.variable() == variable).map(|setting| setting.key)
}

/// Whether Kubernetes made this variable. Its "service links" put `ETCD_WARDEN_SERVICE_HOST`,
/// `ETCD_WARDEN_PORT_2379_TCP_ADDR` and the like into every pod of a namespace that has a Service
/// named `etcd-warden` or `etcd-warden-...`.
fn is_service_link(name: &str, value: &str) -> bool {
    let numbered = |rest: &str| {
        rest.bytes().next().is_some_and(|b| b.is_ascii_digit())
            && (rest.contains("_TCP") || rest.contains("_UDP") || rest.contains("_SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.split("_PORT_").skip(1).any(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(variables: &[(&str, &str)]) -> Vec<String> {
        let mut mistakes = Vec::new();
        read(
            variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))),
            &mut mistakes,
        );
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_variable_is_a_mistake_with_the_nearest_name() {
        assert_eq!(
            mistakes(&[("ETCD_WARDEN_POLICI", "x")]),
            ["ETCD_WARDEN_POLICI: no setting has this name, did you mean `ETCD_WARDEN_POLICY`"]
        );
    }

    #[test]
    fn an_empty_variable_is_a_mistake() {
        assert_eq!(
            mistakes(&[("ETCD_WARDEN_POLICY", "")]),
            ["ETCD_WARDEN_POLICY: has no value; leave it out to keep the default"]
        );
    }

    #[test]
    fn what_kubernetes_makes_of_a_service_named_etcd_warden_is_no_mistake() {
        for name in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_CLIENT",
            "PORT",
            "PORT_23790_TCP",
            "PORT_23790_TCP_PROTO",
            "ADMIN_SERVICE_HOST",
            "ADMIN_PORT_23791_TCP_ADDR",
        ] {
            assert!(
                mistakes(&[(&format!("{PREFIX}{name}"), "tcp://10.0.0.1:23790")]).is_empty(),
                "{name}"
            );
        }
        assert!(
            SETTINGS
                .iter()
                .all(|setting| !is_service_link(&setting.variable(), "tcp://10.0.0.1:1"))
        );
        assert_eq!(mistakes(&[("ETCD_WARDEN_LISTEN_PORT", "2379")]).len(), 1, "a slip, not a link");
    }

    #[test]
    fn variables_of_others_do_not_concern_us() {
        assert!(
            mistakes(&[
                ("ETCD_WARDEN_ETCD", "/usr/bin/etcd"),
                ("ETCD_WARDEN_TEST_ETCD", "3.6"),
                ("ETCD_WARDEN_TOOLS", "x"),
                ("ETCD_NAME", "m1"),
                ("ETCD_WARDENS", "2")
            ])
            .is_empty()
        );
    }
}
