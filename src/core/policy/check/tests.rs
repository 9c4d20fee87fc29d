//! Each error is reported with its position, its line and help.

mod bindings;
mod keys;

use crate::diagnostics::{Diagnostics, Severity};
use crate::policy::Policy;

fn mistakes(text: impl AsRef<[u8]>) -> Diagnostics {
    match Policy::parse("policy.yaml", text.as_ref(), 1, None) {
        Ok(_) => panic!("no mistake was found"),
        Err(mistakes) => mistakes,
    }
}

fn warnings(text: &str) -> Diagnostics {
    Policy::parse("policy.yaml", text.as_bytes(), 1, None)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .warnings()
        .clone()
}

/// A policy with one role `r` of this body, bound to `x:{node}`.
fn with_role(body: &str) -> String {
    format!(
        "version: 1\nmode: enforce\nroles:\n  r:\n{body}\nbindings:\n  - cn: \"x:{{node}}\"\n    \
         roles: [r]\n"
    )
}

/// A policy with one allowed key.
fn with_key(key: &str) -> String {
    with_role(&format!("    allow:\n      - keys: {key}\n        verbs: [read]"))
}

/// A policy with this binding.
fn with_binding(binding: &str) -> String {
    format!(
        "version: 1\nmode: enforce\nroles:\n  r:\n    capabilities: [lease]\nbindings:\n{binding}\n"
    )
}

