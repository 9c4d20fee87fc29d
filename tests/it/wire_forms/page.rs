//! `tests/wire/README.md`, made of what was measured.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::form::{Form, Verdict, folder};
use super::stage::Outcome;

/// One release.
pub struct Column {
    pub version: String,
    /// What it does itself, with its own auth on.
    pub direct: Vec<Outcome>,
    /// What it does behind the proxy.
    pub through: Vec<Outcome>,
}

/// How the page is written anew.
pub const HOW: &str = "run `cargo test --test it wire_forms::write -- --ignored`";

const HEAD: &str = "\
# Hostile encodings

Each `.form` is one message: what it is, the method, what the proxy does with it, and the bytes, hexadecimal or in quotes. It is sent by a
user who may do everything with the keys below `g/` and nothing with others; there are `g/a` `g/b` `g/l` (with lease 1), and of
somebody else `s/a` `s/l` (with lease 2). The columns of etcd are what that release does by itself with **its own auth on**; the last is what the
proxy does with the same user and the same rights in front of that release with auth off. `refused` is INVALID_ARGUMENT with these words, and
not a byte goes on; `passes` means that there is one reading, the policy decides, and etcd does what it does in its own column.

`cargo test --test it wire_forms::` measures all of this and holds the table to it; it is written by
`cargo test --test it wire_forms::write -- --ignored`.

";

const FOUND: &str = "
## The other direction

`clients/` holds what real clients send, recorded in front of a real etcd: method and message, the smallest of each shape (the sequence of its fields).
`tests/it/wire_clients.rs` reads all of them: none is refused for its form. `tests/it/wire_clients/record.rs` writes them anew.

## What this found

* **etcd 3.5 and 3.6 give a reader of one key all keys behind it** (`range-end-empty`, `range-end-set-then-empty`, `txn-range-end-empty`;
  `compare-range-end-empty` tells one bit at a time of them): a `range_end` that is there and has no bytes counts as the single key for their permission
  check (`server/auth/range_perm_cache.go` looks at the length) and as \"to the end of the keyspace\" for the read (`server/storage/mvcc`, where only an
  absent one is the single key). It takes two bytes, `12 00`, behind a Range that is allowed. What goes through raft (a write, a Txn that is not all reads, one
  in another) is encoded again on its way and loses them: DeleteRange is safe, and so is a nested Txn. 3.7 decodes with another library, to which both are
  the same. The proxy refuses the form in every release.
* **Two releases, two messages**: `txn-op-member-twice*` and `watch-create-twice*` are merged by 3.7 and replaced by 3.5 and 3.6, so that whoever judged by
  one rule would be wrong about the other. Fields of a wrong type are skipped by 3.7 and refused before; numbers beyond 2^29 are cut to 32 bits before 3.7.
* **One Alarm request ends etcd** (`alarm-action-unknown`, all three releases): for an `action` that there is not, the answer is a nil pointer, and the panic
  takes the process with it. It needs root, or an etcd without auth; the proxy refuses it also to who has `alarm`.
* **One Txn ends etcd for good** (`txn-delete-from-key-and-keep-value`, all three releases): etcd refuses a Txn that deletes and puts one key, but does not
  see it where the deletion has no end (`range_end` is `\\0`). When the put is to keep the value or the lease of what is gone, applying it fails, which it may
  not, and the process ends; the Txn is in the log of every member by then, so that each ends again at its next start. It takes the right to
  delete without end, which no prefix gives. Found by `it::oracle`; the proxy refuses the form.
* **A compare that says two things is true or false by accident**: an unknown result counts as equal to whatever holds, a value of another target as 0.
";

/// `tests/wire/README.md`.
pub fn path() -> PathBuf {
    folder().join("README.md")
}

/// Whether the policy refused it.
pub fn denied(outcome: &Outcome) -> bool {
    outcome.told() == "permission denied"
}

/// The page.
pub fn written(forms: &[Form], columns: &[Column]) -> String {
    let mut page = HEAD.to_owned();
    let _ = write!(page, "| form | what it is |");
    for column in columns {
        let _ = write!(page, " etcd {} |", column.version);
    }
    let _ = writeln!(page, " the proxy |\n|---|---|{}---|", "---|".repeat(columns.len()));
    for (index, form) in forms.iter().enumerate() {
        let _ = write!(page, "| [{name}]({name}.form) | {} |", form.what, name = form.name);
        for column in columns {
            let _ = write!(page, " {} |", column.direct[index].told());
        }
        let ours = match &form.verdict {
            Verdict::Refused(why) => format!("refused: `{why}`"),
            Verdict::Judged
                if columns.iter().all(|column| column.through[index] == column.direct[index]) =>
            {
                "passes".to_owned()
            }
            Verdict::Judged => "not granted: permission denied".to_owned(),
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
