//! The enums of etcd's requests with all their values (`rpc.proto` and `auth.proto` of etcd 3.7;
//! 3.5 and 3.6 have the same).
//!
//! etcd does not validate enums: 3.5 panics on an unknown `sort_target` and on an unknown alarm
//! (`docs/upstream-findings.md`). So each table of fields names the enum. There is no kind of field
//! for an arbitrary enum number, and an unlisted value is [`Fault::UnknownValue`] everywhere. A
//! test (`inspect::enum_values`) compares the tables and these lists with `proto/fields.txt`.

use super::Fault;
use super::field::{Field, Value};
use super::message::{Kind, varint};

/// Declares enums with their values. The first value is the default of an absent field.
macro_rules! enums {
    ($( $(#[$attribute:meta])* $name:ident { 0 $absent:ident; $( $number:literal $variant:ident; )* } )+) => { $(
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { #[default] $absent, $( $variant, )* }

        impl $name {
            /// Looks up the value by all 64 bits that were sent, because decoders truncate them to
            /// 32.
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

/// `repeated WatchCreateRequest.FilterType`, packed or not. The values are checked but not stored.
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
