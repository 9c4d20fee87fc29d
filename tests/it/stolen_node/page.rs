//! `docs/stolen-node.md`, made of what was tried.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::POLICIES;
use super::attempt::ATTEMPTS;

/// How the page is written anew.
pub const HOW: &str = "run `cargo test --test it stolen_node::write -- --ignored`";

const HEAD: &str = "\
# What a stolen node can do

Each line was tried with the two certificates of node `n1`, that of calico/node and that of the CNI plugin, against a cluster of `n1` and `n2`:
**yes** means that it worked with one of them. The first column is etcd with its own auth off, where any certificate of its CA is enough. The
others are the proxy, enforcing a role set. `cargo test --test it stolen_node::` tries all of it and holds this page to it.

What is left in the last column is what no rule on keys can stop:

* **Blocks and handles of addresses** have no node in their key, and every node has to change them: a block may be borrowed from. A thief can
  give addresses out twice or free those in use. Only a rule on values could tell (a block says whose it is in `affinity`).
* **`clusterinformations/default`** is updated by calico/node when the version changes. A thief can set `datastoreReady: false`, which stops new pods until
  somebody sets it back. `deny` on `update` in the binding of the nodes closes that; lift it while Calico is upgraded, and for a cluster's first node.
* **Tiers and `clusterinformations/default`** are made at every start of calico/node where they are missing. From the first start on they are there, and
  only calicoctl's role may delete them.

What nodes share is protected from a change by \"may create, never overwrite\", and so only where it is there. The rows with \"where it is missing\" try the
rest. With the roles of single nodes the default pools, the defaults of Felix and BGP and the configuration of IPAM are made by who holds `calico-first-start`
too: bind it beside them while a cluster starts for the first time, and take it out when `calicoctl get ippools` shows the pools. A thief who
comes before that, or wherever it stays bound, makes what is missing as he likes: a pool of the other IP version, which most clusters never make, included.
With `calico/v3.31`, whose roles are for all nodes alike, that holds always.

Reading is not in the table: a node sees all policies, endpoints and addresses, because Felix needs them.

";

/// `docs/stolen-node.md`.
pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/stolen-node.md")
}

/// The page for these columns.
pub fn written(columns: &[Vec<bool>]) -> String {
    let names: Vec<&str> =
        std::iter::once("etcd alone").chain(POLICIES.iter().map(|policy| policy.name)).collect();
    let mut page =
        format!("{HEAD}| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let mut about = "";
    for (row, attempt) in ATTEMPTS.iter().enumerate() {
        if about != attempt.about {
            about = attempt.about;
            writeln!(page, "| **{about}** |{}", " |".repeat(names.len())).unwrap();
        }
        let cells: Vec<&str> =
            columns.iter().map(|column| if column[row] { "**yes**" } else { "no" }).collect();
        writeln!(page, "| {} | {} |", attempt.what, cells.join(" | ")).unwrap();
    }
    let sums: Vec<String> = columns
        .iter()
        .map(|column| {
            format!("{} of {}", column.iter().filter(|done| **done).count(), column.len())
        })
        .collect();
    writeln!(page, "| **in all** | {} |", sums.join(" | ")).unwrap();
    page
}
