//! Errors in keys.

use super::*;

#[test]
fn refuses_invalid_keys() {
    let said = |key: &str| mistakes(with_key(key)).to_string();
    insta::assert_snapshot!(said(r"/a\q"), @r#"
    error: `\q` is not a valid escape
      --> policy.yaml:6:17
       |
     6 |       - keys: /a\q
       |                 ^
      = help: write a byte as `\xNN` with two hexadecimal digits, a backslash as `\\`
    "#);
    insta::assert_snapshot!(said(r"/a\x4"), @r#"
    error: `\x4` is not a valid escape
      --> policy.yaml:6:17
       |
     6 |       - keys: /a\x4
       |                 ^
      = help: write a byte as `\xNN` with two hexadecimal digits, a backslash as `\\`
    "#);
    insta::assert_snapshot!(said("/a/b*/c"), @r#"
    error: `*` cannot match part of a path segment
      --> policy.yaml:6:19
       |
     6 |       - keys: /a/b*/c
       |                   ^
      = help: inside a key, `*` is one whole path segment: `/*/`; write `\x2a` for a literal star
    "#);
    insta::assert_snapshot!(said("'**'"), @r#"
    error: `*` cannot match part of a path segment
      --> policy.yaml:6:15
       |
     6 |       - keys: '**'
       |               ^^^^
      = help: inside a key, `*` is one whole path segment: `/*/`; write `\x2a` for a literal star
    "#);
    insta::assert_snapshot!(said("/a/{node"), @r#"
    error: `{` without `}`
      --> policy.yaml:6:18
       |
     6 |       - keys: /a/{node
       |                  ^
      = help: write `\x7b` for a literal brace
    "#);
    insta::assert_snapshot!(said("/a/{Node}"), @r#"
    error: `{Node}` is not a valid capture
      --> policy.yaml:6:18
       |
     6 |       - keys: /a/{Node}
       |                  ^
      = help: a capture is `{name}` with lower-case letters, digits and `_`; write `\x7b` and `\x7d` for literal braces
    "#);
    insta::assert_snapshot!(said("/a/{node|upper}"), @r#"
    error: there is no filter `upper`
      --> policy.yaml:6:18
       |
     6 |       - keys: /a/{node|upper}
       |                  ^
      = help: the only filter is `{name|dash-doubled}`
    "#);
    insta::assert_snapshot!(said("/a/{host}"), @r#"
    error: role `r` needs `{host}`, which `x:{node}` does not capture
      --> policy.yaml:10:13
        |
     10 |     roles: [r]
        |             ^
      = help: capture it in the binding, as in `cn: "r:{host}"`
    "#);
    insta::assert_snapshot!(said("''"), @r#"
    error: a key cannot be empty
      --> policy.yaml:6:15
       |
     6 |       - keys: ''
       |               ^^
      = help: write `*` for every key
    "#);
    insta::assert_snapshot!(said("{from: /b, to: /a}"), @r#"
    error: this range contains no key
      --> policy.yaml:6:22
       |
     6 |       - keys: {from: /b, to: /a}
       |                      ^^
      = help: `to` is exclusive and must be greater than `from`
    "#);
    insta::assert_snapshot!(said("{from: /b*}"), @r#"
    error: a bound of a range must be an exact key
      --> policy.yaml:6:22
       |
     6 |       - keys: {from: /b*}
       |                      ^^^
      = help: captures and `*` are not allowed here; write `\x2a` for a literal star
    "#);
    insta::assert_snapshot!(said("{to: /b}"), @r#"
    error: a range of keys needs `from`
      --> policy.yaml:6:16
       |
     6 |       - keys: {to: /b}
       |                ^^
      = help: write `{from: FIRST, to: END}` (without END itself), or `{from: FIRST}`
    "#);
}