#[test]
fn all_errors_are_reported_at_once_with_their_lines() {
    let text = "version: 1
mode: shdow
include: [calico/documentd]
roles:
  editor:
    allow:
      - keys: [/a/*, '/b\\q']
        verbs: [raed, write]
      - keys: /c/{node}
        verb: [read]
    capabilities: [compct]
bindings:
  - cn: editor
    roles: [editor, edtor]
";
    insta::assert_snapshot!(mistakes(text).to_string(), @r#"
    error: there is no mode `shdow`
      --> policy.yaml:2:7
       |
     2 | mode: shdow
       |       ^^^^^
      = help: did you mean `shadow`?

    error: there is no role set `calico/documentd`
      --> policy.yaml:3:11
       |
     3 | include: [calico/documentd]
       |           ^^^^^^^^^^^^^^^^
      = help: did you mean `calico/documented`?

    error: `\q` is not a valid escape
      --> policy.yaml:7:22
       |
     7 |       - keys: [/a/*, '/b\q']
       |                      ^^^^^^
      = help: write a byte as `\xNN` with two hexadecimal digits, a backslash as `\\`

    error: there is no verb `raed`
      --> policy.yaml:8:17
       |
     8 |         verbs: [raed, write]
       |                 ^^^^
      = help: did you mean `read`?

    error: an entry of `allow` needs `verbs`
      --> policy.yaml:9:9
       |
     9 |       - keys: /c/{node}
       |         ^^^^
      = help: write `verbs: [read]` (read, create, update, delete, write, rw)

    error: an entry of `allow` has no field `verb`
      --> policy.yaml:10:9
        |
     10 |         verb: [read]
        |         ^^^^
      = help: did you mean `verbs`?

    error: there is no capability `compct`
      --> policy.yaml:11:20
        |
     11 |     capabilities: [compct]
        |                    ^^^^^^
      = help: did you mean `compact`?

    error: role `editor` needs `{node}`, which `editor` does not capture
      --> policy.yaml:14:13
        |
     14 |     roles: [editor, edtor]
        |             ^^^^^^
      = help: capture it in the binding, as in `cn: "editor:{node}"`

    error: there is no role `edtor`
      --> policy.yaml:14:21
        |
     14 |     roles: [editor, edtor]
        |                     ^^^^^
      = help: did you mean `editor`?
    "#);
}

#[test]
fn refuses_a_file_that_is_not_a_policy() {
    let said = |text: &[u8]| mistakes(text).to_string();
    insta::assert_snapshot!(said(b""), @r#"
    error: the policy is empty
      --> policy.yaml
      = help: write at least `version`, `mode`, `roles` and `bindings`
    "#);
    insta::assert_snapshot!(said(b"# nothing yet\n"), @r#"
    error: the policy is empty
      --> policy.yaml
      = help: write at least `version`, `mode`, `roles` and `bindings`
    "#);
    insta::assert_snapshot!(said(b"version: 1\nmode: \xff\n"), @r#"
    error: the policy is not UTF-8: the first invalid byte is in line 2
      --> policy.yaml
      = help: write other bytes of a key as `\xNN`
    "#);
    assert!(said(&vec![b'#'; 8 * 1024 * 1024]).starts_with("error: the policy is empty"));
    insta::assert_snapshot!(said(&vec![b'#'; 8 * 1024 * 1024 + 1]), @r#"
    error: the policy is larger than 8 MiB
      --> policy.yaml
      = help: use captures instead of one role per node
    "#);
    insta::assert_snapshot!(said(b"version: 1\nroles:\n\t- a\n"), @r#"
    error: tabs disallowed within this context (block indentation)
      --> policy.yaml:3:2
       |
     3 |  - a
       |  ^
      = help: indent with spaces: YAML does not allow tabs
    "#);
    insta::assert_snapshot!(said(b"- version\n"), @r#"
    error: a policy must be a mapping, not a list
      --> policy.yaml:1:1
       |
     1 | - version
       | ^
      = help: its fields are `version`, `mode`, `include`, `roles`, `bindings`
    "#);
    insta::assert_snapshot!(said(b"version: 2\nmode: enforce\n"), @r#"
    error: a policy needs `bindings`
      --> policy.yaml:1:1
       |
     1 | version: 2
       | ^^^^^^^
      = help: without bindings every request is denied

    error: unknown version of the policy language
      --> policy.yaml:1:10
       |
     1 | version: 2
       |          ^
      = help: write `version: 1`
    "#);
    insta::assert_snapshot!(said(b"version: 1\n---\nversion: 1\n"), @r#"
    error: this file must be one YAML document, and a second one begins
      --> policy.yaml:2:1
       |
     2 | ---
       | ^
    "#);
}

#[test]
fn refuses_an_alias_bomb() {
    let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (name, before) in "bcdefg".chars().zip("abcdef".chars()) {
        text.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 10].join(",")));
    }
    let said = mistakes(text).to_string();
    assert!(said.contains("aliases repeat more than 100000 values"), "{said}");
}

#[test]
fn names_errors_of_form() {
    let said = |text: String| mistakes(text).to_string();
    insta::assert_snapshot!(said(with_key("*")), @r#"
    error: while scanning an anchor or alias, did not find expected alphabetic or numeric character
      --> policy.yaml:6:15
       |
     6 |       - keys: *
       |               ^
      = help: text that begins with such a character must be in quotes, as in `keys: "*"`
    "#);
    insta::assert_snapshot!(said(with_key("{node}/x")), @r#"
    error: while parsing a block mapping, did not find expected key
      --> policy.yaml:6:21
       |
     6 |       - keys: {node}/x
       |                     ^
      = help: text that begins with such a character must be in quotes, as in `keys: "*"`
    "#);
    insta::assert_snapshot!(said(with_key("12")), @r#"
    error: a key must be text, not a number
      --> policy.yaml:6:15
       |
     6 |       - keys: 12
       |               ^^
      = help: write it in quotes
    "#);
    insta::assert_snapshot!(said(with_key("[]")), @r#"
    error: `keys` is an empty list
      --> policy.yaml:6:15
       |
     6 |       - keys: []
       |               ^
      = help: an empty list does not mean everything: remove the field, or add an entry
    "#);
    insta::assert_snapshot!(said(with_key("/a\n        keys: /b")), @r#"
    error: `keys` appears twice
      --> policy.yaml:7:9
       |
     7 |         keys: /b
       |         ^^^^
      = help: keep one of them
    "#);
    insta::assert_snapshot!(said(with_role("    descripton: x\n    capabilities: [lease]")), @r#"
    error: a role has no field `descripton`
      --> policy.yaml:5:5
       |
     5 |     descripton: x
       |     ^^^^^^^^^^
      = help: did you mean `description`?
    "#);
    insta::assert_snapshot!(said(with_role("    description: x")), @r#"
    error: role `r` grants nothing
      --> policy.yaml:4:3
       |
     4 |   r:
       |   ^
      = help: write `allow`, `capabilities` or both
    "#);
    insta::assert_snapshot!(said(with_role("    capabilities: lease")), @r#"
    error: `capabilities` must be a list, not text
      --> policy.yaml:5:19
       |
     5 |     capabilities: lease
       |                   ^^^^^
      = help: write `[ENTRY, ...]`, or one `- ENTRY` per line
    "#);
    insta::assert_snapshot!(said(with_role("    allow:\n      - /a/*")), @r#"
    error: an entry of `allow` must be a mapping, not text
      --> policy.yaml:6:9
       |
     6 |       - /a/*
       |         ^^^^
      = help: its fields are `keys`, `verbs`, `why`
    "#);
    insta::assert_snapshot!(said(with_role("    allow: []")), @r#"
    error: `allow` is an empty list
      --> policy.yaml:5:12
       |
     5 |     allow: []
       |            ^
      = help: an empty list does not mean everything: remove the field, or add an entry
    "#);
}

#[test]
fn warns_about_entries_with_no_effect_or_too_much() {
    let said = |body: &str| warnings(&with_role(body)).to_string();
    insta::assert_snapshot!(said("    capabilities: [snapshot]"), @r#"
    warning: role `r` can read every key by `snapshot`
      --> policy.yaml:5:20
       |
     5 |     capabilities: [snapshot]
       |                    ^^^^^^^^
      = help: a snapshot is a copy of the whole database; `deny` does not apply to it
    "#);
    insta::assert_snapshot!(said("    allow:\n      - keys: [/a/b/*, /a/*]\n        verbs: [read]"), @r#"
    warning: this grant is included in another grant of the role
      --> policy.yaml:6:16
       |
     6 |       - keys: [/a/b/*, /a/*]
       |                ^^^^^^
      = help: line 6 already grants it; remove one of the two
    "#);
    insta::assert_snapshot!(said("    allow:\n      - keys: /a/*\n        verbs: [read]\n    deny:\n      - keys: /b\n        verbs: [read]"), @r#"
    warning: role `r` does not allow this, so `deny` has no effect
      --> policy.yaml:9:15
       |
     9 |       - keys: /b
       |               ^^
      = help: `deny` in a role restricts that role only; write it in the binding to restrict all roles of an identity
    "#);
    insta::assert_snapshot!(said("    allow:\n      - keys: \"/n/{node}*\"\n        verbs: [read]"), @r#"
    warning: this also matches every name that begins with the captured one (`n1` and `n10`)
      --> policy.yaml:6:15
       |
     6 |       - keys: "/n/{node}*"
       |               ^^^^^^^^^^^^
      = help: end the name before the `*`: `{name}/*`, or write the exact key
    "#);
    insta::assert_snapshot!(said("    allow:\n      - keys: \"/n/{node|dash-doubled}-*\"\n        verbs: [read]"), @r#"
    warning: `a-` is also a prefix of `a--b`, the doubled name of another node
      --> policy.yaml:6:15
       |
     6 |       - keys: "/n/{node|dash-doubled}-*"
       |               ^^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: write what follows the dash, as in `{node|dash-doubled}-k8s-*`
    "#);
    let unused = with_binding("  - {cn: a, roles: [r]}")
        .replace("bindings:", "  s:\n    capabilities: [lease]\nbindings:");
    insta::assert_snapshot!(warnings(&unused).to_string(), @r#"
    warning: no binding uses role `s`
      --> policy.yaml:6:3
       |
     6 |   s:
       |   ^
    "#);
}

#[test]
fn many_errors_are_truncated_and_counted() {
    let keys = vec![r"'/\q'"; 5000].join(", ");
    let found = mistakes(with_key(&format!("[{keys}]")));
    assert_eq!(found.count(Severity::Error), 201);
    assert!(found.to_string().contains("4800 more errors are not listed"));
}

#[test]
fn many_warnings_hide_no_error() {
    let keys = vec!["'/{node}*'"; 500].join(", ");
    let body = format!("    allow:\n      - keys: [{keys}]\n        verbs: [read]");
    let found = warnings(&with_role(&body));
    assert_eq!((found.count(Severity::Error), found.count(Severity::Warning)), (0, 201));
    let found = mistakes(with_role(&format!("{body}\n      - keys: '{{'\n        verbs: [read]")));
    assert_eq!(found.count(Severity::Error), 1, "{found}");
}

#[test]
fn a_long_line_is_shown_around_the_error() {
    let found =
        mistakes(with_key(&format!("/{}\\q{}", "a".repeat(5000), "b".repeat(5000)))).to_string();
    assert!(found.lines().all(|line| line.chars().count() < 140), "{found}");
    assert!(found.contains(r"aaa\qbbb"), "{found}");
}
