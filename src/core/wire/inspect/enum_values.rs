//! Tests that each enum field accepts exactly the values in `proto/fields.txt`, in every request
//! message and at every nesting.

use std::collections::BTreeSet;

use super::inspect;
use super::unknown_fields::{FIELDS, nested, request_of};
use crate::method::Method;
use crate::wire::Fault;
use crate::wire::spell::{len, num, wire};

/// The values of an enum; empty if the type is not an enum.
fn values(kind: &str) -> BTreeSet<i64> {
    let prefix = format!("value {kind} ");
    FIELDS
        .lines()
        .filter_map(|line| line.strip_prefix(prefix.as_str())?.split(' ').next()?.parse().ok())
        .collect()
}

/// The enum fields of a message: number, name, values, and whether the field is repeated.
fn enums(message: &str) -> Vec<(u32, &'static str, BTreeSet<i64>, bool)> {
    let fields = FIELDS.lines().filter_map(|line| line.strip_prefix(message)?.strip_prefix(' '));
    let parsed = fields.map(|field| field.split(' ').collect::<Vec<_>>());
    let described = parsed.map(|field| {
        (field[0].parse().unwrap(), field[1], values(field[2]), field[3] == "repeated")
    });
    described.filter(|(_, _, values, _)| !values.is_empty()).collect()
}

/// Tests each enum field of `kind`, which is at `path` in the method's request, and of every
/// message inside it.
fn try_all(
    method: Method,
    kind: &'static str,
    path: &[(u32, &'static str)],
    tried: &mut BTreeSet<String>,
) {
    let within =
        |field: Vec<u8>| path.iter().rev().fold(field, |within, (number, _)| len(*number, within));
    for (number, field, values, repeated) in enums(kind) {
        let name = format!("{}.{field}", kind.rsplit('.').next().unwrap());
        let greatest = *values.last().unwrap();
        // Some decoders truncate to 32 bits. They would read `1 << 32` as the known value 0.
        let others = [
            -1,
            greatest + 1,
            99,
            i64::from(i32::MAX),
            i64::from(i32::MIN),
            i64::MAX,
            i64::MIN,
            1 << 31,
            1 << 32,
            (1 << 32) + greatest + 1,
        ];
        for value in values.iter().copied().chain(others) {
            let mut forms = vec![num(number, value)];
            if repeated {
                let packed = |values: &[i64]| {
                    len(
                        number,
                        values
                            .iter()
                            .flat_map(|value| num(1, *value).split_off(1))
                            .collect::<Vec<u8>>(),
                    )
                };
                forms.extend([
                    packed(&[value]),
                    packed(&[0, value]),
                    wire![num(number, 0), num(number, value)],
                ]);
            }
            for form in forms {
                let found = inspect(method, &within(form.clone()))
                    .err()
                    .map(|malformed| (malformed.field, malformed.fault));
                let expected =
                    (!values.contains(&value)).then_some((name.as_str(), Fault::UnknownValue));
                assert_eq!(found, expected, "{method:?} {name} = {value}: {form:02x?}");
            }
        }
        tried.insert(name);
    }
    for (number, inner) in nested(kind) {
        if path.iter().all(|(_, outer)| *outer != inner) {
            try_all(method, inner, &[path, &[(number, inner)]].concat(), tried);
        }
    }
}

#[test]
fn each_enum_accepts_only_the_values_of_etcd() {
    let mut tried = BTreeSet::new();
    for &method in Method::ALL {
        if let Some(request) = request_of(method) {
            try_all(method, request, &[], &mut tried);
        }
    }
    // Without this list, the test would also pass if it found no enum.
    let known = [
        "AlarmRequest.action",
        "AlarmRequest.alarm",
        "Compare.result",
        "Compare.target",
        "DowngradeRequest.action",
        "Permission.permType",
        "RangeRequest.sort_order",
        "RangeRequest.sort_target",
        "WatchCreateRequest.filters",
    ];
    assert_eq!(tried, known.map(str::to_owned).into());
}
