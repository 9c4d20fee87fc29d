use etcd_warden_core::policy::{BindingStatus, Policy};

use super::*;
use crate::certs::component::find;

fn naming() -> Naming {
    Naming {
        common_name: Format::parse("--cn-format", "{component}:{node}").unwrap(),
        uri: None,
        long_uri: Format::parse("--uri-format", "spiffe://cluster.local/{component}/{node}")
            .unwrap(),
        organizations: Vec::new(),
        sans: Vec::new(),
    }
}

fn of(component: &str, node: Option<&str>) -> Holder {
    Holder { component: find(component).unwrap(), node: node.map(str::to_owned) }
}

#[test]
fn names_are_the_documented_ones() {
    let name = |holder: &Holder| naming().of(holder).unwrap().name().to_owned();
    assert_eq!(name(&of("calico-node", Some("n1"))), "calico-node:n1");
    assert_eq!(name(&of("cni", Some("n1.example.org"))), "cni:n1.example.org");
    assert_eq!(name(&of("calico-kube-controllers", None)), "calico-kube-controllers");
    assert_eq!(name(&of("cni", None)), "calico-cni");
}

#[test]
fn a_name_above_64_characters_becomes_a_uri() {
    let node = |length| "n".repeat(length);
    let fits = naming().of(&of("calico-node", Some(&node(52)))).unwrap();
    assert_eq!((fits.common_name.unwrap().len(), fits.uri), (64, None));
    let long = naming().of(&of("calico-node", Some(&node(53)))).unwrap();
    assert_eq!(long.common_name, None);
    assert_eq!(long.uri, Some(format!("spiffe://cluster.local/calico-node/{}", node(53))));
    assert_eq!(long.der(), [0x30, 0], "the component alone would be the name that all nodes share");
    assert!(long.alternative_names().unwrap().critical);
}

#[test]
fn a_requested_uri_is_added_to_the_common_name() {
    let mut naming = naming();
    naming.uri =
        Some(Format::parse("--uri-format", "spiffe://a.example/{component}/{node}").unwrap());
    let subject = naming.of(&of("cni", Some("n1"))).unwrap();
    assert_eq!(
        (subject.common_name.as_deref(), subject.uri.as_deref()),
        (Some("cni:n1"), Some("spiffe://a.example/cni/n1"))
    );
    assert!(!subject.alternative_names().unwrap().critical);
}

#[test]
fn names_that_certificates_may_not_have_are_refused() {
    for text in ["", "{node", "{pod}", "a\nb", "é:{node}", "}{"] {
        assert!(Format::parse("--cn-format", text).is_err(), "{text:?}");
    }
    for text in ["dns", "mail:a@b", "ip:", "dns:"] {
        assert!(San::parse(text).is_err(), "{text:?}");
    }
    let refused = |san: &str| {
        let naming = Naming { sans: vec![San::parse(san).unwrap()], ..naming() };
        naming.of(&of("cni", Some("n1"))).is_err()
    };
    for san in [
        "dns:a b",
        "ip:10.0.0.256",
        "ip:n1",
        "uri:n1",
        "uri:http://a b/",
        "uri:http://-/",
        "uri:1:x",
        "uri:x:",
    ] {
        assert!(refused(san), "{san}");
    }
    for san in [
        "dns:{node}.example.org",
        "ip:10.0.0.1",
        "ip:fd00::1",
        "uri:spiffe://a.b/{component}/{node}",
        "uri:urn:x:{node}",
    ] {
        assert!(!refused(san), "{san}");
    }
    let naming = Naming { organizations: vec!["a\nb".into()], ..naming() };
    assert!(naming.of(&of("cni", Some("n1"))).is_err());
}

/// The bindings that `issue` prints match its certificates, for every name of a node.
#[test]
fn each_name_matches_its_binding() {
    let text = "version: 1\nmode: enforce\ninclude: [calico/v3.31, calico/v3.31-per-node]\nbindings:\n\
                \x20 - { cn: \"calico-node:{node}\", roles: [calico-node-per-node] }\n\
                \x20 - { uri: \"spiffe://cluster.local/calico-node/{node}\", roles: [calico-node-per-node] }\n\
                \x20 - { cn: calico-node, roles: [calico-node] }\n";
    let policy = Policy::parse("policy.yaml", text.as_bytes(), 1, None).unwrap();
    let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    assert_eq!(longest.len(), 253);
    for node in [
        "n",
        "1",
        "10",
        "n1.example.org",
        "a--b",
        "calico-node",
        "calico-node.n",
        "k8s",
        &"x".repeat(63),
        &longest,
    ] {
        let subject = naming().of(&of("calico-node", Some(node))).unwrap();
        let mut identity = etcd_warden_core::identity::Identity::named(
            subject.common_name.as_deref().unwrap_or_default(),
        );
        if subject.common_name.is_none() {
            identity.common_name = Err(etcd_warden_core::identity::NameRefusal::Missing);
        }
        identity.uri_sans = subject.uri.into_iter().collect();
        assert_eq!(policy.principal(&identity).binding_status, BindingStatus::Bound, "{node}");
        let summaries = policy.readings(&identity);
        assert_eq!(summaries.len(), 1, "{node}");
        assert_eq!(summaries[0].1, [("node".into(), node.into())], "{node}");
    }
}
