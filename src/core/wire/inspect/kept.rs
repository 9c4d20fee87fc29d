//! What a Txn keeps of keys (`ignore_value`, `ignore_lease`), and whether it deletes them: see
//! [`Fault::DeletedAndKept`].

use smallvec::SmallVec;

use super::kv::PutRequest;
use crate::keyspace::{End, KeyRange};
use crate::wire::field::Part;
use crate::wire::{Fault, Malformed};

/// Over the whole Txn, both branches and those inside it: which of them run is known only to etcd.
#[derive(Default)]
pub(super) struct Kept<'m> {
    puts: SmallVec<[(&'m [u8], Part<'m>); 2]>,
    /// Every key from here on is deleted.
    deleted: Option<&'m [u8]>,
}

impl<'m> Kept<'m> {
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

    pub(super) fn none_is_deleted(&self) -> Result<(), Malformed> {
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
