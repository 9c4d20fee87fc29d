//! Finds a Txn that puts a key with `ignore_value` or `ignore_lease` and also deletes it. Such a
//! Txn can crash etcd ([`Fault::DeletedAndKept`]).

use smallvec::SmallVec;

use super::kv::PutRequest;
use crate::keyspace::{End, KeyRange};
use crate::wire::field::Part;
use crate::wire::{Fault, Malformed};

/// The relevant puts and deletions of the whole Txn: of both branches and of all nested Txns,
/// because only etcd knows which branches run.
#[derive(Default)]
pub(super) struct IgnoreFlags<'m> {
    /// Puts with one of the two flags.
    puts: SmallVec<[(&'m [u8], Part<'m>); 2]>,
    /// The smallest start of a deletion without an end. Every key from this one on is deleted. etcd
    /// itself checks deletions with an end.
    deleted: Option<&'m [u8]>,
}

impl<'m> IgnoreFlags<'m> {
    pub(super) fn put(&mut self, put: &PutRequest<'m>) {
        if put.ignore_value || put.ignore_lease {
            self.puts.push((put.key, put.whole));
        }
    }

    pub(super) fn delete(&mut self, range: &KeyRange<'m>) {
        if range.end == End::Open {
            self.deleted = Some(self.deleted.map_or(range.start, |start| start.min(range.start)));
        }
    }

    pub(super) fn check(&self) -> Result<(), Malformed> {
        let Some(start) = self.deleted else { return Ok(()) };
        match self.puts.iter().find(|(key, _)| *key >= start) {
            Some((_, put)) => Err(Malformed {
                field: "PutRequest",
                offset: put.last_of(5..=6),
                fault: Fault::DeletedAndKept,
            }),
            None => Ok(()),
        }
    }
}
