//! Generates `tests/wire/README.md` from the measurements.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::fixture::Outcome;
use super::form::{Expected, Form, folder};

/// One release.
pub struct Column {
    pub version: String,
    /// Its outcomes with its own auth on.
    pub direct: Vec<Outcome>,
    /// Its outcomes behind the proxy.
    pub through: Vec<Outcome>,
}

/// How to regenerate the page.
pub const HOW: &str = "run `cargo test --test it wire_forms::write -- --ignored`";

const HEAD: &str = "\
# Hostile encodings

This page is generated. Each `.form` is one message: a description, the method, the expected outcome at the proxy, and the bytes, hexadecimal or in
quotes. Its sender may do everything with keys below `g/` and nothing with others. The store has `g/a`, `g/b` and `g/l` (with lease 1), and another
client's `s/a` and `s/l` (with lease 2). The columns of etcd show that release with **its own auth on**. The last column is the proxy in front of that
release with auth off, with the same user and the same rights. `refused` is INVALID_ARGUMENT with this message, and no byte is forwarded. `passes` means
that there is one reading: the policy decides, and etcd does the same as in its own column.

`cargo test --test it wire_forms::` measures all of this and compares the table.
`cargo test --test it wire_forms::write -- --ignored` writes it.

";

const FOUND: &str = "
## Real clients

`clients/` holds messages of real clients, recorded in front of a real etcd: method and message, the smallest of each shape (its sequence of fields).
`tests/it/wire_clients.rs` reads all of them: none is refused for its form. `tests/it/wire_clients/record.rs` records them again.

## Findings

* **etcd 3.5 and 3.6 return all later keys to a client that may read one key** (`range-end-empty`, `range-end-set-then-empty`,
  `txn-range-end-empty`; `compare-range-end-empty` reveals them bit by bit). The permission check takes a `range_end` that is present without bytes for a
  single key (`server/auth/range_perm_cache.go` looks at the length). The read takes it for \"to the end of the keyspace\" (in `server/storage/mvcc` only an
  absent one is the single key). Two bytes are enough, `12 00`, after a Range that is allowed. Requests that go through raft (a write, a Txn that is not
  read-only, a nested Txn) are encoded again on their way and lose these bytes, so DeleteRange and nested Txns are safe. The protobuf library of 3.7
  decodes both alike. The proxy refuses the form in every release.
* **Releases read a message differently**: 3.7 merges `txn-op-member-twice*` and `watch-create-twice*`, 3.5 and 3.6 replace. A check by one rule would be
  wrong for the other. 3.7 skips fields of a wrong type, earlier releases refuse them. Before 3.7, numbers beyond 2^29 are cut to 32 bits.
* **One Alarm request crashes etcd** (`alarm-action-unknown`, all three releases): for an unknown `action` the response is a nil pointer, and the panic
  ends the process. It needs root, or an etcd without auth. The proxy refuses it even to a client with `alarm`.
* **One Txn crashes etcd permanently** (`txn-delete-from-key-and-keep-value`, all three releases). etcd refuses a Txn that deletes and puts the same key,
  but does not notice it when the deletion has no end (`range_end` is `\\0`). If the put keeps the value or the lease of the deleted key, it fails when it is
  applied, which ends the process. By then the Txn is in the log of every member, so each crashes again at its next start. The request needs the right
  to delete without an end, which no prefix gives. Found by `it::oracle`; the proxy refuses the form.
* **A malformed compare is true or false by accident**: an unknown result counts as equal to the current one, a value of another target as 0.
";

pub fn path() -> PathBuf {
    folder().join("README.md")
}

/// True if the policy refused it.
pub fn denied(outcome: &Outcome) -> bool {
    outcome.summary() == "permission denied"
}

pub fn written(forms: &[Form], columns: &[Column]) -> String {
    let mut page = HEAD.to_owned();
    let _ = write!(page, "| form | description |");
    for column in columns {
        let _ = write!(page, " etcd {} |", column.version);
    }
    let _ = writeln!(page, " the proxy |\n|---|---|{}---|", "---|".repeat(columns.len()));
    for (index, form) in forms.iter().enumerate() {
        let _ = write!(page, "| [{name}]({name}.form) | {} |", form.what, name = form.name);
        for column in columns {
            let _ = write!(page, " {} |", column.direct[index].summary());
        }
        let ours = match &form.expected {
            Expected::Refused(why) => format!("refused: `{why}`"),
            Expected::Judged
                if columns.iter().all(|column| column.through[index] == column.direct[index]) =>
            {
                "passes".to_owned()
            }
            Expected::Judged => "not granted: permission denied".to_owned(),
        };
        let _ = writeln!(page, " {ours} |");
    }
    page.push_str(FOUND);
    page
}

/// The lines that differ.
pub fn difference(found: &str, expected: &str) -> String {
    let missing = expected
        .lines()
        .filter(|line| !found.lines().any(|other| other == *line))
        .map(|line| format!("+ {line}\n"));
    let surplus = found
        .lines()
        .filter(|line| !expected.lines().any(|other| other == *line))
        .map(|line| format!("- {line}\n"));
    surplus.chain(missing).collect()
}
