//! The reference of all settings, `docs/configuration.md`, generated from [`SETTINGS`].

use std::fmt::Write;

use super::settings::{DefaultValue, SETTINGS, Shape};

const HEAD: &str = include_str!("reference_head.md");

/// The reference in Markdown.
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
            Shape::Named => "Takes one value, or several named ones; each is",
        };
        let default = match setting.default {
            DefaultValue::Value(value) => format!("Default: `{value}`."),
            DefaultValue::Unset(meaning) => format!("Not set: {meaning}."),
            DefaultValue::Required => "Required.".to_owned(),
        };
        let _ = write!(
            page,
            "### `{}`\n\n{}\n\n{takes} {}. {default}\n\n",
            setting.name,
            setting.help.trim(),
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
    fn the_page_matches_the_table() {
        let page = std::fs::read_to_string(PATH).unwrap();
        assert!(
            page == reference(),
            "docs/configuration.md differs from the table: run `cargo test -p etcd-warden-gateway config::reference -- --ignored`"
        );
    }

    #[test]
    #[ignore = "writes docs/configuration.md"]
    fn write() {
        std::fs::write(PATH, reference()).unwrap();
        assert_eq!(std::fs::read_to_string(PATH).unwrap(), reference());
    }
}
