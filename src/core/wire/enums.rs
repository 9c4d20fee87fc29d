//! The enums of etcd's requests, each with the values that there are (`rpc.proto` and `auth.proto`
//! of etcd 3.7; 3.5 and 3.6 have the same).
//!
//! etcd acts on a value that there is not without looking at it first: 3.5 panics on an unknown
//! `sort_target` and on an unknown alarm (`docs/upstream-findings.md`). So a table of fields names
//! the enum, there is no kind of field for "any number of an enum", and a value that is not listed
//! here is [`Fault::UnknownValue`] wherever it appears. A test (`inspect::enum_values`) holds the
//! tables and these lists equal to `proto/fields.txt`.

use super::Fault;
use super::field::{Field, Value};
use super::message::{Kind, varint};

/// Declares enums with their values, the one of an absent field first.
macro_rules! enums {
    ($( $(#[$attribute:meta])* $name:ident { 0 $absent:ident; $( $number:literal $variant:ident; )* } )+) => { $(
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { #[default] $absent, $( $variant, )* }

        impl $name {
            /// The value with this number: of all the 64 bits that were sent, since decoders cut them to 32.
            #[inline]
            const fn of(number: u64) -> Result<Self, Fault> {
                match number {
                    0 => Ok(Self::$absent),
                    $( $number => Ok(Self::$variant), )*
                    _ => Err(Fault::UnknownValue),
                }
            }
        }

        impl Kind<'_> for $name {
            type Value = Self;
            #[inline]
            fn read(field: &Field<'_>) -> Result<Self, Fault> {
                varint(field).and_then(Self::of)
            }
        }
    )+ };
}

enums! {
    /// `RangeRequest.SortOrder`
    SortOrder { 0 None; 1 Ascend; 2 Descend; }
    /// `RangeRequest.SortTarget`
    SortTarget { 0 Key; 1 Version; 2 Create; 3 Mod; 4 Value; }
    /// `Compare.CompareResult`
    CompareResult { 0 Equal; 1 Greater; 2 Less; 3 NotEqual; }
    /// `Compare.CompareTarget`
    CompareTarget { 0 Version; 1 Create; 2 Mod; 3 Value; 4 Lease; }
    /// `WatchCreateRequest.FilterType`
    FilterType { 0 NoPut; 1 NoDelete; }
    /// `AlarmRequest.AlarmAction`
    AlarmAction { 0 Get; 1 Activate; 2 Deactivate; }
    /// `AlarmType`
    AlarmType { 0 None; 1 NoSpace; 2 Corrupt; }
    /// `DowngradeRequest.DowngradeAction`
    DowngradeAction { 0 Validate; 1 Enable; 2 Cancel; }
    /// `authpb.Permission.Type`
    PermissionType { 0 Read; 1 Write; 2 ReadWrite; }
}

/// `repeated WatchCreateRequest.FilterType`, packed or not; the values are checked and not kept.
pub struct FilterTypes;

impl Kind<'_> for FilterTypes {
    type Value = ();
    const REPEATED: bool = true;
    fn read(field: &Field<'_>) -> Result<(), Fault> {
        let Value::Bytes(packed) = field.value else { return FilterType::read(field).map(drop) };
        let mut rest = packed.bytes;
        while !rest.is_empty() {
            let (number, behind) = super::field::varint(rest)?;
            FilterType::of(number)?;
            rest = behind;
        }
        Ok(())
    }
}
