use proptest::prelude::*;

use super::*;
use crate::access::Verb;
use crate::identity::Identity;
use crate::keyspace::KeyRange;
use crate::policy::Policy;

fn permission(read: bool, write: bool, key: &[u8], range_end: &[u8]) -> Permission {
    Permission { read, write, key: key.to_vec(), range_end: range_end.to_vec() }
}

fn user(name: &str, roles: &[&str]) -> EtcdUser {
    EtcdUser { name: name.to_owned(), roles: roles.iter().map(|role| (*role).to_owned()).collect() }
}

fn policy(text: &str) -> Policy {
    Policy::parse("imported.yaml", text.as_bytes(), 1, None)
        .unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

#[test]
fn writes_readable_roles_and_bindings() {
    let felix = EtcdRole {
        name: "felix".to_owned(),
        permissions: vec![
            permission(true, true, b"/calico/felix/v1/", b"/calico/felix/v10"),
            permission(true, false, b"/calico/", b"/calico0"),
            permission(false, true, b"/calico/a", b""),
            permission(true, false, b"/m", b"/p"),
            permission(true, false, b"/z", b"\0"),
        ],
    };
    // The role root exists even if etcd does not list it.
    let imported = import(
        &[felix],
        &[user("calico-node", &["felix"]), user("root", &["root"]), user("nobody", &[])],
    );
    insta::assert_snapshot!(imported.text.replace(&Capability::ALL.iter().map(|capability| capability.name()).collect::<Vec<_>>().join(", "), "ALL"), @r##"
    # etcd's own users and roles, converted by `etcd-warden policy import`.
    version: 1
    mode: enforce
    roles:
      every-etcd-user:
        description: the rights that etcd gives every user
        capabilities: [lease, member-list, status]
      felix:
        allow:
          - { keys: "/calico/felix/v1/*", verbs: [rw] }
          - { keys: "/calico/*", verbs: [read] }
          - { keys: "/calico/a", verbs: [write] }
          - { keys: { from: "/m", to: "/p" }, verbs: [read] }
          - { keys: { from: "/z" }, verbs: [read] }
      root:
        allow:
          - { keys: "*", verbs: [rw] }
        capabilities: [ALL]
    bindings:
      - { cn: "calico-node", roles: [felix, every-etcd-user] }
      - { cn: "root", roles: [root, every-etcd-user] }
      - { cn: "nobody", roles: [every-etcd-user] }
    "##);
    assert!(imported.notes.is_empty(), "{:?}", imported.notes);
    policy(&imported.text);
}

#[test]
fn notes_what_the_policy_cannot_express() {
    let all = |name: &str| EtcdRole {
        name: name.to_owned(),
        permissions: vec![permission(true, true, b"\0", b"\0")],
    };
    let nothing = EtcdRole {
        name: "nothing".to_owned(),
        permissions: vec![permission(true, true, b"b", b"a")],
    };
    let imported = import(
        &[all("a b"), all("a_b"), all(""), all(EVERY_USER), nothing],
        &[user("x", &["a b", "a_b", "", "nothing", "gone"])],
    );
    assert!(imported.text.contains("roles: [a_b, a_b_, _, every-etcd-user]"), "{}", imported.text);
    assert_eq!(imported.notes.len(), 6, "{:?}", imported.notes);
    policy(&imported.text);
    assert_eq!(import(&[], &[]).notes.len(), 1);
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![
            Just(0_u8),
            Just(b'a'),
            Just(b'b'),
            Just(b'*'),
            Just(b'{'),
            Just(b'"'),
            Just(b'\\'),
            Just(0xff)
        ],
        0..4,
    )
}

proptest! {
    /// The policy allows to read or write a key if and only if some permission in etcd includes it.
    #[test]
    fn the_policy_grants_what_etcd_grants(
        permissions in prop::collection::vec(
            (any::<[bool; 2]>(), bytes(), prop_oneof![Just(vec![]), Just(vec![0]), bytes()]),
            1..5,
        ),
        name in "[a*{}\\\\\"': é]{1,6}",
        keys in prop::collection::vec(bytes(), 1..20),
    ) {
        let permissions: Vec<_> = permissions
            .into_iter()
            .map(|([read, write], key, end)| permission(read, write, &key, &end))
            .collect();
        let role = EtcdRole { name: "r".to_owned(), permissions: permissions.clone() };
        let imported = import(&[role], &[user(&name, &["r"])]);
        let principal = policy(&imported.text).principal(&Identity::named(&name));
        prop_assert!(!principal.roles.is_empty());
        for key in keys.iter().filter(|key| !key.is_empty()) {
            let holds = |permission: &Permission| match permission.range_end.as_slice() {
                [] => permission.key == *key,
                [0] => permission.key <= *key,
                end => permission.key <= *key && key.as_slice() < end,
            };
            let read = permissions.iter().any(|permission| permission.read && holds(permission));
            let write = permissions.iter().any(|permission| permission.write && holds(permission));
            for (verb, expected) in [
                (Verb::Read, read),
                (Verb::Create, write),
                (Verb::Update, write),
                (Verb::Delete, write),
            ] {
                prop_assert_eq!(
                    principal.rights.covers(verb, &KeyRange::key(key)).is_ok(),
                    expected,
                    "{} {:?} of {:?}",
                    verb,
                    key,
                    permissions
                );
            }
        }
    }
}
