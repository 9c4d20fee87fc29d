//! What is written as bindings, and what they name.

use super::*;

#[test]
fn bindings_that_do_not_say_whom_they_mean_are_refused() {
    let said = |binding: &str| mistakes(with_binding(binding)).to_string();
    insta::assert_snapshot!(said("  - roles: [r]"), @r#"
    error: this binding matches no identity
      --> policy.yaml:7:5
       |
     7 |   - roles: [r]
       |     ^^^^^
      = help: write one of `cn`, `uri`, `dns`, `o`
    "#);
    insta::assert_snapshot!(said("  - {cn: a, o: b, roles: [r]}"), @r#"
    error: a binding has one matcher, and `o` is the second
      --> policy.yaml:7:16
       |
     7 |   - {cn: a, o: b, roles: [r]}
       |                ^
      = help: write a binding for each: rights add up
    "#);
    insta::assert_snapshot!(said("  - {cn: a, roles: [r]}\n  - {cn: a, roles: [r]}"), @r#"
    error: two bindings name the same identities
      --> policy.yaml:8:6
       |
     8 |   - {cn: a, roles: [r]}
       |      ^^
      = help: the first is in line 7; write all roles in one
    "#);
    insta::assert_snapshot!(said("  - {cn: a, roles: [r, r]}"), @r#"
    error: `r` is there twice
      --> policy.yaml:7:24
       |
     7 |   - {cn: a, roles: [r, r]}
       |                        ^
    "#);
    insta::assert_snapshot!(said("  - {cn: a, roles: []}"), @r#"
    error: `roles` is an empty list
      --> policy.yaml:7:20
       |
     7 |   - {cn: a, roles: []}
       |                    ^
      = help: an empty list does not mean everything: remove the field, or add an entry
    "#);
    insta::assert_snapshot!(said("  - {cn: 'a*', roles: [r]}"), @r#"
    error: `*` has no meaning in a name
      --> policy.yaml:7:10
       |
     7 |   - {cn: 'a*', roles: [r]}
       |          ^^^^
      = help: write `{name}` to match and capture a DNS name; a star that is meant as such is `\x2a`
    "#);
    insta::assert_snapshot!(said("  - {cn: '{a}{b}', roles: [r]}"), @r#"
    error: nothing certain separates two captures
      --> policy.yaml:7:10
       |
     7 |   - {cn: '{a}{b}', roles: [r]}
       |          ^^^^^^^^
      = help: put a character between them that no captured value can hold, such as `:` or `/`
    "#);
    insta::assert_snapshot!(said("  - {cn: '{a}.{b}', roles: [r]}"), @r#"
    error: nothing certain separates two captures
      --> policy.yaml:7:10
       |
     7 |   - {cn: '{a}.{b}', roles: [r]}
       |          ^^^^^^^^^
      = help: put a character between them that no captured value can hold, such as `:` or `/`
    "#);
    insta::assert_snapshot!(said("  - {cn: a, roles: [calico-node]}"), @r#"
    error: there is no role `calico-node`
      --> policy.yaml:7:21
       |
     7 |   - {cn: a, roles: [calico-node]}
       |                     ^^^^^^^^^^^
      = help: these role sets have it, `include` one: `calico/v3.31`, `calico/v3.32`
    "#);
    insta::assert_snapshot!(said("  - {cn: a, roles: [r], mode: off}"), @r#"
    error: there is no mode `off`
      --> policy.yaml:7:31
       |
     7 |   - {cn: a, roles: [r], mode: off}
       |                               ^^^
      = help: there are `shadow`, `enforce`
    "#);
    insta::assert_snapshot!(said("  []"), @r#"
    error: `bindings` is an empty list
      --> policy.yaml:7:3
       |
     7 |   []
       |   ^
      = help: an empty list does not mean everything: remove the field, or add an entry
    "#);
}

#[test]
fn a_role_set_that_clashes_with_an_own_role_is_refused() {
    let text = "version: 1\nmode: enforce\ninclude: [etcd-ops, etcd-ops]\nroles:\n  etcd-alarm:\n    capabilities: [alarm]\nbindings:\n  - cn: a\n    roles: [etcd-alarm]\n";
    insta::assert_snapshot!(mistakes(text).to_string(), @r#"
    error: role set `etcd-ops` has a role `etcd-alarm`, and so has line 5
      --> policy.yaml:3:11
       |
     3 | include: [etcd-ops, etcd-ops]
       |           ^^^^^^^^
      = help: give your own role another name, or leave one of the two out

    error: `etcd-ops` is included twice
      --> policy.yaml:3:21
       |
     3 | include: [etcd-ops, etcd-ops]
       |                     ^^^^^^^^
    "#);
}
