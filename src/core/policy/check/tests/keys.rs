//! What is written as keys.

use super::*;

#[test]
fn keys_that_have_no_certain_meaning_are_refused() {
    let said = |key: &str| mistakes(with_key(key)).to_string();
    insta::assert_snapshot!(said(r"/a\q"), @r#"
    error: `\q` is no escape
      --> policy.yaml:6:17
       |
     6 |       - keys: /a\q
       |                 ^
      = help: a byte is `\xNN` with two hexadecimal digits, a backslash is `\\`
    "#);
    insta::assert_snapshot!(said(r"/a\x4"), @r#"
    error: `\x4` is no escape
      --> policy.yaml:6:17
       |
     6 |       - keys: /a\x4
       |                 ^
      = help: a byte is `\xNN` with two hexadecimal digits, a backslash is `\\`
    "#);
    insta::assert_snapshot!(said("/a/b*/c"), @r#"
    error: `*` stands for a part of a path segment
      --> policy.yaml:6:19
       |
     6 |       - keys: /a/b*/c
       |                   ^
      = help: inside a key, `*` is one whole path segment: `/*/`; a star that is meant as such is `\x2a`
    "#);
    insta::assert_snapshot!(said("'**'"), @r#"
    error: `*` stands for a part of a path segment
      --> policy.yaml:6:15
       |
     6 |       - keys: '**'
       |               ^^^^
      = help: inside a key, `*` is one whole path segment: `/*/`; a star that is meant as such is `\x2a`
    "#);
    insta::assert_snapshot!(said("/a/{node"), @r#"
    error: `{` without `}`
      --> policy.yaml:6:18
       |
     6 |       - keys: /a/{node
       |                  ^
      = help: a brace that is meant as such is `\x7b`
    "#);
    insta::assert_snapshot!(said("/a/{Node}"), @r#"
    error: `{Node}` is no capture
      --> policy.yaml:6:18
       |
     6 |       - keys: /a/{Node}
       |                  ^
      = help: a capture is `{name}` with lower-case letters, digits and `_`; braces that are meant as such are `\x7b` and `\x7d`
    "#);
    insta::assert_snapshot!(said("/a/{node|upper}"), @r#"
    error: `upper` is no way to write a captured value
      --> policy.yaml:6:18
       |
     6 |       - keys: /a/{node|upper}
       |                  ^
      = help: the one that there is: `{name|dash-doubled}`
    "#);
    insta::assert_snapshot!(said("/a/{host}"), @r#"
    error: role `r` needs `{host}`, which `x:{node}` does not capture
      --> policy.yaml:10:13
        |
     10 |     roles: [r]
        |             ^
      = help: write it into the binding, as in `cn: "r:{host}"`
    "#);
    insta::assert_snapshot!(said("''"), @r#"
    error: a key cannot be empty
      --> policy.yaml:6:15
       |
     6 |       - keys: ''
       |               ^^
      = help: `*` alone is every key
    "#);
    insta::assert_snapshot!(said("{from: /b, to: /a}"), @r#"
    error: no key is in this range
      --> policy.yaml:6:22
       |
     6 |       - keys: {from: /b, to: /a}
       |                      ^^
      = help: `to` is the first key behind the range, so it is greater than `from`
    "#);
    insta::assert_snapshot!(said("{from: /b*}"), @r#"
    error: the end of a range is one exact key
      --> policy.yaml:6:22
       |
     6 |       - keys: {from: /b*}
       |                      ^^^
      = help: no captures here; a star that is meant as such is `\x2a`
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
