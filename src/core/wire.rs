//! Derives the [`Accesses`](crate::access::Accesses) of a request message from its bytes.
//!
//! The gateway forwards exactly the bytes that it has checked. So a message is scanned in place and
//! never encoded again. The scan accepts only messages that every protobuf decoder reads the same
//! way. It refuses all others (a repeated singular field, two members of one oneof, groups,
//! overlong varints, ...). No real client sends them, and two programs could read two different
//! messages from the same bytes.

pub mod cluster;
mod encode;
mod enums;
pub mod field;
pub mod frame;
pub mod header;
pub(crate) mod inspect;
pub mod lease;
pub mod lease_keys;
mod message;
mod peer_url;
#[cfg(test)]
mod spell;
pub mod status;
pub mod watch;

use std::fmt;

pub use inspect::inspect;

/// A fault in a message and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The message and field by their names in `rpc.proto` (`PutRequest.lease`), or only the
    /// message.
    pub field: &'static str,
    /// Offset of the fault in bytes from the start of the request message.
    pub offset: usize,
    /// The kind of fault.
    pub fault: Fault,
}

/// A fault in a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message ends inside a field.
    Truncated,
    /// A length points beyond the end of the enclosing message.
    LengthBeyondMessage,
    /// A varint has more bytes than needed, or more than 64 bits.
    OverlongVarint,
    /// Field number 0, or above 2^29 - 1.
    FieldNumber,
    /// A group (wire types 3 and 4) or an undefined wire type.
    WireType,
    /// A known field has the wrong wire type.
    WrongWireType,
    /// A singular field occurs twice, or two members of one oneof are set.
    Repeated,
    /// An unknown field in a message that needs rights on keys or leases.
    UnknownField,
    /// An unknown enum value. etcd does not validate enums: it acts on some unknown values, and 3.5
    /// panics on two (`docs/upstream-findings.md`).
    UnknownValue,
    /// A Compare whose `target` and value member differ. etcd would compare with 0.
    TargetMismatch,
    /// A Txn has too many operations, or too many at deep nesting levels
    /// (`inspect::MAX_OPERATIONS`, `inspect::MAX_WORK`).
    TooManyOperations,
    /// A Txn operation without a request. It crashes etcd's own grpc-proxy (etcd #22065).
    EmptyOperation,
    /// A `range_end` that is present but empty. Before 3.7, etcd reads it as an open end, while its
    /// own auth checks a single key.
    EmptyRangeEnd,
    /// A Txn that deletes all keys from a start key on, and puts one of them with `ignore_value` or
    /// `ignore_lease`. etcd does not notice the overlap (`checkIntervals`,
    /// `server/etcdserver/txn/txn.go`), finds no previous value when it applies the Txn, and
    /// crashes. The Txn stays in the raft log, so etcd crashes again at each start. Reproduced on
    /// 3.5.35, 3.6.16 and 3.7.3. etcd itself refuses such a Txn if the range has an end.
    DeletedAndKept,
    /// A `string` is not UTF-8.
    NotUtf8,
    /// The name of a user or a role is longer than etcd can store. Applying it crashes every
    /// member, and again at each start.
    NameTooLong,
    /// A MemberUpdate without a URL, or with one that etcd cannot parse. Applying it crashes every
    /// other member, and again at each start.
    PeerUrl,
    /// Fields of a response are not in etcd's order, so that its head cannot be separated from the
    /// rest.
    OutOfOrder,
}

impl Fault {
    /// The stable text in audit lines.
    pub const fn code(self) -> &'static str {
        match self {
            Fault::Truncated => "truncated",
            Fault::LengthBeyondMessage => "length beyond message",
            Fault::OverlongVarint => "overlong varint",
            Fault::FieldNumber => "bad field number",
            Fault::WireType => "group or unknown wire type",
            Fault::WrongWireType => "wrong wire type",
            Fault::Repeated => "singular field repeated",
            Fault::UnknownField => "unknown field",
            Fault::UnknownValue => "unknown enum value",
            Fault::TargetMismatch => "compare target and value differ",
            Fault::TooManyOperations => "too many operations",
            Fault::EmptyOperation => "empty operation",
            Fault::EmptyRangeEnd => "range_end present but empty",
            Fault::DeletedAndKept => "key deleted and its value or lease kept",
            Fault::NotUtf8 => "string is not UTF-8",
            Fault::NameTooLong => "name too long for etcd's database",
            Fault::PeerUrl => "no peer URL of the form scheme://host:port",
            Fault::OutOfOrder => "fields out of order",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.field, self.offset, self.fault.code())
    }
}
