//! Generates `docs/stolen-node.md` from the results.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::POLICIES;
use super::attempt::ATTEMPTS;

/// How to regenerate the page.
pub const HOW: &str = "run `cargo test --test it stolen_node::write -- --ignored`";

const HEAD: &str = "\
# What a stolen node can do

This page is generated. Each attempt was made with the two certificates of node `n1`, that of calico/node and that of the CNI plugin, against a cluster
of `n1` and `n2`. **yes** means that it succeeded with one of them. The first column is etcd with its own auth off, where any certificate of its CA is
enough. The other columns are the proxy enforcing a role set. `cargo test --test it stolen_node::` makes all attempts and compares this page with them.

Rules on keys cannot stop the attempts that succeed in the last column:

* **Blocks and handles of addresses** have no node in their key, and every node must be able to change them, because it may borrow from a block of
  another node. An attacker can assign addresses twice or release those in use. Only a rule on values could prevent it (`affinity` in a block names its
  owner).
* **`clusterinformations/default`** is updated by calico/node when the version changes. An attacker can set `datastoreReady: false`, which prevents new
  pods until an operator sets it back. A `deny` on `update` in the binding of the nodes prevents it. Remove that `deny` while Calico is upgraded, and for
  the first node of a cluster.
* **Tiers and `clusterinformations/default`** are created by each start of calico/node where they are missing. After the first start they exist, and only
  calicoctl's role may delete them.

Objects that nodes share are protected by \"may create, never overwrite\", so the protection begins when they exist. The rows with \"where it is missing\"
try the other case. With the per-node roles, only a holder of `calico-first-start` creates the default pools, the defaults of Felix and BGP, and the
configuration of IPAM. Bind that role too while a cluster starts for the first time, and remove it when `calicoctl get ippools` shows the pools. An
attacker who acts before that, or wherever the role stays bound, can create missing objects at will, including a pool of the other IP version, which most
clusters never have. With `calico/v3.31`, whose roles are the same for all nodes, this is always possible.

Reading is not in the table: a node can read all policies, endpoints and addresses, because Felix needs them.

";

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
    writeln!(page, "| **total** | {} |", sums.join(" | ")).unwrap();
    page
}
