//! What an attacker with one node's certificates can do: each attempt is made with etcd alone and
//! with each role set, and the results are in `docs/stolen-node.md`.

mod attempt;
mod page;

use etcd_client::Client;
use etcd_warden_testbed::etcd::Options;

use crate::world::{World, authorities, connect, root, start_etcd};
use attempt::{ATTEMPTS, seed};

/// The same two certificates, bound to the roles of one set.
struct Policy {
    name: &'static str,
    include: &'static str,
    roles: [&'static str; 2],
}

const POLICIES: [Policy; 3] = [
    Policy {
        name: "`calico/documented`",
        include: "calico/documented",
        roles: ["calico-node", "calico-cni"],
    },
    Policy {
        name: "`calico/v3.31`",
        include: "calico/v3.31",
        roles: ["calico-node", "calico-cni"],
    },
    Policy {
        name: "`calico/v3.31-per-node`",
        include: "calico/v3.31-per-node",
        roles: ["calico-node-per-node", "calico-cni-per-node"],
    },
];

/// One column: the attempts that succeed with any of these clients.
async fn column(mut attackers: Vec<Client>, mut root: Client) -> Vec<bool> {
    let mut succeeded = Vec::new();
    for attempt in ATTEMPTS {
        let mut any = false;
        for attacker in &mut attackers {
            seed(&mut root).await;
            attempt.prepare(&mut root).await;
            any |= attempt.succeeds(attacker).await;
            attempt.undo(&mut root).await;
        }
        succeeded.push(any);
    }
    succeeded
}

/// The columns, etcd alone first.
async fn columns() -> Vec<Vec<bool>> {
    let etcd = start_etcd(Options::default()).await;
    // etcd trusts the CA of Calico's certificates, as it must without a proxy.
    let attacker = authorities().upstream.client("calico-node:n1").unwrap();
    let direct = connect(&etcd.endpoints(), &authorities().upstream, &attacker).await;
    let mut columns = vec![
        column(vec![direct], connect(&etcd.endpoints(), &authorities().upstream, root()).await)
            .await,
    ];
    for Policy { include, roles: [node, cni], .. } in &POLICIES {
        let policy = format!(
            "version: 1\nmode: enforce\ninclude: [{include}]\nbindings:\n\
             \x20 - {{ cn: \"calico-node:{{node}}\", roles: [{node}] }}\n  - {{ cn: \"cni:{{node}}\", roles: [{cni}] }}\n"
        );
        let world = World::with(&policy).own_etcd().start().await;
        let attackers = vec![world.as_("calico-node:n1").await, world.as_("cni:n1").await];
        columns.push(column(attackers, world.direct().await).await);
    }
    columns
}

#[tokio::test]
async fn the_page_says_what_a_stolen_node_can_do() {
    let columns = columns().await;
    let [alone, documented, all_nodes, per_node] = &columns[..] else {
        panic!("{} columns", columns.len())
    };
    assert!(
        alone.iter().all(|succeeded| *succeeded),
        "every attempt must work without a proxy: {alone:?}"
    );
    for ((attempt, wide), narrow) in ATTEMPTS.iter().zip(all_nodes).zip(per_node) {
        assert!(
            wide | !narrow,
            "{}: a per-node role allows more than the shared role",
            attempt.what
        );
        assert_eq!(*narrow, attempt.no_key_rule_can_stop, "{}", attempt.what);
    }
    assert!(
        documented.iter().filter(|succeeded| **succeeded).count()
            > per_node.iter().filter(|succeeded| **succeeded).count()
    );
    let page = page::written(&columns);
    assert_eq!(
        std::fs::read_to_string(page::path()).unwrap_or_default(),
        page,
        "the page is out of date: {}",
        page::HOW
    );
}

#[tokio::test]
#[ignore = "writes docs/stolen-node.md"]
async fn write() {
    let page = page::written(&columns().await);
    std::fs::write(page::path(), &page).unwrap();
    assert_eq!(std::fs::read_to_string(page::path()).unwrap(), page);
}
