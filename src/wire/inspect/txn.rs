//! KV.Txn: every compare, and both branches, since which one runs is known only to etcd.

use std::ops::RangeInclusive;

use super::guard::{Guards, Relation, Target, exists};
use super::kept::Kept;
use super::kv::{DeleteRangeRequest, PutRequest, delete_range_as, put_as, range};
use super::touch;
use crate::access::{Accesses, Verbs};
use crate::keyspace::KeyRange;
use crate::wire::field::{Field, Fields, Part, Value};
use crate::wire::message::messages;
use crate::wire::{Fault, Malformed};

/// How deep a Txn may be: itself, one inside it, and so on. etcd has no such limit but the size of a request.
pub const MAX_DEPTH: usize = 8;

/// How many compares and operations there may be in a Txn and those inside it; etcd takes 128 of each per level unless told otherwise
/// (`--max-txn-ops`).
pub const MAX_OPERATIONS: usize = 10_000;

messages! {
    Compare (Refuse) {
        1 result: enumeration;
        2 target: enumeration;
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
    let mut scan = Scan { accesses, guards: Guards::new(), kept: Kept::default(), operations: 0 };
    scan.txn(whole, 1, false)?;
    scan.kept.none_is_deleted()
}

struct Scan<'a, 'm> {
    accesses: &'a mut Accesses<'m>,
    guards: Guards<'m>,
    kept: Kept<'m>,
    operations: usize,
}

impl<'m> Scan<'_, 'm> {
    /// Reads one `TxnRequest`. `written` says that an operation before it in the outermost Txn may have written something; so
    /// does what is returned.
    fn txn(&mut self, whole: Part<'m>, depth: usize, written: bool) -> Result<bool, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed { field: TXN, offset: whole.offset, fault: Fault::TooDeep });
        }
        let sections = Sections::of(whole)?;
        self.operations = self.operations.saturating_add(sections.operations);
        if self.operations > MAX_OPERATIONS {
            return Err(Malformed { field: TXN, offset: whole.offset, fault: Fault::TooManyOperations });
        }

        let around = self.guards.depth();
        let mut compares = sections.compares();
        let mut only = None;
        let mut count = 0_usize;
        while let Some(part) = compares.next()? {
            let compare = Condition::read(part)?;
            touch(self.accesses, Verbs::READ, compare.range);
            self.guard(&compare, true, written);
            only = Some(compare);
            count = count.saturating_add(1);
        }
        let success = self.branch(sections.success(), depth, written)?;
        self.guards.leave(around);

        if let (Some(compare), 1) = (only, count) {
            self.guard(&compare, false, written);
        }
        let failure = self.branch(sections.failure(), depth, written)?;
        self.guards.leave(around);
        Ok(success || failure)
    }

    fn guard(&mut self, compare: &Condition<'m>, outcome: bool, written: bool) {
        if written || compare.range.range_end() != b"" {
            return;
        }
        if let Some(exists) = exists(compare.relation, compare.target, outcome) {
            self.guards.add(compare.range.start, exists);
        }
    }

    fn branch(&mut self, mut operations: Section<'m>, depth: usize, mut written: bool) -> Result<bool, Malformed> {
        while let Some(part) = operations.next()? {
            written |= self.operation(part, depth, written)?;
        }
        Ok(written)
    }

    /// Reads one `RequestOp`: exactly one member of its oneof.
    fn operation(&mut self, whole: Part<'m>, depth: usize, written: bool) -> Result<bool, Malformed> {
        let mut fields = Fields::of(REQUEST_OP, whole);
        let Some(field) = fields.next()? else {
            return Err(Malformed { field: REQUEST_OP, offset: whole.offset, fault: Fault::EmptyOperation });
        };
        if let Some(second) = fields.next()? {
            let fault = if matches!(second.number, 1..=4) { Fault::Repeated } else { Fault::UnknownField };
            return Err(second.fault(REQUEST_OP, fault));
        }
        let name = match field.number {
            1 => "RequestOp.request_range",
            2 => "RequestOp.request_put",
            3 => "RequestOp.request_delete_range",
            4 => "RequestOp.request_txn",
            _ => return Err(field.fault(REQUEST_OP, Fault::UnknownField)),
        };
        let Value::Bytes(request) = field.value else { return Err(field.fault(name, Fault::WrongWireType)) };
        match field.number {
            1 => range(self.accesses, request).map(|()| false),
            2 => {
                let put = PutRequest::read(request)?;
                self.kept.put(&put);
                let verbs = self.guards.put(put.key);
                put_as(self.accesses, &put, verbs);
                Ok(true)
            }
            3 => {
                let deleted = delete_range_as(self.accesses, &DeleteRangeRequest::read(request)?);
                self.kept.delete(&deleted);
                self.guards.delete(&deleted);
                Ok(true)
            }
            _ => self.txn(request, depth.saturating_add(1), written),
        }
    }
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
    /// Reads a `Compare`. Without any member of `target_union` etcd compares with 0, or with the empty value; every client library
    /// sends the member, 0 included, but one that speaks JSON may not. With a member other than the target's it would as
    /// well: that is a Compare that says two things, and is refused.
    fn read(part: Part<'m>) -> Result<Self, Malformed> {
        let compare = Compare::read(part)?;
        let fault = |field, numbers, fault| Malformed { field, offset: part.last_of(numbers), fault };
        let relation = match compare.result {
            0 => Relation::Equal,
            1 => Relation::Greater,
            2 => Relation::Less,
            3 => Relation::NotEqual,
            _ => return Err(fault("Compare.result", 1..=1, Fault::UnknownValue)),
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
            0 => (number(compare.version), compare.version.is_some()),
            1 => (number(compare.create_revision), compare.create_revision.is_some()),
            2 => (number(compare.mod_revision), compare.mod_revision.is_some()),
            3 => (Target::Value, compare.value.is_some()),
            4 => (Target::Lease(compare.lease.unwrap_or(0)), compare.lease.is_some()),
            _ => return Err(fault("Compare.target", 2..=2, Fault::UnknownValue)),
        };
        match members.iter().filter(|&&member| member).count() {
            0 => {}
            1 if has_member => {}
            1 => return Err(fault("Compare.target_union", TARGET_UNION, Fault::TargetMismatch)),
            _ => return Err(fault("Compare.target_union", TARGET_UNION, Fault::Repeated)),
        }
        Ok(Self { range: KeyRange::from_request(compare.key, compare.range_end), relation, target })
    }
}

/// Where the three lists of a `TxnRequest` stand. An encoder writes one after the other; a decoder takes them mixed.
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
                Some(Field { number, value: Value::Bytes(part), .. }) if number == self.number => return Ok(Some(part)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}
