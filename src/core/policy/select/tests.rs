use std::sync::Arc;

use crate::access::{Capability, Verb};
use crate::identity::{Identity, NameRefusal};
use crate::keyspace::{End, KeyRange};
use crate::policy::{BindingStatus, Mode, Policy};

fn policy(text: &str) -> Policy {
    Policy::parse("policy.yaml", text.as_bytes(), 3, None)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn identity(ca: &str, common_name: Result<&str, NameRefusal>) -> Identity {
    Identity {
        ca: ca.into(),
        common_name: common_name.map(Into::into),
        uri_sans: Vec::new(),
        dns_sans: Vec::new(),
        organizations: Vec::new(),
        distinction: None,
        serial: "01".to_owned(),
        issuer: "CN=ca".to_owned(),
        not_after: 0,
    }
}

fn cn(name: &str) -> Identity {
    identity("default", Ok(name))
}

const NODES: &str = r#"
version: 1
mode: shadow
roles:
  node:
    allow:
      - keys: /r/*
        verbs: [read]
      - keys: /r/nodes/{node}
        verbs: [create, update]
      - keys: /r/wep/*/{node|dash-doubled}-k8s-*
        verbs: [write]
    deny:
      - keys: /r/secret/*
        verbs: [rw]
  reader:
    allow:
      - keys: /r/*
        verbs: [read]
    capabilities: [lease]
bindings:
  - cn: "node:{node}"
    roles: [node]
    mode: enforce
  - cn: reader
    roles: [reader]
  - cn: node:extra
    roles: [reader]
  - uri: "spiffe://{domain}/reader"
    ca: mesh
    roles: [reader]
  - o: masters
    roles: [reader]
    deny:
      - keys: /r/nodes/*
        verbs: [read]
  - dns: "{node}.nodes.example.com"
    roles: [node]
"#;

fn may(policy: &Policy, identity: &Identity, verb: Verb, key: &str) -> bool {
    policy.principal(identity).rights.covers(verb, &KeyRange::key(key.as_bytes())).is_ok()
}

#[test]
fn a_node_may_access_only_its_own_keys() {
    let policy = policy(NODES);
    let node = cn("node:ip-10-0-0-1.example.com");
    assert!(may(&policy, &node, Verb::Update, "/r/nodes/ip-10-0-0-1.example.com"));
    assert!(!may(&policy, &node, Verb::Delete, "/r/nodes/ip-10-0-0-1.example.com"));
    assert!(!may(&policy, &node, Verb::Update, "/r/nodes/ip-10-0-0-1.example.com2"));
    assert!(may(
        &policy,
        &node,
        Verb::Create,
        "/r/wep/prod/ip--10--0--0--1.example.com-k8s-web--0-eth0"
    ));
    assert!(!may(
        &policy,
        &node,
        Verb::Create,
        "/r/wep/prod/x/ip--10--0--0--1.example.com-k8s-web"
    ));
    assert!(
        !may(&policy, &cn("node:a"), Verb::Create, "/r/wep/prod/a--b-k8s-web"),
        "the key belongs to node `a-b`, not to node `a`"
    );
    assert!(may(&policy, &cn("node:a-b"), Verb::Create, "/r/wep/prod/a--b-k8s-web"));
}

#[test]
fn covers_a_range_below_a_wildcard_with_fixed_segments() {
    let policy = policy(NODES);
    let rights = policy.principal(&cn("node:a")).rights;
    let prefix = |prefix: &'static [u8], end: &'static [u8]| KeyRange {
        start: prefix,
        end: End::Before(end),
    };
    assert!(
        rights
            .covers(Verb::Delete, &prefix(b"/r/wep/prod/a-k8s-web-", b"/r/wep/prod/a-k8s-web."))
            .is_ok()
    );
    assert!(rights.covers(Verb::Delete, &prefix(b"/r/wep/prod/", b"/r/wep/prod0")).is_err());
    assert!(
        rights.covers(Verb::Delete, &prefix(b"/r/wep/prod/a-k8s-", b"/r/wep/prod/a-k8t")).is_err()
    );
    assert!(
        rights
            .covers(Verb::Delete, &KeyRange { start: b"/r/wep/prod/a-k8s-", end: End::Open })
            .is_err()
    );
}

#[test]
fn a_role_limits_only_itself_and_a_binding_all_its_roles() {
    let policy = policy(NODES);
    assert!(!may(&policy, &cn("node:a"), Verb::Read, "/r/secret/x"));
    assert!(
        may(&policy, &cn("node:extra"), Verb::Read, "/r/secret/x"),
        "another role may grant what a role denies"
    );
    let mut master = cn("node:a");
    master.organizations.push("masters".to_owned());
    assert!(may(&policy, &master, Verb::Read, "/r/secret/x"));
    assert!(
        !may(&policy, &master, Verb::Read, "/r/nodes/a"),
        "no role can grant what a binding denies"
    );
    assert!(may(&policy, &master, Verb::Update, "/r/nodes/a"));
}

#[test]
fn an_identity_with_bindings_in_both_modes_is_enforced() {
    let policy = policy(NODES);
    assert_eq!(policy.principal(&cn("reader")).mode, Mode::Shadow);
    assert_eq!(policy.principal(&cn("node:a")).mode, Mode::Enforce);
    assert_eq!(policy.principal(&cn("node:extra")).mode, Mode::Enforce);
    assert_eq!(policy.principal(&cn("nobody")).mode, Mode::Shadow);
    assert!(policy.has_shadow());
    let break_glass =
        Policy::parse("policy.yaml", NODES.as_bytes(), 1, Some(Mode::Shadow)).unwrap();
    assert_eq!(break_glass.principal(&cn("node:a")).mode, Mode::Shadow);
    let enforced = Policy::parse("policy.yaml", NODES.as_bytes(), 1, Some(Mode::Enforce)).unwrap();
    assert_eq!((enforced.mode(), enforced.has_shadow()), (Mode::Enforce, false));
}

#[test]
fn each_binding_status_is_distinguished() {
    let policy = policy(NODES);
    let status = |identity: &Identity| policy.principal(identity).binding_status;
    assert_eq!(status(&cn("reader")), BindingStatus::Bound);
    assert_eq!(status(&cn("nobody")), BindingStatus::Unbound);
    assert_eq!(status(&cn("node:a/b")), BindingStatus::BadCapture);
    assert_eq!(
        status(&identity("default", Err(NameRefusal::Missing))),
        BindingStatus::Nameless(NameRefusal::Missing)
    );
    let mut other = identity("mesh", Err(NameRefusal::Missing));
    other.uri_sans.push("spiffe://a.example/reader".to_owned());
    assert_eq!(status(&other), BindingStatus::Bound);
    for refusal in [
        NameRefusal::Several,
        NameRefusal::Nul,
        NameRefusal::Empty,
        NameRefusal::Control,
        NameRefusal::NotUtf8,
    ] {
        other.common_name = Err(refusal);
        assert_eq!(
            status(&other),
            BindingStatus::Nameless(refusal),
            "an ambiguous CN makes the other names unusable too"
        );
        assert!(!may(&policy, &other, Verb::Read, "/r/x"));
    }
    let mut bad_but_bound = cn("node:A");
    bad_but_bound.organizations.push("masters".to_owned());
    assert_eq!(status(&bad_but_bound), BindingStatus::Bound);
    assert_eq!(policy.principal(&bad_but_bound).mode, Mode::Shadow);
    assert_eq!(policy.principal(&cn("node:A")).mode, Mode::Enforce);
}

#[test]
fn a_binding_with_a_ca_matches_no_other_ca() {
    let policy = policy(NODES);
    let mut workload = identity("default", Err(NameRefusal::Missing));
    workload.uri_sans.push("spiffe://a.example/reader".to_owned());
    assert_eq!(
        policy.principal(&workload).binding_status,
        BindingStatus::Nameless(NameRefusal::Missing)
    );
    workload.ca = "mesh".into();
    assert_eq!(policy.principal(&workload).binding_status, BindingStatus::Bound);
    assert!(policy.check_cas(&["mesh", "default"]).is_empty());
    let unknown = policy.check_cas(&["default", "mush"]).to_string();
    assert!(
        unknown.contains("no client CA is named `mesh`")
            && unknown.contains("did you mean `mush`?"),
        "{unknown}"
    );
    assert!(unknown.contains("    ca: mesh"), "{unknown}");
}

#[test]
fn a_principal_is_named_after_the_matching_name() {
    let policy = policy(NODES);
    let name = |identity: &Identity| policy.principal(identity).name.to_string();
    assert_eq!(name(&cn("reader")), "default/cn:reader");
    assert_eq!(name(&cn("nobody\u{e9}")), r"default/cn:nobody\xc3\xa9");
    let mut both = identity("mesh", Ok("generic"));
    both.uri_sans.push("spiffe://a.example/reader".to_owned());
    assert_eq!(name(&both), "mesh/uri:spiffe://a.example/reader");
    let mut member = cn("someone");
    member.organizations.push("masters".to_owned());
    assert_eq!(
        name(&member),
        "default/cn+2d590e51c9b16bc9:someone",
        "many identities may share an O, but a lease belongs to one identity"
    );
    member.common_name = Err(NameRefusal::Missing);
    assert_eq!(name(&member), "default/o:masters");
    member.distinction = Some("0123456789abcdef".to_owned());
    assert_eq!(name(&member), "default/o+0123456789abcdef:masters");
    assert_eq!(name(&identity("default", Err(NameRefusal::Nul))), "default/serial:01");
}

/// Leases, quotas and the audit log use the name, and several identities may share an O.
#[test]
fn an_o_is_the_name_only_if_there_is_no_other() {
    let policy = policy(NODES);
    let member = |uri: &[&str], dns: &[&str]| {
        let mut member = identity("default", Err(NameRefusal::Missing));
        member.organizations.push("masters".to_owned());
        member.distinction = Some("0123456789abcdef".to_owned());
        member.uri_sans = uri.iter().map(ToString::to_string).collect();
        member.dns_sans = dns.iter().map(ToString::to_string).collect();
        let principal = policy.principal(&member);
        assert_eq!(principal.binding_status, BindingStatus::Bound);
        principal.name.to_string()
    };
    assert_eq!(
        member(&["spiffe://c/a"], &["a.example"]),
        "default/uri+2d590e51c9b16bc9:spiffe://c/a"
    );
    assert_eq!(member(&["spiffe://c/b"], &[]), "default/uri+2d590e51c9b16bc9:spiffe://c/b");
    assert_eq!(member(&[], &["a.example"]), "default/dns+2d590e51c9b16bc9:a.example");
}

#[test]
fn two_matches_with_different_captures_add_up() {
    let policy = policy(NODES);
    let mut node = cn("node:a");
    node.dns_sans.push("b.nodes.example.com".to_owned());
    assert!(may(&policy, &node, Verb::Update, "/r/nodes/a"));
    assert!(may(&policy, &node, Verb::Update, "/r/nodes/b"));
    assert!(!may(&policy, &node, Verb::Update, "/r/nodes/c"));
    assert_eq!(
        policy.principal(&node).roles.iter().map(|role| &**role).collect::<Vec<_>>(),
        ["node"]
    );
}

#[test]
fn identities_with_equal_rights_share_them() {
    let policy = policy(NODES);
    let one = policy.principal(&cn("reader")).rights;
    let mut workload = identity("mesh", Ok("x"));
    workload.uri_sans.push("spiffe://a.example/reader".to_owned());
    assert!(
        Arc::ptr_eq(&one, &policy.principal(&workload).rights),
        "captures that no role uses make no difference"
    );
    assert!(Arc::ptr_eq(
        &policy.principal(&cn("node:a")).rights,
        &policy.principal(&cn("node:a")).rights
    ));
    assert!(!Arc::ptr_eq(
        &policy.principal(&cn("node:a")).rights,
        &policy.principal(&cn("node:b")).rights
    ));
}

#[test]
fn a_decision_names_the_grant_and_its_source() {
    let policy = policy(NODES);
    let rights = policy.principal(&cn("node:a")).rights;
    let grant =
        policy.grant(rights.covers(Verb::Update, &KeyRange::key(b"/r/nodes/a")).unwrap()).unwrap();
    assert_eq!(
        (&*grant.role, &*grant.text, &*grant.source),
        ("node", "/r/nodes/{node}", "policy.yaml:9")
    );
    assert_eq!(
        policy.role_names().get(grant.role_index as usize).map(|role| &**role),
        Some("node")
    );
    let lease = policy.principal(&cn("reader")).rights.capability(Capability::Lease).unwrap();
    assert_eq!(&*policy.grant(lease).unwrap().text, "capability lease");
    assert_eq!(rights.capability(Capability::Lease), None);
}

#[test]
fn many_grants_and_many_bindings_compile() {
    let mut text = String::from("version: 1\nmode: enforce\nroles:\n  many:\n    allow:\n");
    for n in 0..10_000 {
        text.push_str(&format!("      - {{keys: /k/{n:05}/*, verbs: [rw]}}\n"));
    }
    text.push_str("bindings:\n");
    for n in 0..10_000 {
        text.push_str(&format!("  - {{cn: user-{n}, roles: [many]}}\n"));
    }
    let policy = policy(&text);
    assert!(may(&policy, &cn("user-9999"), Verb::Delete, "/k/09999/x"));
    assert!(!may(&policy, &cn("user-9999"), Verb::Delete, "/k/10000/x"));
    assert!(Arc::ptr_eq(
        &policy.principal(&cn("user-1")).rights,
        &policy.principal(&cn("user-2")).rights
    ));
}

/// The views for commands that explain a policy.
#[test]
fn a_policy_lists_grants_bindings_and_captures() {
    let policy = policy(NODES);
    let grants: Vec<String> = policy.grants().iter().map(ToString::to_string).collect();
    assert_eq!(grants.first().unwrap(), "node: /r/* [read] (policy.yaml:7)");
    assert!(grants.contains(&"reader: capability lease (policy.yaml:20)".to_owned()), "{grants:?}");
    let bindings: Vec<_> = policy
        .bindings()
        .map(|binding| (binding.index, binding.field, binding.pattern, binding.ca, binding.mode))
        .collect();
    assert_eq!(bindings[0], (0, "cn", "node:{node}", None, Mode::Enforce));
    assert_eq!(bindings[3], (3, "uri", "spiffe://{domain}/reader", Some("mesh"), Mode::Shadow));
    assert_eq!(policy.capture_names(0), ["node".into()]);
    assert_eq!(policy.capture_names(1), []);
    let captures = policy.captures_for(0, b"/r/nodes/a");
    assert_eq!(captures, [vec![], vec![("node".into(), "a".into())]]);
    assert_eq!(policy.captures_for(4, b"/r/nodes/a"), [vec![]]);
    assert!(policy.captures_for(0, b"/elsewhere").is_empty());
    assert!(policy.captures_for(99, b"/r/nodes/a").is_empty());
}

#[test]
fn an_override_replaces_every_mode() {
    let shadowed = policy(NODES);
    assert_eq!((shadowed.mode_override(), shadowed.has_shadow()), (None, true));
    assert!(
        !shadowed.has_shadow_under(Some(Mode::Enforce))
            && shadowed.has_shadow_under(Some(Mode::Shadow))
    );
    let enforced = shadowed.in_mode(4, Some(Mode::Enforce));
    assert_eq!(
        (enforced.mode_override(), enforced.has_shadow(), enforced.generation),
        (Some(Mode::Enforce), false, 4)
    );
    assert!(enforced.bindings().all(|binding| binding.mode == Mode::Enforce));
    // One binding in shadow mode is enough for `has_shadow`.
    let one = NODES.replace("mode: shadow", "mode: enforce");
    assert!(!policy(&one).has_shadow());
    assert!(policy(&one.replace("    mode: enforce", "    mode: shadow")).has_shadow());
}

/// The four subsets of two names.
fn subsets(names: [&'static str; 2]) -> impl Iterator<Item = Vec<String>> {
    (0..4).map(move |bits| {
        (0..2).filter(|at| bits >> at & 1 == 1).map(|at| names[at].to_owned()).collect()
    })
}

/// Leases and quotas use the name, so identities with the same name must have the same rights.
#[test]
fn the_same_name_means_the_same_rights() {
    let policy = policy(
        r#"
version: 1
mode: enforce
roles:
  all: {allow: [{keys: /all/*, verbs: [read]}]}
  team: {allow: [{keys: "/{team}/*", verbs: [rw]}]}
bindings:
  - {uri: "spiffe://td/all", roles: [all]}
  - {uri: "spiffe://td/team/{team}", roles: [team]}
  - {cn: "member-{team}", roles: [team]}
  - {dns: "{team}.example", roles: [team]}
  - {o: "{team}", roles: [team]}
  - {o: b, roles: [all]}
"#,
    );
    let mut known = std::collections::HashMap::new();
    let mut count = 0;
    for common_name in [Err(NameRefusal::Missing), Ok("client"), Ok("member-a"), Ok("member-b")] {
        for uri_sans in subsets(["spiffe://td/all", "spiffe://td/team/a"])
            .chain(subsets(["spiffe://td/all", "spiffe://td/team/b"]))
        {
            for dns_sans in
                subsets(["localhost", "a.example"]).chain(subsets(["localhost", "b.example"]))
            {
                for organizations in subsets(["a", "b"]) {
                    let mut one = identity("default", common_name);
                    one.uri_sans = uri_sans.clone();
                    one.dns_sans = dns_sans.clone();
                    one.organizations = organizations;
                    // Unique, as in `Identity::from_certificate`, which computes it from all names.
                    one.distinction = Some(format!("{count:016x}"));
                    let rights = format!("{:?}", policy.entitlements(&one));
                    let name = policy.principal(&one).name;
                    assert_eq!(
                        known.entry(name.clone()).or_insert_with(|| rights.clone()),
                        &rights,
                        "{name}: {one:?}"
                    );
                    count += 1;
                }
            }
        }
    }
    assert!(known.len() > 100, "{}", known.len());
}
