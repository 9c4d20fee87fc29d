//! KV.Txn. The accesses are those of every compare and of both branches, because only etcd knows
//! which branch runs.
//!
//! A compare may prove that a key exists, or that it does not, in one branch. It then *guards* the
//! puts of this key in the branch: they need only `update` or only `create` (`super::guard`).

use std::ops::RangeInclusive;

use super::add_keys;
use super::guard::{Guards, Relation, Target, exists};
use super::ignore_flags::IgnoreFlags;
use super::kv::{DeleteRangeRequest, PutRequest, delete_range_as, put_as, range};
use crate::access::{Accesses, Verbs};
use crate::keyspace::KeyRange;
use crate::wire::enums::{CompareResult, CompareTarget};
use crate::wire::field::{Field, Fields, Part, Value};
use crate::wire::message::messages;
use crate::wire::{Fault, Malformed};

/// Maximum number of compares and operations in a Txn, nested Txns included. etcd's default limit
/// is 128 of each per level (`--max-txn-ops`).
pub(super) const MAX_OPERATIONS: usize = 10_000;

/// Maximum total cost of a Txn. Each compare or operation costs its nesting depth, because etcd
/// merges its keys with those of its siblings once per level (`checkIntervals`,
/// `server/etcdserver/txn/txn.go`). So a Txn may have 446 Txns nested in each other, or 10,000
/// operations at depth 10. This is the only limit on depth here.
///
/// Measured on 3.5.35 and 3.7.3 with a raised `--max-txn-ops`: the same number of operations takes
/// 0.1 s on one level and 16 s at depth 2,000. etcd 3.7 itself decodes at most 5,000 levels (10,000
/// messages, Go's protobuf).
pub(super) const MAX_WORK: usize = 100_000;

messages! {
    Compare (Refuse) {
        1 result: CompareResult;
        2 target: CompareTarget;
        3 key: bytes;
        4 version: one_int64;
        5 create_revision: one_int64;
        6 mod_revision: one_int64;
        7 value: one_bytes;
        8 lease: one_int64;
        64 range_end: range_end;
    }
}

pub(super) fn txn<'m>(accesses: &mut Accesses<'m>, whole: Part<'m>) -> Result<(), Malformed> {
    let mut scan = Scan {
        accesses,
        guards: Guards::new(),
        ignore_flags: IgnoreFlags::default(),
        operations: 0,
        work: 0,
    };
    scan.read(whole)?;
    scan.ignore_flags.check()
}

struct Scan<'a, 'm> {
    accesses: &'a mut Accesses<'m>,
    guards: Guards<'m>,
    ignore_flags: IgnoreFlags<'m>,
    operations: usize,
    work: usize,
}

/// A Txn whose operations are being read, and its current branch.
struct Level<'m> {
    operations: Section<'m>,
    /// The failure branch, while the success branch is being read.
    failure: Option<Section<'m>>,
    /// The compare, if there is exactly one. In the failure branch it is known to be false, so its
    /// opposite is a guard there. With several compares, any of them may be the false one.
    only: Option<Condition<'m>>,
    /// Number of guards of the Txns around this one.
    outer_guards: usize,
    /// True if an operation before this Txn may write. Its compares are then no guards.
    written_before: bool,
    /// True if an operation before the next one may write.
    written: bool,
    /// True if the success branch may write.
    success_written: bool,
}

