//! Messages drawn from the tables: mostly such as a client might send, with numbers, enums, ranges
//! and names that none would; then some of their bytes changed.

use std::sync::Arc;

use etcd_warden_core::method::Method;

use super::tables::{Field, Kind, Tables, bytes, number};
use crate::oracle::dice::Dice;

/// Where integers are cut, change their sign or end.
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
    dice: Dice,
}

impl Drawer {
    pub fn new(tables: Arc<Tables>, dice: Dice) -> Self {
        Self { tables, dice }
    }

    /// A method and a message for it.
    pub fn message(&mut self) -> (Method, Vec<u8>) {
        let tables = self.tables.clone();
        // Every third is a Txn: there is most to get wrong.
        let wanted = self.dice.once_in(3).then_some(Method::Txn);
        let (method, request) =
            match wanted.and_then(|method| tables.requests.iter().find(|(of, _)| *of == method)) {
                Some(txn) => txn,
                None => &tables.requests[self.dice.below(tables.requests.len())],
            };
        let mut message = self.draw(request, 0);
        if self.dice.once_in(8) {
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
            if !self.dice.once_in(30) {
                self.value(member, depth, &mut out);
            }
            // A Compare that says one thing names the target of its member: the first four values,
            // and then the fifth.
            if message.ends_with(".Compare") && !self.dice.once_in(12) {
                out = self.compare(member, fields, depth);
            }
        }
        out
    }

    /// One member of a oneof; below a certain depth no message that would lead further down.
    fn member<'f>(&mut self, message: &str, members: &[&'f Field], depth: usize) -> &'f Field {
        let deep = depth > if self.dice.once_in(40) { 14 } else { 5 };
        let flat: Vec<&Field> = members
            .iter()
            .copied()
            .filter(|member| !(deep && message.ends_with(".RequestOp") && member.number == 4))
            .collect();
        flat[self.dice.below(flat.len())]
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
            for _ in 0..self.dice.below(most + 1) {
                self.value(field, depth, out);
            }
            return;
        }
        let present = match field.kind {
            Kind::Bytes | Kind::Text => {
                field.name.contains("end") && self.dice.once_in(2)
                    || !field.name.contains("end") && !self.dice.once_in(8)
            }
            Kind::Message(_) => !self.dice.once_in(8),
            Kind::Bool | Kind::Integer | Kind::Enum(_) => self.dice.once_in(4),
        };
        if present {
            self.value(field, depth, out);
        }
    }

    fn value(&mut self, field: &Field, depth: usize, out: &mut Vec<u8>) {
        match &field.kind {
            Kind::Bytes => {
                let value = self.some_bytes(&field.name);
                // An empty `range_end` that is there is refused: not too often.
                if !(value.is_empty() && field.name == "range_end" && !self.dice.once_in(20)) {
                    out.extend(bytes(field.number, &value));
                }
            }
            Kind::Text => {
                let text = if self.dice.once_in(200) {
                    "n".repeat(32_767 + self.dice.below(4))
                } else {
                    self.dice.of(&TEXTS).to_owned()
                };
                out.extend(bytes(field.number, text.as_bytes()));
            }
            Kind::Bool => out.extend(number(field.number, 1)),
            Kind::Integer => out.extend(number(field.number, self.integer())),
            Kind::Enum(values) => {
                let known = self.dice.of(values);
                let value = if self.dice.once_in(12) { self.integer() } else { known };
                out.extend(number(field.number, value));
            }
            Kind::Message(inner) => {
                let message = self.draw(inner, depth + 1);
                out.extend(bytes(field.number, &message));
            }
        }
    }

    fn some_bytes(&mut self, name: &str) -> Vec<u8> {
        match self.dice.below(40) {
            0 => vec![b'k'; self.dice.below(70_000)],
            1 => (0..self.dice.below(12)).map(|_| self.dice.below(256) as u8).collect(),
            2 if name == "key" => Vec::new(),
            3..=9 if name == "range_end" => vec![0],
            _ => self.dice.of(&KEYS).to_vec(),
        }
    }

    /// Small ones are leases, revisions and ids of watches that there may be.
    fn integer(&mut self) -> i64 {
        match self.dice.below(4) {
            0 => self.dice.of(&BOUNDS),
            1 => (i64::from(self.dice.number(i32::MAX)) - (1 << 30)) << 8,
            _ => i64::from(self.dice.number(12)),
        }
    }

    fn mutate(&mut self, message: &mut Vec<u8>) {
        for _ in 0..=self.dice.below(3) {
            let at = self.dice.below(message.len() + 1);
            let byte = self.dice.below(256) as u8;
            match self.dice.below(4) {
                0 => message.insert(at, byte),
                1 if at < message.len() => drop(message.remove(at)),
                2 => message.truncate(at),
                _ if at < message.len() => message[at] = byte,
                _ => {}
            }
        }
    }
}

/// Each integer field of each request, also of the messages in it, at each bound; beside it only
/// what etcd needs to look at it at all.
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
                        [around(tables, message, field), number(field.number, value)].concat();
                    let whole = path.iter().rev().fold(inner, |inner, (outer, number)| {
                        let beside = tables
                            .fields(outer)
                            .iter()
                            .find(|field| field.number == *number)
                            .map_or(Vec::new(), |field| around(tables, outer, field));
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
/// agree with it.
fn around(tables: &Tables, message: &str, beside: &Field) -> Vec<u8> {
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
                out.extend(number(field.number, i64::from(beside.number) - 4))
            }
            _ => {}
        }
    }
    out
}
