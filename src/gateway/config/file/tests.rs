use std::fs;

use super::*;

/// All mistakes in a text, without the lines shown below them.
fn mistakes(text: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    parse("w.yaml", text.to_owned(), &mut mistakes);
    mistakes
        .iter()
        .map(|mistake| mistake.to_string().lines().next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn what_a_file_may_hold_is_read() {
    let text = "# comment\npin: true\nendpoints:\n- a:1\n- \"b:2\"\ntrusted-ca-file: {calico: /c.crt, kubernetes: /k.crt}\n";
    let mut mistakes = Vec::new();
    let given = parse("w.yaml", text.into(), &mut mistakes).unwrap();
    assert!(mistakes.is_empty(), "{mistakes:?}");
    let seen: Vec<_> = given
        .iter()
        .map(|given| {
            (
                given.key,
                given
                    .items
                    .iter()
                    .map(|item| (item.name.as_deref(), item.text.as_str()))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Key::Pin, vec![(None, "true")]),
            (Key::Endpoints, vec![(None, "a:1"), (None, "b:2")]),
            (Key::TrustedCaFile, vec![(Some("calico"), "/c.crt"), (Some("kubernetes"), "/k.crt")]),
        ]
    );
}

#[test]
fn each_mistake_has_its_place() {
    for (text, mistake) in [
        ("", "w.yaml: holds no setting"),
        ("# nothing\n", "w.yaml: holds no setting"),
        ("{}", "w.yaml: holds no setting"),
        ("just words", "w.yaml:1:1: the configuration is a mapping: write `SETTING: VALUE` lines"),
        ("- pin", "w.yaml:1:1: the configuration is a mapping: write `SETTING: VALUE` lines"),
        (
            "listen_addr: 1",
            "w.yaml:1:1: no setting is named `listen_addr`, did you mean `listen-addr`",
        ),
        ("frob: # {\n  # [\n  {a: [1, {b: 2}]}", "w.yaml:1:1: no setting is named `frob`"),
        (
            "pin: true\nmode: shadow\npin: false",
            "w.yaml:3:1: `pin` is set a second time; the first is in line 1",
        ),
        ("pin: [true]", "w.yaml:1:6: `pin` takes one value"),
        ("pin: {a: b}", "w.yaml:1:6: `pin` takes one value"),
        ("endpoints: []", "w.yaml:1:12: an empty list; leave the setting out to keep the default"),
        ("endpoints: {a: b}", "w.yaml:1:12: `endpoints` takes a list of values"),
        ("endpoints: [a, [b]]", "w.yaml:1:16: each element of this list is one value"),
        ("endpoints: [a, '']", "w.yaml:1:16: has no value; leave it out to keep the default"),
        (
            "trusted-ca-file: [a]",
            "w.yaml:1:18: `trusted-ca-file` takes one value, or `NAME: VALUE` lines",
        ),
        (
            "trusted-ca-file: {}",
            "w.yaml:1:18: an empty mapping; leave the setting out to keep the default",
        ),
        ("trusted-ca-file: {a: b, a: c}", "w.yaml:1:25: `a` is named a second time"),
        ("trusted-ca-file: {a: [b]}", "w.yaml:1:22: each name has one value"),
        ("policy:", "w.yaml:1:7: has no value; leave it out to keep the default"),
        ("policy: ~", "w.yaml:1:9: has no value; leave it out to keep the default"),
        ("policy: ''", "w.yaml:1:9: has no value; leave it out to keep the default"),
        ("policy: &a x", "w.yaml:1:12: anchors and tags are not for configuration files"),
        ("policy: !!str x", "w.yaml:1:15: anchors and tags are not for configuration files"),
        ("? [a]\n: b", "w.yaml:1:3: a key is one word"),
        ("pin: true\n---\npin: true", "w.yaml:2:1: a second document; the configuration is one"),
    ] {
        let found = mistakes(text);
        assert!(
            found.first().is_some_and(|first| first == mistake) && found.len() == 1,
            "{text:?}: {found:?}"
        );
    }
}

#[test]
fn an_alias_is_a_mistake() {
    assert!(mistakes("cert: &a x\nkey: *a").iter().any(|mistake| mistake
        == "w.yaml:2:6: aliases are not for configuration files: write the value out"));
}

#[test]
fn what_is_not_yaml_is_said_once_after_what_stands_before_it() {
    for text in
        ["pni: 1\npin: [", "pni: 1\nmode: \"shadow", "pni: 1\nlimits:\n\tmode: x", "pni: 1\n}"]
    {
        let found = mistakes(text);
        assert!(found[0].contains("no setting is named `pni`"), "{found:?}");
        assert_eq!(
            found.iter().filter(|mistake| mistake.contains(": not YAML: ")).count(),
            1,
            "{found:?}"
        );
    }
}

#[test]
fn deep_nesting_is_a_mistake_and_no_overflow() {
    for text in [
        format!("pin: {}", "[".repeat(500_000)),
        format!("pin: {}", "{a: ".repeat(200_000)),
        "- ".repeat(500_000),
        "? ".repeat(500_000),
    ] {
        assert!(!mistakes(&text).is_empty());
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for (path, sentence) in [
        (folder.path().join("absent.yaml"), "does not exist"),
        (folder.path().to_path_buf(), "is a directory, not a file"),
        (write("latin1.yaml", b"policy: caf\xe9\n"), "is not UTF-8, from byte 11 on"),
        (
            write("large.yaml", &vec![b'#'; 10 << 20]),
            "is larger than 1 MiB: not a configuration file",
        ),
        (write("empty.yaml", b""), "holds no setting"),
    ] {
        let mut mistakes = Vec::new();
        read(&path, &mut mistakes);
        let shown: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, [format!("{}: {sentence}", path.display())]);
    }
}

#[test]
fn no_text_makes_the_reader_panic_or_hang() {
    use proptest::prelude::*;
    proptest!(|(text in "[a-z:\\-\\[\\]{}&*!?'\"#|>\n\t ,~]{0,60}")| {
        let mut mistakes = Vec::new();
        let given = parse("w.yaml", text, &mut mistakes);
        prop_assert!(given.is_some_and(|given| !given.is_empty()) || !mistakes.is_empty());
    });
}