impl<'m> Scan<'_, 'm> {
    /// Reads a `TxnRequest` and all Txns nested in it. The levels are on the heap, because the
    /// accepted depth must not depend on the size of the thread's stack. A Txn without nested Txns
    /// allocates nothing.
    fn read(&mut self, whole: Part<'m>) -> Result<(), Malformed> {
        let mut outer_levels: Vec<Level<'m>> = Vec::new();
        let mut level = self.enter(whole, 1, false)?;
        loop {
            if let Some(part) = level.operations.next()? {
                match self.operation(part)? {
                    Operation::Reads => {}
                    Operation::Writes => level.written = true,
                    Operation::Txn(inner) => {
                        let depth = outer_levels.len().saturating_add(2);
                        let inner = self.enter(inner, depth, level.written)?;
                        outer_levels.push(std::mem::replace(&mut level, inner));
                    }
                }
            } else if let Some(failure) = level.failure.take() {
                self.guards.leave(level.outer_guards);
                if let Some(compare) = &level.only {
                    self.guard(compare, false, level.written_before);
                }
                level.operations = failure;
                level.success_written = std::mem::replace(&mut level.written, level.written_before);
            } else {
                self.guards.leave(level.outer_guards);
                let Some(outer) = outer_levels.pop() else { return Ok(()) };
                let written = level.success_written || level.written;
                level = outer;
                level.written |= written;
            }
        }
    }

    /// Reads the compares of one `TxnRequest` and stops before its first operation. `depth` is 1
    /// for the outermost Txn. `written_before` is true if an operation before this Txn may write.
    fn enter(
        &mut self,
        whole: Part<'m>,
        depth: usize,
        written_before: bool,
    ) -> Result<Level<'m>, Malformed> {
        let sections = Sections::of(whole)?;
        self.operations = self.operations.saturating_add(sections.operations);
        self.work = self.work.saturating_add(sections.operations.saturating_mul(depth));
        if self.operations > MAX_OPERATIONS || self.work > MAX_WORK {
            return Err(Malformed {
                field: TXN,
                offset: whole.offset,
                fault: Fault::TooManyOperations,
            });
        }
        let outer_guards = self.guards.depth();
        let mut compares = sections.compares();
        let mut only = None;
        let mut count = 0_usize;
        while let Some(part) = compares.next()? {
            let compare = Condition::read(part)?;
            add_keys(self.accesses, Verbs::READ, compare.range);
            self.guard(&compare, true, written_before);
            only = Some(compare);
            count = count.saturating_add(1);
        }
        Ok(Level {
            operations: sections.success(),
            failure: Some(sections.failure()),
            only: only.filter(|_| count == 1),
            outer_guards,
            written_before,
            written: written_before,
            success_written: false,
        })
    }

    /// Adds a guard if the `outcome` of the compare proves that its key exists or not. A compare of
    /// a range proves nothing about one key. etcd evaluates all compares first, so an earlier
    /// operation that may write can make the result outdated.
    fn guard(&mut self, compare: &Condition<'m>, outcome: bool, written: bool) {
        if written || compare.range.range_end() != b"" {
            return;
        }
        if let Some(exists) = exists(compare.relation, compare.target, outcome) {
            self.guards.add(compare.range.start, exists);
        }
    }

    /// Reads one `RequestOp`, which must have exactly one member of its oneof.
    fn operation(&mut self, whole: Part<'m>) -> Result<Operation<'m>, Malformed> {
        let mut fields = Fields::of(REQUEST_OP, whole);
        let Some(field) = fields.next()? else {
            return Err(Malformed {
                field: REQUEST_OP,
                offset: whole.offset,
                fault: Fault::EmptyOperation,
            });
        };
        if let Some(second) = fields.next()? {
            let fault =
                if matches!(second.number, 1..=4) { Fault::Repeated } else { Fault::UnknownField };
            return Err(second.fault(REQUEST_OP, fault));
        }
        let name = match field.number {
            1 => "RequestOp.request_range",
            2 => "RequestOp.request_put",
            3 => "RequestOp.request_delete_range",
            4 => "RequestOp.request_txn",
            _ => return Err(field.fault(REQUEST_OP, Fault::UnknownField)),
        };
        let Value::Bytes(request) = field.value else {
            return Err(field.fault(name, Fault::WrongWireType));
        };
        match field.number {
            1 => range(self.accesses, request).map(|()| Operation::Reads),
            2 => {
                let put = PutRequest::read(request)?;
                self.ignore_flags.put(&put);
                let verbs = self.guards.put(put.key);
                put_as(self.accesses, &put, verbs);
                Ok(Operation::Writes)
            }
            3 => {
                let deleted = delete_range_as(self.accesses, &DeleteRangeRequest::read(request)?);
                self.ignore_flags.delete(&deleted);
                self.guards.delete(&deleted);
                Ok(Operation::Writes)
            }
            _ => Ok(Operation::Txn(request)),
        }
    }
}

/// The kind of a `RequestOp`, as far as it matters to the operations after it.
enum Operation<'m> {
    Reads,
    Writes,
    /// A nested Txn, which is still to be read.
    Txn(Part<'m>),
}

const TXN: &str = "TxnRequest";
const REQUEST_OP: &str = "RequestOp";

/// The members of `Compare.target_union`.
const TARGET_UNION: RangeInclusive<u32> = 4..=8;

/// A `Compare` that is not ambiguous.
struct Condition<'m> {
    range: KeyRange<'m>,
    relation: Relation,
    target: Target,
}

