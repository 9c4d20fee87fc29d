//! A macro that declares request messages as tables: their fields with types, and whether unknown
//! fields are refused.

use super::field::{Field, Part, Value};
use super::peer_url::is_peer_url;
use super::{Fault, Malformed};

/// A type of protobuf fields. It reads and checks a field. If a field is absent, its value is the
/// default.
pub(super) trait Kind<'m> {
    /// The value that the reader returns. Repeated fields are checked but not stored.
    type Value: Default;
    /// True if the field may occur more than once.
    const REPEATED: bool = false;
    /// Reads and checks the value.
    fn read(field: &Field<'m>) -> Result<Self::Value, Fault>;
}

/// The types, named as in a `.proto` where possible.
#[expect(non_camel_case_types, reason = "named as in a .proto")]
pub(super) mod kind {
    /// Each enum is its own kind, so that its values are checked.
    pub use crate::wire::enums::*;

    /// `bytes`; empty if absent.
    pub struct bytes;
    /// `bytes range_end` of a request; refused if present and empty.
    pub struct range_end;
    /// `string`, which must be UTF-8. etcd 3.7 refuses other bytes, 3.6 does not.
    pub struct string;
    /// `string`: the name of a user or a role, at most
    /// [`MAX_ACCOUNT_NAME`](super::MAX_ACCOUNT_NAME) bytes.
    pub struct account;
    /// `repeated string`.
    pub struct strings;
    /// `repeated string`: peer URLs of a member that etcd can parse. `Some` if present.
    pub struct peer_urls;
    /// `int64`, as two's complement.
    pub struct int64;
    /// `uint64`.
    pub struct uint64;
    /// `bool`: every varint except 0 is true, in every decoder.
    pub struct bool;
    /// An `int64` member of a oneof.
    pub struct one_int64;
    /// A `bytes` member of a oneof; only its presence is reported.
    pub struct one_bytes;
    /// A message.
    pub struct message;
}

/// Reads a field of wire type 0.
pub(super) fn varint(field: &Field<'_>) -> Result<u64, Fault> {
    match field.value {
        Value::Varint(value) => Ok(value),
        Value::Fixed(_) | Value::Bytes(_) => Err(Fault::WrongWireType),
    }
}

fn part<'m>(field: &Field<'m>) -> Result<Part<'m>, Fault> {
    match field.value {
        Value::Bytes(part) => Ok(part),
        Value::Fixed(_) | Value::Varint(_) => Err(Fault::WrongWireType),
    }
}

fn text<'m>(field: &Field<'m>) -> Result<&'m str, Fault> {
    std::str::from_utf8(part(field)?.bytes).map_err(|_| Fault::NotUtf8)
}

/// Maximum length in bytes of the name of a user or a role. etcd stores it as a key of its database
/// (`MaxKeySize` of go.etcd.io/bbolt). A longer name crashes every member when it applies the
/// request, and again at each start (`docs/upstream-findings.md`).
pub(super) const MAX_ACCOUNT_NAME: usize = 32_768;

impl<'m> Kind<'m> for kind::bytes {
    type Value = &'m [u8];
    #[inline]
    fn read(field: &Field<'m>) -> Result<&'m [u8], Fault> {
        part(field).map(|part| part.bytes)
    }
}

impl<'m> Kind<'m> for kind::range_end {
    type Value = &'m [u8];
    #[inline]
    fn read(field: &Field<'m>) -> Result<&'m [u8], Fault> {
        match part(field)?.bytes {
            [] => Err(Fault::EmptyRangeEnd),
            end => Ok(end),
        }
    }
}

impl Kind<'_> for kind::string {
    type Value = ();
    fn read(field: &Field<'_>) -> Result<(), Fault> {
        text(field).map(drop)
    }
}

impl Kind<'_> for kind::account {
    type Value = ();
    fn read(field: &Field<'_>) -> Result<(), Fault> {
        if text(field)?.len() > MAX_ACCOUNT_NAME { Err(Fault::NameTooLong) } else { Ok(()) }
    }
}

impl Kind<'_> for kind::strings {
    type Value = ();
    const REPEATED: bool = true;
    fn read(field: &Field<'_>) -> Result<(), Fault> {
        text(field).map(drop)
    }
}

impl Kind<'_> for kind::peer_urls {
    type Value = Option<()>;
    const REPEATED: bool = true;
    fn read(field: &Field<'_>) -> Result<Option<()>, Fault> {
        if is_peer_url(text(field)?) { Ok(Some(())) } else { Err(Fault::PeerUrl) }
    }
}

