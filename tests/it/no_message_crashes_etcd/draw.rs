//! Random messages from the tables: mostly ones that a client might send, with unusual numbers,
//! enums, ranges and names; then some of their bytes are changed.

use std::sync::Arc;

use etcd_warden_core::method::Method;

use super::tables::{Field, Kind, Tables, bytes, number};
use crate::oracle::rng::Rng;

/// Values at which integers are truncated, change their sign, or end.
const BOUNDS: [i64; 16] = [
    0,
    1,
    -1,
    2,
    i64::MIN,
    i64::MIN + 1,
    i64::MAX,
    i64::MAX - 1,
    1 << 31,
    (1 << 31) - 1,
    -(1 << 31),
    -(1 << 31) - 1,
    (1 << 32) - 1,
    1 << 32,
    9_000_000_000,
    9_000_000_001,
];

const KEYS: [&[u8]; 9] = [b"a", b"b", b"c", b"a/", b"a0", b"\0", b"\xff", b"", b"alive"];
const TEXTS: [&str; 16] = [
    "r",
    "u",
    "v",
    "",
    "root",
    "3.4.0",
    "3.5.0",
    "3.6",
    "3.7.0",
    "x",
    "http://127.0.0.1:1",
    "http://127.0.0.1",
    "unix://a:1",
    "http://%zz:1",
    "1.0.0-a",
    "\u{0}",
];

pub struct Drawer {
    tables: Arc<Tables>,
    rng: Rng,
}

impl Drawer {
    pub fn new(tables: Arc<Tables>, rng: Rng) -> Self {
        Self { tables, rng }
    }

    /// A method and a message for it.
    pub fn message(&mut self) -> (Method, Vec<u8>) {
        let tables = self.tables.clone();
        // Every third is a Txn, the most complex message.
        let wanted = self.rng.once_in(3).then_some(Method::Txn);
        let (method, request) =
            match wanted.and_then(|method| tables.requests.iter().find(|(of, _)| *of == method)) {
                Some(txn) => txn,
                None => &tables.requests[self.rng.below(tables.requests.len())],
            };
        let mut message = self.draw(request, 0);
        if self.rng.once_in(8) {
            self.mutate(&mut message);
        }
        (*method, message)
    }

    fn draw(&mut self, message: &str, depth: usize) -> Vec<u8> {
        let tables = self.tables.clone();
        let mut out = Vec::new();
        let fields = tables.fields(message);
        let mut done: Vec<&str> = Vec::new();
        for field in fields {
            let Some(oneof) = field.oneof.as_deref() else {
                self.field(field, depth, &mut out);
                continue;
            };
            if done.contains(&oneof) {
                continue;
            }
            done.push(oneof);
            let members: Vec<&Field> =
                fields.iter().filter(|other| other.oneof.as_deref() == Some(oneof)).collect();
            let member = self.member(message, &members, depth);
            if !self.rng.once_in(30) {
                self.value(member, depth, &mut out);
            }
            // A valid Compare names the target of its oneof member: the first four values, and then
            // the fifth.
            if message.ends_with(".Compare") && !self.rng.once_in(12) {
                out = self.compare(member, fields, depth);
            }
        }
        out
    }