impl<'m> Condition<'m> {
    /// Reads a `Compare`. Client libraries always send a member of `target_union`, even for 0; a
    /// client that sends JSON may omit it. If it is absent, etcd compares with 0 or with the empty
    /// value, and so does this. If the member belongs to another target, etcd does the same, but
    /// such a Compare is ambiguous and is refused here.
    fn read(part: Part<'m>) -> Result<Self, Malformed> {
        let compare = Compare::read(part)?;
        let relation = match compare.result {
            CompareResult::Equal => Relation::Equal,
            CompareResult::Greater => Relation::Greater,
            CompareResult::Less => Relation::Less,
            CompareResult::NotEqual => Relation::NotEqual,
        };
        let members = [
            compare.version.is_some(),
            compare.create_revision.is_some(),
            compare.mod_revision.is_some(),
            compare.value.is_some(),
            compare.lease.is_some(),
        ];
        let number = |member: Option<i64>| Target::Counter(member.unwrap_or(0));
        let (target, has_member) = match compare.target {
            CompareTarget::Version => (number(compare.version), compare.version.is_some()),
            CompareTarget::Create => {
                (number(compare.create_revision), compare.create_revision.is_some())
            }
            CompareTarget::Mod => (number(compare.mod_revision), compare.mod_revision.is_some()),
            CompareTarget::Value => (Target::Value, compare.value.is_some()),
            CompareTarget::Lease => {
                (Target::Lease(compare.lease.unwrap_or(0)), compare.lease.is_some())
            }
        };
        let fault = |fault| {
            Err(Malformed {
                field: "Compare.target_union",
                offset: part.last_of(TARGET_UNION),
                fault,
            })
        };
        match members.iter().filter(|&&member| member).count() {
            0 => {}
            1 if has_member => {}
            1 => return fault(Fault::TargetMismatch),
            _ => return fault(Fault::Repeated),
        }
        Ok(Self { range: KeyRange::from_request(compare.key, compare.range_end), relation, target })
    }
}

/// The positions of the three lists of a `TxnRequest`. Encoders write one list after the other;
/// decoders accept them interleaved.
struct Sections<'m> {
    spans: [Span; 3],
    whole: Part<'m>,
    operations: usize,
}

/// From the first element of a list to the end of the last one, in bytes from the start of the
/// outermost message.
#[derive(Clone, Copy, Default)]
struct Span {
    start: usize,
    end: usize,
}

impl<'m> Sections<'m> {
    fn of(whole: Part<'m>) -> Result<Self, Malformed> {
        let mut spans = [None::<Span>; 3];
        let mut operations = 0_usize;
        let mut fields = Fields::of(TXN, whole);
        while let Some(field) = fields.next()? {
            let [compare, success, failure] = &mut spans;
            let (span, name) = match field.number {
                1 => (compare, "TxnRequest.compare"),
                2 => (success, "TxnRequest.success"),
                3 => (failure, "TxnRequest.failure"),
                _ => return Err(field.fault(TXN, Fault::UnknownField)),
            };
            if !matches!(field.value, Value::Bytes(_)) {
                return Err(field.fault(name, Fault::WrongWireType));
            }
            let end = fields.offset();
            span.get_or_insert(Span { start: field.offset, end }).end = end;
            operations = operations.saturating_add(1);
        }
        Ok(Self { spans: spans.map(Option::unwrap_or_default), whole, operations })
    }

    fn compares(&self) -> Section<'m> {
        let [span, _, _] = self.spans;
        Section::of(self.whole, 1, span)
    }

    fn success(&self) -> Section<'m> {
        let [_, span, _] = self.spans;
        Section::of(self.whole, 2, span)
    }

    fn failure(&self) -> Section<'m> {
        let [_, _, span] = self.spans;
        Section::of(self.whole, 3, span)
    }
}

/// Reads the elements of one of the three lists.
struct Section<'m> {
    number: u32,
    fields: Fields<'m>,
}

impl<'m> Section<'m> {
    fn of(whole: Part<'m>, number: u32, span: Span) -> Self {
        let bytes = span.start.checked_sub(whole.offset).zip(span.end.checked_sub(whole.offset));
        let bytes = bytes.and_then(|(start, end)| whole.bytes.get(start..end)).unwrap_or_default();
        Self { number, fields: Fields::of(TXN, Part { bytes, offset: span.start }) }
    }

    fn next(&mut self) -> Result<Option<Part<'m>>, Malformed> {
        loop {
            match self.fields.next()? {
                Some(Field { number, value: Value::Bytes(part), .. }) if number == self.number => {
                    return Ok(Some(part));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}
