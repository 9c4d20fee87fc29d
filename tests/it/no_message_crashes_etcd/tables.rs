//! `proto/fields.txt`: messages with their fields, RPCs, and values of enums.

use std::collections::BTreeMap;

use etcd_warden_core::method::Method;

const FIELDS: &str = include_str!("../../../proto/fields.txt");

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Bytes,
    Text,
    Bool,
    /// int64 and uint64.
    Integer,
    Enum(Vec<i64>),
    Message(String),
}

#[derive(Clone, Debug)]
pub struct Field {
    pub number: u32,
    pub name: String,
    pub kind: Kind,
    pub repeated: bool,
    pub oneof: Option<String>,
}

/// Everything that a client may send.
pub struct Tables {
    pub messages: BTreeMap<String, Vec<Field>>,
    /// The methods, each with its request.
    pub requests: Vec<(Method, String)>,
}

impl Tables {
    pub fn read() -> Self {
        let lines: Vec<Vec<&str>> = FIELDS.lines().map(|line| line.split(' ').collect()).collect();
        let mut values: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for line in lines.iter().filter(|line| line[0] == "value") {
            values.entry(line[1]).or_default().push(line[2].parse().unwrap());
        }
        let mut messages: BTreeMap<String, Vec<Field>> = BTreeMap::new();
        for line in lines.iter().filter(|line| !["value", "rpc"].contains(&line[0])) {
            let kind = match line[3] {
                "bytes" => Kind::Bytes,
                "string" => Kind::Text,
                "bool" => Kind::Bool,
                "int64" | "uint64" | "int32" | "uint32" => Kind::Integer,
                other => values.get(other).map_or_else(
                    || Kind::Message(other.to_owned()),
                    |values| Kind::Enum(values.clone()),
                ),
            };
            let (number, name) = (line[1].parse().unwrap(), line[2].to_owned());
            let field = Field {
                number,
                name,
                kind,
                repeated: line[4] == "repeated",
                oneof: line.get(5).map(|oneof| (*oneof).to_owned()),
            };
            messages.entry(line[0].to_owned()).or_default().push(field);
        }
        let request = |line: &Vec<&str>| {
            Some((Method::from_path(&format!("/{}", line[1]))?, line[2].to_owned()))
        };
        let requests: Vec<_> = lines
            .iter()
            .filter(|line| line[0] == "rpc")
            .map(|line| request(line).unwrap())
            .collect();
        // The proxy answers health checks of clients itself.
        assert_eq!(
            requests.len(),
            Method::ALL.iter().filter(|method| !method.path().starts_with("/grpc.health.")).count()
        );
        Self { messages, requests }
    }

    /// The fields of a message.
    pub fn fields(&self, message: &str) -> &[Field] {
        self.messages.get(message).map_or(&[], Vec::as_slice)
    }
}

pub fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(value, &mut out);
    out
}

/// A field of wire type 0.
pub fn number(field: u32, value: i64) -> Vec<u8> {
    [varint(u64::from(field) << 3), varint(value.cast_unsigned())].concat()
}

/// A field of wire type 2.
pub fn bytes(field: u32, value: &[u8]) -> Vec<u8> {
    [&varint(u64::from(field) << 3 | 2)[..], &varint(value.len() as u64), value].concat()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