    /// One member of a oneof. Below a certain depth, no message that nests deeper.
    fn member<'f>(&mut self, message: &str, members: &[&'f Field], depth: usize) -> &'f Field {
        let deep = depth > if self.rng.once_in(40) { 14 } else { 5 };
        let flat: Vec<&Field> = members
            .iter()
            .copied()
            .filter(|member| !(deep && message.ends_with(".RequestOp") && member.number == 4))
            .collect();
        flat[self.rng.below(flat.len())]
    }

    fn compare(&mut self, member: &Field, fields: &[Field], depth: usize) -> Vec<u8> {
        let mut out = number(2, i64::from(member.number) - 4);
        for field in fields.iter().filter(|field| field.oneof.is_none() && field.number != 2) {
            self.field(field, depth, &mut out);
        }
        self.value(member, depth, &mut out);
        out
    }

    fn field(&mut self, field: &Field, depth: usize, out: &mut Vec<u8>) {
        if field.repeated {
            let most = if depth > 4 { 1 } else { 3 };
            for _ in 0..self.rng.below(most + 1) {
                self.value(field, depth, out);
            }
            return;
        }
        let present = match field.kind {
            Kind::Bytes | Kind::Text => {
                field.name.contains("end") && self.rng.once_in(2)
                    || !field.name.contains("end") && !self.rng.once_in(8)
            }
            Kind::Message(_) => !self.rng.once_in(8),
            Kind::Bool | Kind::Integer | Kind::Enum(_) => self.rng.once_in(4),
        };
        if present {
            self.value(field, depth, out);
        }
    }

    fn value(&mut self, field: &Field, depth: usize, out: &mut Vec<u8>) {
        match &field.kind {
            Kind::Bytes => {
                let value = self.some_bytes(&field.name);
                // A `range_end` that is present and empty is refused, so it is rare.
                if !(value.is_empty() && field.name == "range_end" && !self.rng.once_in(20)) {
                    out.extend(bytes(field.number, &value));
                }
            }
            Kind::Text => {
                let text = if self.rng.once_in(200) {
                    "n".repeat(32_767 + self.rng.below(4))
                } else {
                    self.rng.of(&TEXTS).to_owned()
                };
                out.extend(bytes(field.number, text.as_bytes()));
            }
            Kind::Bool => out.extend(number(field.number, 1)),
            Kind::Integer => out.extend(number(field.number, self.integer())),
            Kind::Enum(values) => {
                let known = self.rng.of(values);
                let value = if self.rng.once_in(12) { self.integer() } else { known };
                out.extend(number(field.number, value));
            }
            Kind::Message(inner) => {
                let message = self.draw(inner, depth + 1);
                out.extend(bytes(field.number, &message));
            }
        }
    }

    fn some_bytes(&mut self, name: &str) -> Vec<u8> {
        match self.rng.below(40) {
            0 => vec![b'k'; self.rng.below(70_000)],
            1 => (0..self.rng.below(12)).map(|_| self.rng.below(256) as u8).collect(),
            2 if name == "key" => Vec::new(),
            3..=9 if name == "range_end" => vec![0],
            _ => self.rng.of(&KEYS).to_vec(),
        }
    }

    /// Small numbers may be leases, revisions or watch ids that exist.
    fn integer(&mut self) -> i64 {
        match self.rng.below(4) {
            0 => self.rng.of(&BOUNDS),
            1 => (i64::from(self.rng.number(i32::MAX)) - (1 << 30)) << 8,
            _ => i64::from(self.rng.number(12)),
        }
    }

    fn mutate(&mut self, message: &mut Vec<u8>) {
        for _ in 0..=self.rng.below(3) {
            let at = self.rng.below(message.len() + 1);
            let byte = self.rng.below(256) as u8;
            match self.rng.below(4) {
                0 => message.insert(at, byte),
                1 if at < message.len() => drop(message.remove(at)),
                2 => message.truncate(at),
                _ if at < message.len() => message[at] = byte,
                _ => {}
            }
        }
    }
}

/// Each integer field of each request, also of nested messages, at each bound. Other fields are set
/// only if etcd needs them to read this one.
pub fn each_integer_at_its_bounds(tables: &Tables) -> Vec<(Method, Vec<u8>)> {
    let mut all = Vec::new();
    for (method, request) in &tables.requests {
        at_bounds(tables, *method, request, &mut Vec::new(), &mut all);
    }
    all
}

fn at_bounds(
    tables: &Tables,
    method: Method,
    message: &str,
    path: &mut Vec<(String, u32)>,
    all: &mut Vec<(Method, Vec<u8>)>,
) {
    for field in tables.fields(message) {
        match &field.kind {
            Kind::Integer => {
                for value in BOUNDS {
                    let inner =
                        [siblings(tables, message, field), number(field.number, value)].concat();
                    let whole = path.iter().rev().fold(inner, |inner, (outer, number)| {
                        let beside = tables
                            .fields(outer)
                            .iter()
                            .find(|field| field.number == *number)
                            .map_or(Vec::new(), |field| siblings(tables, outer, field));
                        [beside, bytes(*number, &inner)].concat()
                    });
                    all.push((method, whole));
                }
            }
            Kind::Message(inner)
                if path.iter().filter(|(outer, _)| outer == message).count() < 2 =>
            {
                path.push((message.to_owned(), field.number));
                at_bounds(tables, method, inner, path, all);
                path.pop();
            }
            _ => {}
        }
    }
}

/// The keys, names and URLs of a message beside one of its fields, and what a Compare needs to
/// match it.
fn siblings(tables: &Tables, message: &str, beside: &Field) -> Vec<u8> {
    let mut out = Vec::new();
    for field in tables
        .fields(message)
        .iter()
        .filter(|field| field.number != beside.number && field.oneof.is_none())
    {
        match (&field.kind, field.name.as_str()) {
            (Kind::Bytes, "key" | "name" | "value") => out.extend(bytes(field.number, b"a")),
            (Kind::Text, "peerURLs") => out.extend(bytes(field.number, b"http://127.0.0.1:1")),
            (Kind::Text, _) => out.extend(bytes(field.number, b"u")),
            (Kind::Enum(_), "target") if beside.oneof.is_some() => {
                out.extend(number(field.number, i64::from(beside.number) - 4));
            }
            _ => {}
        }
    }
    out
}