impl Kind<'_> for kind::int64 {
    type Value = i64;
    #[inline]
    fn read(field: &Field<'_>) -> Result<i64, Fault> {
        varint(field).map(u64::cast_signed)
    }
}

impl Kind<'_> for kind::uint64 {
    type Value = u64;
    #[inline]
    fn read(field: &Field<'_>) -> Result<u64, Fault> {
        varint(field)
    }
}

impl Kind<'_> for kind::bool {
    type Value = bool;
    #[inline]
    fn read(field: &Field<'_>) -> Result<bool, Fault> {
        varint(field).map(|value| value != 0)
    }
}

impl Kind<'_> for kind::one_int64 {
    type Value = Option<i64>;
    #[inline]
    fn read(field: &Field<'_>) -> Result<Option<i64>, Fault> {
        varint(field).map(|value| Some(value.cast_signed()))
    }
}

impl Kind<'_> for kind::one_bytes {
    type Value = Option<()>;
    #[inline]
    fn read(field: &Field<'_>) -> Result<Option<()>, Fault> {
        part(field).map(|_| Some(()))
    }
}

impl<'m> Kind<'m> for kind::message {
    type Value = Option<Part<'m>>;
    #[inline]
    fn read(field: &Field<'m>) -> Result<Option<Part<'m>>, Fault> {
        part(field).map(Some)
    }
}

/// The singular fields that have been read, as one bit per field number. The greatest number is 64
/// (`Compare.range_end`), which uses bit 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen(u64);

impl Seen {
    /// Records a field.
    ///
    /// # Errors
    /// [`Fault::Repeated`] if it was recorded before: some decoders use the last occurrence, others
    /// merge.
    #[inline]
    pub(super) const fn once(&mut self, number: u32) -> Result<(), Fault> {
        let bit = 1_u64.rotate_left(number);
        if self.0 & bit != 0 {
            return Err(Fault::Repeated);
        }
        self.0 |= bit;
        Ok(())
    }
}

/// How to treat fields that are not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Refuse: a newer etcd may derive accesses from them.
    Refuse,
    /// Ignore: only the capability of the method decides.
    Pass,
}

impl Unknown {
    pub(super) const fn check(
        self,
        field: &Field<'_>,
        message: &'static str,
    ) -> Result<(), Malformed> {
        match self {
            Unknown::Refuse => Err(field.fault(message, Fault::UnknownField)),
            Unknown::Pass => Ok(()),
        }
    }
}

/// Declares messages as structs with a `read`: `NAME (Refuse or Pass) { NUMBER FIELD: KIND; .. }`.
macro_rules! messages {
    ($( $name:ident ($unknown:ident) { $( $number:literal $field:ident: $kind:ident; )* } )+) => { $(
        #[doc = concat!("`", stringify!($name), "`")]
        #[derive(Clone, Copy, Debug)]
        #[allow(dead_code, reason = "some fields are checked but not used")]
        #[allow(non_snake_case, reason = "fields are named as in the .proto")]
        pub(super) struct $name<'m> {
            pub(super) whole: $crate::wire::field::Part<'m>,
            $( pub(super) $field: <$crate::wire::message::kind::$kind as $crate::wire::message::Kind<'m>>::Value, )*
        }

        impl<'m> $name<'m> {
            #[allow(unused_mut, unused_variables, unused_imports, reason = "some messages have no field")]
            pub(super) fn read(whole: $crate::wire::field::Part<'m>) -> Result<Self, $crate::wire::Malformed> {
                use $crate::wire::message::{Kind, Seen, Unknown, kind};
                let mut message = Self { whole, $( $field: Default::default(), )* };
                let mut seen = Seen::default();
                let mut fields = $crate::wire::field::Fields::of(stringify!($name), whole);
                while let Some(field) = fields.next()? {
                    match field.number {
                        $( $number => {
                            let name = concat!(stringify!($name), ".", stringify!($field));
                            if !<kind::$kind as Kind<'m>>::REPEATED {
                                seen.once($number).map_err(|fault| field.fault(name, fault))?;
                            }
                            message.$field = <kind::$kind as Kind<'m>>::read(&field).map_err(|fault| field.fault(name, fault))?;
                        } )*
                        _ => Unknown::$unknown.check(&field, stringify!($name))?,
                    }
                }
                Ok(message)
            }
        }
    )+ };
}

pub(super) use messages;
