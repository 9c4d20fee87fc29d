//! `tests/wire/clients/CLIENT.txt`: the method and the message in hexadecimal, one of each shape.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use etcd_warden_core::method::Method;
use etcd_warden_core::wire::field::{Fields, Part, Value};

use crate::world::recorder::Taken;

/// The recorded clients.
pub const CLIENTS: [&str; 8] = [
    "etcdctl-3.4",
    "etcdctl-3.5",
    "etcdctl-3.6",
    "etcdctl-3.7",
    "etcd-client-rust",
    "etcd3-python",
    "libcalico-go",
    "kube-apiserver",
];

/// The file of a client.
pub fn path(client: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/clients"))
        .join(format!("{client}.txt"))
}

/// The requests of a client.
pub fn read(client: &str) -> Vec<(Method, Vec<u8>)> {
    let text = std::fs::read_to_string(path(client))
        .unwrap_or_else(|error| panic!("no requests of {client}: {error}"));
    let request = |line: &str| {
        let (method, hex) = line.split_once(' ').unwrap_or((line, ""));
        let digits =
            hex.as_bytes().as_chunks::<2>().0.iter().map(|two| std::str::from_utf8(two).unwrap());
        let message = digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect();
        (
            Method::from_path(method).unwrap_or_else(|| panic!("{client}: no method {method}")),
            message,
        )
    };
    text.lines().map(request).collect()
}

/// Writes the smallest message of each shape.
pub fn write(client: &str, taken: &[Taken]) {
    let mut shapes: BTreeMap<(String, String), Vec<u8>> = BTreeMap::new();
    for Taken { path, message, .. } in taken {
        let mut shape = String::new();
        spell(&mut shape, &format!("{path} request"), Part::whole(message));
        let kept = shapes.entry((path.clone(), shape)).or_insert_with(|| message.clone());
        if message.len() < kept.len() {
            kept.clone_from(message);
        }
    }
    assert!(!shapes.is_empty(), "nothing was recorded of {client}");
    let mut text = String::new();
    for ((path, _), message) in &shapes {
        let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{}", format!("{path} {hex}").trim_end());
    }
    std::fs::write(self::path(client), text).unwrap();
}

/// The fields of a message and of its nested messages. Equal consecutive ones are listed once.
fn spell(shape: &mut String, message: &str, whole: Part<'_>) {
    let mut fields = Fields::of("", whole);
    let mut last = String::new();
    while let Some(field) = fields
        .next()
        .unwrap_or_else(|malformed| panic!("{message}: {malformed} {:02x?}", whole.bytes))
    {
        let mut word = format!("{}", field.number);
        match field.value {
            Value::Bytes(part) => match inner(message, field.number) {
                Some(inner) => {
                    word.push('(');
                    spell(&mut word, inner, part);
                    word.push(')');
                }
                None => word.push(if part.bytes.is_empty() { '-' } else { '+' }),
            },
            Value::Varint(value) => word.push_str(if value == 0 { "=0" } else { "=n" }),
            Value::Fixed(_) => word.push('f'),
        }
        if word != last {
            let _ = write!(shape, "{word} ");
        }
        last = word;
    }
}

/// The message type of a field; `None` for plain bytes.
fn inner(message: &str, number: u32) -> Option<&'static str> {
    match (message, number) {
        ("/etcdserverpb.KV/Txn request" | "Txn", 1) => Some("Compare"),
        ("/etcdserverpb.KV/Txn request" | "Txn", 2 | 3) => Some("RequestOp"),
        ("RequestOp", 4) => Some("Txn"),
        ("RequestOp" | "/etcdserverpb.Watch/Watch request", 1..=3)
        | (
            "/v3electionpb.Election/Proclaim request" | "/v3electionpb.Election/Resign request",
            1,
        )
        | ("/etcdserverpb.Auth/UserAdd request", 3)
        | ("/etcdserverpb.Auth/RoleGrantPermission request", 2) => Some("leaf"),
        _ => None,
    }
}
