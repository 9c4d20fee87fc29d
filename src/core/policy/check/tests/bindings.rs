//! Errors in bindings, and in the names that they refer to.

use super::*;

#[test]
fn refuses_invalid_bindings() {
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
    error: a binding has exactly one matcher; `o` is the second
      --> policy.yaml:7:16
       |
     7 |   - {cn: a, o: b, roles: [r]}
       |                ^
      = help: write one binding for each; their rights add up
    "#);
    insta::assert_snapshot!(said("  - {cn: a, roles: [r]}\n  - {cn: a, roles: [r]}"), @r#"
    error: two bindings match the same identities
      --> policy.yaml:8:6
       |
     8 |   - {cn: a, roles: [r]}
       |      ^^
      = help: the first is in line 7; list all roles in one of them
    "#);
    insta::assert_snapshot!(said("  - {cn: a, roles: [r, r]}"), @r#"
    error: `r` is listed twice
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
      = help: write `{name}` to match and capture a DNS name, or `\x2a` for a literal star
    "#);
    insta::assert_snapshot!(said("  - {cn: '{a}{b}', roles: [r]}"), @r#"
    error: two captures need an unambiguous separator
      --> policy.yaml:7:10
       |
     7 |   - {cn: '{a}{b}', roles: [r]}
       |          ^^^^^^^^
      = help: put a character between them that no captured value can contain, such as `:` or `/`
    "#);
    insta::assert_snapshot!(said("  - {cn: '{a}.{b}', roles: [r]}"), @r#"
    error: two captures need an unambiguous separator
      --> policy.yaml:7:10
       |
     7 |   - {cn: '{a}.{b}', roles: [r]}
       |          ^^^^^^^^^
      = help: put a character between them that no captured value can contain, such as `:` or `/`
    "#);
    insta::assert_snapshot!(said("  - {cn: a, roles: [calico-node]}"), @r#"
    error: there is no role `calico-node`
      --> policy.yaml:7:21
       |
     7 |   - {cn: a, roles: [calico-node]}
       |                     ^^^^^^^^^^^
      = help: these role sets define it; `include` one of them: `calico/v3.31`, `calico/v3.32`
    "#);
    insta::assert_snapshot!(said("  - {cn: a, roles: [r], mode: off}"), @r#"
    error: there is no mode `off`
      --> policy.yaml:7:31
       |
     7 |   - {cn: a, roles: [r], mode: off}
       |                               ^^^
      = help: use one of `shadow`, `enforce`
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
fn refuses_a_role_set_that_redefines_an_own_role() {
    let text = "version: 1\nmode: enforce\ninclude: [etcd-ops, etcd-ops]\nroles:\n  etcd-alarm:\n    capabilities: [alarm]\nbindings:\n  - cn: a\n    roles: [etcd-alarm]\n";
    insta::assert_snapshot!(mistakes(text).to_string(), @r#"
    error: role set `etcd-ops` and line 5 both define role `etcd-alarm`
      --> policy.yaml:3:11
       |
     3 | include: [etcd-ops, etcd-ops]
       |           ^^^^^^^^
      = help: rename your own role, or remove one of the two

    error: `etcd-ops` is included twice
      --> policy.yaml:3:21
       |
     3 | include: [etcd-ops, etcd-ops]
       |                     ^^^^^^^^
    "#);
}
