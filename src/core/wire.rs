//! From bytes to [`Accesses`](crate::access::Accesses): what a request message would touch.
//!
//! The bytes that are judged are the bytes that are sent, so a message is scanned in place and
//! never encoded again. The scan accepts what every protobuf decoder reads the same way and refuses
//! the rest (a singular field twice, two members of one oneof, groups, overlong varints, ...): no
//! real client sends those, and each is a way to show two programs two messages.

pub mod cluster;
mod encode;
mod enums;
pub mod field;
pub mod frame;
pub mod header;
pub mod inspect;
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

/// Why a message cannot be judged: where it is, and what is wrong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The message and field as `rpc.proto` names them (`PutRequest.lease`), or the message alone.
    pub field: &'static str,
    /// Bytes from the start of the request message.
    pub offset: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message ends inside a field.
    Truncated,
    /// A length points beyond the end of the enclosing message.
    LengthBeyondMessage,
    /// A varint is longer than it needs to be, or than 64 bits.
    OverlongVarint,
    /// Field number 0, or above 2^29 - 1.
    FieldNumber,
    /// A group (wire types 3 and 4), or a wire type that does not exist.
    WireType,
    /// A known field in another wire type than its own.
    WrongWireType,
    /// A singular field, or a second member of one oneof, stands twice.
    Repeated,
    /// A field that this version does not know, in a message on which a right depends.
    UnknownField,
    /// An enum value that this version does not know: etcd acts on some of them, and 3.5 ends by
    /// two (`docs/upstream-findings.md`).
    UnknownValue,
    /// A Compare whose `target` and value member differ: etcd compares with 0.
    TargetMismatch,
    /// More operations than the limit in one Txn, or too many of them deep inside it.
    TooManyOperations,
    /// A Txn operation that says nothing (crashes etcd's own grpc-proxy, etcd #22065).
    EmptyOperation,
    /// A `range_end` that is there and empty: etcd before 3.7 takes it for no upper end, where its
    /// own auth takes it for one key.
    EmptyRangeEnd,
    /// A Txn that deletes all keys from one on, and puts one of them with `ignore_value` or
    /// `ignore_lease`. etcd does not see that the two meet (`checkIntervals`,
    /// `server/etcdserver/txn/txn.go`), finds nothing to keep when it applies them, and ends; what
    /// is in its log ends it again at each start. Seen on 3.5.35, 3.6.16 and 3.7.3; ranges with
    /// an end are refused by etcd itself.
    DeletedAndKept,
    /// A `string` that is not UTF-8.
    NotUtf8,
    /// The name of a user or a role is longer than etcd can store: it ends every member, for good.
    NameTooLong,
    /// A MemberUpdate without a URL, or with one that etcd cannot read: it ends every other member,
    /// for good.
    PeerUrl,
    /// Fields of an answer in another order than etcd's, so that its head cannot be told from its
    /// rest.
    OutOfOrder,
}

impl Fault {
    /// The stable name in audit lines.
    #[must_use]
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
