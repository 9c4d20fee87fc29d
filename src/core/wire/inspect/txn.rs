//! KV.Txn: every compare, and both branches, since which one runs is known only to etcd.

use std::ops::RangeInclusive;

use super::guard::{Guards, Relation, Target, exists};
use super::kept::Kept;
use super::kv::{DeleteRangeRequest, PutRequest, delete_range_as, put_as, range};
use super::touch;
use crate::access::{Accesses, Verbs};
use crate::keyspace::KeyRange;
use crate::wire::enums::{CompareResult, CompareTarget};
use crate::wire::field::{Field, Fields, Part, Value};
use crate::wire::message::messages;
use crate::wire::{Fault, Malformed};

/// How many compares and operations there may be in a Txn and those inside it; etcd takes 128 of
/// each per level unless told otherwise (`--max-txn-ops`).
pub const MAX_OPERATIONS: usize = 10_000;

/// What they may cost, where each costs as much as there are Txns around it: so often etcd merges
/// its keys with those beside it (`checkIntervals`, `server/etcdserver/txn/txn.go`). So a Txn may
/// have 446 others inside it, one in the other, or 10,000 operations ten deep. Measured with
/// `--max-txn-ops` out of the way: as many operations take 3.5.35 and 3.7.3 a tenth of a second
/// side by side, and 16 s 2,000 deep. There is no other limit of depth; etcd 3.7 itself does not
/// read 5,000 (10,000 messages, Go's protobuf).
pub const MAX_WORK: usize = 100_000;

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
    let mut scan =
        Scan { accesses, guards: Guards::new(), kept: Kept::default(), operations: 0, work: 0 };
    scan.all(whole)?;
    scan.kept.none_is_deleted()
}

struct Scan<'a, 'm> {
    accesses: &'a mut Accesses<'m>,
    guards: Guards<'m>,
    kept: Kept<'m>,
    operations: usize,
    work: usize,
}

/// A Txn whose operations are being read, in the branch that is being read.
struct Level<'m> {
    operations: Section<'m>,
    /// The other branch, while it is still to come.
    failure: Option<Section<'m>>,
    /// The only compare, whose opposite guards the failure branch.
    only: Option<Condition<'m>>,
    /// How many guards there are around this Txn.
    around: usize,
    /// An operation before this Txn may have written something.
    before: bool,
    /// So may one before the next operation of this branch.
    written: bool,
    /// So may one of the success branch.
    success: bool,
}

impl<'m> Scan<'_, 'm> {
    /// Reads a `TxnRequest` and those inside it. What waits for the end of a Txn inside it waits on
    /// the heap: how deep a message is must not be a matter of the thread's stack. The usual
    /// Txn has none inside it, and allocates nothing.
    fn all(&mut self, whole: Part<'m>) -> Result<(), Malformed> {
        let mut waiting: Vec<Level<'m>> = Vec::new();
        let mut level = self.enter(whole, 1, false)?;
        loop {
            if let Some(part) = level.operations.next()? {
                match self.operation(part)? {
                    Operation::Reads => {}
                    Operation::Writes => level.written = true,
                    Operation::Txn(inner) => {
                        let depth = waiting.len().saturating_add(2);
                        let inner = self.enter(inner, depth, level.written)?;
                        waiting.push(std::mem::replace(&mut level, inner));
                    }
                }
            } else if let Some(failure) = level.failure.take() {
                self.guards.leave(level.around);
                if let Some(compare) = &level.only {
                    self.guard(compare, false, level.before);
                }
                level.operations = failure;
                level.success = std::mem::replace(&mut level.written, level.before);
            } else {
                self.guards.leave(level.around);
                let Some(outer) = waiting.pop() else { return Ok(()) };
                let written = level.success || level.written;
                level = outer;
                level.written |= written;
            }
        }
    }

    /// Reads the compares of one `TxnRequest`, and stops in front of its first operation. `before`
    /// says that an operation before it in the outermost Txn may have written something;
    /// `depth` is 1 for that one.
    fn enter(
        &mut self,
        whole: Part<'m>,
        depth: usize,
        before: bool,
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
        let around = self.guards.depth();
        let mut compares = sections.compares();
        let mut only = None;
        let mut count = 0_usize;
        while let Some(part) = compares.next()? {
            let compare = Condition::read(part)?;
            touch(self.accesses, Verbs::READ, compare.range);
            self.guard(&compare, true, before);
            only = Some(compare);
            count = count.saturating_add(1);
        }
        Ok(Level {
            operations: sections.success(),
            failure: Some(sections.failure()),
            only: only.filter(|_| count == 1),
            around,
            before,
            written: before,
            success: false,
        })
    }

    fn guard(&mut self, compare: &Condition<'m>, outcome: bool, written: bool) {
        if written || compare.range.range_end() != b"" {
            return;
        }
        if let Some(exists) = exists(compare.relation, compare.target, outcome) {
            self.guards.add(compare.range.start, exists);
        }
    }

    /// Reads one `RequestOp`: exactly one member of its oneof.
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
                self.kept.put(&put);
                let verbs = self.guards.put(put.key);
                put_as(self.accesses, &put, verbs);
                Ok(Operation::Writes)
            }
            3 => {
                let deleted = delete_range_as(self.accesses, &DeleteRangeRequest::read(request)?);
                self.kept.delete(&deleted);
                self.guards.delete(&deleted);
                Ok(Operation::Writes)
            }
            _ => Ok(Operation::Txn(request)),
        }
    }
}

/// What a `RequestOp` is to those behind it.
enum Operation<'m> {
    Reads,
    Writes,
    Txn(Part<'m>),
}

const TXN: &str = "TxnRequest";
const REQUEST_OP: &str = "RequestOp";

/// The members of `Compare.target_union`.
const TARGET_UNION: RangeInclusive<u32> = 4..=8;

/// A `Compare` whose parts agree.
struct Condition<'m> {
    range: KeyRange<'m>,
    relation: Relation,
    target: Target,
}

impl<'m> Condition<'m> {
    /// Reads a `Compare`. Without any member of `target_union` etcd compares with 0, or with the
    /// empty value; every client library sends the member, 0 included, but one that speaks JSON
    /// may not. With a member other than the target's it would as well: that is a Compare that
    /// says two things, and is refused.
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

/// Where the three lists of a `TxnRequest` stand. An encoder writes one after the other; a decoder
/// takes them mixed.
struct Sections<'m> {
    spans: [Span; 3],
    whole: Part<'m>,
    operations: usize,
}

/// From the first element of a list to behind its last one, in bytes from the start of the message.
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

/// One of the three lists, element by element.
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
