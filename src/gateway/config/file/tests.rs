use std::fs;

use etcd_warden_core::diagnostics::Diagnostic;

use super::*;

/// `LINE:COLUMN: MESSAGE` of each error in a text; without a position, `MESSAGE`.
fn errors(text: &str) -> Vec<String> {
    let mut errors = Diagnostics::default();
    parse("w.yaml", text.to_owned(), &mut errors);
    let one = |error: &Diagnostic| {
        let position = error.position.map(|at| format!("{}:{}: ", at.line, at.column));
        format!("{}{}", position.unwrap_or_default(), error.message)
    };
    errors.iter().map(one).collect()
}

#[test]
fn reads_scalars_lists_and_named_values() {
    let text = "# comment\npin: true\nendpoints:\n- a:1\n- \"b:2\"\ntrusted-ca-file: {calico: /c.crt, kubernetes: /k.crt}\n";
    let mut errors = Diagnostics::default();
    let given = parse("w.yaml", text.into(), &mut errors).unwrap();
    assert!(errors.is_empty(), "{errors}");
    let item = |item: &'_ Item| (item.name.clone(), item.text.clone());
    let seen: Vec<_> = given
        .iter()
        .map(|given| (given.key, given.items.iter().map(item).collect::<Vec<_>>()))
        .collect();
    let named = |name: &str, text: &str| (Some(name.to_owned()), text.to_owned());
    let plain = |text: &str| (None, text.to_owned());
    assert_eq!(
        seen,
        [
            (Key::Pin, vec![plain("true")]),
            (Key::Endpoints, vec![plain("a:1"), plain("b:2")]),
            (Key::TrustedCaFile, vec![named("calico", "/c.crt"), named("kubernetes", "/k.crt")]),
        ]
    );
}

#[test]
fn each_error_has_its_position() {
    for (text, error) in [
        ("", "the file contains no setting"),
        ("# nothing\n", "the file contains no setting"),
        ("{}", "the file contains no setting"),
        ("just words", "1:1: the configuration must be a mapping"),
        ("- pin", "1:1: the configuration must be a mapping"),
        ("listen_addr: 1", "1:1: unknown setting `listen_addr`"),
        ("frob: # {\n  # [\n  {a: [1, {b: 2}]}", "1:1: unknown setting `frob`"),
        ("pin: true\nmode: shadow\npin: false", "3:1: `pin` is set twice"),
        ("pin: [true]", "1:6: `pin` takes one value"),
        ("pin: {a: b}", "1:6: `pin` takes one value"),
        ("endpoints: []", "1:12: the list is empty: remove the setting to use the default"),
        ("endpoints: {a: b}", "1:12: `endpoints` takes a list of values"),
        ("endpoints: [a, [b]]", "1:16: each entry of this list must be a single value"),
        ("endpoints: [a, '']", "1:16: the value is empty: remove it to use the default"),
        ("trusted-ca-file: [a]", "1:18: `trusted-ca-file` takes one value, or `NAME: VALUE` lines"),
        (
            "trusted-ca-file: {}",
            "1:18: the mapping is empty: remove the setting to use the default",
        ),
        ("trusted-ca-file: {a: b, a: c}", "1:25: the name `a` appears twice"),
        ("trusted-ca-file: {a: [b]}", "1:22: each name must have a single value"),
        ("policy:", "1:7: the value is empty: remove it to use the default"),
        ("policy: ~", "1:9: the value is empty: remove it to use the default"),
        ("policy: ''", "1:9: the value is empty: remove it to use the default"),
        ("policy: &a x", "1:12: anchors and tags are not allowed in configuration files"),
        ("policy: !!str x", "1:15: anchors and tags are not allowed in configuration files"),
        ("? [a]\n: b", "1:3: a key must be one word"),
        (
            "pin: true\n---\npin: true",
            "2:1: this file must be one YAML document, and a second one begins",
        ),
    ] {
        assert_eq!(errors(text), [error], "{text:?}");
    }
}

#[test]
fn an_error_comes_with_a_hint() {
    let hint = |text: &str| {
        let mut errors = Diagnostics::default();
        parse("w.yaml", text.to_owned(), &mut errors);
        errors.iter().find_map(|error| error.help.clone())
    };
    for (text, help) in [
        ("listen_addr: 1", "did you mean `listen-addr`?"),
        ("pin: true\npin: false", "the first value is in line 1"),
        ("pin:\n\ttrue", "indent with spaces: YAML does not allow tabs"),
    ] {
        assert_eq!(hint(text).as_deref(), Some(help), "{text:?}");
    }
}

#[test]
fn an_alias_is_an_error() {
    let errors = errors("cert: &a x\nkey: *a");
    let alias = "2:6: aliases are not allowed in configuration files";
    assert!(errors.iter().any(|error| error == alias), "{errors:?}");
}

#[test]
fn a_syntax_error_is_reported_after_the_errors_before_it() {
    for (text, line) in [
        ("pni: 1\npin: [", "2:"),
        ("pni: 1\nmode: \"shadow", "2:"),
        ("pni: 1\nlimits:\n\tmode: x", "3:"),
        ("pni: 1\n}", "2:"),
    ] {
        let found = errors(text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], "1:1: unknown setting `pni`");
        assert!(found[1].starts_with(line), "{found:?}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_stack_overflow() {
    for text in [
        format!("pin: {}", "[".repeat(500_000)),
        format!("pin: {}", "{a: ".repeat(200_000)),
        "- ".repeat(500_000),
        "? ".repeat(500_000),
    ] {
        assert!(!errors(&text).is_empty());
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for (path, sentence) in [
        (folder.path().join("absent.yaml"), "the file does not exist"),
        (folder.path().to_path_buf(), "the file is a directory, not a file"),
        (write("latin1.yaml", b"policy: caf\xe9\n"), "the file is not UTF-8, from byte 11"),
        (
            write("large.yaml", &vec![b'#'; 10 << 20]),
            "the file is larger than 1 MiB: it is no configuration file",
        ),
        (write("empty.yaml", b""), "the file contains no setting"),
    ] {
        let mut errors = Diagnostics::default();
        read(&path, &mut errors);
        assert_eq!(errors.to_string(), format!("error: {sentence}\n  --> {}\n", path.display()));
    }
}

#[test]
fn any_text_gives_settings_or_errors() {
    use proptest::prelude::*;
    proptest!(|(text in "[a-z:\\-\\[\\]{}&*!?'\"#|>\n\t ,~]{0,60}")| {
        let mut errors = Diagnostics::default();
        let given = parse("w.yaml", text, &mut errors);
        prop_assert!(given.is_some_and(|given| !given.is_empty()) || !errors.is_empty());
    });
}
