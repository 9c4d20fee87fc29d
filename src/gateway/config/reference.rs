//! The reference of all settings: `docs/configuration.md`, written from the table.

use std::fmt::Write;

use super::settings::{Default, SETTINGS, Shape};

const HEAD: &str = "\
# Configuration

`etcd-warden serve` reads one YAML file (`--config FILE`, or `ETCD_WARDEN_CONFIG`), environment variables and flags. Every setting can stand in
each of them, under one name: `listen-addr` in the file is `--listen-addr` as a flag and `ETCD_WARDEN_LISTEN_ADDR` in the environment.

A flag wins over a variable, a variable over the file, the file over the default. A setting counts whole: a list in a flag replaces the
list in the file. `--print-config` shows what is in effect, with the source of each value, as a file that means the same.

Names and meanings are those of `etcd grpc-proxy start`, with two differences that keep the safe side: an endpoint without a scheme means
`https://` (there: plain text), and a certificate, its key and a client CA are always needed.

In flags and variables, lists are separated by commas (a flag can also be repeated), and named values are written `NAME=VALUE`. A switch is
`--pin` or `--pin=false`. A value that is empty, an unknown key, a repeated key and an unknown `ETCD_WARDEN_*` variable are mistakes; all
mistakes are reported together, each with its place. (What Kubernetes puts into pods for a Service named `etcd-warden`, such as
`ETCD_WARDEN_SERVICE_HOST`, is left alone. `ETCD_WARDEN_ETCD`, `ETCD_WARDEN_TOOLS` and `ETCD_WARDEN_TEST_*` belong to the demo and the tests.)

`deploy/config.example.yaml` is a whole file. The policy has a file and a reference of its own.

";

/// The reference, as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            // Writing to a String cannot fail.
            let _ = write!(page, "## {section}\n\n");
        }
        let takes = match setting.shape {
            Shape::One => "Takes",
            Shape::List => "Takes a list; each is",
            Shape::Named => "Takes one value, or several with a name each; each is",
        };
        let default = match setting.default {
            Default::Value(value) => format!("Default: `{value}`."),
            Default::Unset(meaning) => format!("Not set: {meaning}."),
            Default::Required => "Required.".to_owned(),
        };
        let _ = write!(
            page,
            "### `{}`\n\n{}\n\n{takes} {}. {default}\n\n",
            setting.name,
            setting.meaning.trim(),
            setting.kind
        );
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");

    #[test]
    fn the_documentation_is_the_table() {
        let page = std::fs::read_to_string(PATH).unwrap();
        assert!(
            page == reference(),
            "docs/configuration.md is not what the table says: run `cargo test -p etcd-warden-gateway config::reference -- --ignored`"
        );
    }

    #[test]
    #[ignore = "writes docs/configuration.md"]
    fn write() {
        std::fs::write(PATH, reference()).unwrap();
        assert_eq!(std::fs::read_to_string(PATH).unwrap(), reference());
    }
}
