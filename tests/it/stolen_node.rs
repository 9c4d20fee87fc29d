//! What the holder of one node's certificates can do: tried one by one, with etcd alone and with
//! each role set, and written down in `docs/stolen-node.md`.

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

/// One column: which attempts succeed for who holds these clients, by either of them.
async fn column(mut thieves: Vec<Client>, mut root: Client) -> Vec<bool> {
    let mut succeeded = Vec::new();
    for attempt in ATTEMPTS {
        let mut any = false;
        for thief in &mut thieves {
            seed(&mut root).await;
            attempt.prepare(&mut root).await;
            any |= attempt.succeeds(thief).await;
            attempt.undo(&mut root).await;
        }
        succeeded.push(any);
    }
    succeeded
}

/// The columns, etcd alone first.
async fn columns() -> Vec<Vec<bool>> {
    let etcd = start_etcd(Options::default()).await;
    // etcd trusts the CA of Calico's certificates, as without a proxy it must.
    let thief = authorities().upstream.client("calico-node:n1").unwrap();
    let direct = connect(&etcd.endpoints(), &authorities().upstream, &thief).await;
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
        let thieves = vec![world.as_("calico-node:n1").await, world.as_("cni:n1").await];
        columns.push(column(thieves, world.direct().await).await);
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
        "what does not even work without a proxy is no attempt: {alone:?}"
    );
    for ((attempt, wide), narrow) in ATTEMPTS.iter().zip(all_nodes).zip(per_node) {
        assert!(
            wide | !narrow,
            "{}: the role of one node gives more than that of all",
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
        "the page is old: {}",
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
