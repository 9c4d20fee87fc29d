//! Settings from environment variables: `ETCD_WARDEN_` and the name of the setting in capitals.

use std::ffi::OsString;

use etcd_warden_core::diagnostics::Diagnostics;

use super::given::{Given, Item};
use super::origin::{Origin, suggestion};
use super::settings::{Key, SETTINGS, Setting};

/// The prefix of all variables.
pub(super) const PREFIX: &str = "ETCD_WARDEN_";

/// The path of the configuration file, as `--config`.
pub(super) const CONFIG: &str = "ETCD_WARDEN_CONFIG";

/// Variables that are no settings: `serve` reads the first itself, the demo and the tests read the
/// others to find or build etcd.
const NO_SETTINGS: [&str; 3] = [CONFIG, "ETCD_WARDEN_ETCD", "ETCD_WARDEN_TOOLS"];

/// The prefix of the variables of tests. No setting has it.
const TESTS: &str = "ETCD_WARDEN_TEST_";

/// The settings in the environment. Every unknown `ETCD_WARDEN_*` is an error: otherwise, a
/// misspelt limit would be no limit.
pub(super) fn read(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    errors: &mut Diagnostics,
) -> Vec<Given> {
    let mut all: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .collect();
    all.sort();
    let mut given = Vec::new();
    for (name, value) in all {
        if !name.starts_with(PREFIX)
            || NO_SETTINGS.contains(&name.as_str())
            || name.starts_with(TESTS)
        {
            continue;
        }
        let origin = Origin::Variable(name.clone());
        let Some(key) = key(&name) else {
            if !is_service_link(&name, &value.to_string_lossy()) {
                let known: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
                let near = suggestion(&name, known.iter().map(String::as_str));
                errors.push(origin.error("unknown environment variable").help(near));
            }
            continue;
        };
        let items = value
            .into_string()
            .map_err(|_| "the value is not UTF-8".to_owned())
            .and_then(|text| Item::split(key, &[text], &origin));
        given.push(Given::new(key, origin.clone(), &origin, items, errors));
    }
    given
}

fn key(variable: &str) -> Option<Key> {
    SETTINGS.iter().find(|setting| setting.variable() == variable).map(|setting| setting.key)
}

/// True for a variable that Kubernetes sets. For each Service named `etcd-warden` or
/// `etcd-warden-...`, it sets `ETCD_WARDEN_SERVICE_HOST`, `ETCD_WARDEN_PORT_2379_TCP_ADDR` and
/// others in all pods of the namespace (`enableServiceLinks`).
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

    /// The first two lines of each error: message and origin.
    fn errors(variables: &[(&str, &str)]) -> Vec<String> {
        let mut errors = Diagnostics::default();
        read(
            variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))),
            &mut errors,
        );
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unknown_variable_is_an_error_with_the_nearest_name() {
        assert_eq!(
            errors(&[("ETCD_WARDEN_POLICI", "x")]),
            ["error: unknown environment variable\n  --> ETCD_WARDEN_POLICI\n  \
              = help: did you mean `ETCD_WARDEN_POLICY`?\n"]
        );
    }

    #[test]
    fn an_empty_variable_is_an_error() {
        assert_eq!(
            errors(&[("ETCD_WARDEN_POLICY", "")]),
            ["error: the value is empty: remove it to use the default\n  --> ETCD_WARDEN_POLICY\n"]
        );
    }

    #[test]
    fn service_links_of_kubernetes_are_ignored() {
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
                errors(&[(&format!("{PREFIX}{name}"), "tcp://10.0.0.1:23790")]).is_empty(),
                "{name}"
            );
        }
        assert!(
            SETTINGS
                .iter()
                .all(|setting| !is_service_link(&setting.variable(), "tcp://10.0.0.1:1"))
        );
        assert_eq!(errors(&[("ETCD_WARDEN_LISTEN_PORT", "2379")]).len(), 1, "a typing error");
    }

    #[test]
    fn variables_of_other_programs_are_ignored() {
        assert!(
            errors(&[
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
